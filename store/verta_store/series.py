"""Metric histories in the index: points packed in chunks, columns side by side, instead of a row a point."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .records import encode, unescape

# A chunk is rewritten until it has this many points: large enough to read fast, small enough to rewrite.
CHUNK_POINTS = 4096


@dataclass(frozen=True)
class Point:
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


def unpack(kind: str, count: int, data: bytes) -> list[Point]:
    """The points of a chunk that `pack` made."""
    head = array("q")
    head.frombytes(data[: 24 * count])
    rest = data[24 * count :]
    values: Sequence[Any]
    if kind == "j":
        values = [unescape(value) for value in json.loads(rest)["v"]]
    else:
        values = array(kind)
        values.frombytes(rest)
    times, stamps, epochs = head[:count], head[count : 2 * count], head[2 * count :]
    return [
        Point(value, stamp, epoch, time)
        for value, stamp, epoch, time in zip(values, stamps, epochs, times, strict=True)
    ]
