"""Hashing stored files to see whether they are damaged, small ones by the thousand."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from . import digest as digests
from . import files

# What stands in the place of a digest where there is none.
GONE = "it is gone"
NO_FILE = "something else than a file stands in its place"

_READ = os.O_RDONLY | files.O_BINARY | files.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)

# From this many files on worker processes hash them: below, starting those takes longer than what they save.
WORKERS_FROM = 8000
_TASK_FILES = 500

_AT_ONCE_BYTES = 64 << 10


def hash_file(path: str) -> tuple[str, int]:
    """(digest, size in bytes) of a file; a sentence instead of the digest where there is none. Links are no files."""
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        return GONE, 0
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EMLINK):  # a link, a socket; a link on FreeBSD
            return NO_FILE, 0
        return _unreadable(path, error)
    try:
        status = os.fstat(descriptor)
        if status.st_mode & 0o170000 != 0o100000:
            return NO_FILE, 0
        if status.st_size < _AT_ONCE_BYTES:
            # One byte more than there should be: the end shows without a second read.
            data = os.read(descriptor, status.st_size + 1)
            if len(data) == status.st_size:
                return digests.digest_of_bytes(data), len(data)
        return digests.digest_of_descriptor(descriptor)
    except OSError as error:
        return _unreadable(path, error)
    finally:
        os.close(descriptor)


def _unreadable(path: str, error: OSError) -> tuple[str, int]:
    if os.path.isdir(path):  # which Windows does not open
        return NO_FILE, 0
    return f"it cannot be read: {error.strerror}", 0


def hash_files(paths: list[str]) -> list[tuple[str, int]]:
    """`hash_file` of each."""
    return [hash_file(path) for path in paths]


def hash_many(paths: list[str]) -> Iterator[tuple[str, tuple[str, int]]]:
    """Yields (path, `hash_file` of it) for small files, in any order; by worker processes where there are thousands."""
    tasks = [
        (part, ["hash", part]) for part in (paths[at : at + _TASK_FILES] for at in range(0, len(paths), _TASK_FILES))
    ]
    from . import workers  # noqa: PLC0415 - start-up time

    count = workers.worker_count() if len(paths) >= WORKERS_FROM else 0
    with workers.Workers(count) as pool:
        for part, answer in pool.do(tasks):
            found = hash_files(part) if answer is None else answer.data
            yield from ((path, (one[0], one[1])) for path, one in zip(part, found, strict=True))
