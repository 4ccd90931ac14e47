"""The threads of a model's process, over a real lane: who answers what, and when the answers are sent."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verta_local.serving import frames
from verta_local.serving.answering import Reply
from verta_local.serving.turns import Turns

_THREADS = 8


@contextmanager
def _served(answer: Callable[[bytes], bytes], threads: int = _THREADS) -> Iterator[socket.socket]:
    """The supervisor's end of a lane whose requests are answered; the thread "main" stands for the main thread."""
    ours, theirs = socket.socketpair()
    turns = Turns(lambda frame: Reply(200, answer(frame.body)), theirs, threads)
    main = threading.Thread(target=turns.run, name="main", daemon=True)
    main.start()
    try:
        ours.settimeout(15)
        yield ours
    finally:
        ours.close()
        main.join(10)
        theirs.close()
    assert not main.is_alive()


def _send(lane: socket.socket, *bodies: bytes) -> None:
    frames.send_frames(lane, [frames.Frame(tag, 1, b"", b"", body) for tag, body in enumerate(bodies)])


def _answers(lane: socket.socket, count: int) -> dict[int, bytes]:
    reader = frames.FrameReader(lane)
    found: dict[int, bytes] = {}
    while len(found) < count:
        found.update((frame.tag, frame.body) for frame in reader.read_all())
    return found


def _thread_name_after(body: bytes) -> bytes:
    time.sleep(float(body))
    return threading.current_thread().name.encode()


def test_requests_one_by_one_see_only_the_main_thread_however_long_they_take() -> None:
    with _served(_thread_name_after) as lane:
        for seconds in (0, 0.05, 0.3, 0, 0.02, 0.02):
            _send(lane, str(seconds).encode())
            assert _answers(lane, 1) == {0: b"main"}


def test_requests_one_by_one_see_the_main_thread_again_after_others_overlapped() -> None:
    with _served(_thread_name_after) as lane:
        _send(lane, *[b"0.05"] * _THREADS)
        assert len(set(_answers(lane, _THREADS).values())) == _THREADS
        for _ in range(3):
            _send(lane, b"0.03")
            assert _answers(lane, 1) == {0: b"main"}
        time.sleep(0.6)  # the main thread reads again
        _send(lane, b"0.03")
        assert _answers(lane, 1) == {0: b"main"}


def test_requests_that_wait_are_answered_beside_each_other() -> None:
    with _served(_thread_name_after) as lane:
        begin = time.monotonic()
        _send(lane, *[b"0.5"] * _THREADS)
        _answers(lane, _THREADS)
        assert time.monotonic() - begin < 0.5 * 3


def test_many_quick_requests_stay_in_the_main_thread() -> None:
    """Another one would cost more than it brings; it is tried when the main thread seems to be stuck."""
    with _served(lambda body: threading.current_thread().name.encode()) as lane:
        names = []
        for _ in range(300):
            _send(lane, *[b""] * _THREADS)
            names += _answers(lane, _THREADS).values()
        assert names.count(b"main") > len(names) * 0.7


def test_an_answer_is_not_kept_back_by_a_long_request_that_came_with_it() -> None:
    with _served(_thread_name_after) as lane:
        begin = time.monotonic()
        _send(lane, b"0", b"2", b"0")
        assert set(_answers(lane, 2)) == {0, 2}
        assert time.monotonic() - begin < 1


def test_what_waits_behind_a_long_request_is_answered_by_the_threads_that_there_are() -> None:
    with _served(_thread_name_after, threads=3) as lane:
        begin = time.monotonic()
        _send(lane, b"1.5", *[b"0.02"] * 19)
        names = _answers(lane, 19)
        assert time.monotonic() - begin < 1.2
        assert 0 not in names
        assert set(names.values()) <= {b"predict-1", b"predict-2"}
        assert _answers(lane, 1) == {0: b"main"}


def test_one_thread_is_one_thread() -> None:
    at_work, most = 0, 0

    def answer(body: bytes) -> bytes:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        time.sleep(0.02)
        at_work -= 1
        return body

    with _served(answer, threads=1) as lane:
        _send(lane, *[b"x"] * 10)
        assert len(_answers(lane, 10)) == 10
    assert most == 1


@pytest.mark.parametrize("seed", range(4))
def test_every_request_gets_its_own_answer(seed: int) -> None:
    """Of any length and any size, and when more come than there are threads."""
    chance = random.Random(seed)
    bodies = [f"{number} ".encode() + b"x" * chance.choice((0, 10, 5_000, 70_000, 300_000)) for number in range(300)]

    def answer(body: bytes) -> bytes:
        time.sleep(random.choice((0, 0, 0, 0.0005, 0.01)))
        return body[::-1]

    with _served(answer) as lane:
        found: dict[int, bytes] = {}
        places = threading.Semaphore(20)

        def read() -> None:
            reader = frames.FrameReader(lane)
            while len(found) < len(bodies):
                for frame in reader.read_all():
                    found[frame.tag] = frame.body
                    places.release()

        reading = threading.Thread(target=read)
        reading.start()
        for tag, body in enumerate(bodies):
            assert places.acquire(timeout=15)
            frames.send_frame(lane, 1, body, tag=tag)
        reading.join(15)
    assert found == {tag: body[::-1] for tag, body in enumerate(bodies)}


_FRAMES = st.lists(
    st.builds(
        frames.Frame,
        tag=st.integers(0, 2**32 - 1),
        code=st.integers(0, 2**16 - 1),
        head=st.binary(max_size=50),
        meta=st.binary(max_size=50),
        body=st.one_of(st.binary(max_size=200), st.integers(60_000, 150_000).map(bytes)),
    ),
    max_size=6,
)


@given(sent=_FRAMES, cuts=st.lists(st.integers(0, 600_000), max_size=8))
def test_frames_come_out_as_they_went_in_wherever_the_bytes_are_cut(sent: list[frames.Frame], cuts: list[int]) -> None:
    class Pieces:
        """A lane that gives the bytes in these pieces."""

        def __init__(self, data: bytes) -> None:
            ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)} | set(range(0, len(data), 65_536)))
            self._pieces = [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if end > start]

        def recv(self, size: int) -> bytes:
            if not self._pieces:
                return b""
            piece = self._pieces.pop(0)
            if len(piece) > size:
                self._pieces.insert(0, piece[size:])
            return piece[:size]

        def recv_into(self, view: memoryview) -> int:
            piece = self.recv(len(view))
            view[: len(piece)] = piece
            return len(piece)

    class Sink:
        data = b""

        def sendall(self, data: bytes) -> None:
            self.data += data

    sink = Sink()
    frames.send_frames(sink, sent)  # type: ignore[arg-type]
    reader = frames.FrameReader(Pieces(sink.data))  # type: ignore[arg-type]
    found: list[frames.Frame] = []
    while len(found) < len(sent):
        found += reader.read_all()
    assert found == sent
    with pytest.raises(EOFError):
        reader.read_all()
