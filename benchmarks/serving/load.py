"""The load: a program of its own that sends requests over keep-alive connections and says what came back.

    python load.py        stdin: a plan as JSON        stdout: the findings as JSON

Each connection sends its next request when it has the whole answer to the one before; all are served by one thread
that waits for any of them, so the load itself costs about 10 microseconds a request and leaves the other core alone.
Plan: {"host", "port", "request" (the bytes as Latin-1 text), "clients", "seconds", "warm_up_s", "core" (or null)}.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from typing import Any

_READ_BYTES = 256 * 1024
_STALLED_S = 30.0


class _Load:
    def __init__(self, plan: dict[str, Any]) -> None:
        self._address = (plan["host"], int(plan["port"]))
        self._request = plan["request"].encode("latin-1")
        self._usual_bytes = -1  # of an answer that was good: the next one of that size needs no second look
        self._clock = time.perf_counter_ns
        self.took_ns: list[int] = []
        self.statuses: dict[str, int] = {}
        self.lost: dict[str, int] = {}  # requests without an answer, by the reason
        self.first_fault = ""
        self.answered_in_time = 0

    def run(self, clients: int, seconds: float) -> float:
        """Sends for so long, then waits for the last answers; returns the seconds until the end of sending."""
        with select.epoll() as poller:
            self._poller = poller
            self._sockets: dict[int, socket.socket] = {}
            self._sent_at: dict[int, int] = {}
            self._parts: dict[int, bytes] = {}
            begin = time.perf_counter()
            deadline = begin + seconds
            for _ in range(clients):
                self._connect_and_send()
            while (now := time.perf_counter()) < deadline:
                self._answers(deadline - now, goes_on=True)
                if not self._sockets:  # nobody listens: not a busy loop
                    time.sleep(0.005)
                for _ in range(clients - len(self._sockets)):
                    self._connect_and_send()
            took = time.perf_counter() - begin
            self.answered_in_time = self.statuses.get("200", 0)
            patience = time.perf_counter() + _STALLED_S
            while self._sockets and time.perf_counter() < patience:
                self._answers(1.0, goes_on=False)
            for number in list(self._sockets):
                self._give_up(number, "no answer within 30 s")
            return took

    def _connect_and_send(self) -> None:
        try:
            connection = socket.create_connection(self._address, timeout=10)
        except OSError as error:
            self._count_lost(type(error).__name__)
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = connection.fileno()
        self._sockets[number] = connection
        self._parts[number] = b""
        self._poller.register(number, select.EPOLLIN)
        self._send(number)

    def _send(self, number: int) -> None:
        self._sent_at[number] = self._clock()
        try:
            self._sockets[number].sendall(self._request)
        except OSError as error:
            self._give_up(number, type(error).__name__)

    def _answers(self, timeout_s: float, *, goes_on: bool) -> None:
        for number, _ in self._poller.poll(timeout_s):
            try:
                data = self._sockets[number].recv(_READ_BYTES)
            except OSError as error:
                self._give_up(number, type(error).__name__)
                continue
            if not data:
                self._give_up(number, "closed without an answer")
                continue
            if len(data) == self._usual_bytes and not self._parts[number] and data[9:12] == b"200":
                self._done(number, goes_on)
                continue
            whole = self._parts[number] + data
            size = _size_of_answer(whole)
            if size is None or len(whole) < size:
                self._parts[number] = whole
                continue
            self._parts[number] = b""
            status = whole[9:12].decode("latin-1")
            if status == "200":
                self._usual_bytes = size
            elif not self.first_fault:
                self.first_fault = whole[:1000].decode("latin-1")
            closes = b"connection: close" in whole[:2000].lower()
            self._done(number, goes_on and not closes, status)

    def _done(self, number: int, goes_on: bool, status: str = "200") -> None:
        self.took_ns.append(self._clock() - self._sent_at[number])
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if goes_on:
            self._send(number)
        elif number in self._sockets:
            self._close(number)

    def _give_up(self, number: int, reason: str) -> None:
        self._count_lost(reason)
        self._close(number)

    def _count_lost(self, reason: str) -> None:
        self.lost[reason] = self.lost.get(reason, 0) + 1

    def _close(self, number: int) -> None:
        connection = self._sockets.pop(number, None)
        if connection is not None:
            self._poller.unregister(number)
            connection.close()


def _size_of_answer(data: bytes) -> int | None:
    """The bytes of the answer that begins here; None while that cannot be told."""
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    head = data[:head_end].lower()
    place = head.find(b"\r\ncontent-length:")
    if place >= 0:
        return head_end + 4 + int(head[place + 17 :].partition(b"\r\n")[0])
    if b"\r\ntransfer-encoding: chunked" in head:
        end = data.find(b"\r\n0\r\n\r\n", head_end)
        return None if end < 0 else end + 7
    return head_end + 4


def main() -> int:
    """Runs one plan."""
    plan = json.load(sys.stdin)
    if plan.get("core") is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {plan["core"]})
    if plan["warm_up_s"]:
        _Load(plan).run(plan["clients"], plan["warm_up_s"])
    print("go", flush=True)
    load = _Load(plan)
    begun_at = time.time()
    seconds = load.run(plan["clients"], plan["seconds"])
    took = sorted(load.took_ns)
    found = {
        "begun_at": begun_at,
        "seconds": seconds,
        "answered": len(took),
        "in_time": load.answered_in_time,
        "statuses": load.statuses,
        "lost": load.lost,
        "fault": load.first_fault,
        "p50_s": took[len(took) // 2] / 1e9 if took else None,
        "p99_s": took[min(len(took) - 1, len(took) * 99 // 100)] / 1e9 if took else None,
        "longest_s": took[-1] / 1e9 if took else None,
    }
    print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
