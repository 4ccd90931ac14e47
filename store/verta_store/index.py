"""The SQLite index: derived from the journals, per user and host, deletable at any time and rebuilt equal.

It knows how far each journal was read and catches up by reading only new bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from . import authors, columns, drive, ids, ingest, journal, packs, query, sealed_journals, series
from .authors import Author, Conflict
from .listing import Listing
from .query import EntityRow
from .records import JOURNAL, value_of
from .selection import Selection
from .writers import Birth, Writer

_T = TypeVar("_T")

SCHEMA_VERSION = 7

# Another process of this user may be taking in a large journal.
_BUSY_TIMEOUT_S = 20.0

# More parameters than this a statement may not have in every SQLite.
_PARAMETERS = 500

# Journals are read and taken in by parts of about this size, which costs 25 times as much memory.
_BATCH_BYTES = 4 << 20

# While a large store is read for the first time: enough for the upper pages of its tables, and for fewer of them to be
# written twice. In KiB, and in pages.
_REBUILD_CACHE_KIB = 64 << 10
_REBUILD_LOG_PAGES = 8192

_SCHEMA = """
CREATE TABLE journals (id INTEGER PRIMARY KEY, stem TEXT UNIQUE NOT NULL, offset INTEGER NOT NULL,
    check_value INTEGER NOT NULL, record_count INTEGER NOT NULL, is_sealed INTEGER NOT NULL,
    host TEXT NOT NULL, user TEXT NOT NULL);
CREATE TABLE entities (num INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, kind TEXT, parent TEXT, name TEXT,
    generation INTEGER, created_ms INTEGER, updated INTEGER NOT NULL DEFAULT 0, deleted INTEGER,
    is_known INTEGER NOT NULL DEFAULT 0, writer INTEGER);
CREATE INDEX entities_by_name ON entities (kind, parent, name);
CREATE INDEX entities_by_update ON entities (kind, parent, updated);
CREATE INDEX entities_by_age ON entities (kind, updated);
CREATE INDEX entities_by_parent ON entities (parent);
CREATE TABLE keys (id INTEGER PRIMARY KEY, section TEXT NOT NULL, key TEXT NOT NULL, UNIQUE (section, key));
CREATE TABLE vals (entity INTEGER NOT NULL, key INTEGER NOT NULL, num, text TEXT, json TEXT,
    time INTEGER NOT NULL, writer INTEGER NOT NULL, seen INTEGER,
    PRIMARY KEY (entity, key)) WITHOUT ROWID;
CREATE TABLE losers (entity INTEGER NOT NULL, key INTEGER NOT NULL, json TEXT NOT NULL, time INTEGER NOT NULL,
    writer INTEGER NOT NULL, seen INTEGER);
CREATE INDEX losers_by_entity ON losers (entity, key);
CREATE INDEX losers_by_writer ON losers (writer);
CREATE TABLE drops (entity INTEGER NOT NULL, key INTEGER NOT NULL, time INTEGER NOT NULL,
    PRIMARY KEY (entity, key)) WITHOUT ROWID;
CREATE TABLE tags (entity INTEGER NOT NULL, tag TEXT NOT NULL, since INTEGER NOT NULL, position INTEGER NOT NULL,
    added INTEGER NOT NULL, removed INTEGER NOT NULL, is_removed INTEGER NOT NULL,
    PRIMARY KEY (entity, tag)) WITHOUT ROWID;
CREATE INDEX tags_by_tag ON tags (tag);
CREATE TABLE points (entity INTEGER NOT NULL, key INTEGER NOT NULL, writer INTEGER NOT NULL, chunk INTEGER NOT NULL,
    kind TEXT NOT NULL, point_count INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (entity, key, writer, chunk)) WITHOUT ROWID;
CREATE TABLE resets (entity INTEGER NOT NULL, key INTEGER NOT NULL, time INTEGER NOT NULL,
    PRIMARY KEY (entity, key)) WITHOUT ROWID;
CREATE TABLE quarantine (journal INTEGER NOT NULL, time INTEGER NOT NULL, line TEXT NOT NULL);
CREATE TABLE lost (stem TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE packed (entity INTEGER PRIMARY KEY, layout BLOB NOT NULL, data BLOB NOT NULL, others TEXT NOT NULL);
CREATE TABLE packs (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, members TEXT NOT NULL);
CREATE TABLE newest (time INTEGER NOT NULL);
INSERT INTO newest VALUES (0);
"""

# Those that cost most to keep while a large store is read for the first time, and are faster made at its end.
_LATE_INDEXES = {
    "vals_by_number": "vals (key, num)",
    "vals_by_text": "vals (key, text) WHERE text IS NOT NULL",
}


class News(NamedTuple):
    """What a refresh brought."""

    record_count: int
    is_of_others: bool  # whether any of it was logged by another writer, or may have been


class IndexState(NamedTuple):
    """What an index holds. `path` is ':memory:' where no file is safe or possible."""

    path: str
    size_bytes: int
    journal_count: int
    record_count: int


class Index:
    """The index of one store. Every method may be called from any thread.

    `own` holds the stems of the journals that this process writes, as they come to be.
    """

    def __init__(self, root: str, store_id: str, path: str, own: Container[str] = ()) -> None:
        self._root = root
        self._own = own
        self._news = News(0, is_of_others=False)  # that nobody was told of yet
        self._store_id = store_id
        self._path = path
        self.lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._positions: dict[str, tuple[int, journal.Position]] = {}
        self._loaded_number = 0  # of the last row of `journals` that was loaded
        self._loaded_pack = 0  # of the last row of `packs`
        self._packs: dict[str, frozenset[str]] = {}  # those that were read, with the journals that they hold
        self._listing = Listing(root)
        self._lacks_indexes = False  # of values, while a large store is read for the first time
        self._compared: dict[str, str] | None = None  # the journals with which `_positions` were compared last
        self._unsealed: list[tuple[str, str]] = []  # of these the stems and suffixes that may have something new
        self._waits_until = 0  # the time of the next record in quarantine, or later than any
        self._key_numbers: dict[tuple[str, str], int] = {}  # of the open database; they never change in it
        self._data_version = -1
        self.newest_time = 0
        self._lost: set[str] = set()  # journals that were read and are gone, until they are noted in the next index

    def refresh(self, *, only_others: bool = False) -> News:
        """Takes in what journals hold beyond the last refresh; with `only_others` not those of this process.

        Records that another process took in meanwhile are news too, but not counted.
        """
        with self.lock:
            self._guarded(lambda: self._refresh(only_others=only_others))
            news, self._news = self._news, News(0, is_of_others=False)
            return news

    def run(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Rows of one SELECT over the tables above."""

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

    def close(self) -> None:
        """Closes the database."""
        with self.lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None
            self._forget_positions()

    def delete(self) -> None:
        """Deletes the database; the next look reads all journals again. What it knows to be lost is kept in mind."""
        with self.lock:
            try:
                self._lost.update(self.lost_journals())
            except OSError:
                pass  # a journal that cannot be read keeps the index from knowing
            self.close()
            if self._path != ":memory:":
                self._delete()

    def forget_after_fork(self) -> None:
        """In the child of a fork: SQLite must not be used across it, not even to close."""
        self.lock = threading.RLock()
        if self._connection is not None:
            _LEFT_BEHIND.append(self._connection)
        self._connection = None
        self._forget_positions()

    def _forget_positions(self) -> None:
        self._positions = {}
        self._loaded_number = 0
        self._packs = {}
        self._loaded_pack = 0

    # -- opening ---------------------------------------------------------------------------------------------------

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
                    return self._catch_up_and(work)
                except _DAMAGE:
                    if self._path == ":memory:":
                        raise
                    self.close()
                    self._path = ":memory:"  # a cache folder that is full or cannot be written
                    return self._catch_up_and(work)

    def _catch_up_and(self, work: Callable[[], Any]) -> Any:
        self._refresh()
        return work()

    def _delete(self) -> None:
        for end in ("", "-wal", "-shm", "-journal"):
            try:
                os.unlink(self._path + end)
            except OSError:
                pass

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._pid == os.getpid():
            return self._connection
        if self._path != ":memory:":
            try:
                os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            except OSError:
                self._path = ":memory:"
        connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # A cache: after a power cut it may lose its last transactions, and reads those journals again.
            connection.execute("PRAGMA synchronous = NORMAL")
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._pid = connection, os.getpid()
        self._lacks_indexes = not _LATE_INDEXES.keys() <= _index_names(connection)
        self._key_numbers = {}
        self._forget_positions()
        self._data_version = -1
        self._note(0, is_of_others=True)  # it may be another file than before, which has nothing yet
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Makes the schema in a new file; a file of another version or store counts as damaged."""
        application_id = int(self._store_id.replace("-", "")[:7], 16)
        found = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == SCHEMA_VERSION and found == application_id:
            return
        with _transaction(connection):
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            found = connection.execute("PRAGMA application_id").fetchone()[0]
            if version == 0 and not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                _make_late_indexes(connection)
                connection.execute(f"PRAGMA application_id = {application_id}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif version != SCHEMA_VERSION or found != application_id:
                raise sqlite3.DatabaseError("the index is of another version or another store")

    # -- catching up -----------------------------------------------------------------------------------------------

    def _refresh(self, *, only_others: bool = False) -> None:
        self._take_in_all(only_others)
        # Where another process was a step ahead with a journal, what stands behind it was not taken in: a record of
        # our own, it may be, and who logs a value finds it at the next look.
        while self._data_version == -1:
            self._take_in_all(only_others)

    def _note(self, record_count: int, *, is_of_others: bool) -> None:
        self._news = News(self._news.record_count + record_count, self._news.is_of_others or is_of_others)

    def _take_in_all(self, only_others: bool) -> None:
        connection = self._open()
        self._load_positions(connection)
        self._release_quarantine(connection)
        listing = self._listing.journals()
        if listing is not self._compared:
            self._take_in_packs(connection, listing)
            listing = self._compare(connection, listing)
        batch: list[tuple[str, journal.JournalPart]] = []
        waiting_bytes = 0
        is_first = not self._positions
        for stem, suffix in self._unsealed:
            has_more = not (only_others and stem in self._own)
            while has_more:
                _, start = self._positions.get(stem, _UNREAD)
                part = None if start.is_sealed else self._read(stem, suffix, start)
                if part is None or part.position == start:
                    break
                batch.append((stem, part))
                waiting_bytes += part.position.offset - start.offset
                has_more = part.has_more
                if waiting_bytes >= _BATCH_BYTES or has_more:
                    if is_first and not self._lacks_indexes:
                        self._lacks_indexes = True
                        _begin_rebuild(connection)
                    self._take_in(connection, batch)
                    batch, waiting_bytes = [], 0
                    has_more = has_more and self._data_version != -1
        if batch:
            self._take_in(connection, batch)
        if self._lacks_indexes:
            _end_rebuild(connection)
            self._lacks_indexes = False

    def _take_in_packs(self, connection: sqlite3.Connection, listing: dict[str, str]) -> None:
        """Takes in what packs hold of journals that were not read to their end."""
        for name in self._listing.packs:
            if name in self._packs:
                continue
            path = packs.path_of(self._root, name)
            try:
                pack = packs.read_pack(path)
            except OSError:
                continue  # gone since it was listed, or not to be read: what it held is missed below
            batch: list[tuple[str, journal.JournalPart]] = []
            waiting_bytes = 0
            hurt = set(pack.hurt())
            for stem, data in pack.journals.items():
                _, start = self._positions.get(stem, _UNREAD)
                if start.is_sealed or (stem in hurt and stem in listing):
                    continue
                batch.append((stem, journal.parse_journal(data[start.offset :], start, path)))
                waiting_bytes += len(data)
                if waiting_bytes >= _BATCH_BYTES:
                    if not self._positions and not self._lacks_indexes:
                        self._lacks_indexes = True
                        _begin_rebuild(connection)
                    self._take_in(connection, batch)
                    batch, waiting_bytes = [], 0
            if batch:
                self._take_in(connection, batch)
            if self._data_version == -1:
                return  # another process was a step ahead with a journal: the next round goes on from there
            members = frozenset(pack.members.keys() | pack.journals.keys())
            if not hurt:
                # A damaged one is read again by the next process: it may have been brought back by then.
                with _transaction(connection):
                    text = json.dumps(sorted(members))
                    connection.execute("INSERT OR IGNORE INTO packs (name, members) VALUES (?, ?)", (name, text))
            self._packs[name] = members

    def _compare(self, connection: sqlite3.Connection, listing: dict[str, str]) -> dict[str, str]:
        """Finds out which journals may hold something new, and whether any is gone."""
        positions = self._positions
        if self._missing(listing):
            # A journal may be missed in the moment of its renaming; one that is gone for good (an older copy of
            # the store was put back) makes the index a lie.
            listing = self._listing.journals(at_once=True)
            if missing := self._missing(listing):
                # The memory of them outlives the index: `verify` has no other way to know that they existed. A
                # header alone may be that of a writer which failed to make his journal and took it away again.
                self._lost.update(stem for stem in missing if positions[stem][1].record_count > 1)
                self._lost.update(stem for (stem,) in connection.execute("SELECT stem FROM lost"))
                raise sqlite3.DatabaseError("the index knows journals that the store does not have")
        if self._lost:
            connection.executemany("INSERT OR IGNORE INTO lost VALUES (?)", [(stem,) for stem in self._lost])
            self._lost.clear()
        self._unsealed = sorted(
            item for item in listing.items() if not ((known := positions.get(item[0])) and known[1].is_sealed)
        )
        self._compared = listing
        return listing

    def _missing(self, listing: dict[str, str]) -> set[str]:
        """The journals that were read and that are neither listed nor in a pack that is."""
        missing = self._positions.keys() - listing.keys()
        for name in self._listing.packs if missing else ():
            missing -= self._packs.get(name, frozenset())
        return missing

    def _read(self, stem: str, suffix: str, start: journal.Position) -> journal.JournalPart | None:
        where = drive.of(self._root)
        try:
            if start.offset and where.is_stat_true:
                path = os.path.join(self._root, "journals", stem + suffix)
                if os.stat(path).st_size == start.offset:
                    return None
        except OSError:
            pass  # sealed since it was listed
        try:
            found = journal.read_listed(self._root, stem, suffix, start, at_most_bytes=_BATCH_BYTES)
        except PermissionError:
            if not where.is_careful:
                raise
            return None  # just made, and its mode not yet that of a shared store; `verify` tells of others
        except IsADirectoryError:
            return None  # damage, of which `verify` tells
        return None if found is None else found[1]

    def _load_positions(self, connection: sqlite3.Connection) -> None:
        """Looks how far the journals are read: another process may have changed the index meanwhile."""
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if version == self._data_version:
            return
        # Rows are added and never taken out, and that of a sealed journal never changes.
        # (Up to where they were loaded, which is not the newest number known: this process may have added a row behind
        # one of another process that it has not seen yet.)
        changing = [number for number, position in self._positions.values() if not position.is_sealed]
        for condition, parameters in (("id > ?", [self._loaded_number]), *_any_of("id", changing)):
            for number, stem, offset, check, count, sealed in connection.execute(
                "SELECT id, stem, offset, check_value, record_count, is_sealed FROM journals WHERE " + condition,
                parameters,
            ):
                position = journal.Position(offset, check, count, bool(sealed))
                if stem not in self._own and self._positions.get(stem, _UNREAD)[1] != position:
                    self._note(0, is_of_others=True)
                self._positions[stem] = number, position
                self._loaded_number = max(self._loaded_number, number)
        for number, name, members in connection.execute(
            "SELECT id, name, members FROM packs WHERE id > ?", (self._loaded_pack,)
        ):
            self._packs[name] = frozenset(json.loads(members))
            self._loaded_pack = max(self._loaded_pack, number)
        waits_until, self._waits_until = self._waits_until, _next_waiting(connection)
        # What it has released from quarantine, or put there, counts as well.
        self._note(0, is_of_others=waits_until not in (0, self._waits_until))
        self._data_version = version
        self._compared = None
        self.newest_time = max(self.newest_time, *connection.execute("SELECT time FROM newest").fetchone())

    def _take_in(self, connection: sqlite3.Connection, parts: Iterable[tuple[str, journal.JournalPart]]) -> None:
        # What is noted of the positions is true again when all is done: an exception may come at any moment.
        version, self._data_version = self._data_version, -1
        with _transaction(connection):
            batch = ingest.Batch(connection)
            moved: dict[str, tuple[int, journal.Position]] = {}
            is_behind = False
            for stem, part in parts:
                number, start = self._positions.get(stem, (0, journal.Position()))
                row = connection.execute("SELECT id, offset FROM journals WHERE stem = ?", (stem,)).fetchone()
                if row is not None and (number == 0 or row[1] != start.offset):
                    is_behind = True
                    continue  # another process took this part in meanwhile; the next refresh goes on from there
                header = part.lines[0] if part.lines else {}
                if row is None:
                    number = batch.add_journal(stem, header)
                position = part.position
                if row is None and header.get("k") == JOURNAL and header.get("name") != stem:
                    # A copy of another journal ("... (conflicted copy)"): its observations would count twice. It is
                    # never read again; `verify` tells of it.
                    position = position._replace(is_sealed=True)
                else:
                    batch.add(number, part.lines)
                    self._note(len(part.lines), is_of_others=stem not in self._own)
                connection.execute(
                    "UPDATE journals SET offset = ?, check_value = ?, record_count = ?, is_sealed = ? WHERE id = ?",
                    (position.offset, position.check, position.record_count, position.is_sealed, number),
                )
                moved[stem] = (number, position)
            self.newest_time = max(self.newest_time, batch.apply())
            connection.execute("UPDATE newest SET time = max(time, ?)", (self.newest_time,))
        self._positions.update(moved)
        self._unsealed = [item for item in self._unsealed if not ((at := moved.get(item[0])) and at[1].is_sealed)]
        self._waits_until = min(self._waits_until, batch.next_waiting)
        if not is_behind:
            self._data_version = version

    def _release_quarantine(self, connection: sqlite3.Connection) -> None:
        """Takes in records from the future once their time is no longer more than a day ahead."""
        limit = (ids.now_ms() + ids.FUTURE_LIMIT_MS) << ids.CLOCK_BITS
        if self._waits_until > limit:
            return
        with _transaction(connection):
            batch = ingest.Batch(connection)
            rows = connection.execute("SELECT journal, line FROM quarantine WHERE time <= ?", (limit,)).fetchall()
            for number, line in rows:
                batch.add(number, [ingest.from_quarantine(line)], is_released=True)
            connection.execute("DELETE FROM quarantine WHERE time <= ?", (limit,))
            self.newest_time = max(self.newest_time, batch.apply())
            connection.execute("UPDATE newest SET time = max(time, ?)", (self.newest_time,))
        self._waits_until = _next_waiting(connection)
        self._note(len(rows), is_of_others=True)

    # -- reading ---------------------------------------------------------------------------------------------------

    def entity(self, entity_id: str) -> EntityRow | None:
        """An entity by id, unless it is deleted or unknown."""
        rows = self.run(f"SELECT {_ENTITY} FROM entities e WHERE e.id = ? AND {_ALIVE}", (entity_id,))
        return EntityRow(*rows[0]) if rows else None

    def named(self, kind: str, parent: str | None, name: str) -> EntityRow | None:
        """The living entity of that name (the one with the highest generation, should there be several)."""
        rows = self.run(
            f"SELECT {_ENTITY} FROM entities e WHERE e.kind = ? AND e.parent IS ? AND e.name = ? AND {_ALIVE}"
            " ORDER BY e.generation DESC, e.id LIMIT 1",
            (kind, parent, name),
        )
        return EntityRow(*rows[0]) if rows else None

    def is_used(self, entity_id: str) -> bool:
        """Whether any journal mentions this id, deleted or alive."""
        return bool(self.run("SELECT 1 FROM entities WHERE id = ?", (entity_id,)))

    def find(self, what: query.Query, limit: int | None = None, offset: int = 0) -> list[EntityRow]:
        """The entities of a query, in its order, `limit` of them from `offset`."""
        rows = self._guarded(lambda: self._selection(what).rows(_ENTITY, limit, offset))
        return list(map(EntityRow._make, rows))

    def count(self, what: query.Query) -> int:
        """How many entities a query has."""
        return int(self._guarded(lambda: self._selection(what).count()))

    def _selection(self, what: query.Query) -> Selection:
        connection = self._open()
        return Selection(
            what,
            lambda section, key: self._key_number(connection, section, key),
            lambda sql, parameters: connection.execute(sql, parameters).fetchall(),
        )

    def _key_number(self, connection: sqlite3.Connection, section: str, key: str) -> int | None:
        number = self._key_numbers.get((section, key))
        if number is None:
            row = connection.execute("SELECT id FROM keys WHERE section = ? AND key = ?", (section, key)).fetchone()
            if row is None:
                return None
            number = self._key_numbers[section, key] = int(row[0])
        return number

    def key_times(self, entity_id: str, section: str) -> dict[str, int]:
        """Key -> record time of one section of an entity."""
        rows = self.run(
            "SELECT k.key, v.time FROM vals v JOIN keys k ON k.id = v.key JOIN entities e ON e.num = v.entity"
            " WHERE e.id = ? AND k.section = ?",
            (entity_id, section),
        )
        return dict(rows)

    def values(self, entity_id: str, section: str) -> dict[str, Any]:
        """Key -> value of one section of an entity, in the order of logging; nothing of a deleted one."""
        return self._decoded(
            "SELECT k.key, v.num, v.text, v.json"
            " FROM vals v JOIN keys k ON k.id = v.key JOIN entities e ON e.num = v.entity"
            " WHERE e.id = ? AND k.section = ? AND e.deleted IS NULL ORDER BY v.time, v.key",
            (entity_id, section),
            lambda rows: {row[0]: value_of(*row[1:]) for row in rows},
        )

    def values_of_many(self, entity_ids: Sequence[str]) -> Iterator[tuple[str, str, str, Any]]:
        """(entity id, section, key, value) of all sections of many entities."""
        for begin in range(0, len(entity_ids), _PARAMETERS):
            part = entity_ids[begin : begin + _PARAMETERS]
            yield from self._decoded(
                "SELECT e.id, k.section, k.key, v.num, v.text, v.json FROM entities e JOIN vals v ON v.entity = e.num"
                f" JOIN keys k ON k.id = v.key WHERE e.id IN ({','.join('?' * len(part))}) ORDER BY v.time, v.key",
                part,
                lambda rows: [(*row[:3], value_of(*row[3:])) for row in rows],
            )

    def columns(self, what: query.Query, sections: Container[str]) -> columns.Table:
        """The values of these sections of the entities of a query, a column a key."""

        def read() -> columns.Table:
            connection = self._open()
            found = self._selection(what).rows("e.num, e.id", None, 0)
            rows: dict[int, columns.PackedRow] = {}
            for begin in range(0, len(found), _PARAMETERS):
                numbers = [number for number, _ in found[begin : begin + _PARAMETERS]]
                rows.update((row.entity, row) for row in columns.read_packed(connection, numbers))
                if missing := [number for number in numbers if number not in rows]:
                    with _transaction(connection):
                        rows.update((row.entity, row) for row in columns.pack_missing(connection, missing))
            names = {
                number: (section, key)
                for number, section, key in connection.execute("SELECT id, section, key FROM keys")
                if section in sections
            }
            try:
                table = columns.unpack([rows[number] for number, _ in found], names)
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                raise _Unreadable from error
            return columns.Table([entity for _, entity in found], table)

        made: columns.Table = self._guarded(read)
        return made

    def points(self, entity_id: str, key: str) -> list[series.Point]:
        """The history of an observation, in the order of logging."""
        return [series.Point(*row) for row in zip(*self.point_columns(entity_id, key), strict=True)]

    def point_columns(self, entity_id: str, key: str) -> series.Columns:
        """The history of an observation as columns, in the order of logging."""
        return self._decoded(
            "SELECT p.kind, p.point_count, p.data, p.writer FROM points p JOIN keys k ON k.id = p.key"
            " JOIN entities e ON e.num = p.entity JOIN journals j ON j.id = p.writer"
            " WHERE e.id = ? AND k.section = ? AND k.key = ? AND e.deleted IS NULL ORDER BY j.stem, p.chunk",
            (entity_id, ingest.OBSERVATIONS, key),
            # Of one time, the order is that of the journals' names.
            lambda rows: series.join(
                [series.unpack_columns(*row[:3]) for row in rows], is_ordered=len({row[3] for row in rows}) < 2
            ),
        )

    def point_keys(self, entity_id: str) -> list[str]:
        """The keys that have observations."""
        rows = self.run(
            "SELECT DISTINCT k.key FROM points p JOIN keys k ON k.id = p.key JOIN entities e ON e.num = p.entity"
            " WHERE e.id = ? AND k.section = ? AND e.deleted IS NULL ORDER BY k.id",
            (entity_id, ingest.OBSERVATIONS),
        )
        return [key for (key,) in rows]

    def tags(self, entity_id: str) -> list[str]:
        """The tags of an entity, in the order of logging."""
        rows = self.run(
            "SELECT t.tag FROM tags t JOIN entities e ON e.num = t.entity"
            " WHERE e.id = ? AND t.is_removed = 0 AND e.deleted IS NULL ORDER BY t.since, t.position, t.tag",
            (entity_id,),
        )
        return [tag for (tag,) in rows]

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

    def author_of(self, entity_id: str) -> Author | None:
        """Who created an entity first, or None for one that no journal creates."""
        rows = self.run(
            "SELECT j.user, j.host FROM entities e JOIN journals j ON j.id = e.writer WHERE e.id = ?", (entity_id,)
        )
        return Author(*rows[0]) if rows else None

    def births(self, entity_ids: Sequence[str]) -> dict[str, Birth]:
        """Entity id -> by whom and when it was created; without those that are deleted or unknown."""
        found: dict[str, Birth] = {}
        writers: dict[int, Writer] = {}  # one object a journal, however many entities it created
        for begin in range(0, len(entity_ids), _PARAMETERS):
            part = entity_ids[begin : begin + _PARAMETERS]
            rows = self.run(
                "SELECT e.id, e.created_ms, e.updated >> 12, e.writer FROM entities e"
                f" WHERE e.id IN ({','.join('?' * len(part))}) AND {_ALIVE}",
                part,
            )
            unknown = {row[3] for row in rows} - writers.keys()
            for number in unknown:
                ((stem, sealed),) = self.run("SELECT stem, is_sealed FROM journals WHERE id = ?", (number,))
                writers[number] = Writer(stem, bool(sealed))
            found.update(
                (entity, Birth(created, updated, writers[number])) for entity, created, updated, number in rows
            )
        return found

    def tags_of_many(self, entity_ids: Sequence[str]) -> dict[str, list[str]]:
        """Entity id -> its tags, in the order of logging; without those that have none."""
        found: dict[str, list[str]] = {}
        for begin in range(0, len(entity_ids), _PARAMETERS):
            part = entity_ids[begin : begin + _PARAMETERS]
            for entity, tag in self.run(
                "SELECT e.id, t.tag FROM tags t JOIN entities e ON e.num = t.entity"
                f" WHERE e.id IN ({','.join('?' * len(part))}) AND t.is_removed = 0"
                " ORDER BY t.since, t.position, t.tag",
                part,
            ):
                found.setdefault(entity, []).append(tag)
        return found

    def conflicts(self, journals: Sequence[str] | None = None) -> list[Conflict]:
        """The values that lost against another writer's, oldest first; only those in these journals, if given."""
        return self._decoded(*authors.conflicts_sql(journals), authors.conflicts_of)

    def _decoded(self, sql: str, parameters: Sequence[object], decode: Callable[[list[Any]], _T]) -> _T:
        """What `decode` makes of the rows of a SELECT; rows that it cannot read are damage like any other."""

        def read() -> _T:
            rows = self._open().execute(sql, parameters).fetchall()
            try:
                return decode(rows)
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                raise _Unreadable from error

        made: _T = self._guarded(read)
        return made


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; whoever else writes waits."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _index_names(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}


def _make_late_indexes(connection: sqlite3.Connection) -> None:
    for name, of in _LATE_INDEXES.items():
        connection.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {of}")


def _begin_rebuild(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA cache_size = -{_REBUILD_CACHE_KIB}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_REBUILD_LOG_PAGES}")
    for name in _LATE_INDEXES:
        connection.execute(f"DROP INDEX IF EXISTS {name}")


def _end_rebuild(connection: sqlite3.Connection) -> None:
    _make_late_indexes(connection)
    connection.execute("PRAGMA cache_size = -2000")
    connection.execute("PRAGMA wal_autocheckpoint = 1000")


def _any_of(column: str, numbers: Sequence[int]) -> Iterator[tuple[str, Sequence[int]]]:
    """Conditions with their parameters that together are true for any of these numbers."""
    for begin in range(0, len(numbers), _PARAMETERS):
        part = numbers[begin : begin + _PARAMETERS]
        yield f"{column} IN ({','.join('?' * len(part))})", part


def _next_waiting(connection: sqlite3.Connection) -> int:
    """The time of the first record in quarantine, or later than any when there is none."""
    found = connection.execute("SELECT min(time) FROM quarantine").fetchone()[0]
    return ingest.NEVER if found is None else int(found)


class _Unreadable(Exception):
    """A row whose content is not what was written into it."""


# What a damaged file makes SQLite raise, and what its rows make of the code here: a text where a number was, half a
# character in SQLite's own message.
_DAMAGE = (sqlite3.DatabaseError, _Unreadable, ValueError, TypeError, OverflowError, KeyError)


_ENTITY = "e.id, e.kind, e.parent, e.name, e.generation, e.created_ms, e.updated >> 12"
_ALIVE = "e.is_known = 1 AND e.deleted IS NULL"

_UNREAD = (0, journal.Position())

# Connections of a parent process, kept from being closed by the garbage collector of a forked child.
_LEFT_BEHIND: list[sqlite3.Connection] = []
