"""Trees: a logged folder, kept as the real folder that it will be served as, beside its manifest.

The manifest is the hashed object: its format is in `store/README.md`, section "Trees".
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import digest as digests
from . import drive, files, trash
from .beside import Beside
from .errors import BadContent, CorruptObject, StoreWriteError
from .leases import GONE, REFUSED
from .manifest import Entry, parts_of, read_manifest
from .objects import Objects, Ref, corrupt, missing
from .source_memory import KnownFolder
from .temporary import TemporaryFolder
from .verified import VerifiedCache
from .walking import Folder, each_folder, plain_signature

if TYPE_CHECKING:
    from .folder_copy import FolderCopy

# A look at each of fewer files takes less time than a process to do it in.
_CHECKED_BESIDE_FROM = 10_000


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
        self._require_whole(digest, "")

    def begin_check(self, digest: str) -> Callable[[], None]:
        """Begins `check` in a process of its own, for a tree of thousands of files; what is returned waits for it.

        It raises then what `check` raises. A thread would not do: it would wait for the interpreter lock at each file.
        Only a look at what this host has once found whole goes on beside the caller; a tree that it has never read is
        read now, every byte.

        Raises:
            MissingObject, CorruptObject
        """
        from . import workers  # noqa: PLC0415 - start-up time

        if not self.has(digest):
            raise missing(digest, self._root)
        if not self._verified.has(_walk_key(self.path(digest))):
            self.check(digest)
            return lambda: None

        def look() -> str:
            with workers.Workers(min(1, workers.worker_count())) as pool:
                ((_, answer),) = pool.do([(digest, ["look", self.path(digest)])])
            return answer.data if answer is not None else ""

        signature = Beside(look)
        return lambda: self._require_whole(digest, signature.result())

    def _require_whole(self, digest: str, signature: str) -> None:
        if not self.has(digest):
            raise missing(digest, self._root)
        try:
            try:
                damaged = self._damaged_part(digest, signature)
            except FileNotFoundError:
                if os.path.lexists(self.path(digest)) or not self.has(digest):
                    raise
                damaged = self._damaged_part(digest, "")  # a collection took it too early
        except FileNotFoundError as error:
            raise missing(digest, self._root) from error
        if damaged:
            raise corrupt(digest, damaged)

    def _damaged_part(self, digest: str, signature: str) -> str:
        """The path of something in the tree that is damaged, or ''. `signature` is that of a walk just now, if known.

        Raises:
            FileNotFoundError: something is gone.
        """
        top, manifest = self.path(digest), self.manifest_path(digest)
        if self._verified.check(manifest, [(manifest, digest)]):
            return manifest
        signature = signature or plain_signature(top)
        if self._verified.knows(_walk_key(top), signature):
            return ""
        # Something has changed, if only that a loader has left a file of its own beside those of the manifest.
        damaged = self._verified.check(top, parts_of(top, self.entries(digest)))
        if not damaged and signature == plain_signature(top):
            self._verified.remember(_walk_key(top), signature)
        return damaged

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
        from .folder_copy import Copiers, copy_folder  # noqa: PLC0415 - start-up time
        from .portable_names import check_names  # noqa: PLC0415 - start-up time

        top = os.path.realpath(source)
        last = self._objects.memory.last_tree(top)
        check = self._begin_check_of(last)
        temporary = ""
        try:
            with Copiers(self._root) as copiers:
                found = []
                for folder in each_folder(top, with_looks=last is not None):
                    found.append(folder)
                    copiers.expect(0 if last else len(folder.names))
                if last and self._objects.memory.is_unchanged(top, found) and check() and self.keep(last.digest):
                    return Ref("tree", *last)
                copiers.expect(sum(len(folder.names) for folder in found) if last else 0)
                check_names(source, _paths_of(found), is_case_sensitive=self._is_case_sensitive)
                temporary = self._temporary.new_name()
                with files.writing("a folder", temporary):
                    drive.of(self._root).make_own_folder(temporary)
                device = self._objects.memory.trusted_device(top)
                copy = copy_folder(self._objects, self._root, found, temporary, device, copiers.pool)
            ref = self._publish(copy, temporary)
        except BaseException as error:
            if temporary:
                files.remove_folder(temporary)  # nobody writes into it any more
            if isinstance(error, StoreWriteError) and error.errno == errno.EEXIST:
                # Mounted otherwise here than where the store was made.
                raise BadContent(
                    f"two names in {source} are one to this store's drive, which takes no account of case or accents "
                    f"({error.path}); rename one",
                    path=source,
                ) from error
            raise
        known = KnownFolder(ref.digest, ref.size_bytes, ref.file_count)
        self._objects.memory.remember_folder(top, copy.source_signature, known)
        return ref

    def _begin_check_of(self, tree: KnownFolder | None) -> Callable[[], bool]:
        """What says whether a tree is whole; a large one is looked at while the folder is walked through."""
        if tree is None:
            return lambda: False
        if tree.file_count < _CHECKED_BESIDE_FROM:
            return lambda: self.is_whole(tree.digest)
        try:
            finish = self.begin_check(tree.digest)
        except (CorruptObject, OSError):  # a MissingObject is an OSError
            return lambda: False

        def is_whole() -> bool:
            try:
                finish()
            except (CorruptObject, OSError):
                return False
            return True

        return is_whole

    def _publish(self, copy: FolderCopy, temporary: str) -> Ref:
        digest = copy.digest
        target = self.path(digest)
        folder = os.path.dirname(target)
        with files.writing("a folder", target):
            self._objects.folders.make(folder)
            # The manifest first: a folder without one would be garbage that looks like a tree.
            self._publish_manifest(digest, copy.manifest)
            if os.path.lexists(target) and not self.is_whole(digest):
                # A damaged tree makes way for the copy that we hold.
                files.move_to_trash(target, self._root, os.path.basename(temporary))
            if files.publish(temporary, target):
                self._verified.remember(_walk_key(target), copy.stored_signature)
            else:
                files.remove_folder(temporary)
            if not os.path.lexists(self.manifest_path(digest)):  # a collection was about to take the tree
                self._publish_manifest(digest, copy.manifest)
            files.sync_folder(folder)
            for shard in {os.path.dirname(self._objects.path(one)) for one in copy.shared}:
                files.sync_folder(shard)
        return Ref("tree", digest, copy.size_bytes, copy.file_count)

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


def _paths_of(found: list[Folder]) -> list[str]:
    """Of all that a walk has found, below its top."""
    paths = [folder.path for folder in found[1:]]
    for folder in found:
        prefix = folder.below("")
        paths += [prefix + name for name in folder.names]
        paths += [prefix + name for name in folder.links]
    return paths


def _walk_key(top: str) -> str:
    """What a tree is remembered by, for the signature of a walk; for that of the manifest's files it is `top`."""
    return os.path.join(top, "")
