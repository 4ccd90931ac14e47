"""Digests: `sha256:<64 hex>`, the name of every object.

SHA-256 because every other tool speaks it (`sha256sum`, git-lfs, OCI); the algorithm is part of the name.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .errors import StoreError

ALGORITHM = "sha256"
PATTERN = r"sha256:[0-9a-f]{64}"
_BUFFER_BYTES = 1 << 20
# Small files are read in one piece: making the buffer costs more than hashing them.
_AT_ONCE_BYTES = 64 << 10
_SAMPLES = 16
_SAMPLE_BYTES = 4 << 10


def digest_of_bytes(data: bytes) -> str:
    """The digest of bytes in memory."""
    return f"{ALGORITHM}:{hashlib.sha256(data).hexdigest()}"


def digest_of_file(path: str | os.PathLike[str]) -> tuple[str, int]:
    """Reads a whole file. Returns (digest, size in bytes)."""
    with open(path, "rb", buffering=0) as file:
        return digest_of_descriptor(file.fileno())


def digest_of_descriptor(descriptor: int) -> tuple[str, int]:
    """Reads an open file from its start. Returns (digest, size in bytes)."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    first = os.read(descriptor, _AT_ONCE_BYTES)
    # Where fewer bytes came than there was room, a second read tells the end from a drive that reads in small pieces.
    if len(first) < _AT_ONCE_BYTES and not os.read(descriptor, 1):
        return f"{ALGORITHM}:{hashlib.sha256(first).hexdigest()}", len(first)
    # A second read that is not empty: a longer file, or a file system that reads in small pieces.
    state = hashlib.sha256()
    buffer = bytearray(_BUFFER_BYTES)
    view = memoryview(buffer)
    size_bytes = 0
    os.lseek(descriptor, 0, os.SEEK_SET)
    while True:
        count = read_into(descriptor, view)
        if not count:
            break
        state.update(view[:count])
        size_bytes += count
    return f"{ALGORITHM}:{state.hexdigest()}", size_bytes


def sample_of_file(path: str | os.PathLike[str]) -> str:
    """A text over the size of a file and 16 pieces of it: files with different ones differ, all others may."""
    state = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        for number in range(_SAMPLES):
            file.seek(max(0, size_bytes - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
            state.update(file.read(_SAMPLE_BYTES))
    return f"{size_bytes} {state.hexdigest()}"


def read_into(descriptor: int, view: memoryview) -> int:
    """Reads the next bytes of a file, as many as there is room for. Returns how many: 0 at its end. Raises OSError."""
    if hasattr(os, "readv"):
        return os.readv(descriptor, [view])
    data = os.read(descriptor, len(view))
    view[: len(data)] = data
    return len(data)


def is_digest(text: object) -> bool:
    """Whether this is a digest as every object of a store is called."""
    return isinstance(text, str) and re.fullmatch(PATTERN, text) is not None


def digests_in(value: Any) -> Iterator[str]:
    """Every text in a value, however deep, that reads as a digest."""
    if isinstance(value, str):
        if ALGORITHM in value:
            yield from re.findall(PATTERN, value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from digests_in(key)
            yield from digests_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from digests_in(item)


def shard(digest: str) -> str:
    """`sha256/ab/<62 hex>` for a digest, the path below `objects/`, `trees/` and `names/`.

    Raises:
        StoreError: the text is not a digest. Checked here because its parts become a path.
    """
    if not is_digest(digest):
        raise StoreError(f"a digest is 'sha256:' and 64 hexadecimal digits, not {digest!r}")
    return f"{ALGORITHM}/{digest[7:9]}/{digest[9:]}"
