"""How the index catches up with the journals: what of each was read, what is new, and what is gone.

Only new bytes are read. More than one process of a user may do this in one database at the same time: each part of a
journal is taken in by one of them, in one transaction with the position behind it.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Container, Iterable
from typing import NamedTuple

from . import drive, files, ids, ingest, journal, packs
from .index_tables import any_of, begin_rebuild, end_rebuild, lacks_late_indexes, transaction
from .listing import OPEN_SUFFIX, Listing
from .records import JOURNAL

# Journals are read and taken in by parts of about this size, which costs 25 times as much memory.
_BATCH_BYTES = 4 << 20

_UNREAD = (0, journal.Position())


class News(NamedTuple):
    """What a refresh brought."""

    record_count: int
    is_of_others: bool  # whether any of it was logged by another writer, or may have been


class CatchUp:
    """What this process knows of how far the journals of a store are read. Its caller holds the lock of the index.

    `own` holds the stems of the journals that this process writes, as they come to be.
    """

    def __init__(self, root: str, own: Container[str]) -> None:
        self._root = root
        self._own = own
        self._news = News(0, is_of_others=False)  # that nobody was told of yet
        self._positions: dict[str, tuple[int, journal.Position]] = {}
        self._loaded_number = 0  # of the last row of `journals` that was loaded
        self._loaded_pack = 0  # of the last row of `packs`
        # Files that were damaged when they were read -> by what their next change is noticed: with a good copy in its
        # place, what was read of such a one is not all that it says.
        self._hurt: dict[str, str] = {}
        self._packs: dict[str, frozenset[str]] = {}  # those that were read, with the journals that they hold
        self._listing = Listing(root)
        self._lacks_indexes = False  # of values, while a large store is read for the first time
        self._compared: dict[str, str] | None = None  # the journals with which `_positions` were compared last
        self._unsealed: list[tuple[str, str]] = []  # of these the stems and suffixes that may have something new
        self._waits_until = 0  # the time of the next record in quarantine, or later than any
        self._data_version = -1
        self.newest_time = 0
        self.lost: set[str] = set()  # journals that were read and are gone, until they are noted in the next index

    def begin(self, connection: sqlite3.Connection) -> None:
        """After a database was opened: it may be another file than before, which has nothing yet."""
        self._lacks_indexes = lacks_late_indexes(connection)
        self.forget()
        self._data_version = -1
        self._note(0, is_of_others=True)

    def forget(self) -> None:
        """Forgets how far the journals are read."""
        self._positions = {}
        self._loaded_number = 0
        self._packs = {}
        self._loaded_pack = 0
        self._hurt = {}

    def refresh(self, connection: sqlite3.Connection, *, only_others: bool = False) -> None:
        """Takes in what journals hold beyond the last time; with `only_others` not those of this process."""
        self._take_in_all(connection, only_others)
        # Where another process was a step ahead with a journal, what stands behind it was not taken in: a record of
        # our own, it may be, and who logs a value finds it at the next look.
        while self._data_version == -1:
            self._take_in_all(connection, only_others)

    def take_news(self) -> News:
        """What all refreshes have brought since this was asked last."""
        news, self._news = self._news, News(0, is_of_others=False)
        return news

    def _note(self, record_count: int, *, is_of_others: bool) -> None:
        self._news = News(self._news.record_count + record_count, self._news.is_of_others or is_of_others)

    def _take_in_all(self, connection: sqlite3.Connection, only_others: bool) -> None:
        self._load_positions(connection)
        if any(_mark_of(os.path.join(self._root, path)) != mark for path, mark in self._hurt.items()):
            self._remember_lost(connection, self._missing(self._listing.journals(at_once=True)))
            raise sqlite3.DatabaseError("a journal that was damaged when it was read has changed")
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
                        begin_rebuild(connection)
                    self._take_in(connection, batch)
                    batch, waiting_bytes = [], 0
                    has_more = has_more and self._data_version != -1
        if batch:
            self._take_in(connection, batch)
        if self._lacks_indexes:
            end_rebuild(connection)
            self._lacks_indexes = False

    def _take_in_packs(self, connection: sqlite3.Connection, listing: dict[str, str]) -> None:
        """Takes in what packs hold of journals that were not read to their end."""
        # Of damaged ones last, and only if no other pack has them whole.
        hurt_ones: list[tuple[str, str, bytes]] = []
        for name in self._listing.packs:
            if name in self._packs:
                continue
            path = packs.path_of(self._root, name)
            try:
                pack = packs.read_pack(path)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ESTALE, errno.EISDIR):
                    continue  # gone since it was listed, or damage: what it held is missed below
                raise files.read_error(error, path) from error
            batch: list[tuple[str, journal.JournalPart]] = []
            waiting_bytes = 0
            hurt = set(pack.hurt())
            for stem, data in pack.journals.items():
                _, start = self._positions.get(stem, _UNREAD)
                if start.is_sealed or (stem in hurt and stem in listing):
                    continue
                if stem in hurt:
                    hurt_ones.append((name, stem, data))
                    continue
                batch.append((stem, journal.parse_journal(data[start.offset :], start, path)))
                waiting_bytes += len(data)
                if waiting_bytes >= _BATCH_BYTES:
                    if not self._positions and not self._lacks_indexes:
                        self._lacks_indexes = True
                        begin_rebuild(connection)
                    self._take_in(connection, batch)
                    batch, waiting_bytes = [], 0
            if batch:
                self._take_in(connection, batch)
            if self._data_version == -1:
                break
            members = frozenset(pack.members.keys() | pack.journals.keys())
            if hurt or pack.damages:
                # It is read again by the next process: it may have been brought back by then.
                self._remember_hurt(connection, path)
            else:
                with transaction(connection):
                    text = json.dumps(sorted(members))
                    connection.execute("INSERT OR IGNORE INTO packs (name, members) VALUES (?, ?)", (name, text))
            self._packs[name] = members
        for name, stem, data in hurt_ones:
            _, start = self._positions.get(stem, _UNREAD)
            if self._data_version != -1 and not start.is_sealed:
                part = journal.parse_journal(data[start.offset :], start, packs.path_of(self._root, name))
                self._take_in(connection, [(stem, part)])
        if self._data_version == -1:
            # Another process was a step ahead with a journal: the next round goes on from there.
            for name, *_ in hurt_ones:
                self._packs.pop(name, None)

    def _compare(self, connection: sqlite3.Connection, listing: dict[str, str]) -> dict[str, str]:
        """Finds out which journals may hold something new, and whether any is gone."""
        positions = self._positions
        if self._missing(listing):
            # A journal may be missed in the moment of its renaming; one that is gone for good (an older copy of
            # the store was put back) makes the index a lie.
            listing = self._listing.journals(at_once=True)
            if missing := self._missing(listing):
                self._remember_lost(connection, missing)
                raise sqlite3.DatabaseError("the index knows journals that the store does not have")
        if self.lost:
            connection.executemany("INSERT OR IGNORE INTO lost VALUES (?)", [(stem,) for stem in self.lost])
            self.lost.clear()
        self._unsealed = sorted(
            item for item in listing.items() if not ((known := positions.get(item[0])) and known[1].is_sealed)
        )
        open_again = {stem for stem, suffix in listing.items() if suffix == OPEN_SUFFIX} & positions.keys()
        for name in self._listing.packs if open_again else ():
            open_again -= self._packs.get(name, frozenset())
        for stem in open_again:
            if positions[stem][1].is_sealed:
                self._read(stem, OPEN_SUFFIX, positions[stem][1])
        self._compared = listing
        return listing

    def _remember_lost(self, connection: sqlite3.Connection, missing: set[str]) -> None:
        """Keeps the memory of lost journals, which outlives the index: `verify` has no other way to know of them."""
        # A header alone may be that of a writer which failed to make his journal and took it away again.
        self.lost.update(stem for stem in missing if self._positions[stem][1].record_count > 1)
        self.lost.update(stem for (stem,) in connection.execute("SELECT stem FROM lost"))

    def _missing(self, listing: dict[str, str]) -> set[str]:
        """The journals that were read and that are neither listed nor in a pack that is."""
        missing = self._positions.keys() - listing.keys()
        for name in self._listing.packs if missing else ():
            missing -= self._packs.get(name, frozenset())
        return missing

    def _read(self, stem: str, suffix: str, start: journal.Position) -> journal.JournalPart | None:
        """What is new in a journal; None when that is nothing, for the moment. Raises DatabaseError when it is shorter
        than it was read: an older copy of the store was put back."""
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
        except IsADirectoryError:
            return None  # damage, of which `verify` tells
        except OSError as error:
            if where.is_careful and isinstance(error, PermissionError):
                return None  # just made, and its mode not yet that of a shared store; `verify` tells of others
            raise files.read_error(error, os.path.join(self._root, "journals", stem + suffix)) from error
        if found is None:
            return None
        if found[1].is_short:
            raise sqlite3.DatabaseError("the index knows records that the store does not have")
        return found[1]

    def _load_positions(self, connection: sqlite3.Connection) -> None:
        """Looks how far the journals are read: another process may have changed the index meanwhile."""
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if version == self._data_version:
            return
        # Rows are added and never taken out, and that of a sealed journal never changes.
        # (Up to where they were loaded, which is not the newest number known: this process may have added a row behind
        # one of another process that it has not seen yet.)
        changing = [number for number, position in self._positions.values() if not position.is_sealed]
        for condition, parameters in (("id > ?", [self._loaded_number]), *any_of("id", changing)):
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
        self._hurt.update(connection.execute("SELECT path, mark FROM hurt"))
        waits_until, self._waits_until = self._waits_until, _next_waiting(connection)
        # What it has released from quarantine, or put there, counts as well.
        self._note(0, is_of_others=waits_until not in (0, self._waits_until))
        self._data_version = version
        self._compared = None
        self.newest_time = max(self.newest_time, *connection.execute("SELECT time FROM newest").fetchone())

    def _take_in(self, connection: sqlite3.Connection, parts: Iterable[tuple[str, journal.JournalPart]]) -> None:
        # What is noted of the positions is true again when all is done: an exception may come at any moment.
        version, self._data_version = self._data_version, -1
        with transaction(connection):
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
                    self._remember_hurt(connection, part.path)
                else:
                    batch.add(number, part.lines)
                    self._note(len(part.lines), is_of_others=stem not in self._own)
                connection.execute(
                    "UPDATE journals SET offset = ?, check_value = ?, record_count = ?, is_sealed = ? WHERE id = ?",
                    (position.offset, position.check, position.record_count, position.is_sealed, number),
                )
                moved[stem] = (number, position)
                if part.damages:
                    self._remember_hurt(connection, part.path)
            self.newest_time = max(self.newest_time, batch.apply())
            connection.execute("UPDATE newest SET time = max(time, ?)", (self.newest_time,))
        self._positions.update(moved)
        self._unsealed = [item for item in self._unsealed if not ((at := moved.get(item[0])) and at[1].is_sealed)]
        self._waits_until = min(self._waits_until, batch.next_waiting)
        if not is_behind:
            self._data_version = version

    def _remember_hurt(self, connection: sqlite3.Connection, path: str) -> None:
        if path.endswith(OPEN_SUFFIX):
            return  # it grows
        below = os.path.relpath(path, self._root)  # the path of a store may be no Unicode
        self._hurt[below] = _mark_of(path)
        connection.execute("INSERT OR REPLACE INTO hurt VALUES (?, ?)", (below, self._hurt[below]))

    def _release_quarantine(self, connection: sqlite3.Connection) -> None:
        """Takes in records from the future once their time is no longer more than a day ahead."""
        limit = (ids.now_ms() + ids.FUTURE_LIMIT_MS) << ids.CLOCK_BITS
        if self._waits_until > limit:
            return
        with transaction(connection):
            batch = ingest.Batch(connection)
            rows = connection.execute("SELECT journal, line FROM quarantine WHERE time <= ?", (limit,)).fetchall()
            for number, line in rows:
                batch.add(number, [ingest.from_quarantine(line)], is_released=True)
            connection.execute("DELETE FROM quarantine WHERE time <= ?", (limit,))
            self.newest_time = max(self.newest_time, batch.apply())
            connection.execute("UPDATE newest SET time = max(time, ?)", (self.newest_time,))
        self._waits_until = _next_waiting(connection)
        self._note(len(rows), is_of_others=True)


def _mark_of(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def _next_waiting(connection: sqlite3.Connection) -> int:
    """The time of the first record in quarantine, or later than any when there is none."""
    found = connection.execute("SELECT min(time) FROM quarantine").fetchone()[0]
    return ingest.NEVER if found is None else int(found)
