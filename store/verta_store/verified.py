"""A memory, per user and host, of which stored files were read and found whole: so that a gigabyte is hashed once.

A file is trusted when its size, mtime, ctime and inode are those at the time of the check; its mode never counts.
This is a cache: it may be deleted at any time, and then everything is hashed once more.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable

from . import digest as digests
from .local_cache import LocalCache

# Time stamps without a fraction are those of a drive that has none: they move on in steps of one second or two (FAT,
# some NFS and SMB servers). Within a step, and a little more for clocks that differ, they say nothing.
_SECOND_NS = 10**9
_UNSETTLED_NS = 4 * 10**9


def signature_of(paths: Iterable[str]) -> str:
    """What must stay the same for files to be trusted: one text over size, mtime, ctime and inode of each.

    '' when one of them is so new that a change to it, of the same size, would show in none of these.
    """
    state = hashlib.sha256()
    now_ns = time.time_ns()
    is_settled = True
    for path in paths:
        found = os.stat(path)
        latest_ns = max(found.st_mtime_ns, found.st_ctime_ns)
        if not latest_ns % _SECOND_NS and now_ns - latest_ns < _UNSETTLED_NS:
            is_settled = False
        state.update(b"%d %d %d %d\n" % (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino))
    return state.hexdigest() if is_settled else ""


class VerifiedCache(LocalCache):
    """Path of a blob's file or a tree's folder -> signature of what was found whole there."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "CREATE TABLE IF NOT EXISTS verified (path TEXT PRIMARY KEY, signature TEXT NOT NULL)")

    def check(self, top: str, parts: list[tuple[str, str]]) -> str:
        """Makes sure that every (path, digest) is whole: from memory, or by reading. Returns '' or the damaged path.

        Raises:
            FileNotFoundError: a part is gone.
        """
        try:
            signature = signature_of(path for path, _ in parts)
        except NotADirectoryError as error:  # a file stands where a folder was
            raise FileNotFoundError(error.errno, error.strerror, error.filename) from error
        if self.knows(top, signature):
            return ""
        for path, expected in parts:
            try:
                found, _ = digests.digest_of_file(path)
            except IsADirectoryError:
                return path
            if found != expected:
                return path
        if signature and signature_of(path for path, _ in parts) == signature:
            self.remember(top, signature)
        return ""

    def knows(self, path: str, signature: str) -> bool:
        """Whether `path` was found whole with this signature."""
        if not signature:
            return False
        return self.rows("SELECT signature FROM verified WHERE path = ?", (path,)) == [(signature,)]

    def has(self, path: str) -> bool:
        """Whether `path` was found whole once, whatever has become of it since."""
        return bool(self.rows("SELECT 1 FROM verified WHERE path = ?", (path,)))

    def remember(self, path: str, signature: str) -> None:
        """Notes that `path` was found whole. A cache that cannot be written costs time, nothing else."""
        if signature:
            self.write("INSERT OR REPLACE INTO verified VALUES (?, ?)", [(path, signature)])
