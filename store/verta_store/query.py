"""Predicates and sort keys: from a user's text to the SQL over the index.

The forms are Verta's: `metrics.accuracy >= 0.9`, `name == 'first run'`, `tags ~= base`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .errors import BadQuery
from .records import ATTRIBUTES, HYPERPARAMETERS, METRICS

OPERATORS = ("==", "!=", ">=", "<=", "~=", ">", "<")
SECTIONS = (ATTRIBUTES, HYPERPARAMETERS, METRICS)
# What may stand left of an operator besides `<section>.<key>`, with its column.
COLUMNS = {
    "id": "e.id",
    "name": "e.name",
    "date_created": "e.created_ms",
    "date_updated": "(e.updated >> 12)",
    "experiment_id": "e.parent",
    "project_id": "(SELECT p.parent FROM entities p WHERE p.id = e.parent)",
}
_NUMBER_COLUMNS = {"date_created", "date_updated"}
_SPACED = re.compile(r"\s(==|!=|>=|<=|~=|>|<)\s")
_ANYWHERE = re.compile(r"(==|!=|>=|<=|~=|>|<)")
_SQL = {"==": "=", "!=": "<>", ">": ">", ">=": ">=", "<": "<", "<=": "<="}


@dataclass(frozen=True)
class Predicate:
    """One condition. `section` is '' for a column or 'tags'."""

    section: str
    key: str
    operator: str
    value: int | float | str


@dataclass(frozen=True)
class SortKey:
    """What a list is sorted by. `section` is '' for a column."""

    section: str
    key: str
    is_descending: bool = False


@dataclass(frozen=True)
class Query:
    """Which entities, in which order. `top` restricts to the best k before anything else is sorted."""

    kind: str
    parent: str | None = None
    grandparent: str | None = None
    predicates: tuple[Predicate, ...] = ()
    sort: SortKey | None = None
    top: tuple[SortKey, int] | None = None

    def where(self, *predicates: str) -> Query:
        """The same query with further predicates.

        Raises:
            TypeError: a predicate that is not a text.
            BadQuery: one that cannot be read.
        """
        return replace(self, predicates=(*self.predicates, *map(parse_predicate, predicates)))


def parse_predicate(text: str) -> Predicate:
    """Reads `<key> <operator> <value>`; text may be quoted or bare, what `float()` accepts is a number.

    Raises:
        TypeError: not a text.
        BadQuery: no operator, or a key that cannot be queried.
    """
    if not isinstance(text, str):
        raise TypeError(f"a predicate is a text such as 'metrics.accuracy >= 0.9', not {type(text).__name__}")
    _require_unicode(text)
    found = _SPACED.search(text) or _ANYWHERE.search(text)
    if found is None:
        raise BadQuery(f"the predicate {text!r} has no operator; use one of {', '.join(OPERATORS)}")
    section, key = _parse_key(text[: found.start()].strip(), allow_tags=True)
    operator = found.group(1)
    value = _parse_value(text[found.end() :].strip())
    if not section and key not in _NUMBER_COLUMNS:
        # Names, ids and tags are text, even where they look like a number.
        value = _unquote(text[found.end() :].strip())
    elif key in _NUMBER_COLUMNS and not section and isinstance(value, str):
        raise BadQuery(f"{key} is compared with milliseconds since 1970, not with {value!r}")
    return Predicate(section, key, operator, value)


def parse_sort_key(text: str, *, is_descending: bool = False) -> SortKey:
    """Reads what a list is to be sorted by.

    Raises:
        TypeError: not a text.
        BadQuery: a key that cannot be sorted by.
    """
    if not isinstance(text, str):
        raise TypeError(f"a sort key is a text such as 'metrics.accuracy', not {type(text).__name__}")
    _require_unicode(text)
    section, key = _parse_key(text.strip(), allow_tags=False)
    return SortKey(section, key, is_descending)


def _require_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadQuery(f"{text!r} holds half a character, which nothing can be compared with") from None


def _parse_key(text: str, *, allow_tags: bool) -> tuple[str, str]:
    section, dot, key = text.partition(".")
    if dot and section in SECTIONS and key:
        return section, key
    if text in COLUMNS or (allow_tags and text == "tags"):
        return "", text
    able = [*COLUMNS, *(["tags"] if allow_tags else []), *(f"{name}.<key>" for name in SECTIONS)]
    raise BadQuery(f"{text!r} is not a key that can be queried; use one of {', '.join(able)}")


def _unquote(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _parse_value(text: str) -> int | float | str:
    if _unquote(text) != text:
        return _unquote(text)
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def to_sql(query: Query) -> tuple[str, list[object]]:
    """`FROM ... WHERE ... ORDER BY ...` over the index for a query, with its parameters; rows are of `e`."""
    clauses = ["e.kind = ?", "e.deleted IS NULL", "e.is_known = 1"]
    parameters: list[object] = [query.kind]
    if query.parent is not None:
        clauses.append("e.parent = ?")
        parameters.append(query.parent)
    if query.grandparent is not None:
        clauses.append("e.parent IN (SELECT id FROM entities WHERE parent = ? AND deleted IS NULL)")
        parameters.append(query.grandparent)
    for predicate in query.predicates:
        clause, more = _predicate_sql(predicate)
        clauses.append(clause)
        parameters.extend(more)
    where = " AND ".join(clauses)
    if query.top is not None:
        key, count = query.top
        inner_join, inner_order, inner_parameters = _order_sql(key, "t")
        present = f" AND {inner_order[0]} IS NOT NULL"
        where = (
            f"e.num IN (SELECT e.num FROM entities e{inner_join} WHERE {where}{present}"
            f" ORDER BY {', '.join(inner_order[1])} LIMIT ?)"
        )
        parameters = [*inner_parameters, *parameters, count]
    sort = query.sort or (query.top[0] if query.top else None)
    if sort is None:
        return f"FROM entities e WHERE {where} ORDER BY e.updated DESC, e.num DESC", parameters
    join, order, join_parameters = _order_sql(sort, "s")
    return f"FROM entities e{join} WHERE {where} ORDER BY {', '.join(order[1])}", [
        *join_parameters,
        *parameters,
    ]


def _order_sql(key: SortKey, alias: str) -> tuple[str, tuple[str, list[str]], list[object]]:
    """(join, (expression that is NULL where the key is absent, order terms), parameters of the join)."""
    direction = "DESC" if key.is_descending else "ASC"
    if not key.section:
        column = COLUMNS[key.key]
        return "", (column, [f"{column} {direction}", "e.num DESC"]), []
    join = (
        f" LEFT JOIN vals {alias} ON {alias}.entity = e.num AND {alias}.key ="
        " (SELECT id FROM keys WHERE section = ? AND key = ?)"
    )
    # Numbers are sorted as numbers, before text; entities without the key come last in both directions.
    terms = [
        f"{alias}.json IS NULL",
        f"{alias}.num IS NULL",
        f"{alias}.num {direction}",
        f"{alias}.text {direction}",
        "e.num DESC",
    ]
    return join, (f"{alias}.num", terms), [key.section, key.key]


def _predicate_sql(predicate: Predicate) -> tuple[str, list[object]]:
    value = predicate.value
    operator = predicate.operator
    if predicate.key == "tags" and not predicate.section:
        return _tag_sql(operator, str(value))
    if not predicate.section:
        column = COLUMNS[predicate.key]
        if operator == "~=":
            return f"instr({column}, ?) > 0", [str(value)]
        return f"{column} {_SQL[operator]} ?", [_bound(value)]
    inside = "SELECT entity FROM vals WHERE key = (SELECT id FROM keys WHERE section = ? AND key = ?)"
    parameters: list[object] = [predicate.section, predicate.key]
    if operator == "~=":
        return f"e.num IN ({inside} AND instr(text, ?) > 0)", [*parameters, str(value)]
    if isinstance(value, str) or value != value:
        text = str(value)
        if text.lower() in ("true", "false") and operator in ("==", "!="):
            # The index spells a bool as Python does; a user's text may be spelled in any way.
            spellings = (text, text.lower(), text.capitalize())
            negation = "NOT " if operator == "!=" else ""
            return f"e.num IN ({inside} AND coalesce(text, '') {negation}IN (?, ?, ?))", [*parameters, *spellings]
        if operator == "!=":
            return f"e.num IN ({inside} AND (text <> ? OR text IS NULL))", [*parameters, text]
        return f"e.num IN ({inside} AND text {_SQL[operator]} ?)", [*parameters, text]
    if operator == "!=":
        # Another number, or text: both differ from the number asked for.
        return f"e.num IN ({inside} AND (num <> ? OR num IS NULL))", [*parameters, _bound(value)]
    return f"e.num IN ({inside} AND num {_SQL[operator]} ?)", [*parameters, _bound(value)]


def _tag_sql(operator: str, value: str) -> tuple[str, list[object]]:
    has = "SELECT entity FROM tags WHERE is_removed = 0 AND tag"
    if operator == "==":
        return f"e.num IN ({has} = ?)", [value]
    if operator == "!=":
        return f"e.num NOT IN ({has} = ?)", [value]
    if operator == "~=":
        return "e.num IN (SELECT entity FROM tags WHERE is_removed = 0 AND instr(tag, ?) > 0)", [value]
    raise BadQuery(f"tags can be compared with ==, != and ~=, not with {operator}")


def _bound(value: int | float | str) -> int | float | str:
    """SQLite's integers have 64 bits; a larger number is compared as a double."""
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return float(value) if abs(value) < 1 << 1000 else float("inf") * (1 if value > 0 else -1)
    return value
