"""Which objects the journals still name, and which they named once: the one rule for collection and verification.

Decided from the records alone, never from the index. A thing that is dead stays dead, whatever arrives later; the
rules are in `store/README.md`, section "Garbage collection".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from . import digest as digests
from . import files, ids, journal, journal_damage, packs, records, sealed_journals
from .digest import digests_in
from .listing import Listing

DELETED = "deleted"
OVERWRITTEN = "overwritten"
DROPPED = "dropped"


class Naming(NamedTuple):
    """That a record named an object. `reason` says why it no longer counts, '' while it does."""

    digest: str
    entity: str
    key: str
    reason: str = ""


class _Value(NamedTuple):
    """One value of one key, as one record gave it."""

    seen: int | None  # of an overwrite: the time of the newest value that its writer knew
    time: int
    writer: str
    digests: tuple[str, ...]


class Roots:
    """Takes in records, in any order, and says what they name."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # entity -> its name, for the eye
        self._parents: dict[str, str] = {}
        self._deletes: dict[str, int] = {}  # entity -> time of the earliest tombstone
        self._values: dict[tuple[str, str], list[_Value]] = {}  # (entity, artifact key)
        self._drops: dict[tuple[str, str], list[int]] = {}
        self._mentions: dict[str, set[str]] = {}  # entity ('' for none) -> digests

    def add(self, writer: str, lines: Iterable[Mapping[str, Any]]) -> None:
        """Takes in records of the journal with the stem `writer`."""
        for record in lines:
            kind = record["k"]
            if kind == records.PUT:
                self._add_values(writer, record)
            elif kind == records.ENTITY:
                self.names.setdefault(record["e"], record["name"])
                if record.get("parent"):
                    self._parents[record["e"]] = record["parent"]
            elif kind == records.DELETE:
                entity, time = record["e"], record["h"]
                self._deletes[entity] = min(time, self._deletes.get(entity, time))
            elif kind == records.DROP:
                if record["s"] == records.ARTIFACTS:
                    self._add_drop(record, record["v"])
            elif kind not in _NAME_NOTHING:
                # Of a later version: what it names stays, whatever it means by it.
                self._mention("", record)

    def add_text(self, data: bytes) -> None:
        """Takes in every digest in something that is not a record; they stay."""
        for found in re.findall(digests.PATTERN.encode("ascii"), data):
            self._mentions.setdefault("", set()).add(found.decode("ascii"))

    def namings(self, now_ms: int) -> Iterator[Naming]:
        """Every naming of an object, with why it no longer counts. `now_ms` is the drive's clock.

        Deletions, droppings and overwrites from more than 24 h in the future are in quarantine: they do not count
        yet, though what they name does.
        """
        limit = (now_ms + ids.FUTURE_LIMIT_MS) << ids.CLOCK_BITS
        deleted = self._deleted(limit)
        for entity, found in self._mentions.items():
            reason = DELETED if entity in deleted else ""
            for digest in found:
                yield Naming(digest, entity, "", reason)
        for (entity, key), values in self._values.items():
            dropped_at = max((time for time in self._drops.get((entity, key), ()) if time <= limit), default=0)
            known_until, own = _overwrites(value for value in values if value.time <= limit)
            for value in values:
                reason = ""
                if entity in deleted:
                    reason = DELETED
                elif value.time <= dropped_at:
                    reason = DROPPED
                elif value.time <= known_until or value.time < own.get(value.writer, 0):
                    reason = OVERWRITTEN
                for digest in value.digests:
                    yield Naming(digest, entity, key, reason)

    def living(self, now_ms: int) -> set[str]:
        """The digests that the records name now: of living runs, and of what lost a conflict."""
        return {naming.digest for naming in self.namings(now_ms) if not naming.reason}

    def _add_values(self, writer: str, record: Mapping[str, Any]) -> None:
        entity = record["e"]
        for section, entries in ((record["s"], record["v"]), *record.get("and", {}).items()):
            if section == records.ARTIFACTS:
                for key, value in entries.items():
                    seen = records.seen_of(record, section, key)
                    found = _Value(seen, record["h"], writer, tuple(digests_in(value)))
                    self._values.setdefault((entity, key), []).append(found)
                continue
            if section == records.FIELDS and isinstance(entries.get("name"), str):
                self.names[entity] = entries["name"]
            for value in entries.values():
                if not isinstance(value, (int, float)):
                    self._mention(entity, value)
        self._add_drop(record, record.get("drop", {}).get(records.ARTIFACTS, ()))

    def _add_drop(self, record: Mapping[str, Any], keys: Iterable[str]) -> None:
        for key in keys:
            self._drops.setdefault((record["e"], key), []).append(record["h"])

    def _mention(self, entity: str, value: Any) -> None:
        for digest in digests_in(value):
            self._mentions.setdefault(entity, set()).add(digest)

    def _deleted(self, limit: int) -> set[str]:
        """The entities that have a tombstone, or lie below one that has."""
        state = {entity: True for entity, time in self._deletes.items() if time <= limit}
        for entity in self._parents:
            path = []
            above: str | None = entity
            while above is not None and above not in state:
                path.append(above)
                state[above] = False  # also ends a circle, which only damage could make
                above = self._parents.get(above)
            if above is not None and state[above]:
                state.update(dict.fromkeys(path, True))
        return {entity for entity, is_deleted in state.items() if is_deleted}


# Kinds whose fields cannot name an object.
_NAME_NOTHING = (records.JOURNAL, records.SEAL, records.POINTS, records.TAG, records.UNTAG)


def _overwrites(values: Iterable[_Value]) -> tuple[int, dict[str, int]]:
    """What the overwrites of a key took the place of, rather than only won against.

    Returns:
        The time up to which some overwrite's writer knew the key's values, and of each writer the time of the last
        overwrite: values up to the first, and a writer's own before the second, were replaced.
    """
    known_until = 0
    own: dict[str, int] = {}
    for value in values:
        if value.seen is not None:
            known_until = max(known_until, min(value.seen, value.time - 1))
            own[value.writer] = max(value.time, own.get(value.writer, 0))
    return known_until, own


class RootReader:
    """Reads every journal of a store into `roots`, whole the first time and then only what is new."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.roots = Roots()
        self._positions: dict[str, journal.Position] = {}
        self._named: dict[str, str] = {}  # journals that others name as sealed before them -> by whom
        self._packs: dict[str, frozenset[str]] = {}  # those that were read, with the journals that they hold
        self.open_paths: set[str] = set()  # journals that may not be on the device yet

    def catch_up(self) -> list[str]:
        """Takes in what the journals hold beyond the last call.

        Returns:
            One sentence for each journal that is damaged or cannot be read: then nobody knows what it named.
        """
        problems: list[str] = []
        looked = Listing(self._root)
        listing = looked.journals(at_once=True)
        for name in looked.packs:
            if name not in self._packs:
                problems.extend(self._read_pack(name, listing))
        in_packs = set().union(*(self._packs.get(name, ()) for name in looked.packs))
        for stem in self._positions.keys() - listing.keys() - in_packs:
            problems.append(f"the journal {stem} was there a moment ago and is gone")
        self.open_paths = set()
        for stem, suffix in sorted(listing.items()):
            position = self._positions.get(stem)
            if position is None or not position.is_sealed:
                problems.extend(self._read(stem, suffix, position))
        for stem in sealed_journals.gone(self._root, self._named.keys() - self._positions.keys() - in_packs):
            problems.append(f"the journal {stem}, which {self._named[stem]} says was sealed before it, is gone")
        return problems

    def _read_pack(self, name: str, listing: Mapping[str, str]) -> Iterator[str]:
        """Takes in the journals that a pack holds: their own files may be deleted at any moment."""
        path = packs.path_of(self._root, name)
        try:
            pack = packs.read_pack(path)
        except OSError as error:
            yield f"{path} cannot be read: {error.strerror}"
            return
        hurt = pack.hurt()
        problems = [f"{path}: {damage}" for damage in pack.damages]
        problems += [f"{path}: the journal {stem} in it is damaged" for stem in hurt]
        if problems and not journal_damage.is_accepted(self._root, path):
            yield from problems
        for stem, data in pack.journals.items():
            start = self._positions.get(stem, journal.Position())
            if not start.is_sealed and not (stem in hurt and stem in listing):
                part = journal.parse_journal(data[start.offset :], start, path)
                self.roots.add(stem, part.lines)
                for piece in journal_damage.what_is_left(data, part):
                    self.roots.add_text(piece)
                for before in sealed_journals.named_before(part.lines[0]) if part.lines and not start.offset else ():
                    self._named.setdefault(before, stem)
                self._positions[stem] = part.position
        self._packs[name] = frozenset(pack.members.keys() | pack.journals.keys())

    def _read(self, stem: str, suffix: str, position: journal.Position | None) -> Iterator[str]:
        path = os.path.join(self._root, "journals", stem + suffix)
        start = position or journal.Position()
        try:
            found = journal.read_listed(self._root, stem, suffix, start, whole=position is None)
        except OSError as error:
            yield f"{path} cannot be read: {error.strerror}"
            return
        if found is None:
            yield f"{path} is gone, while the store was read"
            return
        path, part = found
        try:
            self.roots.add(stem, part.lines)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            yield f"{path} holds a record that is not of this format ({type(error).__name__}: {error})"
        self.roots.add_text(part.tail)
        for before in sealed_journals.named_before(part.lines[0]) if part.lines and position is None else ():
            self._named.setdefault(before, stem)
        self._positions[stem] = part.position
        if path.endswith(journal.OPEN_SUFFIX):
            self.open_paths.add(path)
        if journal_damage.is_arriving(path, part):
            yield f"{path} is being written by another host at this moment; try again in a minute"
        if position is None and (what := journal_damage.other_name_of(stem, part)):
            yield f"{path}: {what}"
        if damages := journal_damage.damages_of(path, part):
            if not journal_damage.is_accepted(self._root, path):
                yield from (f"{path}: {damage.what}" for damage in damages)
                return
            # What is lost as a record may show its digests to the eye still: then they stay.
            try:
                data = files.read_file(path)
            except OSError as error:
                yield f"{path} cannot be read: {error.strerror}"
                return
            for piece in journal_damage.what_is_left(data, part):
                self.roots.add_text(piece)
