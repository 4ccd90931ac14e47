"""A deployment's log: what its model prints, kept private, kept small, and read back when the model dies."""

from __future__ import annotations

import os
from pathlib import Path

from verta_store.files import make_private_folder

_LIMIT_BYTES = 8 * 1024 * 1024
_TAIL_BYTES = 4 * 1024
_TAIL_LINES = 25


class LogFile:
    """One append-only text file, mode 0600; the generation before it is kept as `<name>.1`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self._answered_byte = 0  # what lies before was told to a caller already

    def open_append(self) -> int:
        """A file descriptor for the child's output; the caller closes it. Rotates a large file first."""
        make_private_folder(self.path.parent)
        if self.size_bytes() > _LIMIT_BYTES:
            os.replace(self.path, self.path.with_name(self.path.name + ".1"))
            self._answered_byte = 0
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add_line(self, text: str) -> None:
        """Adds a line of the server's own."""
        descriptor = self.open_append()
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"verta_local: {text}\n")

    def size_bytes(self) -> int:
        """The present size; 0 when there is no file."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def cut_if_large(self) -> None:
        """Keeps a running child's log within bounds: moves the text to `<name>.1` and empties the file.

        The child appends through its own descriptor, so the file is copied and cut, not renamed; a line that is
        written in between can be lost, which a log bears.
        """
        if self.size_bytes() <= _LIMIT_BYTES:
            return
        kept = self.path.with_name(self.path.name + ".1")
        descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as target, self.path.open("rb") as source:
            source.seek(-_LIMIT_BYTES, os.SEEK_END)
            target.write(source.read())
        os.truncate(self.path, 0)
        self._answered_byte = 0

    def mark_answered(self) -> None:
        """Leaves what was written until now out of `tail`: a request that failed was answered with it."""
        self._answered_byte = self.size_bytes()

    def tail(self, since_byte: int) -> str:
        """The last lines written after the offset `since_byte` and after the last mark; '' when there are none."""
        since_byte = max(since_byte, self._answered_byte)
        try:
            with self.path.open("rb") as source:
                end = source.seek(0, os.SEEK_END)
                start = since_byte if since_byte <= end else 0  # the file was cut in the meantime
                source.seek(max(start, end - _TAIL_BYTES))
                text = source.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-_TAIL_LINES:])
