"""What a store holds, asked of its index; and what this process knows of it without asking."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .errors import UnknownEntity
from .parts import StoreParts
from .query import EntityRow, Query

if TYPE_CHECKING:
    import sqlite3

    from .authors import Author, Conflict
    from .columns import Table
    from .index_file import IndexState
    from .series import Columns, Point
    from .writers import Birth

# Of SQLite's integers.
_MOST = (1 << 63) - 1


class ReadableStore(StoreParts):
    """The questions of one store, answered as of now. See `Store`."""

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
        found = self._index.entity(entity_id) if entity_id.isascii() else None
        if found is None:
            raise self._unknown(entity_id)
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
        """The entities of a query, in its order, `limit` of them from `offset`."""
        self.refresh()
        if offset > _MOST:
            return []
        return self._index.find(query, None if limit is None else min(limit, _MOST), offset)

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
            raise self._unknown(entity)
        return found

    def _unknown(self, entity: str) -> UnknownEntity:
        return UnknownEntity(
            f"the store {self.root} has nothing with the id {entity!r}: it was deleted, or was never there", key=entity
        )

    def births(self, entities: Sequence[str]) -> dict[str, Birth]:
        """Entity id -> when and by which process it was created, and its last change; without the deleted ones."""
        self.refresh()
        return self._index.births(entities)

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
