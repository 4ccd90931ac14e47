"""A memory, per user and host, of which stored files were read and found whole: so that a gigabyte is hashed once.

A file is trusted when its size, mtime, ctime and inode are those at the time of the check; its mode never counts.
This is a cache: it may be deleted at any time, and then everything is hashed once more.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable

from . import digest as digests

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


class VerifiedCache:
    """Path of a blob's file or a tree's folder -> signature of what was found whole there."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self.lock = threading.RLock()

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
        with self.lock:
            try:
                row = self._open().execute("SELECT signature FROM verified WHERE path = ?", (path,)).fetchone()
            except (sqlite3.Error, OSError) as error:
                self._give_up(error)
                return False
        return row is not None and row[0] == signature

    def remember(self, path: str, signature: str) -> None:
        """Notes that `path` was found whole. A cache that cannot be written costs time, nothing else."""
        if not signature:
            return
        with self.lock:
            try:
                connection = self._open()
                with connection:
                    connection.execute("INSERT OR REPLACE INTO verified VALUES (?, ?)", (path, signature))
            except (sqlite3.Error, OSError) as error:
                self._give_up(error)

    def close(self) -> None:
        """Closes the database."""
        with self.lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None

    def forget_after_fork(self) -> None:
        """In the child of a fork: SQLite must not be used across it, not even to close."""
        self.lock = threading.RLock()
        if self._connection is not None:
            _LEFT_BEHIND.append(self._connection)
        self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None or self._pid != os.getpid():
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            connection = sqlite3.connect(self._path, timeout=1.0, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS verified (path TEXT PRIMARY KEY, signature TEXT NOT NULL)"
                )
            except BaseException:
                connection.close()
                raise
            self._connection, self._pid = connection, os.getpid()
        return self._connection

    def _give_up(self, error: Exception) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        # The bare class is that of a damaged file; a locked or full one is an OperationalError and may be another's.
        if type(error) is sqlite3.DatabaseError:
            for end in ("", "-wal", "-shm"):
                try:
                    os.unlink(self._path + end)
                except OSError:
                    pass  # it is only a cache


# Connections of a parent process, kept from being closed by the garbage collector of a forked child.
_LEFT_BEHIND: list[sqlite3.Connection] = []
