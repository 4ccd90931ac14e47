"""What goes into a record comes out of it: any text, any number, any nesting."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verta_store import records
from verta_store.errors import BadRecord

TEXT = st.text(st.characters(), max_size=30)  # with surrogates, NUL and everything beyond the basic plane
KEY = TEXT | st.sampled_from(["$f", "$d", "$", "$f\0", "", "and", "v"])
NUMBER = (
    st.integers()
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.sampled_from([2**60 + 1, -(2**63), 2**64, -0.0, 1e308, 5e-324, 10**400, math.nan, math.inf, -math.inf])
)
VALUE = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEY, inner, max_size=4),
    max_leaves=12,
)


def test_an_integer_that_others_are_not_to_read_is_refused_though_this_process_would_write_it() -> None:
    limit = sys.get_int_max_str_digits()
    whole = 10**records.MOST_DIGITS - 1
    sys.set_int_max_str_digits(0)
    try:
        for value in (whole + 1, -whole - 1, [{"a": [1, whole + 1]}]):
            with pytest.raises(BadRecord, match="an integer of more than 4300 digits; log it as text"):
                records.encode({"v": {"k": value}})
    finally:
        sys.set_int_max_str_digits(limit)
    for value in (whole, -whole, "9" * 5000, [0.1] * 2000):
        assert json.loads(records.encode({"v": {"k": value}}))["v"]["k"] == value


def is_same(left: Any, right: Any) -> bool:
    """Equal to the last bit and type; NaN is itself and -0.0 is not 0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return left.hex() == right.hex()
    if isinstance(left, list):
        return len(left) == len(right) and all(map(is_same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(is_same(left[key], right[key]) for key in left)
    return bool(left == right)


@settings(deadline=None, max_examples=500)
@given(TEXT, KEY, NUMBER | TEXT | st.none() | st.booleans())
def test_the_quick_way_to_write_one_value_writes_what_the_other_way_writes(section: str, key: str, value: Any) -> None:
    one = {"s": section, "v": {key: value}}
    assert records.encode(one) == records.encode({**one, "x": 0}).removesuffix(',"x":0}') + "}"


@settings(deadline=None, max_examples=150)
@given(VALUE)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    text = records.encode_value(value)
    assert text.isascii() and "\n" not in text
    assert is_same(records.decode_value(text), value)


@settings(deadline=None, max_examples=80)
@given(st.dictionaries(KEY, VALUE, max_size=5), st.dictionaries(KEY, VALUE, max_size=5))
def test_the_values_of_every_section_of_a_record_come_back(first: dict[str, Any], second: dict[str, Any]) -> None:
    text = records.encode({"s": "metrics", "v": first, "and": {"attributes": second}})
    strict = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    for given_values, found in ((first, strict["v"]), (second, strict["and"]["attributes"])):
        assert is_same({key: records.unescape(value) for key, value in found.items()}, given_values)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(NUMBER | TEXT, st.integers(0, 2**62), st.integers(0, 2**31)), max_size=5))
def test_points_come_back(points: list[tuple[Any, int, int]]) -> None:
    found = json.loads(records.encode({"key": "loss", "v": points}))["v"]
    assert is_same([records.unescape(value) for value, _, _ in found], [value for value, _, _ in points])
    assert [tuple(rest) for _, *rest in found] == [tuple(rest) for _, *rest in points]


@settings(deadline=None, max_examples=100)
@given(VALUE, VALUE)
def test_equal_values_are_the_same_and_others_are_not(left: Any, right: Any) -> None:
    assert records.same_value(left, left)
    assert records.same_value(left, right) == (records.encode_value(left) == records.encode_value(right)) or (
        left == right and isinstance(left, (list, dict))  # but for the order of a dict's keys
    )


def test_one_and_one_point_zero_are_not_the_same() -> None:
    assert not records.same_value(1, 1.0)
    assert not records.same_value(True, 1)
    assert not records.same_value([1], [1.0])
    assert records.same_value(math.nan, math.nan)
    assert records.same_value({"a": 1, "b": [2]}, {"b": [2], "a": 1})


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
DEEP: list[Any] = []
for _ in range(500):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        b"bytes",
        1j,
        CIRCLE,
        {"a": CIRCLE},
        DEEP,
        [math.nan, DEEP],
        {"a": {1: 2}},
        {"a": {None: 2}},
        {"a": [{True: math.nan}]},
        10**5000,
        [math.nan, 10**5000],
        [math.nan, object()],
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_what_json_cannot_hold_is_refused_in_one_sentence(value: Any) -> None:
    with pytest.raises(BadRecord) as caught:
        records.encode({"s": "attributes", "v": {"key": value}})
    assert "\n" not in str(caught.value)
