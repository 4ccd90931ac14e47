"""A chunk of points comes back as it was packed, whatever its values are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_records import NUMBER, TEXT, is_same

from verta_store import series

WORD = st.integers(-(2**63), 2**63 - 1)
POINTS = st.lists(
    st.builds(series.Point, NUMBER | TEXT | st.booleans() | st.none(), WORD, WORD, st.integers(0, 2**63 - 1)),
    max_size=20,
)


@settings(deadline=None)
@given(POINTS | st.lists(st.builds(series.Point, st.floats(), WORD, WORD, st.integers(0, 9)), max_size=20))
def test_any_points_come_back(points: list[series.Point]) -> None:
    kind, data = series.pack(points)
    found = series.unpack(kind, len(points), data)
    assert len(found) == len(points)
    for one, other in zip(found, points, strict=True):
        assert is_same(one.value, other.value)
        assert (one.timestamp_ms, one.epoch, one.time) == (other.timestamp_ms, other.epoch, other.time)


@settings(deadline=None)
@given(st.lists(st.lists(st.builds(series.Point, st.floats(0, 1) | st.integers(0, 3), WORD, WORD, st.integers(0, 5)),
                         min_size=1, max_size=5), max_size=4))  # fmt: skip
def test_joined_chunks_are_in_the_order_of_their_times_and_stable(chunks: list[list[series.Point]]) -> None:
    parts = []
    for chunk in chunks:
        kind, data = series.pack(chunk)
        parts.append(series.unpack_columns(kind, len(chunk), data))
    joined = series.join(parts, is_ordered=False)
    expected = sorted((point for chunk in chunks for point in chunk), key=lambda point: point.time)
    rows: list[Any] = list(zip(*joined, strict=True))
    assert [series.Point(*row) for row in rows] == expected


@pytest.mark.parametrize(("kind", "cut"), [("d", -1), ("q", -8), ("j", -1), ("d", 3), ("x", 0), ("", 0)])
def test_a_chunk_that_is_damaged_is_a_value_error(kind: str, cut: int) -> None:
    points = [series.Point(1.5, 1, 1, 1), series.Point(2.5, 2, 2, 2)]
    _, data = series.pack(points)
    with pytest.raises((ValueError, KeyError, TypeError)):
        series.unpack(kind, 2, data[:cut] if cut else data)
