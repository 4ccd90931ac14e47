"""Copying one small file into the store in as few system calls as it takes, for folders of thousands of them."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from . import digest as digests
from . import drive, files, page_cache
from .walking import look_of

# Above this `file_copy.copy_in` clones, or hashes in a second thread.
SMALL_BYTES = 1 << 20

# A file that was changed less than this ago may change again within one tick of its clock (git's "racily clean" rule).
RACY_NS = 2_000_000_000

_READ = os.O_RDONLY | files.O_BINARY | files.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | files.O_BINARY | files.O_CLOEXEC
# A FIFO that has taken the place of a folder is not waited for.
_FOLDER = os.O_RDONLY | files.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NONBLOCK", 0)


class Place(NamedTuple):
    """A folder, and how its files are opened: by a descriptor of it, so that the way to it is looked up once."""

    path: str
    prefix: str  # of a file's name
    descriptor: int | None  # None where the system has no such calls


class Copied(NamedTuple):
    """A file that is now in the store's file system; not synced yet."""

    digest: str
    size_bytes: int
    is_executable: bool
    source_look: str = ""  # of the source while it was read; '' when it must not be remembered
    stored_look: str = ""  # of the copy


class CopiedFiles(NamedTuple):
    """Files of one folder, a list for each field of `Copied`: an object for each of 50,000 files would be dear."""

    names: list[str]
    digests: list[str]
    sizes_bytes: list[int]
    are_executable: list[bool]
    source_looks: list[str]
    stored_looks: list[str]

    def add(self, name: str, one: Copied) -> None:
        """Notes one more."""
        self.names.append(name)
        self.digests.append(one.digest)
        self.sizes_bytes.append(one.size_bytes)
        self.are_executable.append(one.is_executable)
        self.source_looks.append(one.source_look)
        self.stored_looks.append(one.stored_look)


@contextmanager
def opened(path: str) -> Iterator[Place]:
    """A folder for `copy_small`. Raises OSError."""
    if os.open not in os.supports_dir_fd:
        yield Place(path, f"{path}{os.sep}", None)
        return
    descriptor = os.open(path, _FOLDER)
    try:
        yield Place(path, "", descriptor)
    finally:
        os.close(descriptor)


def copy_names(source: str, target: str, names: list[str], trusted_device: int | None) -> CopiedFiles:
    """`copy_small` of files of one folder into another, under their own names. Says which it has copied."""
    done = CopiedFiles([], [], [], [], [], [])
    try:
        with opened(source) as origin, opened(target) as place:
            for name in names:
                one = copy_small(name, origin, place, trusted_device)
                if one is not None:
                    done.add(name, one)
    except OSError:
        pass  # one of the two folders could not be opened, or closed
    return done


def copy_small(name: str, origin: Place, place: Place, trusted_device: int | None) -> Copied | None:
    """Copies a plain file of at most 1 MiB; its bytes are hashed in memory, as they are written.

    The mode of a copy, 0444 or 0555, is that of its creation where the process's umask allows it.

    Args:
        trusted_device: the device whose files may be remembered (see `source_memory`), or None.

    Returns:
        None when it is another kind of file, or anything went wrong: then nothing is left behind, and
        `file_copy.copy_in` does it again, or says why not.
    """
    try:
        reader = os.open(origin.prefix + name, _READ, dir_fd=origin.descriptor)
    except OSError:
        return None
    try:
        before = os.fstat(reader)
        size_bytes, mode = before.st_size, before.st_mode
        if mode & 0o170000 != 0o100000 or size_bytes > SMALL_BYTES:
            return None
        is_steady = before.st_dev == trusted_device and is_rememberable(before, reader)
        # One byte more than there should be: the end shows without a second read.
        data = os.read(reader, size_bytes + 1)
        if len(data) != size_bytes:
            return None  # it grows, or is read in pieces
    except OSError:
        return None
    finally:
        os.close(reader)
    is_executable = mode & 0o100 != 0
    mode = files.READ_ONLY_EXECUTABLE if is_executable else files.READ_ONLY
    try:
        writer = os.open(place.prefix + name, _WRITE, mode, dir_fd=place.descriptor)
    except OSError:
        return None
    try:
        try:
            if os.write(writer, data) != size_bytes:
                raise OSError("no more room")
            after = os.fstat(writer)
            if after.st_mode & 0o777 != mode:
                drive.set_mode(writer, mode)
                after = os.fstat(writer)
        finally:
            os.close(writer)
    except OSError:
        files.remove_file(os.path.join(place.path, name))
        return None
    digest = f"{digests.ALGORITHM}:{hashlib.sha256(data).hexdigest()}"
    return Copied(digest, size_bytes, is_executable, look_of(before) if is_steady else "", look_of(after))


def is_rememberable(status: os.stat_result, descriptor: int) -> bool:
    """Whether every change of a file will show in its times, from the moment on when `status` was taken.

    Asked before the first byte is read. What changes while it is read then differs from `status` the next time. A store
    through a memory map moves the times only when it is the first to a clean page, so that no page may be dirty now.
    """
    if time.time_ns() - max(status.st_ctime_ns, status.st_mtime_ns) < RACY_NS:
        return False
    return page_cache.is_clean(descriptor)
