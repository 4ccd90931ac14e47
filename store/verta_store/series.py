"""Metric histories in the index: points packed in chunks, columns side by side, instead of a row a point."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from itertools import islice
from operator import le
from typing import Any, NamedTuple

from .records import encode, unescape

# A chunk is rewritten until it has this many points: large enough to read fast, small enough to rewrite.
CHUNK_POINTS = 4096


class Point(NamedTuple):
    """One observation: its value, the user's time stamp in ms, its epoch, and the record's own time."""

    value: Any
    timestamp_ms: int
    epoch: int
    time: int


def pack(points: Sequence[Point]) -> tuple[str, bytes]:
    """(kind of the values, bytes) of a chunk: record times, time stamps, epochs, then the values."""
    head = array("q", [p.time for p in points])
    head.extend(p.timestamp_ms for p in points)
    head.extend(p.epoch for p in points)
    values = [p.value for p in points]
    kinds = set(map(type, values))
    if kinds == {float}:
        return "d", head.tobytes() + array("d", values).tobytes()
    if kinds == {int} and all(-(1 << 63) <= value < 1 << 63 for value in values):
        return "q", head.tobytes() + array("q", values).tobytes()
    return "j", head.tobytes() + encode({"v": values}).encode("ascii")


class Columns(NamedTuple):
    """A history as columns of one length: values (an array of "d" or "q", or a list), time stamps in ms, epochs, and
    the records' own times.
    """

    values: array[float] | array[int] | list[Any]
    timestamps_ms: array[int]
    epochs: array[int]
    times: array[int]


def unpack_columns(kind: str, count: int, data: bytes) -> Columns:
    """The columns of a chunk that `pack` made."""
    head = array("q")
    head.frombytes(data[: 24 * count])
    rest = data[24 * count :]
    values: array[float] | array[int] | list[Any]
    if kind == "j":
        values = [unescape(value) for value in json.loads(rest)["v"]]
    else:
        values = array(kind)
        values.frombytes(rest)
    if len(head) != 3 * count or len(values) != count:
        raise ValueError("a chunk of another length than its row says")
    return Columns(values, head[count : 2 * count], head[2 * count :], head[:count])


def unpack(kind: str, count: int, data: bytes) -> list[Point]:
    """The points of a chunk that `pack` made."""
    columns = unpack_columns(kind, count, data)
    return [Point(*row) for row in zip(*columns, strict=True)]


def join(parts: Sequence[Columns], *, is_ordered: bool) -> Columns:
    """One history of many chunks, ordered by the records' times; points of one time stay as they come.

    `is_ordered` says that they are of one writer, so that nothing is to be sorted.
    """
    if not parts:
        return Columns([], array("q"), array("q"), array("q"))
    whole = parts[0]
    if len(parts) > 1:
        kinds = {part.values.typecode if isinstance(part.values, array) else "j" for part in parts}
        values: Any = array(kinds.pop()) if len(kinds) == 1 and "j" not in kinds else []
        whole = Columns(values, array("q"), array("q"), array("q"))
        for part in parts:
            columns: Any = zip(whole, part, strict=True)
            for column, more in columns:
                column.extend(more)
    times = whole.times
    if is_ordered or all(map(le, times, islice(times, 1, None))):
        return whole
    # Several writers: the order of the times, which is stable.
    order = sorted(range(len(times)), key=times.__getitem__)
    picked: list[Any] = [[column[place] for place in order] for column in whole]
    return Columns(
        picked[0] if isinstance(whole.values, list) else array(whole.values.typecode, picked[0]),
        array("q", picked[1]),
        array("q", picked[2]),
        array("q", picked[3]),
    )
