"""The SQLite index: what the journals say together, asked by entity, name, query, section and key.

Derived from the journals (`catching_up.py`), in a database that may be deleted at any time (`index_file.py`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Any

from . import authors, columns, ingest, query, series
from .authors import Author, Conflict
from .index_file import IndexFile, Unreadable
from .index_tables import PARAMETERS, transaction
from .query import EntityRow
from .records import value_of
from .selection import Selection
from .writers import Birth, Writer

_ENTITY = "e.id, e.kind, e.parent, e.name, e.generation, e.created_ms, e.updated >> 12"
_ALIVE = "e.is_known = 1 AND e.deleted IS NULL"


class Index(IndexFile):
    """What an index answers. Every method may be called from any thread."""

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
            self._key_number,
            lambda sql, parameters: connection.execute(sql, parameters).fetchall(),
        )

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
            # `value_of`, spelled out for what nearly all values are: this is called for each run of a list.
            lambda rows: {
                key: value_of(number, text, more) if more is not None else text if number is None else number
                for key, number, text, more in rows
            },
        )

    def values_of_many(self, entity_ids: Sequence[str]) -> Iterator[tuple[str, str, str, Any]]:
        """(entity id, section, key, value) of all sections of many entities."""
        for begin in range(0, len(entity_ids), PARAMETERS):
            part = entity_ids[begin : begin + PARAMETERS]
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
            for begin in range(0, len(found), PARAMETERS):
                numbers = [number for number, _ in found[begin : begin + PARAMETERS]]
                rows.update((row.entity, row) for row in columns.read_packed(connection, numbers))
                if missing := [number for number in numbers if number not in rows]:
                    with transaction(connection):
                        rows.update((row.entity, row) for row in columns.pack_missing(connection, missing))
            names = {
                number: (section, key)
                for number, section, key in connection.execute("SELECT id, section, key FROM keys")
                if section in sections
            }
            try:
                table = columns.unpack([rows[number] for number, _ in found], names)
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                raise Unreadable from error
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
        for begin in range(0, len(entity_ids), PARAMETERS):
            part = entity_ids[begin : begin + PARAMETERS]
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
        for begin in range(0, len(entity_ids), PARAMETERS):
            part = entity_ids[begin : begin + PARAMETERS]
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
