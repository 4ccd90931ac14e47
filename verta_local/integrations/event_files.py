"""Reads the scalars of TensorBoard's event files (`events.out.tfevents.*`) without TensorFlow or TensorBoard.

Formats: a TFRecord is `length (8 bytes), masked CRC-32C of it (4), data, masked CRC-32C of that (4)`, little-endian;
the data is a protocol buffer `Event { double wall_time = 1; int64 step = 2; Summary summary = 5 }`, where a `Summary`
holds repeated `Value { string tag = 1; float simple_value = 2; TensorProto tensor = 8; SummaryMetadata metadata = 9 }`.
TensorFlow 2 writes a scalar as a tensor without dimensions, TensorFlow 1 and PyTorch as `simple_value`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_MARK = ".tfevents."
_LONGEST_SCALAR_EVENT_BYTES = 1 << 20  # images and histograms are larger; they are skipped, not read

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
# Of TensorProto: the kind of its numbers -> how one is packed in `tensor_content`.
_TENSOR_FORMATS = {1: "<f", 2: "<d", 3: "<i", 9: "<q"}
_FLOAT_VAL, _DOUBLE_VAL, _INT_VAL, _INT64_VAL = 5, 6, 7, 10


class Scalar(NamedTuple):
    """One point of a series; `wall_time_s` is in seconds since 1970."""

    tag: str
    value: float
    step: int
    wall_time_s: float


def event_files(folder: str | os.PathLike[str]) -> list[tuple[str, Path]]:
    """The event files in and below a folder: (the sub-folder's path with `/`, '' for the folder itself; file), sorted.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {str(root)!r}; give the log_dir of TensorBoard")
    files = sorted(path for path in root.rglob("*") if _MARK in path.name and path.is_file())
    return [("" if path.parent == root else path.parent.relative_to(root).as_posix(), path) for path in files]


def scalars_of(path: str | os.PathLike[str]) -> Iterator[Scalar]:
    """The scalars of an event file, in the order written. A torn or damaged end is where it ends."""
    for event in _records(path):
        wall_time_s, step = 0.0, 0
        summaries = []
        for number, kind, value in _fields(event):
            if number == 1 and kind == _FIXED64:
                wall_time_s = struct.unpack("<d", value)[0]
            elif number == 2 and kind == _VARINT:
                step = _signed(value)
            elif number == 5 and kind == _LENGTH:
                summaries.append(value)
        for summary in summaries:
            for number, kind, value in _fields(summary):
                if number == 1 and kind == _LENGTH and (found := _scalar_of(value)) is not None:
                    yield Scalar(*found, step, wall_time_s)


def _records(path: str | os.PathLike[str]) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while True:
            head = file.read(12)
            if len(head) < 12:
                return
            length, checksum = struct.unpack("<QI", head)
            if checksum != _masked_crc32c(head[:8]):
                return  # what follows cannot be told apart
            if length > _LONGEST_SCALAR_EVENT_BYTES:
                file.seek(length + 4, os.SEEK_CUR)
                continue
            data = file.read(length)
            tail = file.read(4)
            if len(tail) < 4 or struct.unpack("<I", tail)[0] != _masked_crc32c(data):
                return
            yield data


def _scalar_of(value: bytes) -> tuple[str, float] | None:
    """(tag, number) of a summary's value; None for a histogram, an image and the like."""
    tag, found = "", None
    for number, kind, field in _fields(value):
        if number == 1 and kind == _LENGTH:
            tag = bytes(field).decode("utf-8", "replace")
        elif number == 2 and kind == _FIXED32:
            found = struct.unpack("<f", field)[0]
        elif number == 8 and kind == _LENGTH:
            found = _number_of_tensor(field)
    return None if found is None else (tag, float(found))


def _number_of_tensor(tensor: bytes) -> float | None:
    """The number of a tensor without dimensions; None for any other."""
    number_kind, content, listed = 0, b"", None
    for number, kind, field in _fields(tensor):
        if number == 1 and kind == _VARINT:
            number_kind = field
        elif number == 2 and kind == _LENGTH and any(each == 2 for each, _, _ in _fields(field)):
            return None  # it has dimensions
        elif number == 4 and kind == _LENGTH:
            content = bytes(field)
        elif number in (_FLOAT_VAL, _DOUBLE_VAL, _INT_VAL, _INT64_VAL):
            listed = _first_listed(number, kind, field)
    form = _TENSOR_FORMATS.get(number_kind)
    if form is None:
        return None
    if len(content) == struct.calcsize(form):
        return float(struct.unpack(form, content)[0])
    return listed


def _first_listed(number: int, kind: int, field: Any) -> float | None:
    """The first of a tensor's listed numbers, packed together or alone."""
    if isinstance(field, int):
        return float(_signed(field))
    if number == _FLOAT_VAL:
        return float(struct.unpack_from("<f", field)[0]) if len(field) >= 4 else None
    if number == _DOUBLE_VAL:
        return float(struct.unpack_from("<d", field)[0]) if len(field) >= 8 else None
    return float(_signed(_read_varint(field, 0)[0])) if kind == _LENGTH and field else None


# Protocol buffers, as far as they are needed here


def _fields(message: bytes) -> Iterator[tuple[int, int, Any]]:
    """(field number, wire kind, value) of a message; a number for varints, bytes else. Ends where it is damaged."""
    place = 0
    while place < len(message):
        key, place = _read_varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _read_varint(message, place)
            yield number, kind, value
            continue
        if kind == _LENGTH:
            size, place = _read_varint(message, place)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            return
        if place + size > len(message):
            return
        yield number, kind, message[place : place + size]
        place += size


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 70:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            break
        shift += 7
    return value, place


def _signed(value: int) -> int:
    """A 64-bit number as written in a varint: negative ones have all upper bits set."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _make_crc32c_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ 0x82F63B78 if byte & 1 else byte >> 1
        table.append(byte)
    return table


_CRC32C_TABLE = _make_crc32c_table()


def _masked_crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), rotated by 15 bits and offset, as TFRecord has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
