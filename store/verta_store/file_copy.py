"""Copying one file of any size into the store: the kernel copies, and our copy is what is hashed, never the source."""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import threading
from collections.abc import Callable

from . import digest as digests
from . import drive, files
from .copying import SMALL_BYTES, Copied, is_rememberable
from .errors import BadContent
from .walking import look_of

COPY_BYTES = 1 << 20
_CHUNK_BYTES = 8 << 20


def copy_in(
    source: str,
    target: str,
    *,
    is_executable: bool | None = False,
    sync: bool = True,
    follow_links: bool = True,
    trusted_device: int | None = None,
) -> Copied:
    """Copies a regular file into the store's file system and hashes the copy.

    Of a device that may be trusted (see `source_memory`) the result tells how the source looked while it was read. The
    copy is executable if it is to be, with None if the source is.

    Raises:
        FileNotFoundError, PermissionError: the source cannot be opened.
        BadContent: the source is not a regular file (a device, FIFO or socket is not waited for), or is a link
            without `follow_links`.
        StoreWriteError: the copy could not be written.
    """
    # O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever.
    flags = os.O_RDONLY | files.O_BINARY | files.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)
    if not follow_links:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        reader = os.open(source, flags)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise BadContent(
                f"{source} is a socket and not a regular file, so it cannot be logged", path=source
            ) from error
        if error.errno == errno.ELOOP and not follow_links:
            raise BadContent(f"{source} became a link while it was read; log it again", path=source) from error
        raise
    try:
        before = os.fstat(reader)
        if before.st_mode & 0o170000 != 0o100000:
            raise BadContent(f"{source} is not a regular file or folder, so it cannot be logged", path=source)
        if is_executable is None:
            is_executable = bool(before.st_mode & 0o100)
        is_steady = before.st_dev == trusted_device and is_rememberable(before, reader)
        with files.writing("an object", target):
            writer = create_copy(target)
        try:
            if before.st_size <= SMALL_BYTES:
                digest, size_bytes = _copy_at_once(reader, writer)
            else:
                digest, size_bytes = _copy_and_hash(reader, writer, target, sync=sync)
            with files.writing("an object", target):
                finish_copy(writer, is_executable=is_executable, sync=sync)
                stored_look = look_of(os.fstat(writer))
        except BaseException:
            os.close(writer)
            files.remove_file(target)
            raise
        os.close(writer)
    finally:
        os.close(reader)
    return Copied(digest, size_bytes, is_executable, look_of(before) if is_steady else "", stored_look)


def create_copy(path: str) -> int:
    """A descriptor of a new file of the store; nobody else reads it before it is finished."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | files.O_BINARY | files.O_CLOEXEC
    return os.open(path, flags, 0o600)


def finish_copy(descriptor: int, *, is_executable: bool, sync: bool = True) -> None:
    """Makes a written file read-only, and durable with `sync`; the name of it is the caller's to make durable."""
    drive.set_mode(descriptor, files.READ_ONLY_EXECUTABLE if is_executable else files.READ_ONLY)
    if sync:
        files.sync_file(descriptor)


def _copy_at_once(reader: int, writer: int) -> tuple[str, int]:
    state = hashlib.sha256()
    size_bytes = 0
    while data := os.read(reader, COPY_BYTES + 1):
        with files.writing("an object"):
            files.write_all(writer, data)
        state.update(data)
        size_bytes += len(data)
    return f"{digests.ALGORITHM}:{state.hexdigest()}", size_bytes


def _copy_and_hash(reader: int, writer: int, target: str, *, sync: bool) -> tuple[str, int]:
    """The kernel copies; a second thread hashes our copy a step behind, out of the page cache."""
    ends: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    state = hashlib.sha256()
    failures: list[BaseException] = []

    def hash_behind() -> None:
        try:
            done = 0
            buffer = bytearray(COPY_BYTES)
            view = memoryview(buffer)
            twin = os.open(target, os.O_RDONLY | files.O_BINARY | files.O_CLOEXEC)
            try:
                while (end := ends.get()) is not None:
                    while done < end:
                        count = _read_at(twin, view[: min(COPY_BYTES, end - done)], done)
                        if not count:
                            raise OSError(errno.EIO, "the copy is shorter than what was written to it")
                        state.update(view[:count])
                        done += count
            finally:
                os.close(twin)
        except BaseException as error:
            failures.append(error)

    hasher = threading.Thread(target=hash_behind, daemon=True)
    hasher.start()
    size_bytes = 0
    copy = _kernel_copy()
    write_back = files.WriteBack(writer)
    try:
        with files.writing("an object", target):
            while True:
                try:
                    count = copy(reader, writer, size_bytes)
                except OSError as error:
                    if copy is _copy_by_reading or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                        raise
                    copy = _copy_by_reading  # another device, or a file system that cannot
                    continue
                if not count and copy is not _copy_by_reading:
                    copy = _copy_by_reading  # some file systems end too early; a real end shows again
                    continue
                if not count:
                    break
                size_bytes += count
                ends.put(size_bytes)
                write_back.grown_to(size_bytes)
            if sync:
                files.sync_file(writer)  # the device works while the last bytes are hashed
    finally:
        ends.put(None)
        hasher.join()
    if failures:
        with files.writing("an object", target):
            raise failures[0]
    return f"{digests.ALGORITHM}:{state.hexdigest()}", size_bytes


def _read_at(descriptor: int, view: memoryview, at: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [view], at)
    os.lseek(descriptor, at, os.SEEK_SET)
    data = os.read(descriptor, len(view))
    view[: len(data)] = data
    return len(data)


def _kernel_copy() -> Callable[[int, int, int], int]:
    if hasattr(os, "copy_file_range"):
        return lambda reader, writer, at: os.copy_file_range(reader, writer, _CHUNK_BYTES, at, at)
    return _copy_by_reading


def _copy_by_reading(reader: int, writer: int, at: int) -> int:
    os.lseek(reader, at, os.SEEK_SET)
    data = os.read(reader, _CHUNK_BYTES)
    os.lseek(writer, at, os.SEEK_SET)
    files.write_all(writer, data)
    return len(data)
