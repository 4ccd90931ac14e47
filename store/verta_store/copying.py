"""Copying one small file into the store in as few system calls as it takes, for folders of thousands of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from . import digest as digests
from . import drive, files, page_cache
from .messages import Message
from .walking import NO_LOOK, look_of

# Above this `file_copy.copy_in` clones, or hashes in a second thread.
SMALL_BYTES = 1 << 20

# A file that was changed less than this ago may change again within one tick of its clock (git's "racily clean" rule).
RACY_NS = 2_000_000_000

_DIGEST_CHARACTERS = len(digests.digest_of_bytes(b""))

_READ = os.O_RDONLY | files.O_BINARY | files.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | files.O_BINARY | files.O_CLOEXEC
# A FIFO that has taken the place of a folder is not waited for.
_FOLDER = os.O_RDONLY | files.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NONBLOCK", 0)


class Copied(NamedTuple):
    """A file that is now in the store's file system; not synced yet."""

    digest: str
    size_bytes: int
    is_executable: bool
    source_look: bytes = NO_LOOK  # of the source while it was read, unless it must not be remembered
    stored_look: bytes = NO_LOOK  # of the copy


class CopiedFiles(NamedTuple):
    """Files of one folder, a list for each field of `Copied`: an object for each of 50,000 files would be dear."""

    names: list[str]
    digests: list[str]
    sizes_bytes: list[int]
    are_executable: list[bool]
    source_looks: list[bytes]
    stored_looks: list[bytes]

    @classmethod
    def of(cls, rows: Sequence[tuple[str, str, int, bool, bytes, bytes]]) -> CopiedFiles:
        """Of a row for each file: its name, and the fields of `Copied`."""
        return cls(*map(list, zip(*rows, strict=True))) if rows else cls([], [], [], [], [], [])

    @classmethod
    def unpacked(cls, message: Message) -> CopiedFiles:
        """What was `packed`. Raises TypeError or ValueError for something else."""
        names, sizes_bytes, are_executable = message.data
        digests_end, looks_end = len(names) * _DIGEST_CHARACTERS, len(names) * len(NO_LOOK)
        if (
            not len(names) == len(sizes_bytes) == len(are_executable)
            or len(message.columns) != digests_end + 2 * looks_end
        ):
            raise ValueError("columns of different lengths")
        text, looks = message.columns[:digests_end].decode("ascii"), message.columns[digests_end:]
        return cls(
            names,
            [text[at : at + _DIGEST_CHARACTERS] for at in range(0, digests_end, _DIGEST_CHARACTERS)],
            sizes_bytes,
            are_executable,
            [looks[at : at + len(NO_LOOK)] for at in range(0, looks_end, len(NO_LOOK))],
            [looks[at : at + len(NO_LOOK)] for at in range(looks_end, 2 * looks_end, len(NO_LOOK))],
        )

    def packed(self) -> Message:
        """For another process."""
        columns = ("".join(self.digests).encode("ascii"), *self.source_looks, *self.stored_looks)
        return Message([self.names, self.sizes_bytes, self.are_executable], b"".join(columns))


@contextmanager
def opened(path: str) -> Iterator[tuple[str, int | None]]:
    """How the files of a folder are opened: a prefix of their names, and `dir_fd`. Raises OSError.

    By a descriptor of the folder, so that the way to it is looked up once, where the system has such calls.
    """
    if os.open not in os.supports_dir_fd:
        yield f"{path}{os.sep}", None
        return
    descriptor = os.open(path, _FOLDER)
    try:
        yield "", descriptor
    finally:
        os.close(descriptor)


def copy_names(source: str, target: str, names: list[str], trusted_device: int | None) -> CopiedFiles:
    """Copies plain files of at most 1 MiB of one folder into another; their bytes are hashed as they are written.

    The mode of a copy, 0444 or 0555, is that of its creation where the process's umask allows it.

    Args:
        trusted_device: the device whose files may be remembered (see `source_memory`), or None.

    Returns:
        Those that it has copied. Of a file that is of another kind, or where anything went wrong, nothing is left
        behind, and `file_copy.copy_in` does it again, or says why not.
    """
    done = []
    try:
        with opened(source) as (origin, origin_folder), opened(target) as (place, place_folder):
            for name in names:
                found = _read_small(origin + name, origin_folder, trusted_device)
                if found is None:
                    continue
                data, is_executable, source_look = found
                stored_look = _write_small(place + name, place_folder, data, is_executable=is_executable)
                if stored_look is not None:
                    digest = digests.digest_of_bytes(data)
                    done.append((name, digest, len(data), is_executable, source_look, stored_look))
    except OSError:
        pass  # one of the two folders could not be opened, or closed
    return CopiedFiles.of(done)


def _read_small(path: str, folder: int | None, trusted_device: int | None) -> tuple[bytes, bool, bytes] | None:
    """(bytes, whether it is executable, look while it was read) of a plain file; None where anything went wrong."""
    try:
        reader = os.open(path, _READ, dir_fd=folder)
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
    except OSError:
        return None
    finally:
        os.close(reader)
    if len(data) != size_bytes:
        return None  # it grows, or is read in pieces
    return data, mode & 0o100 != 0, look_of(before) if is_steady else NO_LOOK


def _write_small(path: str, folder: int | None, data: bytes, *, is_executable: bool) -> bytes | None:
    """Makes a file; returns its look. None where anything went wrong: then nothing of it is left behind."""
    mode = files.READ_ONLY_EXECUTABLE if is_executable else files.READ_ONLY
    try:
        writer = os.open(path, _WRITE, mode, dir_fd=folder)
    except OSError:
        return None  # what has the name may be another file of the folder, on a drive to which two names are one
    try:
        try:
            if os.write(writer, data) != len(data):
                raise OSError("no more room")
            after = os.fstat(writer)
            if after.st_mode & 0o777 != mode:
                drive.set_mode(writer, mode)
                after = os.fstat(writer)
        finally:
            os.close(writer)
    except OSError:
        if folder is None:
            files.remove_file(path)
        else:
            with suppress(OSError):
                os.unlink(path, dir_fd=folder)
        return None
    return look_of(after)


def is_rememberable(status: os.stat_result, descriptor: int) -> bool:
    """Whether every change of a file will show in its times, from the moment on when `status` was taken.

    Asked before the first byte is read. What changes while it is read then differs from `status` the next time. A store
    through a memory map moves the times only when it is the first to a clean page, so that no page may be dirty now.
    """
    if time.time_ns() - max(status.st_ctime_ns, status.st_mtime_ns) < RACY_NS:
        return False
    return page_cache.is_clean(descriptor)
