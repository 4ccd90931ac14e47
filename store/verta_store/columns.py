"""The values of many entities side by side, a column a key: what a data frame is made of.

In the index each entity's numbers are packed in one row, so that thousands of entities are read as fast as their bytes.
"""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from .records import value_of


class Column(NamedTuple):
    """The values of one key: of all entities in their order, or of those at `positions` (rising)."""

    values: array[int] | array[float] | list[Any]  # arrays are of "q" or "d"; a list holds values of several types
    positions: array[int] | None


class Table(NamedTuple):
    """Entities, in the order of a query, and their columns by (section, key)."""

    ids: list[str]
    columns: dict[tuple[str, str], Column]


class PackedRow(NamedTuple):
    """All values of an entity: `layout` says which keys the numbers in `data` are of.

    `layout` is the number of whole numbers, their keys, and the keys of the others, as 32 bits each; `data` the
    numbers in this order, as 64 bits each; `others` the rest as JSON: [[key, number, text, JSON text]], or ''.
    """

    entity: int
    layout: bytes
    data: bytes
    others: str


def pack(entity: int, values: Iterable[tuple[int, int | float | None, str | None, str | None]]) -> PackedRow:
    """The row of an entity with these (key, number, text, JSON text)."""
    integers: dict[int, int] = {}
    floats: dict[int, float] = {}
    others = []
    for key, number, text, json_text in values:
        if json_text is not None or number is None:
            others.append((key, number, text, json_text))
        elif type(number) is int:
            integers[key] = number
        else:
            floats[key] = number
    layout = array("i", [len(integers), *integers, *floats])
    data = array("q", integers.values()).tobytes() + array("d", floats.values()).tobytes()
    return PackedRow(entity, layout.tobytes(), data, json.dumps(others) if others else "")


def pack_missing(connection: sqlite3.Connection, entities: Sequence[int]) -> list[PackedRow]:
    """Makes and stores the rows of entities (not more than a statement may have parameters); in a transaction."""
    found = connection.execute(
        "SELECT entity, key, num, text, json FROM vals WHERE entity IN"
        f" ({','.join('?' * len(entities))}) ORDER BY entity, key",
        entities,
    )
    made = {entity: pack(entity, [row[1:] for row in rows]) for entity, rows in groupby(found, itemgetter(0))}
    rows = [made.get(entity) or pack(entity, ()) for entity in entities]
    connection.executemany("INSERT OR REPLACE INTO packed VALUES (?, ?, ?, ?)", rows)
    return rows


def read_packed(connection: sqlite3.Connection, entities: Sequence[int]) -> list[PackedRow]:
    """The rows that are stored of these entities, in any order."""
    sql = f"SELECT entity, layout, data, others FROM packed WHERE entity IN ({','.join('?' * len(entities))})"
    return [PackedRow(*row) for row in connection.execute(sql, entities)]


def unpack(rows: Sequence[PackedRow], names: Mapping[int, tuple[str, str]]) -> dict[tuple[str, str], Column]:
    """The columns of all rows; only of the keys that have a name here."""
    parts: dict[tuple[str, str], list[Column]] = {}
    # Entities of one kind mostly have the same keys: one step through all their numbers is a column.
    groups: dict[bytes, list[int]] = {}
    for position, row in enumerate(rows):
        groups.setdefault(row.layout, []).append(position)
    for layout, places in groups.items():
        keys = array("i")
        keys.frombytes(layout)
        integer_count = keys.pop(0)
        data = b"".join([rows[place].data for place in places])
        numbers: dict[str, Any] = {"q": array("q"), "d": array("d")}
        for each in numbers.values():
            each.frombytes(data)
        if len(numbers["q"]) != len(keys) * len(places):
            raise ValueError("a packed row of another length than its layout says")
        positions = None if len(places) == len(rows) else array("q", places)
        for at, key in enumerate(keys):
            if key in names:
                values = numbers["q" if at < integer_count else "d"][at :: len(keys)]
                parts.setdefault(names[key], []).append(Column(values, positions))
    others: dict[tuple[str, str], Column] = {}
    for position, row in enumerate(rows):
        if row.others:
            for key, *value in json.loads(row.others):
                if key in names:
                    column = others.setdefault(names[key], Column([], array("q")))
                    column.values.append(value_of(*value))
                    column.positions.append(position)  # type: ignore[union-attr]
    for name, column in others.items():
        parts.setdefault(name, []).append(column)
    return {name: _join(columns, len(rows)) for name, columns in parts.items()}


def _join(columns: list[Column], row_count: int) -> Column:
    if len(columns) == 1:
        return columns[0]
    pairs: list[tuple[int, Any]] = []
    kinds = set()
    for column in columns:
        kinds.add(column.values.typecode if isinstance(column.values, array) else "")
        pairs.extend(zip(column.positions or range(row_count), column.values, strict=True))
    pairs.sort(key=itemgetter(0))
    values: Any = [value for _, value in pairs]
    if len(kinds) == 1 and (kind := kinds.pop()):
        values = array(kind, values)
    return Column(values, None if len(pairs) == row_count else array("q", [place for place, _ in pairs]))
