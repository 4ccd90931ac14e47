"""Threads that take turns at requests: few while requests are short, as many as needed when they wait for a model.

With a thread for each of 64 waiting requests, most of the time goes into handing Python's lock around (164 against
90 microseconds of processor time a request). So a few threads take request after request from one queue; only when
the queue does not move for a moment, because all of them wait, others join them, and leave again when it moves.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

_FEWEST = 4
_STUCK_S = 0.005
_CALM_S = 0.25
_THREAD_IDLE_S = 20.0


class Turns:
    """Runs `work(item)` for everything that is given to `add`, oldest first, in at most `limit` threads."""

    def __init__(self, work: Callable[[Any], None], limit: int) -> None:
        self._work = work
        self._limit = limit
        self._allowed = _FEWEST
        self._lock = threading.Lock()
        self._queue: deque[Any] = deque()
        self._running = 0
        self._idle: list[threading.Semaphore] = []  # the last one was busy last: its caches are warm
        self._begun = 0  # items that were taken from the queue, ever
        self._is_watched = False
        self._is_closed = False

    def add(self, item: Any) -> None:
        """Has a thread work on the item; returns at once."""
        with self._lock:
            self._queue.append(item)
            if self._running < self._allowed:
                self._run_one_more()
            elif not self._is_watched:
                self._is_watched = True
                threading.Thread(target=self._watch, name="turns", daemon=True).start()

    def close(self) -> None:
        """Lets the idle threads end; what runs ends by itself."""
        with self._lock:
            self._is_closed = True
            for bell in self._idle:
                bell.release()
            self._idle.clear()

    def _run_one_more(self) -> None:
        """With the lock held."""
        self._running += 1
        if self._idle:
            self._idle.pop().release()
        else:
            threading.Thread(target=self._run, name="request", daemon=True).start()

    def _run(self) -> None:
        bell = threading.Semaphore(0)
        while True:
            with self._lock:
                item = None
                if self._queue and self._running <= self._allowed:
                    item = self._queue.popleft()
                    self._begun += 1
                else:
                    self._running -= 1
                    if self._is_closed:
                        return
                    self._idle.append(bell)
            if item is None:
                if bell.acquire(timeout=_THREAD_IDLE_S):
                    if self._is_closed:
                        return
                    continue
                with self._lock:
                    if bell in self._idle:
                        self._idle.remove(bell)
                        return
                bell.acquire()  # it was called in that very moment
                continue
            try:
                self._work(item)
            except Exception:
                logging.getLogger(__name__).exception("an answer could not be written")

    def _watch(self) -> None:
        """Lets more threads run while the queue stands still, and fewer once it moves; ends when it is calm."""
        pause = threading.Event()
        calm_s, begun = 0.0, -1
        while True:
            pause.wait(_STUCK_S)
            with self._lock:
                is_stuck = bool(self._queue) and self._begun == begun
                begun = self._begun
                if is_stuck:
                    more = min(len(self._queue), self._allowed, self._limit - self._allowed)
                    self._allowed += more
                    for _ in range(min(len(self._queue), self._allowed - self._running)):
                        self._run_one_more()
                calm_s = 0.0 if self._queue else calm_s + _STUCK_S
                if self._allowed > _FEWEST and not is_stuck and self._running < self._allowed:
                    self._allowed -= 1
                if calm_s >= _CALM_S and self._allowed == _FEWEST:
                    self._is_watched = False
                    return
