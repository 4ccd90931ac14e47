"""One line that says how far a large copy is, where somebody looks: on a terminal or in a notebook.

Nothing is printed for less than 256 MiB, or within the first second, or into a file or pipe. What is done is read off
the copy itself, from a thread of its own: the copy runs as without it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

SHOWN_FROM_BYTES = 256 * 1024 * 1024
_FIRST_AFTER_S = 1.0
_EVERY_S = 0.5
_BAR_WIDTH = 24  # characters
_LONGEST_WHAT = 40


@contextmanager
def shown(what: str, total_bytes: Callable[[], int], done_bytes: Callable[[], int]) -> Iterator[None]:
    """Shows the progress of what runs inside the `with`.

    Args:
        what: the line's beginning, such as "logging index.bin".
        total_bytes: asked once, after a second.
        done_bytes: asked again and again; errors of a copy that comes to its end meanwhile are passed over.
    """
    stream = _stream()
    if stream is None:
        yield
        return
    import threading  # noqa: PLC0415 - start-up time

    has_ended = threading.Event()
    line = _Line(stream, what, total_bytes, done_bytes)
    thread = threading.Thread(target=line.show_until, args=(has_ended,), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()


def size_below(path: str) -> int:
    """The bytes of a file, or of all files in and below a folder; 0 for what is not there."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    total = 0
    for parent, _, names in os.walk(path):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except OSError:
                pass  # a link that leads nowhere, or a file that was renamed meanwhile
    return total


def _stream() -> TextIO | None:
    """Where to show it: the notebook's output, a terminal, or nowhere."""
    if "ipykernel" in sys.modules and "IPython" in sys.modules:
        return sys.stdout
    error_output: TextIO | None = sys.stderr  # None in programs without a console
    try:
        return error_output if error_output is not None and error_output.isatty() else None
    except ValueError:  # it was closed
        return None


class _Line:
    """The line, as it is written over and over."""

    def __init__(
        self, stream: TextIO, what: str, total_bytes: Callable[[], int], done_bytes: Callable[[], int]
    ) -> None:
        self._stream = stream
        # What a file is called may hold what a terminal would obey.
        self._what = "".join(each if each.isprintable() else "?" for each in what)[:_LONGEST_WHAT]
        self._total_bytes = total_bytes
        self._done_bytes = done_bytes
        self._written = 0  # characters

    def show_until(self, has_ended: object) -> None:
        """Writes the line until the event `has_ended` is set; then the line is blank again."""
        wait: Callable[[float], bool] = has_ended.wait  # type: ignore[attr-defined]  # threading is imported late
        started = time.monotonic()
        if wait(_FIRST_AFTER_S):
            return
        try:
            total = self._total_bytes()
            if total < SHOWN_FROM_BYTES:
                return
            pause_s = 0.0
            while not wait(pause_s):
                before = time.monotonic()
                self._write(self._text(min(self._done_bytes(), total), total, before - started))
                # Looking through a folder of many files takes time: a tenth of it at most goes into looking.
                pause_s = max(_EVERY_S, 10 * (time.monotonic() - before))
        except (OSError, ValueError):
            pass  # the output was closed, or what is looked at is gone: the copy itself says what is wrong
        finally:
            self._write("")

    def _text(self, done: int, total: int, passed_s: float) -> str:
        full = _BAR_WIDTH * done // total
        rate = done / passed_s
        left = f", {_duration((total - done) / rate)} left" if 0 < done < total else ""
        bar = "#" * full + "." * (_BAR_WIDTH - full)
        return (
            f"{self._what} [{bar}] {100 * done // total} % of {total / 2**30:.2f} GiB, {rate / 2**20:.0f} MiB/s{left}"
        )

    def _write(self, text: str) -> None:
        if not text and not self._written:
            return
        try:
            blank = " " * max(0, self._written - len(text))
            self._stream.write(f"\r{text}{blank}" + ("" if text else "\r"))
            self._stream.flush()
        except (OSError, ValueError):
            return
        self._written = len(text)


def _duration(seconds: float) -> str:
    whole = int(seconds + 0.5)
    if whole < 100:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 6000 else f"{whole // 3600} h"
