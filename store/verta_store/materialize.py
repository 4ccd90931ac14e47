"""Paths for models: a blob under its user's file name, a tree as it is, an archive unpacked once.

Nothing is copied where the file system has hard links; see `store/README.md`, section "Names".
"""

from __future__ import annotations

import os
import stat

from . import digest as digests
from . import drive, files, ids
from .errors import StoreWriteError
from .file_copy import copy_in
from .manifest import folder_entries, parts_of, read_manifest, write_manifest
from .names import ARCHIVE_ENDS, safe_name
from .objects import Objects, corrupt, missing
from .temporary import TemporaryFolder
from .tree import Trees
from .verified import VerifiedCache, signature_of

_UNPACKED = ".dir"
# Beside an unpacked archive: what is in it, so that a change is seen.
_MANIFEST = ".manifest"


class Materializer:
    """Gives blobs and trees of one store the paths that a model opens."""

    def __init__(
        self,
        root: str,
        objects: Objects,
        trees: Trees,
        temporary: TemporaryFolder,
        verified: VerifiedCache,
        fallback: str,
    ) -> None:
        self._root = root
        self._fallback = fallback
        self._top = os.path.join(root, "names")
        self._objects = objects
        self._trees = trees
        self._temporary = temporary
        self._verified = verified

    def path_of(self, kind: str, digest: str, name: str) -> str:
        """The read-only path of a blob or tree; no work per file, no copy where links exist.

        Raises:
            MissingObject: the store does not hold it.
        """
        if kind == "tree":
            if not self._trees.has(digest):
                raise missing(digest, self._root)
            return self._trees.path(digest)
        base = safe_name(name)
        if base.endswith((_UNPACKED, _UNPACKED + _MANIFEST)):
            base += "_"  # that end belongs to unpacked archives
        if not self._objects.has(digest):
            raise missing(digest, self._root)
        try:
            return self._named(self._top, digest, base)
        except StoreWriteError:
            # A store that may only be read, or is full: the user's own cache holds the name then, by a copy.
            return self._named(self._fallback, digest, base)

    def _named(self, top: str, digest: str, base: str) -> str:
        target = os.path.join(top, digests.shard(digest), base)
        source = self._objects.path(digest)
        if os.path.lexists(target):
            if self._is_object(target, source, digest):
                return target
            with files.writing("an artifact's name", target):
                self._clear(target)
        self._make(top, source, target, digest)
        return target

    def _is_object(self, target: str, source: str, digest: str) -> bool:
        """Whether a name still is its object: the same file, or a copy that is whole. A model may have replaced it."""
        try:
            found = os.lstat(target)
            if not stat.S_ISREG(found.st_mode):
                return False
            return os.path.samestat(found, os.stat(source)) or not self._verified.check(target, [(target, digest)])
        except OSError:
            return False

    @staticmethod
    def _clear(target: str) -> None:
        if os.path.isdir(target) and not os.path.islink(target):
            files.remove_folder(target)
        else:
            try:
                os.unlink(target)
            except FileNotFoundError:
                pass  # another process cleared it, or a share showed what was gone

    def unpacked_path_of(self, digest: str, name: str) -> str:
        """The folder with what an archive holds, unpacked once: `model.tar.gz` -> `.../model`.

        Raises:
            BadContent: not an archive, or one that leads out of its folder, holds links or devices, or is a bomb.
        """
        stem = name
        for end in ARCHIVE_ENDS:
            if name.lower().endswith(end):
                stem = name[: -len(end)]
                break
        if not self._objects.has(digest):
            raise missing(digest, self._root)
        base = safe_name((stem or "archive") + _UNPACKED)
        try:
            return self._unpacked(self._top, digest, base, name)
        except StoreWriteError:
            return self._unpacked(self._fallback, digest, base, name)

    def _unpacked(self, top: str, digest: str, base: str, name: str) -> str:
        from . import archive  # noqa: PLC0415 - start-up time: zipfile and tarfile cost 20 ms

        target = os.path.join(top, digests.shard(digest), base)
        if os.path.isdir(target):
            if self._is_as_unpacked(target):
                return target
            with files.writing("an unpacked archive", target):
                self._clear(target)
        source = self._objects.path(digest)
        temporary = self._temporary_in(top)
        with files.writing("an unpacked archive", temporary):
            drive.of(self._root).make_own_folder(temporary)
        try:
            with files.writing("an unpacked archive", target):
                archive.unpack(source, temporary, name)
                drive.of(self._root).open_up(temporary)
                self._make_folder(top, os.path.dirname(target))
                entries = folder_entries(temporary)
                # Durable before the folder has its name: what is missing in it would be taken for damage.
                for folder, _, _ in os.walk(temporary):
                    files.sync_folder(folder)
                _write_file(target + _MANIFEST, write_manifest(entries), self._temporary_in(top))
                files.publish(temporary, target)
        finally:
            files.remove_folder(temporary)
        self._verified.remember(target, signature_of(path for path, _ in parts_of(target, entries)))
        return target

    def _is_as_unpacked(self, target: str) -> bool:
        """Whether an unpacked archive still holds what its manifest says; what lies there besides does not count."""
        try:
            # Looked for twice on a share: what is taken for spoilt is cleared away, and another host may be using it.
            entries = read_manifest(drive.of(self._root).look(target + _MANIFEST, files.read_file))
            return not self._verified.check(target, parts_of(target, entries))
        except (OSError, ValueError):
            return False

    def _temporary_in(self, top: str) -> str:
        """A new path on the file system of `top`."""
        if top == self._top:
            return self._temporary.new_name()
        files.make_private_folder(top)
        return os.path.join(top, f"{ids.random_hex(16)}.tmp")

    def _make_folder(self, top: str, path: str) -> None:
        if top == self._top:
            files.make_folder(path, self._root)
        else:
            files.make_private_folder(path)

    def _make(self, top: str, source: str, target: str, digest: str) -> None:
        was_known = self._verified.knows(source, signature_of([source]))
        with files.writing("an artifact's name", target):
            self._make_folder(top, os.path.dirname(target))
            try:
                is_linked = drive.of(self._root).link(source, target)
            except FileExistsError:
                return
            if not is_linked:
                temporary = self._temporary_in(top)
                if copy_in(source, temporary).digest != digest:
                    files.remove_file(temporary)
                    raise corrupt(digest, source)
                files.publish(temporary, target)
                return
        if was_known:
            # The link itself moved the ctime; without this the next deployment would hash the file again.
            self._verified.remember(source, signature_of([source]))


def _write_file(path: str, data: bytes, temporary: str) -> None:
    """Puts a small derived file in place whole and durable."""
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | files.O_BINARY | files.O_CLOEXEC, 0o600)
    try:
        files.write_all(descriptor, data)
        drive.set_mode(descriptor, files.READ_ONLY)
        files.sync_file(descriptor)
    finally:
        os.close(descriptor)
    drive.holding(path).rename(temporary, path, replace=True)
    files.sync_folder(os.path.dirname(path))


def check_unpacked(path: str) -> str:
    """'' for an unpacked archive that holds what its manifest says, else what is wrong with it. Reads all of it."""
    try:
        with open(path + _MANIFEST, "rb") as file:
            entries = read_manifest(file.read())
    except FileNotFoundError:
        return "its manifest is gone"
    except (OSError, ValueError):
        return "its manifest cannot be read"
    for part, expected in parts_of(path, entries):
        try:
            if digests.digest_of_file(part)[0] != expected:
                return f"{part} was changed"
        except OSError:
            return f"{part} is gone"
    return ""
