"""Threads that take turns at requests: few while requests are short, as many as needed when they wait for a model.

With a thread for each of 64 waiting requests, most of the time goes into handing Python's lock around (164 against
90 microseconds of processor time a request). So only a few of the threads that bring requests work on them, one
request after another from one queue; only when the queue does not move for a moment, because all of them wait, others
join them, and leave again when it moves.
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


class Turns:
    """Runs `work(item)` for everything that is given to `add`, oldest first, at most `limit` at a time."""

    def __init__(self, work: Callable[[Any], None], limit: int) -> None:
        self._work = work
        self._limit = limit
        self._allowed = _FEWEST
        self._lock = threading.Lock()
        self._queue: deque[Any] = deque()
        self._running = 0
        self._begun = 0  # items that were taken from the queue, ever
        self._is_watched = False

    def add(self, item: Any) -> None:
        """Works on the item, and on others that wait, in the calling thread; or leaves it to those that do already."""
        with self._lock:
            if self._running >= self._allowed:
                self._queue.append(item)
                if not self._is_watched:
                    self._is_watched = True
                    threading.Thread(target=self._watch, name="turns", daemon=True).start()
                return
            self._running += 1
        self._run(item)

    def _run(self, item: Any) -> None:
        while True:
            try:
                self._work(item)
            except Exception:
                logging.getLogger(__name__).exception("an answer could not be written")
            with self._lock:
                if not self._queue or self._running > self._allowed:
                    self._running -= 1
                    return
                item = self._next()

    def _next(self) -> Any:
        """With the lock held."""
        self._begun += 1
        return self._queue.popleft()

    def _watch(self) -> None:
        """Lets more threads work while the queue stands still, and fewer once it moves; ends when it is calm."""
        pause = threading.Event()
        calm_s, begun = 0.0, -1
        while True:
            pause.wait(_STUCK_S)
            with self._lock:
                is_stuck = bool(self._queue) and self._begun == begun
                begun = self._begun
                if is_stuck:
                    self._allowed += min(len(self._queue), self._allowed, self._limit - self._allowed)
                elif self._allowed > _FEWEST and self._running < self._allowed:
                    self._allowed -= 1
                for _ in range(min(len(self._queue), self._allowed - self._running)):
                    self._running += 1
                    threading.Thread(target=self._run, args=(self._next(),), name="request", daemon=True).start()
                calm_s = 0.0 if self._queue else calm_s + _STUCK_S
                if calm_s >= _CALM_S and self._allowed == _FEWEST:
                    self._is_watched = False
                    return
