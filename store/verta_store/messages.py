"""Messages over a pipe between this process and its workers: a line of JSON, and bytes behind it."""

from __future__ import annotations

import json
from typing import IO, Any, NamedTuple


class Message(NamedTuple):
    """Plain data, and what is too much for JSON, which takes longer than anything else that is done with it."""

    data: Any
    columns: bytes = b""


def send(pipe: IO[bytes], message: Message) -> None:
    """Writes a message. Raises OSError."""
    line = json.dumps([message.data, len(message.columns)])
    pipe.write(line.encode("ascii") + b"\n" + message.columns)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Message | None:
    """Reads what was sent; None at the end. Raises OSError; TypeError or ValueError for what nobody sent."""
    line = pipe.readline()
    if not line:
        return None
    data, size_bytes = json.loads(line)
    columns = pipe.read(max(0, size_bytes))
    if len(columns) != size_bytes:
        raise ValueError("half a message")
    return Message(data, columns)
