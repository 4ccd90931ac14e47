"""Predicates and sort keys: from a user's text to the SQL over the index.

The forms are Verta's: `metrics.accuracy >= 0.9`, `name == 'first run'`, `tags ~= base`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import BadQuery
from .records import ATTRIBUTES, FIELDS, HYPERPARAMETERS, METRICS

OPERATORS = ("==", "!=", ">=", "<=", "~=", ">", "<")
TAG_OPERATORS = ("==", "!=", "~=")
# SQLite takes an expression of some 1,000 terms.
MOST_PREDICATES = 500
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

# What Verta calls things in lists of other kinds: word -> what it is here; a word `fields.*` is one of our own values.
_TIMES = {"time_created": "date_created", "time_updated": "date_updated", "last_updated": "date_updated"}
_WORDS = {
    "dataset": {**_TIMES, "description": "fields.description"},
    "dataset_version": {
        **_TIMES,
        "dataset_id": "experiment_id",
        "version": "fields.version",
        "description": "fields.description",
    },
    "registered_model": {**_TIMES, "labels": "tags", "description": "fields.description"},
    "registered_model_version": {
        **_TIMES,
        "labels": "tags",
        "registered_model_id": "experiment_id",
        "experiment_run_id": "fields.experiment_run_id",
        "version": "name",
        "stage": "fields.stage",
        "lock_level": "fields.lock_level",
        "description": "fields.description",
    },
    "endpoint": {**_TIMES, "path": "name", "description": "fields.description"},
}
_SPACED = r"\s(==|!=|>=|<=|~=|>|<)\s"
_ANYWHERE = r"(==|!=|>=|<=|~=|>|<)"


class EntityRow(NamedTuple):
    """An entity that a query found."""

    id: str
    kind: str
    parent: str | None
    name: str
    generation: int
    created_ms: int
    updated_ms: int


class Predicate(NamedTuple):  # and no dataclass, here and below: a query is made at each call
    """One condition. `section` is '' for a column or 'tags'."""

    section: str
    key: str
    operator: str
    value: int | float | str


class SortKey(NamedTuple):
    """What a list is sorted by. `section` is '' for a column."""

    section: str
    key: str
    is_descending: bool = False


class Query(NamedTuple):
    """Which entities, in which order. `top` restricts to the best k before anything else is sorted, `ids` to these."""

    kind: str
    parent: str | None = None
    grandparent: str | None = None
    predicates: tuple[Predicate, ...] = ()
    sort: SortKey | None = None
    top: tuple[SortKey, int] | None = None
    ids: tuple[str, ...] | None = None

    def where(self, *predicates: str) -> Query:
        """The same query with further predicates.

        Raises:
            TypeError: a predicate that is not a text.
            BadQuery: one that cannot be read, or more than 500 in all.
        """
        if len(self.predicates) + len(predicates) > MOST_PREDICATES:
            raise BadQuery(
                f"a query has at most {MOST_PREDICATES} predicates, not {len(self.predicates) + len(predicates)}; find "
                "by fewer of them, and look at the rest in what was found"
            )
        return self._replace(predicates=(*self.predicates, *(parse_predicate(each, self.kind) for each in predicates)))

    def sort_key(self, text: str, *, is_descending: bool = False) -> SortKey:
        """What a list of this kind is to be sorted by. Raises as `parse_sort_key`."""
        return parse_sort_key(text, self.kind, is_descending=is_descending)


def parse_predicate(text: str, kind: str = "run") -> Predicate:
    """Reads `<key> <operator> <value>`; text may be quoted or bare, what `float()` accepts is a number.

    The keys are those that entities of this kind have.

    Raises:
        TypeError: not a text.
        BadQuery: no operator, or a key that cannot be queried.
    """
    if not isinstance(text, str):
        raise TypeError(f"a predicate is a text such as 'metrics.accuracy >= 0.9', not {type(text).__name__}")
    _require_unicode(text)
    found = re.search(_SPACED, text) or re.search(_ANYWHERE, text)
    if found is None:
        raise BadQuery(f"the predicate {text!r} has no operator; use one of {', '.join(OPERATORS)}")
    section, key = _parse_key(text[: found.start()].strip(), kind, allow_tags=True)
    operator = found.group(1)
    value = _parse_value(text[found.end() :].strip())
    if not section and key not in _NUMBER_COLUMNS:
        # Names, ids and tags are text, even where they look like a number.
        value = _unquote(text[found.end() :].strip())
    elif key in _NUMBER_COLUMNS and not section and isinstance(value, str):
        raise BadQuery(f"{key} is compared with milliseconds since 1970, not with {value!r}")
    if not section and key == "tags" and operator not in TAG_OPERATORS:
        raise BadQuery(f"tags can be compared with {', '.join(TAG_OPERATORS)}, not with {operator}")
    return Predicate(section, key, operator, value)


def parse_sort_key(text: str, kind: str = "run", *, is_descending: bool = False) -> SortKey:
    """Reads what a list is to be sorted by.

    Raises:
        TypeError: not a text.
        BadQuery: a key that cannot be sorted by.
    """
    if not isinstance(text, str):
        raise TypeError(f"a sort key is a text such as 'metrics.accuracy', not {type(text).__name__}")
    _require_unicode(text)
    section, key = _parse_key(text.strip(), kind, allow_tags=False)
    return SortKey(section, key, is_descending)


def _require_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadQuery(f"{text!r} holds half a character, which nothing can be compared with") from None


def _parse_key(text: str, kind: str, *, allow_tags: bool) -> tuple[str, str]:
    words = _WORDS.get(kind, {})
    word = words.get(text, text)
    if text in words and word.startswith(FIELDS):
        return FIELDS, word.partition(".")[2]
    if text in words and (allow_tags or word != "tags"):
        return "", word
    section, dot, key = text.partition(".")
    if dot and section in SECTIONS and key and key[-1] not in "=<>!~":  # of a mistyped operator: `=>`
        return section, key
    if text in COLUMNS or (allow_tags and text == "tags"):
        return "", text
    able = [*COLUMNS, *words, *(["tags"] if allow_tags else []), *(f"{name}.<key>" for name in SECTIONS)]
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
