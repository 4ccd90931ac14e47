"""The one door to a store: open or create it, put objects, append records, ask the index.

The format is in `store/README.md`. Everything above the engine uses this room and no other below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import ids, records
from .digest import digests_in
from .errors import BadRecord, ClaimTaken, KeyTaken, NameTaken
from .query import EntityRow
from .reading import ReadableStore

if TYPE_CHECKING:
    from .claims import Claim

# Their values name no objects, and no entity.
_PLAIN_SECTIONS = frozenset({records.HYPERPARAMETERS, records.METRICS})

_UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")


class Store(ReadableStore):
    """One store, as this process uses it. Made by `open_store`; all methods may be called from any thread."""

    def create(
        self,
        kind: str,
        parent: str | None,
        name: str,
        *,
        is_fresh_name: bool = False,
        at_ms: int | None = None,
    ) -> EntityRow:
        """The entity of this kind, parent and name: the existing one, or a new one.

        With `is_fresh_name` (a name with randomness in it) nothing is looked up. `at_ms` is the creation time.

        Raises:
            BadRecord: a name that is not Unicode, or a time beyond 64 bits.
            UnknownEntity: the parent is not there, or deleted.
        """
        _require_unicode(name)
        _require_64_bits(at_ms or 0)
        if parent is not None and parent not in self._created and parent not in self._parents:
            self.entity(parent)
            self._parents.add(parent)
        generation = 0
        entity = ids.entity_id(kind, parent, name, generation)
        with self._name_lock:
            if not is_fresh_name:
                found = self.named(kind, parent, name)
                if found is not None:
                    return found
                # The id may belong to an entity that was deleted or renamed: the next generation is a new one.
                while self._is_used(entity):
                    found = self.named(kind, parent, name)
                    if found is not None:
                        return found  # made by another process since the look above
                    generation += 1
                    entity = ids.entity_id(kind, parent, name, generation)
            at_ms = ids.now_ms() if at_ms is None else at_ms
            fields: dict[str, Any] = {"type": kind, "parent": parent, "name": name, "at": at_ms}
            if generation:
                fields["gen"] = generation
            time = self._append(records.ENTITY, entity, fields)
            self._created.add(entity)
            made = EntityRow(entity, kind, parent, name, generation, at_ms, ids.milliseconds(time))
            names = self._named
            if names is not None:
                names[kind, parent, name] = made
        return made

    def _is_used(self, entity: str) -> bool:
        """Whether any record mentions this id; right behind a look for its name, which takes in those of others."""
        return entity in self._written_ids or (not self._is_alone and self._index.is_used(entity))

    def create_new(self, kind: str, parent: str | None, name: str, *, at_ms: int | None = None) -> EntityRow:
        """A new entity of this kind, parent and name; of many callers on any hosts, one gets it. Durable.

        Raises:
            NameTaken: there is one of that name, or another writer is making it at this moment.
            BadRecord, StoreWriteError: as `create` and `claim` do.
        """
        found = self.named(kind, parent, name)
        if found is None:
            # The record first: who dies in between has made it, and has not blocked the name.
            found = self.create(kind, parent, name, at_ms=at_ms)
            self.flush()
            try:
                self.claim("entity", found.id, {"kind": kind, "name": name})
                return found
            except ClaimTaken:
                pass
        raise NameTaken(
            f"there is a {kind} {name!r} already ({found.id}); get it, or choose another name", key=found.id
        )

    def claim(self, kind: str, name: str, value: Mapping[str, Any] | None = None) -> Claim:
        """Takes a name for good, on any hosts; durable when this returns. `kind` is a word of the caller's.

        A claim is never released: what can be deleted and made anew claims a name with its id in it.

        Raises:
            ClaimTaken: somebody has it; its `claim` says who and holds his `value`.
            BadRecord, StoreWriteError: the name is as free as before.
        """
        return self._claims.claim(kind, name, value or {})

    def claimed(self, kind: str, name: str) -> Claim | None:
        """The claim of a name, or None when it is free."""
        return self._claims.find(kind, name)

    def claim_number(self, kind: str, scope: str, *, first: int = 1, value: Mapping[str, Any] | None = None) -> int:
        """The first number from `first` that nobody has in this scope (a model's versions, say), taken for good.

        Give as `first` one more than the highest that the index knows: each try is a file.

        Raises:
            BadRecord, StoreWriteError: nothing was taken.
        """
        number = first
        while True:
            try:
                self.claim(kind, f"{scope} {number}", value)
                return number
            except ClaimTaken:
                number += 1

    def put(self, entity: str, section: str, values: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Logs values of one section in one record: all or none.

        Raises:
            KeyTaken: a key is there already and `overwrite` is False.
            BadRecord, StoreWriteError: nothing was logged.
        """
        if not values:
            return
        if overwrite or section not in _PLAIN_SECTIONS or self.leases.pending:
            self.put_all(entity, {section: values}, overwrite=overwrite)
            return
        # `put_all` without what cannot be the case here: it is what a training loop calls.
        with self._lock:
            known = self._known_keys(entity, section)
            self._require_absent(entity, section, values, known)
            time = self._append(records.PUT, entity, {"s": section, "v": values})
            for key in values:
                known[key] = time

    def put_all(
        self,
        entity: str,
        sections: Mapping[str, Mapping[str, Any]],
        *,
        overwrite: bool = False,
        drop: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Logs values of several sections in one record, all or none, and takes out the keys in `drop` with it.

        Raises as `put` does.
        """
        (first, values), *others = sections.items()
        fields: dict[str, Any] = {"s": first, "v": values}
        if drop:
            fields["drop"] = {section: list(keys) for section, keys in drop.items()}
        if others:
            fields["and"] = dict(others)
        # Between the look and the record no other thread may log the key: his value would lose without a word.
        with self._lock:
            known = {section: self._known_keys(entity, section) for section in sections}
            if overwrite:
                fields.update(_what_was_known(sections, known))
            else:
                for section, part in sections.items():
                    self._require_absent(entity, section, part, known[section])
            named = self._protect_named(sections) if records.ARTIFACTS in sections or self.leases.pending else []
            time = self._append(records.PUT, entity, fields)
            for section, part in sections.items():
                known[section].update(dict.fromkeys(part, time))
            for section, keys in (drop or {}).items():
                for key in keys:
                    self._known.get((entity, section), {}).pop(key, None)
            if "name" in sections.get(records.FIELDS, ()) or (drop and records.FIELDS in drop):
                self._forget_names()

        for kind, digest in named:
            # A collection may have taken it in the very moment; from the record on, none does.
            is_there = self._contents.keeper(kind).settle(digest)
            self.leases.settled(digest)
            if not is_there:
                # This process was stopped for longer than the grace just between the look and the record.
                lost = [
                    key for key, value in sections.get(records.ARTIFACTS, {}).items() if digest in digests_in(value)
                ]
                if lost and not overwrite:
                    self.drop(entity, records.ARTIFACTS, lost)
                raise self._contents.missing(digest)

    def _protect_named(self, sections: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
        """(kind, digest) of the objects that a record is about to name, each protected from collection.

        Raises:
            MissingObject: stored by this process, which then slept so long that a collection took it for dead.
        """
        kinds = {
            str(value["digest"]): str(value["kind"])
            for value in sections.get(records.ARTIFACTS, {}).values()
            if isinstance(value, Mapping) and value.get("digest") and value.get("kind")
        }
        found = []
        for digest in dict.fromkeys(digests_in(sections)):
            is_pending = digest in self.leases.pending
            kind = self.leases.pending[digest] if is_pending else kinds.get(digest, "")
            if kind and (not is_pending or self.leases.is_doubtful(digest)):
                # Not stored by this process (a value that was read and is logged again), or without a lease since.
                with self.leases.working() as generation:
                    keeper = self._contents.keeper(kind)
                    if not keeper.has(digest) or not keeper.keep(digest, is_whole=False):
                        if is_pending:
                            raise self._contents.missing(digest)
                        continue
                    self.leases.expect(kind, digest, generation)
            if kind:
                found.append((kind, digest))
        return found

    def put_unseen(self, entity: str, section: str, values: Mapping[str, Any]) -> None:
        """Logs values over whatever is there, without asking what that is: for the handler of a signal, which may have
        interrupted a question. Raises as `put` does."""
        self._append(records.PUT, entity, {"s": section, "v": values, "o": 0})

    def require_absent(self, entity: str, section: str, keys: Iterable[str]) -> None:
        """Raises KeyTaken when a key is logged already, by whomever: asked before long work, and again by `put`."""
        self._look_at_others()
        self._require_absent(entity, section, keys, self._known_keys(entity, section))

    def _require_absent(self, entity: str, section: str, keys: Iterable[str], known: Mapping[str, int]) -> None:
        for key in keys:
            if key in known:
                name = {"hyperparameters": "hyperparameter", "metrics": "metric"}.get(section, section.rstrip("s"))
                row = self._index.entity(entity)
                noun = row.kind.replace("_", " ") if row else "run"
                raise KeyTaken(
                    f"{name} {key!r} already exists in {noun} {entity}; consider setting overwrite=True", key=key
                )

    def drop(self, entity: str, section: str, keys: Sequence[str]) -> None:
        """Takes keys out of a section; what was logged stays in the journals."""
        with self._lock:
            self._append(records.DROP, entity, {"s": section, "v": list(keys)})
            known = self._known.get((entity, section), {})
            for key in keys:
                known.pop(key, None)
            if section == records.FIELDS:
                self._forget_names()

    def add_points(
        self, entity: str, key: str, points: Sequence[tuple[Any, int, int | None]], *, overwrite: bool = False
    ) -> None:
        """Appends observations (value, time stamp in ms, epoch) in one record; overwrite starts the series anew.

        An epoch of None becomes one more than the highest of the series.

        Raises:
            BadRecord: a value that is not a number, text, bool or None; a time stamp or epoch beyond 64 bits.
        """
        for value, stamp, epoch in points:
            if not (value is None or isinstance(value, (float, int, str))):
                raise BadRecord(f"an observation is a number, text, bool or None, not {type(value).__name__}")
            _require_64_bits(stamp)
            _require_64_bits(epoch or 0)
        with self._lock:
            newest = -1 if overwrite else self._epochs.get((entity, key), -1)
            if any(epoch is None for _, _, epoch in points):
                newest = -1 if overwrite else self.newest_epoch(entity, key)
                numbered = []
                for value, stamp, epoch in points:
                    epoch = newest + 1 if epoch is None else epoch
                    newest = max(newest, epoch)
                    _require_64_bits(epoch)
                    numbered.append((value, stamp, epoch))
                points = numbered
            fields: dict[str, Any] = {"key": key, "v": points}
            if overwrite:
                fields["o"] = 0
            self._append(records.POINTS, entity, fields)
            self._epochs[entity, key] = max([newest, *(epoch for _, _, epoch in points if epoch is not None)])

    def newest_epoch(self, entity: str, key: str) -> int:
        """The highest epoch of a series, -1 for an empty one."""
        found = self._epochs.get((entity, key))
        if found is None:
            found = -1
            if entity not in self._created:
                found = max(self.point_columns(entity, key).epochs, default=-1)
            self._epochs[entity, key] = found
        return found

    def add_tags(self, entity: str, tags: Sequence[str]) -> None:
        """Adds tags; one that is there already stays where it is."""
        if tags:
            self._append(records.TAG, entity, {"v": list(tags)})

    def remove_tags(self, entity: str, tags: Sequence[str]) -> None:
        """Takes tags off."""
        if tags:
            self._append(records.UNTAG, entity, {"v": list(tags)})

    def delete(self, entity: str) -> None:
        """Deletes an entity and what lies below it; a later one of the same name is a new entity. Durable."""
        self._append(records.DELETE, entity, {})
        self.flush()
        with self._lock:
            self._has_deleted = True
            self._written_ids.clear()
        self._forget()

    def _append(self, kind: str, entity: str, fields: Mapping[str, Any]) -> int:
        # It is written into the record as it is. A look-up, because the expression costs 0.4 us of a log call's 10.
        if entity in self._written_ids:
            return self._journal.append(kind, entity, fields)
        if not _UUID.fullmatch(entity):
            raise BadRecord(f"an entity's id is a UUID, not {entity!r}")
        if self._has_deleted and kind != records.ENTITY:
            self._require_alive(entity)
        time = self._journal.append(kind, entity, fields)
        self._written_ids.add(entity)
        return time

    def _require_alive(self, entity: str) -> None:
        """What this process knows to be deleted takes no more values; what is not made yet may get some before."""
        self.refresh()
        if self._index.is_used(entity):
            self.entity(entity)

    def _known_keys(self, entity: str, section: str) -> dict[str, int]:
        known = self._known.get((entity, section))
        if known is not None:
            return known
        if entity in self._created:
            return self._known.setdefault((entity, section), {})
        self.refresh()
        with self._lock:
            return self._known.setdefault((entity, section), self._index.key_times(entity, section))


def _what_was_known(
    sections: Mapping[str, Mapping[str, Any]], known: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    """The fields of an overwrite that say up to when its writer knew the values of its keys: `o` of all of them, and
    `seen` of those that he knew longer."""
    times = {section: {key: known[section].get(key, 0) for key in part} for section, part in sections.items()}
    least = min((time for part in times.values() for time in part.values()), default=0)
    seen = {section: {key: time for key, time in part.items() if time > least} for section, part in times.items()}
    return {"o": least, **({"seen": {s: part for s, part in seen.items() if part}} if any(seen.values()) else {})}


def _require_unicode(name: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRecord(f"the name {name!r} is not valid Unicode; choose another") from None


def _require_64_bits(number: int) -> None:
    if not isinstance(number, int) or not -(1 << 63) <= number < 1 << 63:
        raise BadRecord(f"a time or an epoch is a whole number of at most 64 bits, not {number!r}")
