"""The tables of the index: how they are made, and how they are changed, all or nothing.

Which of them holds what of the journals is the matter of `ingest.py`.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence

SCHEMA_VERSION = 8

# More parameters than this a statement may not have in every SQLite.
PARAMETERS = 500

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
CREATE TABLE hurt (path TEXT PRIMARY KEY, mark TEXT NOT NULL) WITHOUT ROWID;
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


def prepare(connection: sqlite3.Connection, store_id: str) -> None:
    """Makes the schema in a new file; a file of another version or store counts as damaged."""
    application_id = int(store_id.replace("-", "")[:7], 16)
    found = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION and found == application_id:
        return
    with transaction(connection):
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


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; whoever else writes waits."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def lacks_late_indexes(connection: sqlite3.Connection) -> bool:
    """Whether a large store is being read for the first time, or was when that was broken off."""
    found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    return not _LATE_INDEXES.keys() <= found


def _make_late_indexes(connection: sqlite3.Connection) -> None:
    for name, of in _LATE_INDEXES.items():
        connection.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {of}")


def begin_rebuild(connection: sqlite3.Connection) -> None:
    """Before the first part of a large store is taken in."""
    connection.execute(f"PRAGMA cache_size = -{_REBUILD_CACHE_KIB}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_REBUILD_LOG_PAGES}")
    for name in _LATE_INDEXES:
        connection.execute(f"DROP INDEX IF EXISTS {name}")


def end_rebuild(connection: sqlite3.Connection) -> None:
    """When all of it is taken in."""
    _make_late_indexes(connection)
    connection.execute("PRAGMA cache_size = -2000")
    connection.execute("PRAGMA wal_autocheckpoint = 1000")


def any_of(column: str, numbers: Sequence[int]) -> Iterator[tuple[str, Sequence[int]]]:
    """Conditions with their parameters that together are true for any of these numbers."""
    for begin in range(0, len(numbers), PARAMETERS):
        part = numbers[begin : begin + PARAMETERS]
        yield f"{column} IN ({','.join('?' * len(part))})", part
