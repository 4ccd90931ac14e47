"""The lane that carries all requests of one child: who writes to it, who reads the answers, what is late.

A thread that waits for its answer reads the lane itself while nobody else does, and has the answers of others told:
for one request at a time no thread hands anything to another. Where nobody waits (the sender went on), a thread of
the lane's own reads, for as long as requests come.
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from verta_local.serving import frames
from verta_local.serving.calls import AwaitedCall, Call

TICK_S = 0.1  # how late a time-out may be noticed
_LINGER_S = 2.0  # how long the lane's own reader waits for further requests
_TAGS = 1 << 32
_ROUNDS = 16
_DO_NOT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)  # Windows: writing waits


class Lane:
    """A connection to the child that is closed only when nobody uses it.

    The watching thread ends a lane while another thread is about to read from it. Were it closed in that moment, its
    descriptor's number would go to the next child's lane, and the old thread would read there, and steal an answer.
    So ending is shutting down, which wakes the reader, and the last one to let go closes.
    """

    def __init__(self, connection: socket.socket, read_timeout_s: float | None = None) -> None:
        self._socket = connection
        if read_timeout_s is not None:
            # By the system: a time-out of Python's is a further system call for each read, and for each write.
            _set_read_timeout(connection, read_timeout_s)
        self._reader = frames.FrameReader(connection)
        self._lock = threading.Lock()
        self._users = 0
        self._has_ended = False

    @contextmanager
    def using(self) -> Iterator[tuple[socket.socket, frames.FrameReader]]:
        """The connection and its reader, which stay open inside the `with`. Raises: BrokenPipeError after `end()`."""
        self.hold()
        try:
            yield self._socket, self._reader
        finally:
            self.let_go()

    def hold(self) -> frames.FrameReader:
        """The reader, which stays open until `let_go()`. Raises: BrokenPipeError after `end()`."""
        with self._lock:
            if self._has_ended:
                raise BrokenPipeError
            self._users += 1
        return self._reader

    def let_go(self) -> None:
        """Once for each `hold()`."""
        with self._lock:
            self._users -= 1
            if self._has_ended and not self._users:
                self._socket.close()

    def end(self) -> None:
        """Wakes whoever reads or writes, and closes once they have let go."""
        with self._lock:
            self._has_ended = True
            try:
                self._socket.shutdown(socket.SHUT_RDWR)  # a program that the model started may hold the other end
            except OSError:
                pass
            if not self._users:
                self._socket.close()


class StreamOwner(Protocol):
    """Who is told what becomes of the calls; without a lock of the stream's held. Each call is in one of these."""

    def calls_answered(self, answered: Sequence[tuple[Call, frames.Frame]]) -> None: ...

    def calls_timed_out(self, calls: Sequence[Call]) -> None: ...

    def calls_lost(self, calls: Sequence[Call]) -> None:
        """The child is gone, and may have seen them; none: it is gone."""

    def calls_unsent(self, calls: Sequence[Call]) -> None:
        """The child is gone, and has not seen anything of them."""


class Stream:
    """The calls that are under way to one child. Methods may be called from any thread, without the owner's lock."""

    def __init__(self, lane: Lane, timeout_s: float, owner: StreamOwner) -> None:
        self._lane = lane
        self._timeout_s = timeout_s
        self._owner = owner
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._read_by: int | None = None
        self._calls: dict[int, Call] = {}  # by tag, oldest first
        self._outgoing: list[frames.Frame] = []
        self._is_sending = False
        self._tag = 0
        self._is_over = False
        self._looked_at = 0.0

    def send(self, calls: Iterable[Call], *, by_sender: bool = False) -> None:
        """Sends the calls, and sees to it that somebody reads; `by_sender`: the caller is going to.

        Nobody waits while another thread writes: that one writes these as well.
        """
        deadline = time.monotonic() + self._timeout_s
        with self._lock:
            for call in calls:
                self._tag = tag = (self._tag + 1) % _TAGS
                call.deadline = deadline
                call.stream = self
                self._calls[tag] = call
                self._outgoing.append(frames.Frame(tag, call.code, call.head, call.meta, call.body))
            is_mine = not self._is_sending
            self._is_sending = True
        if is_mine:
            self._write()
        if not by_sender and not self._reading.locked():
            self._find_reader()

    def _write(self) -> None:
        """Writes what is to go out, also what others add meanwhile."""
        for _ in range(_ROUNDS):
            with self._lock:
                found = self._outgoing
                if not found:
                    self._is_sending = False
                    return
                self._outgoing = []
            try:
                if self._is_over:
                    raise BrokenPipeError
                with self._lane.using() as (lane, _reader):
                    for piece in frames.pieces_of(found):
                        self._write_piece(lane, piece)
            except OSError as error:
                self._not_sent(found, error)
        # The caller has an answer of its own to see to.
        threading.Thread(target=self._write, name="requests", daemon=True).start()

    def _write_piece(self, lane: socket.socket, piece: bytes) -> None:
        """Raises: TimeoutError when the child takes nothing for as long as a prediction may take, other OSErrors."""
        left = memoryview(piece)
        deadline = time.monotonic() + self._timeout_s
        while left:
            try:
                left = left[lane.send(left, _DO_NOT_WAIT) :]
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError from None
                self._wait_for_room(lane)

    def _wait_for_room(self, lane: socket.socket) -> None:
        """Waits a moment until the child takes more, and reads meanwhile where no other does: it may wait for that."""
        is_reader = self._read_by == threading.get_ident()  # it passes on what waited for an answer that it read
        has_begun = not is_reader and self._begin_reading()
        try:
            with selectors.DefaultSelector() as selector:
                does_read = is_reader or has_begun
                selector.register(lane, selectors.EVENT_WRITE | (selectors.EVENT_READ if does_read else 0))
                ready = selector.select(TICK_S)
            if any(events & selectors.EVENT_READ for _, events in ready):
                self._read()
        finally:
            if has_begun:
                self._end_reading()

    def read_for(self, call: AwaitedCall) -> None:
        """Reads until that call has its answer; returns at once when somebody else reads."""
        if not self._begin_reading():
            return
        try:
            while call.answer is None and self._read():
                pass
        finally:
            self._end_reading()
        self._find_reader()

    def _begin_reading(self) -> bool:
        """Whether nobody else reads."""
        if not self._reading.acquire(blocking=False):
            return False
        self._read_by = threading.get_ident()
        return True

    def _end_reading(self) -> None:
        self._read_by = None
        self._reading.release()

    def _find_reader(self) -> None:
        """Has one of those who wait read, or starts a reader, where there is something to come."""
        calls = list(self._calls.values())
        for call in calls:
            if isinstance(call, AwaitedCall):
                call.wake()
                return
        if calls:
            threading.Thread(target=self._read_on, name="answers", daemon=True).start()

    def _read_on(self) -> None:
        """Reads as long as calls come."""
        if not self._begin_reading():
            return
        try:
            quiet_since = time.monotonic()
            while self._read():
                now = time.monotonic()
                if self._calls:
                    quiet_since = now
                elif now - quiet_since > _LINGER_S:
                    break
        finally:
            self._end_reading()
        self._find_reader()

    def _read(self) -> bool:
        """Takes what is there, waiting for it a moment. False at the end of the lane. With `_reading` held."""
        found: Sequence[frames.Frame] = ()
        try:
            reader = self._lane.hold()
            try:
                found = reader.read_all()
            finally:
                self._lane.let_go()
        except BlockingIOError:  # the moment is over
            pass
        except (EOFError, OSError):
            self._end()
            return False
        # (None: it was too late, and its sender has been told.)
        answered = [(call, frame) for frame in found if (call := self._calls.pop(frame.tag, None)) is not None]
        if answered:
            self._owner.calls_answered(answered)
        now = time.monotonic()
        if now - self._looked_at >= TICK_S:
            self._looked_at = now
            late = [tag for tag, call in list(self._calls.items()) if call.deadline <= now]
            if late:
                self._owner.calls_timed_out(self._taken(late))
        return True

    def _end(self) -> None:
        self._is_over = True
        self._owner.calls_lost(self._taken(list(self._calls)))

    def _not_sent(self, found: Sequence[frames.Frame], failure: OSError) -> None:
        calls = self._taken([frame.tag for frame in found])
        if isinstance(failure, TimeoutError):
            self._lane.end()  # a part of a frame may be in it
            self._owner.calls_timed_out(calls)
        elif frames.is_one_write(sum(len(frame.body) for frame in found)):
            # Small requests are one write: when that fails, the child has read nothing of them.
            self._owner.calls_unsent(calls)
        else:
            self._owner.calls_lost(calls)

    def _taken(self, tags: Sequence[int]) -> list[Call]:
        """Those calls that nobody else has taken out meanwhile."""
        return [call for tag in tags if (call := self._calls.pop(tag, None)) is not None]


def _set_read_timeout(connection: socket.socket, seconds: float) -> None:
    if sys.platform == "win32":
        value = struct.pack("L", int(seconds * 1000))
    else:
        value = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
