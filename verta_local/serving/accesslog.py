"""The access log: one line of JSON a request, written to disk by a thread of its own so that no request waits for it.

The text of a line is made in the request's own thread: a burst of thousands of them in the writing thread would keep
Python's lock from all requests of that moment.

Fields: time (seconds since 1970), request_id, client (address), method, path, route, run_id, status, seconds,
waited_seconds (in the model's queue), bytes_in, bytes_out; slow (true over the limit), message (of an error, its last
line) and noted (what the model noted with `verta_local.runtime.log`) where there are any. Never a token, never a body.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

from verta_store.files import make_private_folder

_EVERY_S = 0.25
_LIMIT_BYTES = 16 * 1024 * 1024  # then it becomes `<name>.1`
_WAITING_LIMIT = 50_000  # lines that wait for a disk that hangs: 50 MB at most; then lines are dropped and counted
_PATH_CHARACTERS = 300
_MESSAGE_CHARACTERS = 300


class Access(NamedTuple):  # and no dataclass: one is made for every request
    """One answered request."""

    request_id: str
    client: str
    method: str
    path: str
    route: str
    run_id: str
    status: int
    seconds: float
    waited_s: float
    bytes_in: int
    bytes_out: int
    error: bytes = b""
    noted: dict[str, Any] | None = None


class AccessLog:
    """Appends to `path` (mode 0600); `slow_s` marks a request as slow. None as the path: keeps nothing."""

    def __init__(self, path: Path | None, slow_s: float) -> None:
        self.path = path
        self.slow_s = slow_s
        self.dropped_count = 0
        self.slow_count = 0
        self._lines: deque[str] = deque()
        self._ended = threading.Event()
        self._write_lock = threading.Lock()
        if path is not None:
            threading.Thread(target=self._run, name="access-log", daemon=True).start()

    def add(self, access: Access) -> None:
        """Takes one line; returns at once."""
        if access.seconds >= self.slow_s:
            self.slow_count += 1
        if self.path is None:
            return
        if len(self._lines) >= _WAITING_LIMIT:
            self.dropped_count += 1
            return
        self._lines.append(self._line(time.time(), access))

    def close(self) -> None:
        """Writes what waits."""
        self._ended.set()
        self._flush()

    def _run(self) -> None:
        while not self._ended.wait(_EVERY_S):
            self._flush()

    def _flush(self) -> None:
        if self.path is None or not self._lines:
            return
        with self._write_lock:
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            text = "".join(lines)
            try:
                make_private_folder(self.path.parent)
                # Opened each time: another server of this user may have moved the file away.
                descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                with os.fdopen(descriptor, "ab") as stream:
                    stream.write(text.encode("ascii"))
                    size = stream.tell()
                if size > _LIMIT_BYTES:
                    os.replace(self.path, self.path.with_name(self.path.name + ".1"))
            except OSError as error:
                self.dropped_count += len(lines)
                logging.getLogger(__name__).warning("cannot write the access log: %s", error)

    def _line(self, at: float, access: Access) -> str:
        # Written out, and what repeats is remembered: an encoder would take 10 us of a request's 100.
        where = _where(access.client, access.method, access.path[:_PATH_CHARACTERS], access.route, access.run_id)
        request_id = access.request_id  # its characters are printable ASCII
        shown_id = f'"{request_id}"' if request_id.isalnum() else json.dumps(request_id)
        line = (
            f'{{"time": {at:.3f}, "request_id": {shown_id}, {where}, "status": {access.status}, '
            f'"seconds": {access.seconds:.6f}, "waited_seconds": {access.waited_s:.6f}, '
            f'"bytes_in": {access.bytes_in}, "bytes_out": {access.bytes_out}'
        )
        if access.seconds >= self.slow_s:
            line += ', "slow": true'
        if access.error:
            line += f', "message": {json.dumps(_last_line(access.error))}'
        if access.noted:
            line += f', "noted": {json.dumps(access.noted)}'
        return line + "}\n"


@functools.lru_cache(maxsize=256)
def _where(client: str, method: str, path: str, route: str, run_id: str) -> str:
    """The fields that are the same for most requests, as a part of a JSON object."""
    found = {"client": client, "method": method, "path": path, "route": route, "run_id": run_id}
    return json.dumps(found)[1:-1]


def _last_line(body: bytes) -> str:
    """Of an error's body: the last line of its text, which of a traceback is the error itself."""
    try:
        found = json.loads(body)
        text = str(found.get("message") or found.get("error") or "").strip()
    except (ValueError, AttributeError):
        return ""
    return text.rpartition("\n")[2][:_MESSAGE_CHARACTERS]
