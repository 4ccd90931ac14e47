"""What a record holds and how it becomes one line of JSON and back, exactly.

The kinds and fields are those of `store/README.md`, section "Records".
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Mapping
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
PACK = "pack"  # the first line of a pack of journals

Value: TypeAlias = "bool | int | float | str | list[Any] | dict[str, Any] | None"

# A value nested deeper is refused when it is logged: a reader with less stack left could not read it any more, and
# with it the journal that it stands in.
MAXIMUM_DEPTH = 100

# What Python reads, unless it was told otherwise (`sys.set_int_max_str_digits`).
MOST_DIGITS = 4300
_LONG_NUMBER = 10**MOST_DIGITS
_SHORT_NUMBER = 1 << 63

_quote = json.encoder.encode_basestring_ascii


def _refuse(value: object) -> Any:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _make_encoder(*, sort_keys: bool) -> Callable[[Any], str]:
    """`json.dumps` to strict ASCII, with its C part made once and not at each call: 1.5 of 4 us a record."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return json.JSONEncoder(separators=(",", ":"), allow_nan=False, sort_keys=sort_keys).encode
    parts = make(None, _refuse, _quote, None, ":", ",", sort_keys, False, False)
    return lambda value: "".join(parts(value, 0))


_strict = _make_encoder(sort_keys=False)
_sorted = _make_encoder(sort_keys=True)


def encode(fields: Mapping[str, Any], *, is_flat: bool = False) -> str:
    """One JSON object as text, valid for every JSON reader.

    JSON has no NaN and no infinities: they become `{"$f": "nan"}`, `"inf"` or `"-inf"`. A user's own dict in which
    a key begins with `$` becomes `{"$d": {...}}`, so that nothing can be mistaken. `is_flat` says that the caller
    knows every value to be a scalar.

    Raises:
        BadRecord: a value of a type that JSON does not have, or one that is nested too deeply or holds itself.
    """
    if len(fields) == 2 and (text := _encode_one(fields)):
        return text
    try:
        text = _strict(fields)
    except (ValueError, RecursionError):
        text = ""  # a NaN or an infinity somewhere; or one of those below
    except TypeError as error:
        raise _cannot_log(error) from error
    # Counting is cheap and sees every nested dict and every deep list; a text with brackets in it is looked at too.
    if not is_flat and (not text or text.count("{") > 2 or text.count("[") > MAXIMUM_DEPTH):
        _check_shape(fields, MAXIMUM_DEPTH + 2)
    if not text or "$" in text:
        try:
            text = _strict(_escape_fields(fields))
        except (TypeError, ValueError) as error:  # an integer of more digits than Python is willing to write
            raise _cannot_log(error) from error
    if len(text) > MOST_DIGITS and _holds_long_number(fields):
        # This process may be willing to write it; others are not to read it.
        raise BadRecord(f"a value cannot be logged: it is an integer of more than {MOST_DIGITS} digits; log it as text")
    return text


def _encode_one(fields: Mapping[str, Any]) -> str:
    """What `encode` makes of one number or text of a section, `{"s": section, "v": {key: value}}` in this order, in a
    third of the time; '' of anything else.
    """
    section, values = fields.get("s"), fields.get("v")
    if type(values) is not dict or len(values) != 1 or type(section) is not str:
        return ""
    ((key, value),) = values.items()
    if type(key) is not str:
        return ""
    kind = type(value)
    if (kind is float and math.isfinite(value)) or (kind is int and -_SHORT_NUMBER < value < _SHORT_NUMBER):
        text = repr(value)
    elif kind is str:
        text = _quote(value)
    else:
        return ""
    return f'{{"s":{_quote(section)},"v":{{{_quote(key)}:{text}}}}}'


def _holds_long_number(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_long_number, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_holds_long_number, value))
    return isinstance(value, int) and abs(value) >= _LONG_NUMBER


def _cannot_log(error: Exception) -> BadRecord:
    return BadRecord(f"a value cannot be logged: {error}; log it as an artifact")


def _check_shape(value: Any, depth_left: int) -> None:
    """Refuses what JSON would change (keys that are not text) and what could not be read again (depth, circles)."""
    if depth_left < 0:
        raise BadRecord(
            f"a value is nested more than {MAXIMUM_DEPTH} deep, or holds itself; flatten it or log it as an artifact"
        )
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise BadRecord(f"the keys of a logged dict are texts, not {type(key).__name__}: {key!r}")
            if isinstance(item, (Mapping, list, tuple)):
                _check_shape(item, depth_left - 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            if isinstance(item, (Mapping, list, tuple)):
                _check_shape(item, depth_left - 1)


def _escape_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    # Only the values below the record's own fields are the user's; the field names, sections and keys are ours to tell.
    return {
        name: {section: _escape_top(part) for section, part in value.items()} if name == "and" else _escape_top(value)
        for name, value in fields.items()
    }


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


def value_of(number: int | float | None, text: str | None, json_text: str | None) -> Any:
    """The logged value of a row of `vals`."""
    if json_text is not None:
        return decode_value(json_text)
    return text if number is None else number


def same_value(left: Any, right: Any) -> bool:
    """Whether two logged values are the same one: equal, of the same types within, and NaN is itself.

    The order of a dict's keys does not count.
    """
    return _sorted(_escape(left)) == _sorted(_escape(right))


def is_sound(record: Mapping[str, Any]) -> bool:
    """Whether a record that a journal holds has the fields of its kind; of an unknown kind, those of every record.

    What a writer of another version, or a hostile one, leaves in a journal must not stop its readers.
    """
    time, entity = record.get("h"), record.get("e")
    if type(time) is not int or not 0 <= time < 1 << 63 or type(entity) is not str or not entity.isascii():
        return False
    shape = _SHAPES.get(record["k"])
    return shape is None or shape(record)


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_word(value: Any) -> bool:
    return type(value) is str and value.isascii()


def _is_put(record: Mapping[str, Any]) -> bool:
    section = record.get("s")
    if type(section) is not str or not section.isascii() or type(record.get("v")) is not dict:
        return False
    if "o" in record and not _is_number(record["o"]):
        return False
    if "seen" in record and not _is_seen(record["seen"]):
        return False
    return ("and" not in record or _is_sections(record["and"])) and ("drop" not in record or _is_drops(record["drop"]))


def _is_sections(more: Any) -> bool:
    return type(more) is dict and all(_is_word(section) and type(values) is dict for section, values in more.items())


def _is_seen(seen: Any) -> bool:
    return type(seen) is dict and all(
        type(times) is dict and all(map(_is_number, times.values())) for times in seen.values()
    )


def seen_of(record: Mapping[str, Any], section: str, key: str) -> int | None:
    """Up to when the writer of a put knew the values of a key that it overwrites; None when it overwrites none."""
    seen: int | None = record.get("o")
    if seen is not None and "seen" in record:
        seen = record["seen"].get(section, {}).get(key, seen)
    return seen


def _is_drops(drops: Any) -> bool:
    return type(drops) is dict and all(_is_word(section) and _has_texts({"v": keys}) for section, keys in drops.items())


def _is_entity(record: Mapping[str, Any]) -> bool:
    return (
        _is_word(record.get("type"))
        and (record.get("parent") is None or _is_word(record["parent"]))
        and type(record.get("name")) is str
        and type(record.get("at", 0)) is int
        and -(1 << 63) <= record.get("at", 0) < 1 << 63
        and _is_number(record.get("gen", 0))
    )


def _is_points(record: Mapping[str, Any]) -> bool:
    if type(record.get("key")) is not str or type(record.get("v")) is not list:
        return False
    try:
        for part in zip(*((stamp, epoch) for _, stamp, epoch in record["v"]), strict=True):
            array("q", part)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _has_texts(record: Mapping[str, Any]) -> bool:
    return type(record.get("v")) is list and all(type(text) is str for text in record["v"])


_SHAPES: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    ENTITY: _is_entity,
    PUT: _is_put,
    DROP: lambda record: _is_word(record.get("s")) and _has_texts(record),
    POINTS: _is_points,
    TAG: _has_texts,
    UNTAG: _has_texts,
}
