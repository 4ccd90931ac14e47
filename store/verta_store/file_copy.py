"""Copying one file of any size into the store: what is written, or our copy of it, is what is hashed; never the source.

A source that is edited meanwhile can so not become an object whose name lies. A file system that shares blocks between
files copies in no time; the copy is then read once, for its hash.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import sys
import threading

from . import digest as digests
from . import drive, files
from .copying import SMALL_BYTES, Copied, is_rememberable
from .errors import BadContent
from .walking import NO_LOOK, look_of

COPY_BYTES = 1 << 20

# How far reading and writing may be ahead of hashing.
_BUFFERS = 8

# For one write, a kernel looks for pieces of free memory as large as itself: where memory was in fragments, writing by
# the megabyte took five times as long, and by twice this a tenth longer (Linux 6.18, ext4). Smaller ones are too many.
_WRITE_BYTES = 1 << 16

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
    """Copies a regular file into the store's file system and hashes what it wrote.

    Of a device that may be trusted (see `source_memory`) the result tells how the source looked while it was read. The
    copy is executable if it is to be, with None if the source is.

    Raises:
        FileNotFoundError, PermissionError: the source cannot be opened.
        OSError: the source cannot be read; `filename` names it.
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
                digest, size_bytes = _copy_at_once(reader, writer, source, target)
            else:
                digest, size_bytes = _copy_large(reader, writer, source, target, sync=sync)
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
    return Copied(digest, size_bytes, is_executable, look_of(before) if is_steady else NO_LOOK, stored_look)


def create_copy(path: str) -> int:
    """A descriptor of a new file of the store; nobody else reads it before it is finished."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | files.O_BINARY | files.O_CLOEXEC
    return os.open(path, flags, 0o600)


def finish_copy(descriptor: int, *, is_executable: bool, sync: bool = True) -> None:
    """Makes a written file read-only, and durable with `sync`; the name of it is the caller's to make durable."""
    drive.set_mode(descriptor, files.READ_ONLY_EXECUTABLE if is_executable else files.READ_ONLY)
    if sync:
        files.sync_file(descriptor)


def _copy_at_once(reader: int, writer: int, source: str, target: str) -> tuple[str, int]:
    state = hashlib.sha256()
    size_bytes = 0
    view = memoryview(bytearray(COPY_BYTES + 1))
    while count := _read(reader, view, source):
        with files.writing("an object", target):
            files.write_all(writer, view[:count])
        state.update(view[:count])
        size_bytes += count
    return f"{digests.ALGORITHM}:{state.hexdigest()}", size_bytes


def _copy_large(reader: int, writer: int, source: str, target: str, *, sync: bool) -> tuple[str, int]:
    with files.writing("an object", target):
        if _clone(reader, writer):
            return digests.digest_of_descriptor(writer)
    return _copy_and_hash(reader, writer, source, target, sync=sync)


def _copy_and_hash(reader: int, writer: int, source: str, target: str, *, sync: bool) -> tuple[str, int]:
    """Reads and writes a large file, while a second thread hashes the very bytes that are written."""
    free: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
    written: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
    for _ in range(_BUFFERS):
        free.put(memoryview(bytearray(COPY_BYTES)))
    state = hashlib.sha256()
    failures: list[BaseException] = []

    def hash_behind() -> None:
        try:
            while (part := written.get()) is not None:
                state.update(part)
                free.put(memoryview(part.obj))
        except BaseException as error:
            failures.append(error)
            free.put(None)

    hasher = threading.Thread(target=hash_behind, daemon=True)
    size_bytes = 0
    write_back = files.WriteBack(writer)
    try:
        hasher.start()
        while (view := free.get()) is not None and (count := _read(reader, view, source)):
            with files.writing("an object", target):
                for at in range(0, count, _WRITE_BYTES):
                    files.write_all(writer, view[at : min(at + _WRITE_BYTES, count)])
            size_bytes += count
            written.put(view[:count])
            write_back.grown_to(size_bytes)
        if sync and not failures:
            with files.writing("an object", target):
                files.sync_file(writer)  # the device works while the last bytes are hashed
    finally:
        written.put(None)
        if hasher.ident is not None:
            hasher.join()
    if failures:
        raise failures[0]
    return f"{digests.ALGORITHM}:{state.hexdigest()}", size_bytes


def _read(reader: int, view: memoryview, source: str) -> int:
    try:
        return digests.read_into(reader, view)
    except OSError as error:
        raise OSError(error.errno, f"could not be read: {error.strerror}", source) from error


def _clone(reader: int, writer: int) -> bool:
    """Makes an empty file share the blocks of another, in no time, where the file system can (Btrfs, XFS).

    Returns whether it did. Else the file is empty still: some file systems clone a part, or say so of less than all.
    """
    if sys.platform != "linux":
        return False
    import fcntl  # noqa: PLC0415 - start-up time: only for large files

    try:
        fcntl.ioctl(writer, _FICLONE, reader)
        is_whole = os.fstat(writer).st_size == os.fstat(reader).st_size
    except OSError:
        is_whole = False
    if not is_whole and os.fstat(writer).st_size:
        os.ftruncate(writer, 0)
        os.lseek(writer, 0, os.SEEK_SET)
    return is_whole
