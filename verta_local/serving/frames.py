"""Length-prefixed frames between the supervisor and a model's process, and the lanes that carry them.

A frame is `tag, code, head length, meta length, body length` in network order, then head, meta and body. To the child
the code is what to do, from the child it is the HTTP status. Many requests are under way on one lane, and an answer
has the tag of its request: whoever reads takes all that has come with one system call.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

PREDICT = 1
BATCH_PREDICT = 2
INFER = 3
INVOCATIONS = 4
GZIP = 0x100  # added to one of the above: the body is gzipped

QUICK = b"q"  # the head of an answer by a model that is mostly done in less time than a thread costs

LOAD = 10  # control lane, to the child: the body is the JSON of what to load
EXIT = 11  # control lane, to the child: end in an orderly way
READY = 20  # control lane, from the child: the body is JSON, see `child`
FAILED = 21  # control lane, from the child: the body is JSON {"message", "traceback"[, "environment"]}

PASSED = "fd"  # the first argument of a child that has its lanes as descriptors

CONTROL_LANE, LIFELINE, WORK_LANE = range(3)
LANES = 3

_HEADER = struct.Struct("!IHHIQ")
_READ_BYTES = 64 * 1024
_JOIN_BELOW_BYTES = 64 * 1024  # a copy of less than this is cheaper than a second system call
_KEY_BYTES = 32
_CONNECT_TIMEOUT_S = 20.0  # a fresh interpreter on a busy machine; it only bounds a child that never starts


class Frame(NamedTuple):  # and no dataclass: two are made for every request
    """One message: its `tag`, `code` (see above), `head` (the request id), `meta` (JSON, mostly empty), `body`.

    A request's meta may have "headers", "content_type", "json_bytes" and "model"; an answer's "headers", "noted".
    """

    tag: int
    code: int
    head: bytes
    meta: bytes
    body: bytes


def send_frame(
    lane: socket.socket, code: int, body: bytes = b"", head: bytes = b"", meta: bytes = b"", tag: int = 0
) -> None:
    """Writes one frame. Raises: OSError when the other side is gone, TimeoutError when it does not read."""
    send_frames(lane, (Frame(tag, code, head, meta, body),))


def send_frames(lane: socket.socket, frames: Iterable[Frame]) -> None:
    """Writes frames one after another. Raises: as `send_frame`."""
    for piece in pieces_of(frames):
        lane.sendall(piece)


def pieces_of(frames: Iterable[Frame]) -> Iterator[bytes]:
    """The bytes of frames, small ones joined to one piece."""
    pieces: list[bytes] = []
    for tag, code, head, meta, body in frames:
        pieces += (_HEADER.pack(tag, code, len(head), len(meta), len(body)), head, meta)
        if is_one_write(len(body)):
            pieces.append(body)
        else:
            yield b"".join(pieces)
            yield body
            pieces.clear()
    if pieces:
        yield b"".join(pieces)


def is_one_write(size_bytes: int) -> bool:
    """Whether frames whose bodies have that size together are handed to the system in one piece."""
    return size_bytes < _JOIN_BELOW_BYTES


class FrameReader:
    """Reads frames from one lane; one read(2) for as many small frames as are there. For one thread at a time.

    A read that ends by a time-out loses nothing: the next one goes on where it was.
    """

    def __init__(self, lane: socket.socket) -> None:
        self._lane = lane
        self._rest = b""  # of the next frame
        self._large = bytearray()  # where a frame is gathered that is larger than a read
        self._large_have = 0
        self._next: list[Frame] = []  # that came with the one before

    def read(self) -> Frame:
        """The next frame. Raises: as `read_all`."""
        if not self._next:
            self._next = self.read_all()
        return self._next.pop(0)

    def read_all(self) -> list[Frame]:
        """All frames that are there, at least one.

        Raises: EOFError when the other side closed, OSError and TimeoutError as of sockets.
        """
        while True:
            data: bytes | memoryview
            if self._large:
                self._fill_large()
                data = memoryview(self._large)
                self._large, self._large_have = bytearray(), 0
            else:
                data = self._lane.recv(_READ_BYTES)
                if not data:
                    raise EOFError("the other side closed the lane")
                if self._rest:
                    data = self._rest + data
            frames = self._whole_frames(data)
            if frames:
                return frames

    def _whole_frames(self, data: bytes | memoryview) -> list[Frame]:
        frames = []
        place, end = 0, len(data)
        while end - place >= _HEADER.size:
            tag, code, head_length, meta_length, body_length = _HEADER.unpack_from(data, place)
            head_at = place + _HEADER.size
            meta_at = head_at + head_length
            body_at = meta_at + meta_length
            after = body_at + body_length
            if after > end:
                if after - place > _READ_BYTES:
                    self._large = bytearray(after - place)
                    self._large_have = end - place
                    self._large[: self._large_have] = data[place:]
                    place = end
                break
            head, meta, body = bytes(data[head_at:meta_at]), bytes(data[meta_at:body_at]), bytes(data[body_at:after])
            frames.append(Frame(tag, code, head, meta, body))
            place = after
        self._rest = bytes(data[place:])
        return frames

    def _fill_large(self) -> None:
        view = memoryview(self._large)
        while self._large_have < len(view):
            count = self._lane.recv_into(view[self._large_have :])
            if count == 0:
                raise EOFError("the other side closed the lane")
            self._large_have += count


@dataclass
class LaneEnds:
    """The supervisor's ends of one child's lanes, before the child has started.

    On POSIX both ends exist at once and the child inherits its own; elsewhere the child connects over loopback TCP
    and shows a random key, so that no other program on the machine can take a lane.
    """

    arguments: list[str]
    inherited: tuple[int, ...]
    environment: dict[str, str]
    _own: list[socket.socket]
    _handed: list[socket.socket]
    _listener: socket.socket | None = None
    _key: bytes = b""

    @classmethod
    def open(cls, count: int, over_tcp: bool = sys.platform == "win32") -> LaneEnds:
        """Ends for `count` lanes."""
        if over_tcp:
            listener = socket.create_server(("127.0.0.1", 0), backlog=count)
            key = secrets.token_bytes(_KEY_BYTES)
            port = listener.getsockname()[1]
            # The key goes by the environment: a command line can be read by every user of the machine.
            return cls(["tcp", str(port), str(count)], (), {_KEY_VARIABLE: key.hex()}, [], [], listener, key)
        pairs = [socket.socketpair() for _ in range(count)]
        handed = [child for _, child in pairs]
        numbers = tuple(child.fileno() for child in handed)
        return cls([PASSED, *map(str, numbers)], numbers, {}, [own for own, _ in pairs], handed)

    def connected(self) -> list[socket.socket]:
        """The lanes, once the child was started. Raises: OSError when the child does not come."""
        for handed in self._handed:
            handed.close()
        self._handed = []
        if self._listener is None:
            return self._own
        with self._listener as listener:
            return self._accept_all(listener)

    def close(self) -> None:
        """Gives everything back; for a child that could not be started."""
        for lane in (*self._own, *self._handed, *([self._listener] if self._listener else [])):
            lane.close()

    def _accept_all(self, listener: socket.socket) -> list[socket.socket]:
        count = int(self.arguments[2])
        lanes: dict[int, socket.socket] = {}
        deadline = time.monotonic() + _CONNECT_TIMEOUT_S
        while len(lanes) < count:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                lane, _ = listener.accept()
            except OSError:
                for taken in lanes.values():
                    taken.close()
                raise
            lane.settimeout(2.0)
            greeting = b""
            try:
                while len(greeting) < _KEY_BYTES + 1 and (piece := lane.recv(_KEY_BYTES + 1 - len(greeting))):
                    greeting += piece
            except TimeoutError:
                pass
            number = greeting[-1] if greeting else 0
            if not hmac.compare_digest(greeting[:-1], self._key) or number in lanes or number >= count:
                lane.close()  # some other program found the port
                continue
            lane.settimeout(None)
            lane.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            lanes[number] = lane
        return [lanes[number] for number in range(count)]


_KEY_VARIABLE = "VERTA_LOCAL_LANE_KEY"


def child_lanes(arguments: list[str]) -> list[socket.socket]:
    """In the child: its ends of the lanes, control lane first, from the arguments that `LaneEnds` made."""
    if arguments[0] == PASSED:
        lanes = [socket.socket(fileno=int(number)) for number in arguments[1:]]
        for lane in lanes:
            lane.set_inheritable(False)  # a program that the model starts must not keep a lane open
        return lanes
    port, count = int(arguments[1]), int(arguments[2])
    key = bytes.fromhex(os.environ.pop(_KEY_VARIABLE))
    lanes = []
    for number in range(count):
        lane = socket.create_connection(("127.0.0.1", port), timeout=_CONNECT_TIMEOUT_S)
        lane.sendall(key + bytes([number]))
        lane.settimeout(None)
        lane.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lanes.append(lane)
    return lanes
