"""What a record holds and how it becomes one line of JSON and back, exactly.

The kinds and fields are those of `store/README.md`, section "Records".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from .errors import BadRecord

FORMAT = 1

# The sections of an entity that hold one value a key.
HYPERPARAMETERS = "hyperparameters"
METRICS = "metrics"
ATTRIBUTES = "attributes"
ARTIFACTS = "artifacts"
FIELDS = "fields"
DEPLOYMENTS = "deployments"

# The kinds of a record.
JOURNAL = "journal"
ENTITY = "entity"
PUT = "put"
DROP = "drop"
POINTS = "points"
TAG = "tag"
UNTAG = "untag"
DELETE = "delete"
SEAL = "seal"

Value: TypeAlias = "bool | int | float | str | list[Any] | dict[str, Any] | None"

_strict = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=True).encode


def encode(fields: Mapping[str, Any]) -> str:
    """One JSON object as text, valid for every JSON reader.

    JSON has no NaN and no infinities: they become `{"$f": "nan"}`, `"inf"` or `"-inf"`. A user's own dict in which
    a key begins with `$` becomes `{"$d": {...}}`, so that nothing can be mistaken.

    Raises:
        BadRecord: a value of a type that JSON does not have.
    """
    if "$" not in (text := _encode_plain(fields)):
        return text
    return _strict(_escape_fields(fields))


def _encode_plain(fields: Mapping[str, Any]) -> str:
    try:
        return _strict(fields)
    except ValueError as error:
        if "circular" in str(error).lower():
            raise BadRecord("a value refers to itself; only trees of lists and dicts can be logged") from error
        return "$"  # a NaN or an infinity somewhere
    except RecursionError as error:
        raise BadRecord("a value is nested too deeply to be logged; flatten it or log it as an artifact") from error
    except TypeError as error:
        raise BadRecord(f"a value cannot be logged: {error}; log it as an artifact") from error


def _escape_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    # Only the values below the record's own fields are the user's; the field names are ours.
    return {name: _escape_top(value) for name, value in fields.items()}


def _escape_top(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in value.items()}
    return _escape(value)


def _escape(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"$f": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
    if isinstance(value, (list, tuple)):
        return [_escape(item) for item in value]
    if isinstance(value, dict):
        escaped = {key: _escape(item) for key, item in value.items()}
        return {"$d": escaped} if any(key.startswith("$") for key in escaped) else escaped
    return value


def unescape(value: Any) -> Any:
    """The exact value that `encode` was given, from what `json.loads` made of it."""
    if isinstance(value, dict):
        if len(value) == 1:
            if "$f" in value:
                return float(value["$f"])
            if "$d" in value:
                return {key: unescape(item) for key, item in value["$d"].items()}
        return {key: unescape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [unescape(item) for item in value]
    return value


def encode_value(value: Value) -> str:
    """One value as JSON text, as the index keeps it."""
    return encode({"v": [value]})[6:-2]


def decode_value(text: str) -> Any:
    """The value of a text that `encode_value` made."""
    value = json.loads(text)
    return unescape(value) if "$" in text else value


def same_value(left: Any, right: Any) -> bool:
    """Whether two logged values are the same one: equal, of the same type, and NaN is itself."""
    return bool(left == right and type(left) is type(right)) or encode_value(left) == encode_value(right)
