"""Who answers what, in the model's process: one thread as long as that is fastest, as many as allowed when it is not.

Handing a request to another thread costs more than most small models take. So the main thread, which made the model,
reads the lane and answers, one request after another, and sends the answers of all that it found there in one piece.
A second thread looks at it 200 times a second while requests come. When others wait, and the main thread stays with
one or the model's answers usually take so long that another thread is worth its while, that one reads in its place
and hands requests to whoever is idle: to the main thread first, so that a model which is bound to its thread (SQLite
connections, event loops, thread-local sessions) sees no other as long as requests come one by one.
"""

from __future__ import annotations

import queue
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from verta_local.serving import frames
from verta_local.serving.answering import Reply

_LOOK_EVERY_S = 0.005
_CALM_S = 0.25
_WORTH_A_THREAD_S = 0.0002  # a request that takes so long is worth handing over
_LONGEST_COUNTED_S = 16 * _WORTH_A_THREAD_S  # one request that was interrupted does not make a model a slow one
_TRY_AGAIN_S = 0.5
_JOINED_ANSWERS_S = 0.001  # an answer that took longer is not kept back for others
_JOINED_ANSWERS_BYTES = 64 * 1024
_FORGETTING = 1 / 16  # what the last request counts in the usual time


class Turns:
    """Answers the requests of one lane by `answer(frame)`, in at most `threads` threads."""

    def __init__(self, answer: Callable[[frames.Frame], Reply], lane: socket.socket, threads: int) -> None:
        self._answer = answer
        self._lane = lane
        self._reader = frames.FrameReader(lane)
        self._threads = threads
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._found: deque[frames.Frame] = deque()  # requests that nobody has begun with
        self._kept: list[frames.Frame] = []  # answers
        self._begun = 0
        self._usual_s = 0.0
        self._is_busy = False
        # While the second thread reads.
        self._is_relieved = False
        self._for_main: queue.SimpleQueue[frames.Frame | None] = queue.SimpleQueue()
        self._for_others: queue.SimpleQueue[frames.Frame | None] = queue.SimpleQueue()
        self._others = 0
        self._others_busy = 0
        self._is_over = False
        self._is_awake = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._selector.register(lane, selectors.EVENT_READ)
        if threads > 1:
            threading.Thread(target=self._watch, name="predict-reader", daemon=True).start()

    def run(self) -> None:
        """Answers until the supervisor closes the lane; for the main thread."""
        request: frames.Frame | None = None
        while not self._is_over:
            if request is None:
                request = self._first()
            if request is not None:
                request = self._work(request, is_main=True)
        self._for_others.put(None)

    # ---- the main thread ----

    def _first(self) -> frames.Frame | None:
        """The next request, for the main thread, which is idle; None at the end."""
        while True:
            with self._lock:
                is_relieved = self._is_relieved
                if not is_relieved and self._found:
                    return self._begun_with(self._found.popleft())
            if is_relieved:
                handed = self._for_main.get()
                if handed is None:  # look again
                    if self._is_over:
                        return None
                    continue
                with self._lock:
                    return self._begun_with(handed)
            try:
                found = self._reader.read_all()
            except (EOFError, OSError):
                self._is_over = True
                return None
            with self._lock:
                self._found.extend(found)

    def _begun_with(self, request: frames.Frame) -> frames.Frame:
        """With the lock held."""
        self._begun += 1
        self._is_busy = True
        if not self._is_awake.is_set():
            self._is_awake.set()
        return request

    def _work(self, request: frames.Frame, *, is_main: bool = False) -> frames.Frame | None:
        """Answers a request; gives back the one that the same thread is to answer next, if one waits."""
        begin = time.perf_counter()
        reply = self._answer(request)
        took = time.perf_counter() - begin
        with self._lock:
            is_relieved = self._is_relieved
            if not is_relieved:  # else it was slower for the other threads
                self._usual_s += (min(took, _LONGEST_COUNTED_S) - self._usual_s) * _FORGETTING
            is_quick = self._usual_s <= _WORTH_A_THREAD_S and not is_relieved
            answer = frames.Frame(request.tag, reply.status, frames.QUICK if is_quick else b"", reply.meta, reply.body)
            following = None
            # What a thread gets next, or that it is idle, is settled before anybody can read the answer and ask again.
            if is_main:
                if self._found:
                    following = self._begun_with(self._found.popleft())
                else:
                    self._is_busy = False
            elif self._found and is_relieved:
                following = self._found.popleft()
            else:
                self._others_busy -= 1
            if (
                following is not None
                and not is_relieved
                and took < _JOINED_ANSWERS_S
                and len(reply.body) < _JOINED_ANSWERS_BYTES
            ):
                self._kept.append(answer)
                return following
            answers = [*self._kept, answer]
            self._kept.clear()
        self._send(answers)
        return following

    def _send(self, answers: list[frames.Frame]) -> None:
        with self._sending:
            try:
                frames.send_frames(self._lane, answers)
            except OSError:
                self._is_over = True

    # ---- the second thread ----

    def _watch(self) -> None:
        """Relieves the main thread when it is worth it; sleeps while no requests come."""
        pause = threading.Event()
        begun, calm_s = -1, 0.0
        while not self._is_over:
            if calm_s >= _CALM_S:
                self._is_awake.clear()
                if self._begun == begun:
                    self._is_awake.wait()
                calm_s = 0.0
            pause.wait(_LOOK_EVERY_S)
            left: list[frames.Frame] | None = None
            with self._lock:
                is_slow = self._is_busy and (self._begun == begun or self._usual_s > _WORTH_A_THREAD_S)
                calm_s = 0.0 if self._is_busy or self._begun != begun else calm_s + _LOOK_EVERY_S
                begun = self._begun
                if is_slow and (self._found or self._kept or self._selector.select(0)):
                    self._is_relieved = True
                    left = list(self._found)
                    self._found.clear()
                    kept = list(self._kept)
                    self._kept.clear()
            if left is not None:
                self._send(kept)
                self._read_on(left)

    def _read_on(self, requests: list[frames.Frame]) -> None:
        """Reads in place of the main thread, until that is idle and threads are not worth it, or it is time to see."""
        until = time.monotonic() + _TRY_AGAIN_S
        while True:
            for request in requests:
                self._hand_over(request)
            try:
                requests = self._reader.read_all() if self._selector.select(_CALM_S) else []
            except (EOFError, OSError):
                self._is_over = True
                self._for_main.put(None)
                return
            with self._lock:
                is_enough = not requests or self._usual_s <= _WORTH_A_THREAD_S or time.monotonic() > until
                if is_enough and not self._is_busy:
                    self._found.extend(requests)
                    self._is_relieved = False
                    break
        self._for_main.put(None)

    def _hand_over(self, request: frames.Frame) -> None:
        with self._lock:
            if not self._is_busy:
                self._is_busy = True
                target = self._for_main
            elif self._others_busy < self._threads - 1:
                target = self._for_others
                self._others_busy += 1
                if self._others_busy > self._others:
                    self._others += 1
                    threading.Thread(target=self._help, name=f"predict-{self._others}", daemon=True).start()
            else:
                self._found.append(request)  # whoever is idle first takes it
                return
        target.put(request)

    # ---- further threads ----

    def _help(self) -> None:
        while (handed := self._for_others.get()) is not None:
            request: frames.Frame | None = handed
            while request is not None:
                request = self._work(request)
        self._for_others.put(None)
