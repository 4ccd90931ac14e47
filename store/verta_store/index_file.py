"""The database of the index: opened when it is needed, and made anew when it is damaged, foreign or locked.

It is derived from the journals, per user and host, deletable at any time and rebuilt equal.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import zlib
from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple, TypeVar

from . import files, ids, index_tables, packs, sealed_journals
from .catching_up import CatchUp, News
from .description import read_description
from .errors import StoreError

_T = TypeVar("_T")

# Another process of this user may be taking in a large journal.
_BUSY_TIMEOUT_S = 20.0


class Unreadable(Exception):
    """A row whose content is not what was written into it."""


# What a damaged file makes SQLite raise, and what its rows make of the code here: a text where a number was, half a
# character in SQLite's own message.
_DAMAGE = (sqlite3.DatabaseError, Unreadable, ValueError, TypeError, OverflowError, KeyError)

# Connections of a parent process, kept from being closed by the garbage collector of a forked child.
_LEFT_BEHIND: list[sqlite3.Connection] = []


def path_of(folder: str, root: str, store_id: str) -> str:
    """Where the index of a store belongs: `index.sqlite` in its folder of the cache, which goes with it when it moves.

    A copy with the same id that is used beside it has one of its own: each would miss what only the other holds.
    """
    usual = os.path.join(folder, "index.sqlite")
    note = os.path.join(folder, "root")
    here = os.fsencode(root)
    try:
        elsewhere = files.read_file(note)
    except OSError:
        elsewhere = b""
    if elsewhere == here:
        return usual
    try:
        if elsewhere and read_description(os.fsdecode(elsewhere))["store_id"] == store_id:
            return os.path.join(folder, f"index-{zlib.crc32(here):08x}.sqlite")
    except (StoreError, OSError, ValueError):
        pass  # it was moved here
    try:
        files.make_private_folder(folder)
        draft = f"{note}-{ids.random_hex(8)}"
        with open(draft, "xb") as file:
            file.write(here)
        os.replace(draft, note)
    except OSError:
        pass  # a cache that cannot be written: of which the index itself makes the best
    return usual


class IndexState(NamedTuple):
    """What an index holds. `path` is ':memory:' where no file is safe or possible."""

    path: str
    size_bytes: int
    journal_count: int
    record_count: int


class IndexFile:
    """The index of one store as a database that is up to date. Every method may be called from any thread.

    `own` holds the stems of the journals that this process writes, as they come to be.
    """

    def __init__(self, root: str, store_id: str, path: str, own: Container[str] = ()) -> None:
        self._root = root
        self._store_id = store_id
        self._path = path
        self.lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._key_numbers: dict[tuple[str, str], int] = {}  # of the open database; they never change in it
        self._catch_up = CatchUp(root, own)

    @property
    def newest_time(self) -> int:
        """The time of the newest record that was taken in."""
        return self._catch_up.newest_time

    def refresh(self, *, only_others: bool = False) -> News:
        """Takes in what journals hold beyond the last refresh; with `only_others` not those of this process.

        Records that another process took in meanwhile are news too, but not counted.
        """
        with self.lock:
            self._guarded(lambda: self._catch_up.refresh(self._open(), only_others=only_others))
            return self._catch_up.take_news()

    def run(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Rows of one SELECT over the tables of the index."""
        rows: list[tuple[Any, ...]] = self._guarded(lambda: self._open().execute(sql, parameters).fetchall())
        return rows

    def reading_connection(self) -> sqlite3.Connection:
        """A connection of the caller's own that can read and not write."""
        self._guarded(self._open)  # it may turn to memory only now
        if self._path == ":memory:":
            connection = sqlite3.connect(":memory:")
            with self.lock:
                self._open().backup(connection)
        else:
            connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S)
        connection.execute("PRAGMA query_only = 1")
        return connection

    def lost_journals(self) -> list[str]:
        """The stems of journals that this index, or the one before it, has read and that are gone from the store."""
        self.refresh()
        lost = [stem for (stem,) in self.run("SELECT stem FROM lost ORDER BY stem")]
        return sealed_journals.gone(self._root, set(lost) - packs.list_stems(self._root)) if lost else []

    def state(self) -> IndexState:
        """Where the index is and how much it holds."""
        counts = self.run("SELECT count(*), coalesce(sum(record_count), 0) FROM journals")[0]
        size_bytes = 0
        for end in ("", "-wal"):
            try:
                size_bytes += os.stat(self._path + end).st_size
            except OSError:
                pass  # in memory
        return IndexState(self._path, size_bytes, *counts)

    def close(self) -> None:
        """Closes the database."""
        with self.lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None
            self._catch_up.forget()

    def delete(self) -> None:
        """Deletes the database; the next look reads all journals again. What it knows to be lost is not forgotten."""
        with self.lock:
            try:
                self._catch_up.lost.update(self.lost_journals())
            except OSError:
                pass  # a journal that cannot be read keeps the index from knowing
            self.close()
            if self._path != ":memory:":
                self._delete()
            if self._catch_up.lost:
                self.refresh()  # or the end of this process would take it from memory

    def forget_after_fork(self) -> None:
        """In the child of a fork: SQLite must not be used across it, not even to close."""
        self.lock = threading.RLock()
        if self._connection is not None:
            _LEFT_BEHIND.append(self._connection)
        self._connection = None
        self._catch_up.forget()

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """Runs `work`; a damaged, locked or foreign database is never the user's problem."""
        with self.lock:
            try:
                return work()
            except _DAMAGE as error:
                self.close()
                if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                    self._path = ":memory:"  # another program holds it: this process reads the journals itself
                elif self._path != ":memory:":
                    self._delete()
                try:
                    return self._refresh_and(work)
                except _DAMAGE:
                    if self._path == ":memory:":
                        raise
                    self.close()
                    self._path = ":memory:"  # a cache folder that is full or cannot be written
                    return self._refresh_and(work)

    def _refresh_and(self, work: Callable[[], Any]) -> Any:
        self._catch_up.refresh(self._open())
        return work()

    def _delete(self) -> None:
        for end in ("", "-wal", "-shm", "-journal"):
            try:
                os.unlink(self._path + end)
            except OSError:
                pass

    def _decoded(self, sql: str, parameters: Sequence[object], decode: Callable[[list[Any]], _T]) -> _T:
        """What `decode` makes of the rows of a SELECT; rows that it cannot read are damage like any other."""

        def read() -> _T:
            rows = self._open().execute(sql, parameters).fetchall()
            try:
                return decode(rows)
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                raise Unreadable from error

        made: _T = self._guarded(read)
        return made

    def _key_number(self, section: str, key: str) -> int | None:
        number = self._key_numbers.get((section, key))
        if number is None:
            row = self._open().execute("SELECT id FROM keys WHERE section = ? AND key = ?", (section, key)).fetchone()
            if row is None:
                return None
            number = self._key_numbers[section, key] = int(row[0])
        return number

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._pid == os.getpid():
            return self._connection
        if self._path != ":memory:":
            try:
                files.make_private_folder(os.path.dirname(self._path))
            except OSError:
                self._path = ":memory:"
        connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # A cache: after a power cut it may lose its last transactions, and reads those journals again.
            connection.execute("PRAGMA synchronous = NORMAL")
            index_tables.prepare(connection, self._store_id)
        except BaseException:
            connection.close()
            raise
        self._connection, self._pid = connection, os.getpid()
        self._key_numbers = {}
        self._catch_up.begin(connection)
        return connection
