"""A small SQLite file in the user's cache folder for what can be found out again: its loss costs time only."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from . import files

_FAILURES = (sqlite3.Error, OSError, UnicodeEncodeError)


class LocalCache:
    """One table. A file that is damaged, full, locked or gone means that nothing is known. For any thread."""

    def __init__(self, path: str, schema: str) -> None:
        self._path = path
        self._schema = schema
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self.lock = threading.RLock()

    def rows(self, sql: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        """Rows of a SELECT; none where the cache cannot be read."""
        with self.lock:
            try:
                return self._open().execute(sql, parameters).fetchall()
            except _FAILURES as error:
                self._give_up(error)
                return []

    def write(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Runs one statement for each row, in one transaction; or not, where the cache cannot be written."""
        with self.lock:
            try:
                connection = self._open()
                with connection:
                    connection.executemany(sql, rows)
            except _FAILURES as error:
                self._give_up(error)

    def close(self) -> None:
        """Closes the database."""
        with self.lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None

    def delete(self) -> None:
        """Forgets everything."""
        with self.lock:
            self.close()
            self._delete()

    def forget_after_fork(self) -> None:
        """In the child of a fork: SQLite must not be used across it, not even to close."""
        self.lock = threading.RLock()
        if self._connection is not None:
            _LEFT_BEHIND.append(self._connection)
        self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None or self._pid != os.getpid():
            files.make_private_folder(os.path.dirname(self._path))
            connection = sqlite3.connect(self._path, timeout=1.0, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute(self._schema)
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
            self._delete()

    def _delete(self) -> None:
        for end in ("", "-wal", "-shm"):
            try:
                os.unlink(self._path + end)
            except OSError:
                pass  # none, or one in memory


# Connections of a parent process, kept from being closed by the garbage collector of a forked child.
_LEFT_BEHIND: list[sqlite3.Connection] = []
