"""The one door to a store: open or create it, put objects, append records, ask the index.

The format is in `store/README.md`. Everything above the engine uses this room and no other below it.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import description as descriptions
from . import drive, ids, records
from .description import FOLDERS, STORE_FILE, read_description
from .digest import digests_in
from .errors import BadRecord, ClaimTaken, KeyTaken, NameTaken, StoreFormatError, StoreNotFound, UnknownEntity
from .journal import JournalWriter
from .leases import Leases
from .listing import Listing
from .query import EntityRow, Query

if TYPE_CHECKING:
    import sqlite3

    from .authors import Author, Conflict
    from .claims import Claim, Claims
    from .columns import Table
    from .contents import Contents
    from .index import Index, IndexState
    from .manifest import Entry
    from .objects import Ref
    from .series import Columns, Point
    from .writers import Writer

_IN_MEMORY = ":memory:"

# A fork waits this long at most for another thread's query; a rebuild of a large index takes longer.
_FORK_WAITS_S = 10.0

_UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")


class Store:
    """One store, as this process uses it. Made by `open_store`; all methods may be called from any thread."""

    def __init__(
        self, root: str, description: Mapping[str, Any], cache_dir: str, durability: str, *, was_created: bool = False
    ) -> None:
        self.root = root
        self.id: str = description["store_id"]
        self.format: int = description["format"]
        self.durability = durability
        self.cache_dir = cache_dir
        self.was_created = was_created
        self._is_case_sensitive = bool(description.get("capabilities", {}).get("case_sensitive", True))
        sharing = description.get("sharing", "user")
        self.sharing: str = sharing if sharing in drive.SHARING else "user"
        drive.register(drive.Drive(root, self.sharing, is_network=_is_on_network(root)))
        # What a user should be told once, each a sentence.
        self.notes: list[str] = []
        # Called once for each value of this process's that lost against another writer's, at the refresh that shows it.
        self.on_lost: Callable[[Conflict], None] | None = None
        self._told: set[tuple[str, str, str, str, int]] = set()
        folder = os.path.join(self._local_cache(cache_dir), "stores", self.id)
        self._clock = ids.HybridClock()
        self._journal = JournalWriter(
            root,
            self.id,
            self._clock,
            full_durability=durability == "full",
            sealed_path="" if folder.startswith(_IN_MEMORY) else os.path.join(folder, "sealed"),
        )
        self.leases = Leases(root)
        self._memories = "" if folder.startswith(_IN_MEMORY) else folder
        # A run of numbers needs neither the objects nor, in a new store, the index; and their libraries take longer
        # to import than such a run takes.
        self._made_contents: Contents | None = None
        self._made_index: Index | None = None
        self._made_claims: Claims | None = None
        # What this process knows to be logged, so that a log call needs no query: its own part, which the index need
        # not take in for that, and what it has asked for. Forgotten at each refresh that brought something of another
        # writer. (entity, section) -> key -> record time:
        self._known: dict[tuple[str, str], dict[str, int]] = {}
        self._epochs: dict[tuple[str, str], int] = {}
        # Entities that this process created: nothing can have been logged to them before.
        self._created: set[str] = set()
        # (kind, parent, name) -> what this process created, none of it renamed or deleted; None: the index must take
        # in all that this process has logged before it can be asked for a name.
        self._named: dict[tuple[str, str | None, str], EntityRow] | None = {} if was_created else None
        # Whether `_named` is all that there is: for as long as nobody else writes into a store that was just made.
        self._is_alone = was_created
        self._listing = Listing(root)  # for this question only
        # Entities that were there at the last look, so that something may be made below them.
        self._parents: set[str] = set()
        self._written_ids: set[str] = set()
        self._has_deleted = False
        self._lock = threading.RLock()
        # For creating and looking for a name in one step. Another one, because a look at a large store takes a while,
        # and a log call must not wait for it.
        self._name_lock = threading.RLock()

    def __reduce__(self) -> tuple[object, ...]:
        return (_reopen, (self.root, self.cache_dir, self.durability))

    def _local_cache(self, cache_dir: str) -> str:
        """The cache folder, or another one where that is no place for SQLite."""
        if not _is_on_network(cache_dir):
            return cache_dir
        from . import probe  # noqa: PLC0415 - start-up time

        found = probe.local_folder()
        self.notes.append(
            f"the cache folder {cache_dir} is on a network drive ({probe.file_system_of(cache_dir).type}), where an "
            f"index is not safe; it is kept in {found or 'memory'}. VERTA_LOCAL_CACHE names another folder"
        )
        return found or _IN_MEMORY

    @property
    def _contents(self) -> Contents:
        if self._made_contents is None:
            from .contents import Contents  # noqa: PLC0415 - start-up time

            with self._lock:
                if self._made_contents is None:
                    names = os.path.join(self.cache_dir, "stores", self.id, "names")
                    self._made_contents = Contents(
                        self.root, self.leases, self._memories, names, is_case_sensitive=self._is_case_sensitive
                    )
        return self._made_contents

    @property
    def _claims(self) -> Claims:
        if self._made_claims is None:
            from .claims import Claims  # noqa: PLC0415 - start-up time

            self._made_claims = Claims(self.root)
        return self._made_claims

    @property
    def _index(self) -> Index:
        if self._made_index is None:
            from .index import Index  # noqa: PLC0415 - start-up time

            with self._lock:
                if self._made_index is None:
                    path = os.path.join(self._memories, "index.sqlite") if self._memories else _IN_MEMORY
                    self._made_index = Index(self.root, self.id, path, self._journal.stems)
        return self._made_index

    # -- objects ---------------------------------------------------------------------------------------------------

    def put_bytes(self, data: bytes) -> Ref:
        """Stores bytes as a blob; durable when this returns."""
        return self._stored(lambda: self._contents.objects.put_bytes(data))

    def bytes_being_written(self) -> int:
        """How large the unfinished copies of this process are now: how far a `put_file` or `put_tree` is."""
        return self._contents.temporary.size_bytes()

    def put_file(self, path: str | os.PathLike[str]) -> Ref:
        """Stores a copy of a file as a blob; durable when this returns.

        Raises:
            FileNotFoundError, PermissionError: the file cannot be opened.
            BadContent: it is not a regular file.
            StoreWriteError: the store's drive refused; nothing is half there.
        """
        return self._stored(lambda: self._contents.objects.put_file(os.fspath(path)))

    def put_stream(self, read: Callable[[int], bytes]) -> Ref:
        """Stores what `read(size in bytes)` returns until it returns nothing; durable when this returns."""
        return self._stored(lambda: self._contents.objects.put_stream(read))

    def put_tree(self, path: str | os.PathLike[str]) -> Ref:
        """Stores a copy of a folder as a tree; durable when this returns.

        Raises:
            FileNotFoundError, NotADirectoryError, PermissionError: the folder cannot be read.
            BadContent: something in it cannot be stored; the message names it.
            StoreWriteError: the store's drive refused; nothing is half there.
        """
        return self._stored(lambda: self._contents.trees.put_tree(os.fspath(path)))

    def _stored(self, put: Callable[[], Ref]) -> Ref:
        """Stores an object under this process's lease, which protects it until a record names it."""
        with self.leases.working() as generation:
            ref = put()
            self.leases.expect(ref.kind, ref.digest, generation)
        return ref

    def hold(self, digests: Iterable[str], purpose: str) -> bool:
        """Keeps objects from being collected for as long as this process lives, whatever is deleted meanwhile.

        For a process that serves them. `purpose` is for the eye. Returns False when the store cannot be written.
        """
        return self.leases.hold(digests, purpose)

    def path_of(self, kind: str, digest: str, name: str) -> str:
        """The read-only path of a blob (under `name`, made safe) or tree, straight in the store.

        Raises:
            MissingObject: the store does not hold it.
        """
        return self._contents.views.path_of(kind, digest, name)

    def unpacked_path_of(self, digest: str, name: str) -> str:
        """The folder that an archive was unpacked to, once. Raises MissingObject, BadContent."""
        return self._contents.views.unpacked_path_of(digest, name)

    def new_temporary_name(self) -> str:
        """A path in this process's folder in `tmp/` that nothing else uses. Raises StoreWriteError."""
        return self._contents.temporary.new_name()

    def read_verified(self, digest: str) -> bytes:
        """A whole blob in memory, its hash checked on these bytes. Raises MissingObject, CorruptObject."""
        return self._contents.objects.read_verified(digest)

    def check(self, kind: str, digest: str) -> None:
        """Returns when every byte is known to be whole, by this host's memory of an earlier check or by reading.

        Raises:
            MissingObject, CorruptObject
        """
        if kind == "tree":
            self._contents.trees.check(digest)
        else:
            self._contents.objects.check(digest)

    def begin_tree_check(self, digest: str) -> Callable[[], None]:
        """Begins `check` of a tree of thousands of files beside what this process does; what is returned waits for it,
        and raises what `check` raises. Raises MissingObject.
        """
        return self._contents.trees.begin_check(digest)

    def object_path(self, digest: str) -> str:
        """Where a blob is (in the trash, maybe), or would be; for reading what is there, whatever it is."""
        return self._contents.objects.find(digest)

    def tree_path(self, digest: str) -> str:
        """Where a tree's folder is (in the trash, maybe), or would be."""
        return self._contents.trees.find(digest)

    def tree_entries(self, digest: str) -> list[Entry]:
        """The verified manifest of a tree. Raises MissingObject, CorruptObject."""
        return self._contents.trees.entries(digest)

    # -- records ---------------------------------------------------------------------------------------------------

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
        if values:
            self.put_all(entity, {section: values}, overwrite=overwrite)

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
                fields["o"] = max(
                    (known[section].get(key, 0) for section, part in sections.items() for key in part), default=0
                )
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

    def flush(self) -> None:
        """Returns when everything logged so far survives a power cut. Raises StoreWriteError."""
        self._journal.flush()

    def seal(self) -> None:
        """Ends this process's journal with its footer, durable; a later record opens a new one."""
        self._journal.seal()

    def close(self) -> None:
        """Seals the journal and lets go of files. The store may be used again afterwards."""
        self._journal.seal()
        if self._made_contents is not None:
            self._made_contents.close()
        self.leases.close()
        if self._made_index is not None:
            self._made_index.close()

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

    # -- the index -------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Takes in what other processes, and this one, have logged."""
        self._take_in(only_others=False)

    def _look_at_others(self) -> None:
        """Takes in what other processes have logged. What this one has, it knows: the index need not, and does not."""
        if self._is_alone:
            with self._name_lock:
                self._is_alone = (
                    all(stem in self._journal.stems for stem in self._listing.journals()) and not self._listing.packs
                )
        if not self._is_alone:  # else there is no need of an index, and to make one takes longer than a first run
            self._take_in(only_others=True)

    def _take_in(self, *, only_others: bool) -> None:
        news = self._index.refresh(only_others=only_others)
        if news.is_of_others:
            self._journal.observe(self._index.newest_time)
            self._forget()
        if self.on_lost is not None and self._journal.stems and (news.is_of_others or news.record_count):
            self._tell_of_lost(self.on_lost)

    def _forget(self) -> None:
        """Another writer has logged something: what was known to be there, or not to be there, may be otherwise."""
        with self._lock:
            self._known.clear()
            self._epochs.clear()
            self._created.clear()
            self._parents.clear()
            self._forget_names()

    def _forget_names(self) -> None:
        self._named = None
        self._is_alone = False

    def _tell_of_lost(self, tell: Callable[[Conflict], None]) -> None:
        journals = list(self._journal.stems)[-500:]  # more parameters than SQLite may take
        for conflict in self._index.conflicts(journals):
            mark = (conflict.journal, conflict.entity, conflict.section, conflict.key, conflict.time_ms)
            with self._lock:
                if mark in self._told:
                    continue
                self._told.add(mark)
            tell(conflict)

    def entity(self, entity_id: str) -> EntityRow:
        """An entity by id.

        Raises:
            UnknownEntity: no journal mentions it, or it is deleted.
        """
        self.refresh()
        found = self._index.entity(entity_id)
        if found is None:
            raise UnknownEntity(f"the store {self.root} has no entity with the id {entity_id!r}", key=entity_id)
        return found

    def named(self, kind: str, parent: str | None, name: str) -> EntityRow | None:
        """The living entity of that kind, parent and name, or None."""
        with self._name_lock:
            self._look_at_others()
            names = self._named
            if names is None:
                self.refresh()
                names = self._named = {}
            found = names.get((kind, parent, name))
            return found if found is not None or self._is_alone else self._index.named(kind, parent, name)

    def find(self, query: Query, limit: int | None = None, offset: int = 0) -> list[EntityRow]:
        """The entities of a query, in its order."""
        self.refresh()
        return self._index.find(query, limit, offset)

    def count(self, query: Query) -> int:
        """How many entities a query has."""
        self.refresh()
        return self._index.count(query)

    def values(self, entity: str, section: str) -> dict[str, Any]:
        """Key -> value of a section, in the order of logging."""
        self.refresh()
        return self._index.values(entity, section)

    def values_of_many(self, entities: Sequence[str]) -> Iterator[tuple[str, str, str, Any]]:
        """(entity, section, key, value) of many entities."""
        self.refresh()
        return self._index.values_of_many(entities)

    def columns(self, query: Query, sections: Container[str]) -> Table:
        """The values of these sections of all entities of a query, in its order, a column a key: fast for thousands."""
        self.refresh()
        return self._index.columns(query, sections)

    def points(self, entity: str, key: str) -> list[Point]:
        """The observations of a key, in the order of logging."""
        self.refresh()
        return self._index.points(entity, key)

    def point_columns(self, entity: str, key: str) -> Columns:
        """The observations of a key as columns, in the order of logging: some hundred times faster than `points`."""
        self.refresh()
        return self._index.point_columns(entity, key)

    def point_keys(self, entity: str) -> list[str]:
        """The keys that have observations."""
        self.refresh()
        return self._index.point_keys(entity)

    def tags(self, entity: str) -> list[str]:
        """The tags of an entity, in the order of logging."""
        self.refresh()
        return self._index.tags(entity)

    def conflicts(self) -> list[Conflict]:
        """What lost against another writer's value, oldest first."""
        self.refresh()
        return self._index.conflicts()

    def author_of(self, entity: str) -> Author:
        """Who created an entity: the first, where several hosts did.

        Raises:
            UnknownEntity: no journal creates it.
        """
        self.refresh()
        found = self._index.author_of(entity)
        if found is None:
            raise UnknownEntity(f"the store {self.root} has no entity with the id {entity!r}", key=entity)
        return found

    def writers_of(self, entities: Sequence[str]) -> dict[str, Writer]:
        """Entity id -> the journal of who created it first, which tells whether that process is still there."""
        self.refresh()
        return self._index.writers_of(entities)

    def tags_of_many(self, entities: Sequence[str]) -> dict[str, list[str]]:
        """Entity id -> its tags, in the order of logging; without those that have none."""
        self.refresh()
        return self._index.tags_of_many(entities)

    def select(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Rows of a SELECT over the index."""
        self.refresh()
        return self._index.run(sql, parameters)

    def index_state(self) -> IndexState:
        """Where the index of this host and user is, and how much it holds, once it is up to date."""
        self.refresh()
        return self._index.state()

    def forget_derived(self) -> None:
        """Deletes this user's index and memories of this store; they are made anew at the next use."""
        self._index.delete()
        self._contents.verified.delete()
        self._contents.sources.delete()
        self._forget()

    def lost_journals(self) -> list[str]:
        """Stems of journals that this user has read on this host and that are gone from the store."""
        return self._index.lost_journals()

    def reading_connection(self) -> sqlite3.Connection:
        """A connection to the index as of now, for reading only; the caller closes it."""
        self.refresh()
        return self._index.reading_connection()

    def _before_fork(self) -> None:
        """Waits until no other thread is in the middle of something that the child would inherit half done.

        SQLite's own locks cannot be made anew in a child: one that a thread held at the fork is held for ever.
        """
        for lock in self._locks():
            lock.acquire(timeout=_FORK_WAITS_S)

    def _after_fork_in_parent(self) -> None:
        for lock in self._locks():
            try:
                lock.release()
            except RuntimeError:
                pass  # not acquired in time

    def _locks(self) -> tuple[Any, ...]:
        found = [self._name_lock, self._lock]
        if self._made_index is not None:
            found.append(self._made_index.lock)
        if self._made_contents is not None:
            found.append(self._made_contents.verified.lock)
        return (*found, self._journal.lock)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._name_lock = threading.RLock()
        self._journal.forget_after_fork()
        self.leases.forget_after_fork()
        if self._made_contents is not None:
            self._made_contents.forget_after_fork()
        if self._made_index is not None:
            self._made_index.forget_after_fork()


# One Store a folder and process, so that all users of it in a process share one journal and one picture of the keys.
_open_stores: dict[str, Store] = {}
_open_lock = threading.Lock()


def open_store(
    root: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str],
    *,
    create: bool = False,
    durability: str = "normal",
    sharing: str = "user",
) -> Store:
    """The store in a folder; the same object for every call of this process.

    Args:
        root: the folder that holds `store.json`.
        cache_dir: a folder on a local disk for what can be rebuilt.
        create: make the store when there is none.
        durability: "normal" (a power cut loses at most the last second) or "full" (nothing).
        sharing: of a new store: "user" (private), "group" or "all". One that exists keeps its own.

    Raises:
        StoreNotFound: no store there, and `create` is False; or it is a private one of somebody else.
        StoreFormatError: made by a newer version, or no store.
        StoreWriteError: the folder cannot be written.
        ValueError: another durability or sharing.
    """
    if durability not in ("normal", "full"):
        raise ValueError(f"durability is 'normal' or 'full', not {durability!r}")
    if sharing not in drive.SHARING:
        raise ValueError(f"sharing is one of {', '.join(drive.SHARING)}, not {sharing!r}")
    path = os.path.realpath(root)
    with _open_lock:
        store = _open_stores.get(path)
        if store is not None and not _is_still(store):
            # Another store stands in its place: what this process still had of the old one is let go.
            del _open_stores[path]
            store.close()
            store = None
        is_there = descriptions.is_there(path)
        if store is not None and is_there:
            return store
        was_created = False
        if not is_there:
            if not create:
                raise StoreNotFound(f"there is no store in {path}; make one with Client({path!r})", path=path)
            was_created = descriptions.create(path, sharing)
        store = Store(path, read_description(path), os.fspath(cache_dir), durability, was_created=was_created)
        if was_created and sharing == "user" and drive.of(path).is_careful:
            store.notes.append(
                f"{path} is on a network drive and private to you; for a team: verta-local init PATH --shared"
            )
        _open_stores[path] = store
        _install_hooks()
        return store


def _is_on_network(path: str) -> bool:
    """Whether a path is, or would be, on a network drive."""
    while not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    # On Linux a local disk has a device number of its own; what has none (NFS, but also tmpfs) is looked up.
    # On macOS the user's own disk is that of `/private/var`.
    device = os.stat(path).st_dev
    if sys.platform == "linux" and os.major(device):
        return False
    if sys.platform == "darwin" and device == os.stat("/private/var").st_dev:
        return False
    from . import probe  # noqa: PLC0415 - start-up time

    return probe.file_system_of(path).is_network


def _require_unicode(name: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRecord(f"the name {name!r} is not valid Unicode; choose another") from None


def _require_64_bits(number: int) -> None:
    if not isinstance(number, int) or not -(1 << 63) <= number < 1 << 63:
        raise BadRecord(f"a time or an epoch is a whole number of at most 64 bits, not {number!r}")


def _is_still(store: Store) -> bool:
    try:
        return bool(read_description(store.root)["store_id"] == store.id)
    except (FileNotFoundError, StoreFormatError):
        return True  # gone, or damaged: the next call on it says so


def _reopen(root: str, cache_dir: str, durability: str) -> Store:
    """What a pickled Store becomes, in whatever process."""
    return open_store(root, cache_dir, durability=durability)


def close_all() -> None:
    """Seals the journals of every store that this process has open; runs at the end of the process by itself."""
    for store in list(_open_stores.values()):
        store.close()


_has_hooks = False


def _install_hooks() -> None:
    global _has_hooks
    if _has_hooks:
        return
    _has_hooks = True
    atexit.register(close_all)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
        )
    if "multiprocessing.process" in sys.modules:
        _seal_at_end_of_worker()
    # SIGTERM ends Python without `atexit`. Only where nobody else has taken the signal, and only from the main
    # thread, where Python allows it.
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _seal_and_die)


def _seal_at_end_of_worker() -> None:
    """Has the journals sealed at the end of a process of `multiprocessing`, which passes over `atexit`."""
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, close_all, exitpriority=10)


def before_termination(call: Callable[[], None]) -> None:
    """Has `call()` run when this process is ended by SIGTERM, before its journals are sealed. It may not ask the index:
    the signal may come in the middle of another question."""
    _before_termination.append(call)


_before_termination: list[Callable[[], None]] = []


def _seal_and_die(number: int, frame: object) -> None:
    for call in _before_termination:
        try:
            call()
        except OSError:
            pass  # a drive that refuses the last word is no reason to live on
    for store in list(_open_stores.values()):
        store.seal()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


# The stores whose locks are held over a fork; another thread may open one meanwhile.
_forking: list[Store] = []


def _before_fork() -> None:
    _forking[:] = _open_stores.values()
    for store in _forking:
        store._before_fork()


def _after_fork_in_parent() -> None:
    for store in _forking:
        store._after_fork_in_parent()


def _after_fork_in_child() -> None:
    global _open_lock
    _open_lock = threading.Lock()
    for store in list(_open_stores.values()):
        store._after_fork()
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        # What is registered here runs once `multiprocessing` has forgotten the parent's finalizers.
        util.register_after_fork(_in_child, lambda _: _seal_at_end_of_worker())


class _Key:
    """`multiprocessing` holds what it calls after a fork by a weak reference to an object."""


_in_child = _Key()


__all__ = [
    "FOLDERS",
    "STORE_FILE",
    "ClaimTaken",
    "KeyTaken",
    "NameTaken",
    "Store",
    "before_termination",
    "close_all",
    "open_store",
    "read_description",
]
