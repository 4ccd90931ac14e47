"""From a query to SQL over the index that reads as little as its answer needs, however many runs there are.

SQLite is told where to begin: at the values that fulfil the rarest predicate, or, where all are common, along the order
that is asked for, so that a page of the best is found without looking at the rest. (Left to itself, without statistics,
it chose a hundred times worse.) `CROSS JOIN` is SQLite's way to fix the order of a join.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from .query import COLUMNS, Predicate, Query, SortKey

_SQL = {"==": "=", "!=": "<>", ">": ">", ">=": ">=", "<": "<", "<=": "<="}

# A predicate with fewer values than this is where a search begins: sorting them costs less than walking along an order.
# Counting up to it costs 15 us a predicate.
_RARE = 128

# What finds the number of (section, key), or None for a key that nobody has logged.
KeyNumber = Callable[[str, str], "int | None"]
Run = Callable[[str, list[object]], "list[tuple[Any, ...]]"]


class Selection:
    """The SQL of one query. `run` executes a SELECT for looking how common a predicate is."""

    def __init__(self, query: Query, key_number: KeyNumber, run: Run) -> None:
        self._query = query
        self._key_number = key_number
        self._run = run
        self._values = [p for p in query.predicates if p.section]
        self._others = [p for p in query.predicates if not p.section]
        self._is_empty = any(key_number(p.section, p.key) is None for p in self._values)

    def rows(self, columns: str, limit: int | None, offset: int) -> list[tuple[Any, ...]]:
        """`columns` of the entities `e`, in the query's order: `limit` of them from `offset`."""
        query = self._query
        sort = query.sort
        page = -1 if limit is None else limit
        if query.top is not None:
            key, count = query.top
            if sort is not None and sort != key:
                return self._run(*self._sorted_top(columns, key, count, sort, page, offset))
            sort = key
            left = max(count - offset, 0)
            page = left if page < 0 else min(page, left)
        driver = self._rarest()
        if driver is None and sort is not None and sort.section and page >= 0:
            found = self._run(*self._along(columns, sort, page, offset))
            # Those without the key, or with a text for it, come behind the numbers: only a short page needs them.
            if query.top is not None or len(found) == page:
                return found
        return self._run(*self._sorted(columns, driver, sort, page, offset))

    def count(self) -> int:
        """How many entities there are."""
        query = self._query
        if query.top is None:
            body, parameters = self._from(self._rarest(), None)
            return int(self._run(f"SELECT count(*) {body}", parameters)[0][0])
        key, count = query.top
        body, parameters = self._from(self._rarest(), key, has_number=True)
        return int(self._run(f"SELECT count(*) FROM (SELECT 1 {body} LIMIT ?)", [*parameters, count])[0][0])

    # -- where to begin --------------------------------------------------------------------------------------------

    def _rarest(self) -> Predicate | None:
        """The predicate on a value that fewest values fulfil, or None when all are common."""
        best, fewest = None, _RARE
        for predicate in self._values:
            number = self._key_number(predicate.section, predicate.key)
            condition, parameters = _value_sql(predicate, "v")
            sql = f"SELECT count(*) FROM (SELECT 1 FROM vals v WHERE v.key = ? AND {condition} LIMIT ?)"
            found = self._run(sql, [number, *parameters, fewest])[0][0]
            if found < fewest:
                best, fewest = predicate, found
        return best

    def _from(
        self, driver: Predicate | None, sort: SortKey | None, *, has_number: bool = False
    ) -> tuple[str, list[object]]:
        """From the driver's values `d`, if any, and the entities `e` to the sort key's values `s`.

        With `has_number` only the entities that have a number to be sorted by. Then, and with a predicate on the sort
        key, `s` is looked up before `e`, since it is more often a reason to pass on.
        """
        is_by_value = sort is not None and sort.section != ""
        on_sort = [p for p in self._values if sort is not None and (p.section, p.key) == (sort.section, sort.key)]
        sort_number = self._key_number(sort.section, sort.key) if sort is not None and is_by_value else None
        tables = ["entities e"]
        join, join_parameters = "", []
        clauses: list[str] = []
        parameters: list[object] = []
        if driver is not None:
            alias = "s" if driver in on_sort else "d"
            condition, more = _value_sql(driver, alias)
            tables = [f"vals {alias}", "entities e"]
            clauses += [f"{alias}.key = ?", condition, f"e.num = {alias}.entity"]
            parameters += [self._key_number(driver.section, driver.key), *more]
            is_by_value = is_by_value and alias == "d"
        if is_by_value and (on_sort or has_number):
            place = len(tables) - 1 if driver is not None else 1
            tables.insert(place, "vals s")
            clauses.append(f"s.entity = {'d.entity' if driver is not None else 'e.num'} AND s.key = ?")
            parameters.append(sort_number)
        elif is_by_value:
            join, join_parameters = " LEFT JOIN vals s ON s.entity = e.num AND s.key = ?", [sort_number]
        if has_number:
            clauses.append(f"{self._number_of(sort)} IS NOT NULL")
        rest, more = self._conditions(driver, on_sort)
        source = f"FROM {' CROSS JOIN '.join(tables)}{join} WHERE {' AND '.join([*clauses, rest])}"
        return source, [*join_parameters, *parameters, *more]

    def _sorted(
        self, columns: str, driver: Predicate | None, sort: SortKey | None, page: int, offset: int
    ) -> tuple[str, list[object]]:
        """Finds all, sorts them, and takes a page."""
        has_number = self._query.top is not None
        body, parameters = self._from(driver, sort, has_number=has_number)
        order = self._order(sort, has_number=has_number)
        return f"SELECT {columns} {body} ORDER BY {order} LIMIT ? OFFSET ?", [*parameters, page, offset]

    def _along(self, columns: str, sort: SortKey, page: int, offset: int) -> tuple[str, list[object]]:
        """Walks along the numbers of the sort key, best first, and stops when the page is full."""
        on_sort = [p for p in self._values if (p.section, p.key) == (sort.section, sort.key)]
        rest, parameters = self._conditions(None, on_sort)
        direction = "DESC" if sort.is_descending else "ASC"
        number = self._key_number(sort.section, sort.key)
        return (
            f"SELECT {columns} FROM vals s CROSS JOIN entities e ON e.num = s.entity"
            f" WHERE s.key = ? AND s.num IS NOT NULL AND {rest}"
            f" ORDER BY s.num {direction}, {_ties(direction)} LIMIT ? OFFSET ?",
            [number, *parameters, page, offset],
        )

    def _sorted_top(
        self, columns: str, key: SortKey, count: int, sort: SortKey, page: int, offset: int
    ) -> tuple[str, list[object]]:
        """The best k by one key, sorted by another."""
        inner, parameters = self._sorted("e.num", self._rarest(), key, count, 0)
        body, more = Selection(Query(self._query.kind), self._key_number, self._run)._from(None, sort)
        sql = f"SELECT {columns} {body} AND e.num IN ({inner}) ORDER BY {self._order(sort)} LIMIT ? OFFSET ?"
        return sql, [*more, *parameters, page, offset]

    # -- conditions and order --------------------------------------------------------------------------------------

    def _conditions(self, driver: Predicate | None, on_sort: Sequence[Predicate]) -> tuple[str, list[object]]:
        """What else `e` has to fulfil, and `s` if these predicates are about it."""
        query = self._query
        clauses = ["e.kind = ?", "e.deleted IS NULL", "e.is_known = 1"]
        parameters: list[object] = [query.kind]
        if self._is_empty:
            clauses.append("0")
        if query.parent is not None:
            clauses.append("e.parent = ?")
            parameters.append(query.parent)
        if query.ids is not None:
            clauses.append("e.id IN (SELECT value FROM json_each(?))")
            parameters.append(json.dumps(query.ids))
        if query.grandparent is not None:
            clauses.append("e.parent IN (SELECT id FROM entities WHERE parent = ? AND deleted IS NULL)")
            parameters.append(query.grandparent)
        for predicate in self._others:
            clause, more = _entity_sql(predicate)
            clauses.append(clause)
            parameters += more
        for predicate in self._values:
            if predicate is driver:
                continue
            if predicate in on_sort:
                condition, more = _value_sql(predicate, "s")
                clauses.append(condition)
                parameters += more
                continue
            condition, more = _value_sql(predicate, "v")
            clauses.append(f"EXISTS (SELECT 1 FROM vals v WHERE v.entity = e.num AND v.key = ? AND {condition})")
            parameters += [self._key_number(predicate.section, predicate.key), *more]
        return " AND ".join(clauses), parameters

    @staticmethod
    def _number_of(sort: SortKey | None) -> str:
        assert sort is not None, "the best k are best by something"
        return "s.num" if sort.section else COLUMNS[sort.key]

    @staticmethod
    def _order(sort: SortKey | None, *, has_number: bool = False) -> str:
        if sort is None:
            return "e.updated DESC, e.id DESC"
        direction = "DESC" if sort.is_descending else "ASC"
        if not sort.section:
            return f"{COLUMNS[sort.key]} {direction}, {_ties(direction)}"
        if has_number:
            return f"s.num {direction}, {_ties(direction)}"
        # Numbers are sorted as numbers, before text; entities without the key come last in both directions.
        return f"s.time IS NULL, s.num IS NULL, s.num {direction}, s.text {direction}, {_ties(direction)}"


def _ties(direction: str) -> str:
    """The order of what is sorted as equal: the same in every index of a store, in whatever order that was filled."""
    return f"e.created_ms {direction}, e.id {direction}"


def _value_sql(predicate: Predicate, alias: str) -> tuple[str, list[object]]:
    """A condition on the row `alias` of `vals`, whose key is fixed already."""
    value = predicate.value
    operator = predicate.operator
    if operator == "~=":
        return f"({alias}.text IS NOT NULL AND instr({alias}.text, ?) > 0)", [str(value)]
    if isinstance(value, str) or value != value:
        text = str(value)
        if text.lower() in ("true", "false") and operator in ("==", "!="):
            # The index spells a bool as Python does; a user's text may be spelled in any way.
            spellings = (text, text.lower(), text.capitalize())
            if operator == "!=":
                return f"coalesce({alias}.text, '') NOT IN (?, ?, ?)", [*spellings]
            return f"{alias}.text IN (?, ?, ?)", [*spellings]
        if operator == "!=":
            return f"({alias}.text <> ? OR {alias}.text IS NULL)", [text]
        return f"{alias}.text {_SQL[operator]} ?", [text]
    if operator == "!=":
        # Another number, or text: both differ from the number asked for.
        return f"({alias}.num <> ? OR {alias}.num IS NULL)", [_bound(value)]
    return f"{alias}.num {_SQL[operator]} ?", [_bound(value)]


def _entity_sql(predicate: Predicate) -> tuple[str, list[object]]:
    operator = predicate.operator
    if predicate.key == "tags":
        return _tag_sql(operator, str(predicate.value))
    column = COLUMNS[predicate.key]
    if operator == "~=":
        return f"instr({column}, ?) > 0", [str(predicate.value)]
    return f"{column} {_SQL[operator]} ?", [_bound(predicate.value)]


def _tag_sql(operator: str, value: str) -> tuple[str, list[object]]:
    has = "SELECT entity FROM tags WHERE is_removed = 0 AND tag"
    if operator == "==":
        return f"e.num IN ({has} = ?)", [value]
    if operator == "!=":
        return f"e.num NOT IN ({has} = ?)", [value]
    return "e.num IN (SELECT entity FROM tags WHERE is_removed = 0 AND instr(tag, ?) > 0)", [value]


def _bound(value: int | float | str) -> int | float | str:
    """SQLite's integers have 64 bits; a larger number is compared as a double."""
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return float(value) if abs(value) < 1 << 1000 else float("inf") * (1 if value > 0 else -1)
    return value
