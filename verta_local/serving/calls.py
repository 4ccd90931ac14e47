"""One prediction on its way through the supervisor, and its answer."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from verta_local.serving.stream import Stream


@dataclass(frozen=True)
class Answer:
    """An HTTP status with a body, or a message; after how many seconds to try again (0: no such hint).

    `meta` is what the model's process says beside the body, `run_id` is whose model answered ("" for none), `waited_s`
    how long the request waited for a free thread of the model.
    """

    status: int
    body: bytes = b""
    message: str = ""
    retry_after_s: int = 0
    meta: bytes = b""
    run_id: str = ""
    waited_s: float = 0.0


class Call:
    """A request for a model's process; `tell` is called with its answer, once, in whichever thread has it."""

    def __init__(
        self,
        code: int,
        head: bytes,
        body: bytes,
        meta: bytes,
        tell: Callable[[Answer], None],
        *,
        is_canary: bool = False,
    ) -> None:
        self.code = code
        self.head = head
        self.body = body
        self.meta = meta
        self._tell = tell
        self.is_canary = is_canary
        self.begun_at = time.monotonic()
        self.waited_s = 0.0
        self.tries = 0
        self.stream: Stream | None = None  # where it was sent
        self.deadline = 0.0  # of the model's answer, from then on

    def finish(self, answer: Answer) -> None:
        """Tells the answer; a fault of whoever is told must not be one of those that come after it."""
        try:
            self._tell(answer)
        except Exception:
            logging.getLogger(__name__).exception("an answer could not be written")


class AwaitedCall(Call):
    """A call whose sender waits for the answer, and reads from the model's process while nobody else does."""

    def __init__(self, code: int, head: bytes, body: bytes, meta: bytes, *, is_canary: bool = False) -> None:
        super().__init__(code, head, body, meta, self._take, is_canary=is_canary)
        self.answer: Answer | None = None
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()

    def wake(self) -> None:
        """Has the sender look whether it was sent, and whether somebody reads."""
        self._woken.put(None)

    def wait(self, timeout_s: float) -> None:
        """Returns when it was answered or woken, or at the end of the time."""
        try:
            self._woken.get(timeout=timeout_s)
        except queue.Empty:
            pass

    def _take(self, answer: Answer) -> None:
        self.answer = answer
        self._woken.put(None)
