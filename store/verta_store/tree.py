"""Trees: a logged folder, kept as the real folder that it will be served as, beside its manifest.

The manifest is the hashed object: its format is in `store/README.md`, section "Trees".
"""

from __future__ import annotations

import errno
import json
import os
import stat
import unicodedata
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from . import digest as digests
from . import drive, files, trash
from .errors import BadContent, CorruptObject, StoreWriteError
from .leases import GONE, REFUSED
from .objects import Objects, Ref, TemporaryFolder, copy_in, corrupt, missing
from .source_memory import signature as file_signature
from .verified import VerifiedCache, signature_of

# From this size on a file in a tree is a hard link to a blob, so that the shards of checkpoints are stored once.
LINK_FROM_BYTES = 64 * 1024

# Up to this many files each is synced by itself; above it one barrier for the file system is cheaper (objects.md).
_SYNC_EACH_UP_TO = 8

_HEADER = "verta_local tree 1"
_WINDOWS_NAMES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in "123456789")}


class Entry(NamedTuple):
    """One line of a manifest. A folder has no digest and size 0."""

    path: str  # relative, with `/`
    is_folder: bool
    is_executable: bool = False
    size_bytes: int = 0
    digest: str = ""

    def line(self) -> str:
        """The manifest's line: `kind mode size digest path`, the path as JSON text."""
        kind = "dir" if self.is_folder else "file"
        mode = "x" if self.is_executable else "-"
        return f"{kind} {mode} {self.size_bytes} {self.digest or '-'} {json.dumps(self.path)}"


def write_manifest(entries: list[Entry]) -> bytes:
    """The canonical bytes of a manifest: sorted by the NFC form of the path, one line an entry."""
    ordered = sorted(entries, key=lambda entry: (_sort_key(entry.path), entry.path))
    return "".join(f"{line}\n" for line in (_HEADER, *(entry.line() for entry in ordered))).encode("ascii")


def read_manifest(data: bytes) -> list[Entry]:
    """The entries of a manifest whose bytes were checked against its digest."""
    lines = data.decode("ascii").splitlines()
    if not lines or lines[0] != _HEADER:
        raise ValueError(f"a manifest begins with '{_HEADER}'")
    entries = []
    for line in lines[1:]:
        kind, mode, size, digest, path = line.split(" ", 4)
        name = json.loads(path)
        entries.append(Entry(name, kind == "dir", mode == "x", int(size), "" if digest == "-" else digest))
    return entries


def _ref(digest: str, entries: list[Entry]) -> Ref:
    size_bytes = sum(entry.size_bytes for entry in entries)
    return Ref("tree", digest, size_bytes, sum(not entry.is_folder for entry in entries))


def parts_of(top: str, entries: list[Entry]) -> list[tuple[str, str]]:
    """(path, digest) of every file of a manifest below the folder `top`."""
    return [(os.path.join(top, *entry.path.split("/")), entry.digest) for entry in entries if not entry.is_folder]


def folder_entries(top: str) -> list[Entry]:
    """The manifest of a folder as it is now, by reading all of it; links are not followed."""
    entries = []
    for parent, folders, names in os.walk(top):
        prefix = "" if parent == top else os.path.relpath(parent, top).replace(os.sep, "/") + "/"
        entries += [Entry(prefix + name, True) for name in folders]
        for name in names:
            path = os.path.join(parent, name)
            digest, size_bytes = digests.digest_of_file(path)
            is_executable = bool(os.stat(path).st_mode & stat.S_IXUSR)
            entries.append(Entry(prefix + name, False, is_executable, size_bytes, digest))
    return entries


def _sort_key(path: str) -> bytes:
    return unicodedata.normalize("NFC", path).encode("utf-8", "surrogatepass")


class Trees:
    """The trees of one store."""

    def __init__(
        self,
        root: str,
        objects: Objects,
        temporary: TemporaryFolder,
        verified: VerifiedCache,
        *,
        is_case_sensitive: bool,
    ) -> None:
        self._root = root
        self._top = os.path.join(root, "trees")
        self._objects = objects
        self._temporary = temporary
        self._verified = verified
        self._is_case_sensitive = is_case_sensitive

    def path(self, digest: str) -> str:
        """Where a tree's folder is, or would be."""
        return os.path.join(self._top, digests.shard(digest))

    def manifest_path(self, digest: str) -> str:
        """Where a tree's manifest is, or would be."""
        return self.path(digest) + ".manifest"

    def has(self, digest: str) -> bool:
        """Whether the tree is there, folder and manifest, or has come back from the trash."""
        where = drive.of(self._root)
        if where.has(self.path(digest)) and where.has(self.manifest_path(digest)):
            return True
        return trash.bring_back_object(self._root, "tree", digest)

    def keep(self, digest: str, *, is_whole: bool = True) -> bool:
        """Makes a tree in its place safe from collection until a record names it, as if stored just now.

        Its files are not touched, so that `is_whole` makes no difference.

        Returns:
            False when it has gone: store it again.
        """
        path = self.manifest_path(digest)
        found = self._temporary.leases.freshen(path)
        if found == REFUSED:
            try:
                self._write_manifest(path, files.read_file(path))
            except FileNotFoundError:
                return False
        # The manifest is freshened before the folder is looked for; a collection takes the folder and then looks at
        # the manifest's time: so one of the two notices the other.
        return found != GONE and os.path.isdir(self.path(digest))

    def settle(self, digest: str) -> bool:
        """After a record has named a tree: puts it back should a collection have taken it just before.

        Returns:
            Whether it is there.
        """
        return self.has(digest)

    def find(self, digest: str) -> str:
        """Where a tree's folder is: in its place or in the trash; its place if it is nowhere."""
        path = self.path(digest)
        if drive.of(self._root).has(path):
            return path
        return trash.find(self._root, trash.Part("tree", digest)) or path

    def check(self, digest: str) -> None:
        """Returns when every file of the tree is known to be whole, by memory or by reading.

        Raises:
            MissingObject, CorruptObject
        """
        top = self.path(digest)
        if not self.has(digest):
            raise missing(digest, self._root)
        entries = self.entries(digest)
        parts = parts_of(top, entries)
        try:
            try:
                damaged = self._verified.check(top, parts)
            except FileNotFoundError:
                if os.path.lexists(top) or not self.has(digest):
                    raise
                damaged = self._verified.check(top, parts)  # a collection took it too early
        except FileNotFoundError as error:
            raise missing(digest, self._root) from error
        if damaged:
            raise corrupt(digest, damaged)

    def is_whole(self, digest: str) -> bool:
        """Whether the tree is there and undamaged; one that cannot be read is not."""
        try:
            self.check(digest)
        except (CorruptObject, OSError):  # a MissingObject is an OSError
            return False
        return True

    def put_tree(self, source: str) -> Ref:
        """Stores a copy of a folder, empty sub-folders too; durable when this returns.

        Links inside the folder are followed; one that leads out of it, dangles or loops is refused, as is a
        device, FIFO or socket.

        Raises:
            BadContent: something in the folder cannot be stored; the message names it.
            StoreWriteError: the file system refused; nothing is left behind.
        """
        found = list(_walk(source))
        self._check_names(source, [path for path, _, _ in found])
        remembered = self._remembered(os.path.realpath(source), found)
        if remembered is not None:
            return remembered
        temporary = self._temporary.new_name()
        with files.writing("a folder", temporary):
            drive.of(self._root).make_own_folder(temporary)
        try:
            entries, shared = self._copy(found, temporary)
            ref = self._publish(entries, shared, temporary)
            self._objects.memory.save()
            return ref
        except BaseException as error:
            files.remove_folder(temporary)
            if isinstance(error, StoreWriteError) and error.errno == errno.EEXIST:
                # Mounted otherwise here than where the store was made.
                raise BadContent(
                    f"two names in {source} are one to this store's drive, which takes no account of case or accents "
                    f"({error.path}); rename one",
                    path=source,
                ) from error
            raise

    def _remembered(self, source: str, found: list[tuple[str, str, bool]]) -> Ref | None:
        """The tree of a folder that was logged before and has not changed since, by `stat` alone; else None."""
        known = self._objects.memory.known_below(source)
        if not known:
            return None
        entries = []
        for path, origin, is_folder in found:
            if is_folder:
                entries.append(Entry(path, True))
                continue
            signature, digest = known.get(origin, ("", ""))
            status = os.stat(origin)
            if not digest or signature != file_signature(status):
                return None
            entries.append(Entry(path, False, bool(status.st_mode & stat.S_IXUSR), status.st_size, digest))
        digest = digests.digest_of_bytes(write_manifest(entries))
        top = self.path(digest)
        try:
            if not self.has(digest) or self._verified.check(top, parts_of(top, entries)) or not self.keep(digest):
                return None
        except FileNotFoundError:
            return None
        return _ref(digest, entries)

    def _copy(self, found: list[tuple[str, str, bool]], temporary: str) -> tuple[list[Entry], set[str]]:
        """Makes the folder, synced. Returns its entries, and the digests of those that are blobs too."""
        entries = []
        shared: set[str] = set()
        unshared: list[tuple[str, str]] = []
        sync_each = sum(not is_folder for _, _, is_folder in found) <= _SYNC_EACH_UP_TO
        for path, origin, is_folder in found:
            target = os.path.join(temporary, *path.split("/"))
            if is_folder:
                with files.writing("a folder", target):
                    drive.of(self._root).make_own_folder(target)
                entries.append(Entry(path, True))
                continue
            is_executable = bool(os.stat(origin).st_mode & stat.S_IXUSR)
            digest, size_bytes = copy_in(
                origin,
                target,
                is_executable=is_executable,
                sync=sync_each,
                follow_links=False,
                memory=self._objects.memory,
            )
            if size_bytes >= LINK_FROM_BYTES and not is_executable:
                with files.writing("an object", target):
                    if self._link_to_blob(digest, target):
                        shared.add(digest)
                    else:
                        unshared.append((digest, target))
            entries.append(Entry(path, False, is_executable, size_bytes, digest))
        with files.writing("a folder", temporary):
            if not sync_each:
                _sync_all(temporary, entries, is_network=drive.of(self._root).is_careful)
            # Only now: what has an object's name is taken for durable by every other writer.
            for digest, target in unshared:
                if self._objects.link_in(digest, target) or self._link_to_blob(digest, target):
                    shared.add(digest)
            for folder in (temporary, *(os.path.join(temporary, e.path) for e in entries if e.is_folder)):
                files.sync_folder(folder)
        return entries, shared

    def _link_to_blob(self, digest: str, target: str) -> bool:
        """Makes a large file and the blob of the same bytes one file on the disk, where both and links exist."""
        if not self._objects.is_whole(digest):
            return False
        twin = target + ".link"
        try:
            os.link(self._objects.path(digest), twin)
        except OSError:
            return False  # stored twice, which is only a cost
        os.replace(twin, target)
        return True

    def _publish(self, entries: list[Entry], shared: set[str], temporary: str) -> Ref:
        manifest = write_manifest(entries)
        digest = digests.digest_of_bytes(manifest)
        target = self.path(digest)
        folder = os.path.dirname(target)
        with files.writing("a folder", target):
            self._objects.folders.make(folder)
            # The manifest first: a folder without one would be garbage that looks like a tree.
            self._publish_manifest(digest, manifest)
            if os.path.lexists(target) and not self.is_whole(digest):
                # A damaged tree makes way for the copy that we hold.
                files.move_to_trash(target, self._root, os.path.basename(temporary))
            if files.publish(temporary, target):
                self._verified.remember(target, signature_of(path for path, _ in parts_of(target, entries)))
            else:
                files.remove_folder(temporary)
            if not os.path.lexists(self.manifest_path(digest)):  # a collection was about to take the tree
                self._publish_manifest(digest, manifest)
            files.sync_folder(folder)
            for shard in {os.path.dirname(self._objects.path(one)) for one in shared}:
                files.sync_folder(shard)
        return _ref(digest, entries)

    def _publish_manifest(self, digest: str, manifest: bytes) -> None:
        path = self.manifest_path(digest)
        try:
            with open(path, "rb") as file:
                is_there = file.read() == manifest
        except FileNotFoundError:
            is_there = False
        if not is_there or self._temporary.leases.freshen(path) in (GONE, REFUSED):
            self._write_manifest(path, manifest)

    def _write_manifest(self, path: str, manifest: bytes) -> None:
        draft = self._temporary.new_name()
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | files.O_BINARY, 0o600)
        try:
            files.write_all(descriptor, manifest)
            files.sync_file(descriptor)
        finally:
            os.close(descriptor)
        drive.set_mode(draft, files.READ_ONLY)
        where = drive.of(self._root)
        try:
            where.rename(draft, path, replace=True)
        except OSError:
            # Another host's, not seen before and being read by somebody: the same bytes.
            if not os.path.lexists(path) or where.look(path, files.read_file) != manifest:
                raise
            files.remove_file(draft)

    def entries(self, digest: str) -> list[Entry]:
        """The verified manifest of a tree.

        Raises:
            MissingObject, CorruptObject
        """
        path = self.manifest_path(digest)
        try:
            try:
                data = drive.of(self._root).look(path, files.read_file)
            except FileNotFoundError:
                path = trash.find(self._root, trash.Part("tree", digest, True)) or path
                data = files.read_file(path)
        except FileNotFoundError as error:
            raise missing(digest, self._root) from error
        if digests.digest_of_bytes(data) != digest:
            raise corrupt(digest, path)
        return read_manifest(data)

    def _check_names(self, source: str, paths: list[str]) -> None:
        """Refuses names that no store can hold, and warns of those that another system cannot."""
        seen: dict[str, str] = {}
        for path in paths:
            name = path.rsplit("/", 1)[-1]
            try:
                path.encode("utf-8")
            except UnicodeEncodeError:
                raise BadContent(
                    f"the name {path!r} in {source} is not valid Unicode, so it cannot be logged; rename it",
                    path=source,
                ) from None
            folded = unicodedata.normalize("NFC", path).casefold()
            twin = seen.setdefault(folded, path)
            problem = ""
            if twin != path:
                problem = f"{twin!r} and {path!r} differ only in case or accents"
            elif (
                name.split(".")[0].lower() in _WINDOWS_NAMES
                or name[-1:] in (".", " ")
                or any(character in '<>:"\\|?*' or character < " " for character in name)
            ):
                problem = f"{path!r} is not a legal name on Windows"
            if not problem:
                continue
            if not self._is_case_sensitive:
                raise BadContent(f"{problem} (in {source}): this store's drive cannot hold it; rename it", path=source)
            warnings.warn(
                f"{problem} (in {source}): it is stored, but cannot be copied to every system",
                UserWarning,
                stacklevel=2,
            )


def _walk(source: str) -> Iterator[tuple[str, str, bool]]:
    """Yields (relative path, real path, is a folder) for everything below a folder, parents first."""
    root = os.path.realpath(source)

    def descend(folder: str, prefix: str, above: tuple[str, ...]) -> Iterator[tuple[str, str, bool]]:
        with os.scandir(folder) as listing:
            children = sorted(listing, key=lambda child: child.name)
        for child in children:
            path = prefix + child.name
            origin = child.path
            if child.is_symlink():
                origin = _follow(child.path, root)
            mode = os.stat(origin, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                real = os.path.realpath(origin)
                if real in above:
                    raise BadContent(f"{child.path} is a link that leads back into itself; remove it", path=child.path)
                yield path, origin, True
                yield from descend(origin, path + "/", (*above, real))
            elif stat.S_ISREG(mode):
                yield path, origin, False
            else:
                raise BadContent(
                    f"{child.path} is a device, FIFO or socket and cannot be logged; remove it from the folder",
                    path=child.path,
                )

    yield from descend(root, "", (root,))


def _follow(link: str, root: str) -> str:
    try:
        target = os.path.realpath(link, strict=True)
    except OSError as error:
        raise BadContent(f"{link} is a link that leads nowhere; remove it or log its target", path=link) from error
    if target != root and not target.startswith(root + os.sep):
        raise BadContent(
            f"{link} is a link out of the folder being logged; replace it by a copy of what it points to",
            path=link,
        )
    return target


def _sync_all(top: str, entries: list[Entry], *, is_network: bool) -> None:
    """Makes many new files durable: by one barrier for the file system, or write-back of all and a wait for each."""
    paths = [os.path.join(top, entry.path) for entry in entries if not entry.is_folder]
    if not is_network and files.sync_file_system(top):
        paths = paths[-1:]  # syncfs(2) told of no errors before Linux 5.8: this one does
    if hasattr(os, "posix_fadvise"):
        # POSIX_FADV_DONTNEED starts the write-back of dirty pages on Linux, so that the waits below overlap.
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY | files.O_CLOEXEC)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | files.O_BINARY | files.O_CLOEXEC)
        try:
            files.sync_file(descriptor)
        finally:
            os.close(descriptor)
