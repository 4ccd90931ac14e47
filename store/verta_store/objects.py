"""Blobs: immutable bytes named by their digest, hashed from our own copy.

The layout is in `store/README.md`, section "Objects".
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from . import digest as digests
from . import drive, files, trash
from .copying import SMALL_BYTES, is_rememberable
from .errors import CorruptObject, MissingObject
from .file_copy import COPY_BYTES, copy_in, create_copy, finish_copy
from .leases import FRESH, GONE, REFUSED
from .source_memory import SourceMemory
from .temporary import TemporaryFolder
from .verified import VerifiedCache, signature_of
from .walking import NO_LOOK, look_of

Result = TypeVar("Result")


class Ref(NamedTuple):
    """What a stored blob or tree is called. `size_bytes` of a tree is the sum of its files."""

    kind: str  # "blob" or "tree"
    digest: str
    size_bytes: int
    file_count: int = 1


class Objects:
    """The blobs of one store."""

    def __init__(self, root: str, temporary: TemporaryFolder, verified: VerifiedCache, memory: SourceMemory) -> None:
        self._root = root
        self._temporary = temporary
        self.memory = memory
        self._verified = verified
        self._top = os.path.join(root, "objects")
        self._has_pins = False
        self.folders = files.DurableFolders(root)

    def path(self, digest: str) -> str:
        """Where a blob is, or would be."""
        return os.path.join(self._top, digests.shard(digest))

    def check(self, digest: str) -> None:
        """Returns when the blob is known to be whole, by memory or by reading it.

        Raises:
            MissingObject, CorruptObject
        """
        if self._look(digest, lambda path: self._verified.check(path, [(path, digest)])):
            raise corrupt(digest, self.path(digest))

    def is_whole(self, digest: str) -> bool:
        """Whether the blob is in its place and undamaged; one that cannot be read is not."""
        path = self.path(digest)
        try:
            return not drive.of(self._root).look(path, lambda one: self._verified.check(one, [(one, digest)]))
        except OSError:
            return False

    def has(self, digest: str) -> bool:
        """Whether the blob is there, or has come back from the trash."""
        return drive.of(self._root).has(self.path(digest)) or trash.bring_back_object(self._root, "blob", digest)

    def keep(self, digest: str, *, is_whole: bool = True) -> bool:
        """Makes a blob in its place safe from collection until a record names it, as if stored just now.

        `is_whole` says that it has just been checked.

        Returns:
            False when it has gone, or is another user's and can be neither freshened nor linked: store it again.
        """
        path = self.path(digest)
        try:
            is_whole = is_whole or self._verified.knows(path, signature_of([path]))
        except FileNotFoundError:
            return False
        found = self._temporary.leases.freshen(path)
        if found == REFUSED:
            try:
                os.link(path, self._pin(digest))
            except FileExistsError:
                return True  # pinned before
            except OSError:
                return False
        elif found == GONE:
            return False
        if found != FRESH and is_whole:
            # Its times were moved by us; without this the next deployment would hash it again.
            try:
                self._verified.remember(path, signature_of([path]))
            except FileNotFoundError:
                return False
        return True

    def settle(self, digest: str) -> bool:
        """After a record has named a blob: puts it back should a collection have taken it just before.

        Returns:
            Whether it is there.
        """
        path = self.path(digest)
        pin = self._pin(digest) if self._has_pins else ""
        if not drive.of(self._root).has(path) and pin and os.path.lexists(pin):
            with files.writing("an object", path):
                self.folders.make(os.path.dirname(path))
                os.link(pin, path)
                self._make_name_durable(digest)
        if pin:
            files.remove_file(pin)
        return trash.bring_back_object(self._root, "blob", digest)

    def find(self, digest: str) -> str:
        """Where a blob is: in its place or in the trash; its place if it is nowhere."""
        path = self.path(digest)
        if drive.of(self._root).has(path):
            return path
        return trash.find(self._root, trash.Part("blob", digest)) or path

    def _pin(self, digest: str) -> str:
        """A further name of a blob in our own folder, which keeps its bytes whatever is collected."""
        self._has_pins = True
        return os.path.join(self._temporary.path(), f"pin-{trash.Part('blob', digest).name}")

    def _look(self, digest: str, read: Callable[[str], Result]) -> Result:
        """`read` of a blob's path, which comes back from the trash if a collection has taken it too early.

        Raises:
            MissingObject
        """
        path = self.path(digest)
        where = drive.of(self._root)
        try:
            return where.look(path, read)
        except FileNotFoundError as error:
            if not trash.bring_back_object(self._root, "blob", digest):
                raise missing(digest, self._root) from error
        try:
            return where.look(path, read)
        except FileNotFoundError as error:
            raise missing(digest, self._root) from error

    def put_bytes(self, data: bytes) -> Ref:
        """Stores bytes; durable when this returns."""
        digest = digests.digest_of_bytes(data)
        ref = Ref("blob", digest, len(data))
        if self.is_whole(digest) and self.keep(digest):
            with files.writing("an object", self._top):
                self._make_name_durable(digest)
            return ref
        temporary = self._temporary.new_name()
        with files.writing("an object", self._top):
            descriptor = create_copy(temporary)
            try:
                files.write_all(descriptor, data)
                finish_copy(descriptor, is_executable=False)
            except BaseException:
                os.close(descriptor)
                files.remove_file(temporary)
                raise
            os.close(descriptor)
            self._publish(temporary, digest)
        return ref

    def put_file(self, source: str) -> Ref:
        """Stores a copy of a file; durable when this returns. What is hashed is what was written, never the source.

        Raises:
            FileNotFoundError, PermissionError: the source cannot be opened.
            BadContent: the source is not a regular file.
        """
        path = os.path.realpath(source)
        digest = self.memory.file(path)
        if digest and self.is_kept(digest):
            return Ref("blob", digest, os.path.getsize(self.path(digest)))
        device = self.memory.trusted_device(path)
        twin = self._twin_of(path, device)
        if twin is not None:
            return twin
        temporary = self._temporary.new_name()
        copied = copy_in(source, temporary, trusted_device=device)
        with files.writing("an object", self._top):
            self._publish(temporary, copied.digest)
        self.memory.remember_file(path, copied.source_look, device, copied.digest)
        if copied.size_bytes > SMALL_BYTES:
            self.memory.remember_twin(digests.sample_of_file(self.path(copied.digest)), copied.digest)
        return Ref("blob", copied.digest, copied.size_bytes)

    def _twin_of(self, path: str, device: int | None) -> Ref | None:
        """The blob with the bytes of a large file that is a probable duplicate; hashing it is cheaper than a copy.

        Only one whose sample is that of a blob is hashed: the weights of the next epoch, of the same size, are not.
        """
        before = os.stat(path)
        if before.st_size <= SMALL_BYTES or before.st_mode & 0o170000 != 0o100000:
            return None
        with open(path, "rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            expected = self.memory.twin(digests.sample_of_file(path))
            if not expected or not self.has(expected):
                return None
            is_steady = before.st_dev == device and is_rememberable(before, file.fileno())
            digest, size_bytes = digests.digest_of_descriptor(file.fileno())
        if digest != expected or not self.is_kept(digest):
            return None
        with files.writing("an object", self._top):
            self._make_name_durable(digest)
        self.memory.remember_file(path, look_of(before) if is_steady else NO_LOOK, device, digest)
        return Ref("blob", digest, size_bytes)

    def is_kept(self, digest: str) -> bool:
        """Whether the blob is there and whole, and is safe from collection now until a record names it."""
        return self.has(digest) and self.is_whole(digest) and self.keep(digest)

    def put_stream(self, read: Callable[[int], bytes]) -> Ref:
        """Stores what `read(size)` returns until it returns nothing; durable when this returns."""
        temporary = self._temporary.new_name()
        with files.writing("an object", self._top):
            descriptor = create_copy(temporary)
        try:
            state = hashlib.sha256()
            size_bytes = 0
            while data := read(COPY_BYTES):
                with files.writing("an object", self._top):
                    files.write_all(descriptor, data)
                state.update(data)
                size_bytes += len(data)
            digest = f"{digests.ALGORITHM}:{state.hexdigest()}"
            with files.writing("an object", self._top):
                finish_copy(descriptor, is_executable=False)
        except BaseException:
            os.close(descriptor)
            files.remove_file(temporary)
            raise
        os.close(descriptor)
        with files.writing("an object", self._top):
            self._publish(temporary, digest)
        return Ref("blob", digest, size_bytes)

    def _publish(self, temporary: str, digest: str) -> None:
        target = self.path(digest)
        try:
            self.folders.make(os.path.dirname(target))
            is_ours = self._place(temporary, target, digest)
            self._make_name_durable(digest)
            if is_ours:
                self._remember_if_there(target)
        except BaseException:
            files.remove_file(temporary)
            raise

    def _place(self, temporary: str, target: str, digest: str) -> bool:
        """Gives a finished copy its name, unless a whole one has it and can be kept. Returns whether it is ours."""
        is_there = os.path.lexists(target)
        is_damaged = is_there and not self.is_whole(digest)
        if is_there and not is_damaged and self.keep(digest):
            files.remove_file(temporary)
            return False
        if is_damaged and os.path.isdir(target):
            files.move_to_trash(target, self._root, os.path.basename(temporary))
        try:
            # Another writer may have made the name since: POSIX then replaces his file by ours with the same bytes.
            drive.of(self._root).rename(temporary, target, replace=is_there)
        except OSError:
            # Windows refuses that, as does SMB while somebody reads his.
            if not self.is_whole(digest) or not self.keep(digest):
                raise
            files.remove_file(temporary)
            return False
        if is_damaged:
            # What we hold is what the damaged file should be. Its other names are the same damaged file.
            files.remove_folder(os.path.join(self._root, "names", digests.shard(digest)))
        return True

    def _make_name_durable(self, digest: str) -> None:
        """Syncs the folders of a blob, also of one that was there: its writer may have died before he did it."""
        folder = os.path.dirname(self.path(digest))
        self.folders.make(folder)
        files.sync_folder(folder)

    def open_blob(self, digest: str) -> int:
        """A descriptor for reading a blob.

        Raises:
            MissingObject: it is not there.
        """
        flags = os.O_RDONLY | files.O_BINARY | files.O_CLOEXEC
        return self._look(digest, lambda path: os.open(path, flags))

    def read_verified(self, digest: str) -> bytes:
        """A whole blob in memory; its hash was checked on these very bytes.

        Raises:
            MissingObject: it is not there.
            CorruptObject: its bytes are not those that were stored.
        """
        data = self._look(digest, files.read_file)
        if digests.digest_of_bytes(data) != digest:
            raise corrupt(digest, self.path(digest))
        return data

    def link_in(self, digest: str, source: str) -> bool:
        """Makes `source`, a synced file of this store whose digest is known, an object too, by a hard link.

        The caller syncs the folder of the new name.

        Returns:
            False when an object of that digest exists already or the file system has no links.
        """
        target = self.path(digest)
        self.folders.make(os.path.dirname(target))
        try:
            if not drive.of(self._root).link(source, target):
                return False
        except FileExistsError:
            return False
        self._remember_if_there(target)
        return True

    def link_over(self, digest: str, target: str) -> bool:
        """Makes a file with the bytes of a blob and the blob one file on the disk, where both and links exist.

        Returns:
            False where not: the bytes are stored twice, which is only a cost.
        """
        if not self.is_whole(digest):
            return False
        path, twin = self.path(digest), target + ".link"
        try:
            if not drive.of(self._root).link(path, twin):
                return False
        except OSError:
            return False
        os.replace(twin, target)
        # The link moved the blob's ctime; without this the next use would hash it again.
        self._remember_if_there(path)
        return True

    def _remember_if_there(self, path: str) -> None:
        """Remembers a blob as whole; a collection that took it since is no harm to the file that it shared."""
        try:
            self._verified.remember(path, signature_of([path]))
        except FileNotFoundError:
            pass


def missing(digest: str, root: str) -> MissingObject:
    """The error for a digest that the store does not hold."""
    return MissingObject(
        f"the store {root} has no object {digest}; "
        "bring it back from a copy of the store, or log the artifact again with overwrite=True",
        digest=digest,
        path=root,
    )


def corrupt(digest: str, path: str) -> CorruptObject:
    """The error for stored bytes that do not match their digest."""
    return CorruptObject(
        f"the stored file {path} is damaged: its bytes no longer match {digest}. "
        "Bring it back from a copy of the store, or log the artifact again with overwrite=True",
        digest=digest,
        path=path,
    )
