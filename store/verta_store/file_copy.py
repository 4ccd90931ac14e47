"""Copying one file of any size into the store: what is written, or our copy of it, is what is hashed; never the source.

A source that is edited meanwhile can so not become an object whose name lies. A file system that shares blocks between
files copies in no time; the copy is then read once, for its hash.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import threading

from . import digest as digests
from . import drive, files
from .copying import SMALL_BYTES, Copied, is_rememberable
from .errors import BadContent
from .walking import look_of

COPY_BYTES = 1 << 20
# How far reading and writing may be ahead of hashing.
_BUFFERS = 8

# For one write, a kernel looks for pieces of free memory as large as itself: where memory is in fragments, writing by
# the megabyte took five times as long (Linux 6.18, ext4).
_WRITE_BYTES = 1 << 17

_FICLONE = 0x40049409  # linux/fs.h


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
            elif _clone(reader, writer):
                with files.writing("an object", target):
                    digest, size_bytes = digests.digest_of_descriptor(writer)
            else:
                digest, size_bytes = _copy_and_hash(reader, writer, sync=sync)
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


def _copy_and_hash(reader: int, writer: int, *, sync: bool) -> tuple[str, int]:
    """Reads and writes a large file, while a second thread hashes the very bytes that are written."""
    free: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
    written: queue.SimpleQueue[tuple[bytearray, int] | None] = queue.SimpleQueue()
    for _ in range(_BUFFERS):
        free.put(bytearray(COPY_BYTES))
    state = hashlib.sha256()
    failures: list[BaseException] = []

    def hash_behind() -> None:
        try:
            while (part := written.get()) is not None:
                buffer, count = part
                state.update(memoryview(buffer)[:count])
                free.put(buffer)
        except BaseException as error:
            failures.append(error)
            free.put(None)

    hasher = threading.Thread(target=hash_behind, daemon=True)
    hasher.start()
    size_bytes = 0
    write_back = files.WriteBack(writer)
    try:
        with open(reader, "rb", buffering=0, closefd=False) as source:
            while (buffer := free.get()) is not None:
                count = source.readinto(buffer)
                if not count:
                    break
                view = memoryview(buffer)[:count]
                with files.writing("an object"):
                    for at in range(0, count, _WRITE_BYTES):
                        files.write_all(writer, view[at : at + _WRITE_BYTES])
                size_bytes += count
                written.put((buffer, count))
                write_back.grown_to(size_bytes)
        if sync:
            with files.writing("an object"):
                files.sync_file(writer)  # the device works while the last bytes are hashed
    finally:
        written.put(None)
        hasher.join()
    if failures:
        raise failures[0]
    return f"{digests.ALGORITHM}:{state.hexdigest()}", size_bytes


def _clone(reader: int, writer: int) -> bool:
    """Makes an empty file share the blocks of another, in no time, where the file system can (Btrfs, XFS).

    Returns whether it did.
    """
    try:
        import fcntl  # noqa: PLC0415 - absent on Windows
    except ImportError:
        return False
    try:
        fcntl.ioctl(writer, _FICLONE, reader)
    except OSError:
        return False
    return True
