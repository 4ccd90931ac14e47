"""Text for a terminal: tables, sizes and times; nothing that was stored can steer the terminal."""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from collections.abc import Sequence
from typing import Any

from ..plain_text import plain


def short(text: str, characters: int = 48) -> str:
    """The text, cut where a column would grow too wide."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def show_value(value: Any) -> str:
    """A logged value in a few characters."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def show_size(size_bytes: int) -> str:
    """`1.2 MiB` for a number of bytes."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def show_time(at_ms: int) -> str:
    """Local date and time of a time in milliseconds."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their longest cell; in a terminal the last column is cut at its edge."""
    import shutil  # noqa: PLC0415 - start-up time

    table = [list(header), *(list(row) for row in rows)]
    widths = [max(_width(row[column]) for row in table) for column in range(len(header))]
    edge = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for row in table:
        line = "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(line[: edge - 1] + "…" if edge and _width(line) > edge else line)


def print_json(value: Any, indent: int | None = 2) -> None:
    """For programs: JSON, with letters as they are; what is none, and could steer a terminal, as `\\uXXXX`."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    print("".join(c if c == "\n" or unicodedata.category(c)[0] != "C" else _escaped(c) for c in text))


def _escaped(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))


def _width(text: str) -> int:
    """Columns that a text takes: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
