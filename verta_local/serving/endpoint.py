"""A route with a model behind it: who may ask, which version answers a request, and what waits for it.

The queue is bounded and a request waits no longer than it is worth: while the model loads for half a minute, else for
as long as one prediction may take. A request that a dead process never read goes to the next one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from verta_local.serving import frames
from verta_local.serving.calls import Answer, AwaitedCall, Call
from verta_local.serving.launch import Launcher
from verta_local.serving.process import ChildProcess, Program
from verta_local.serving.rollout import Rollout
from verta_local.serving.version import DEPLOYED, DEPLOYING, ERROR, STOPPED, Version
from verta_local.tracebacks import without_folders

__all__ = ["DEPLOYED", "DEPLOYING", "ERROR", "STOPPED", "Endpoint"]

LOAD_WAIT_S = 30.0  # how long a request waits for a model that loads, before it is told to come again
_LOOK_EVERY_S = 1.0  # of one who waits, whether somebody reads
_WATCH_EVERY_S = 0.1  # how late a request is told that it waited too long


class Endpoint(Rollout):
    """A route with a model behind it. All methods may be called from any thread."""

    def __init__(self, route: str, program: Program, token: str | None, log_folder: Path, launcher: Launcher) -> None:
        super().__init__(route, program, log_folder, launcher)
        self.token = token
        self._old_token: tuple[str, float] | None = None  # still good until that time
        self._is_watching = False

    def status(self) -> dict[str, Any]:
        """The state as the admin API shows it (to the owner only: token and full traceback are in it)."""
        return {**super().status(), "token": self.token}

    # ---- who may ask ----

    def change_token(self, token: str, grace_s: float = 0.0) -> None:
        """Another token; the present one is taken as well for `grace_s`, so that callers can change theirs."""
        old = self.token
        self._old_token = (
            (old, time.monotonic() + grace_s) if old is not None and grace_s > 0 and old != token else None
        )
        self.token = token

    @property
    def tokens(self) -> tuple[str, ...]:
        """Those that open it now; none: it is open to everybody on this machine."""
        if self.token is None:
            return ()
        old = self._old_token
        return (self.token,) if old is None or time.monotonic() > old[1] else (self.token, old[0])

    @property
    def wants_headers(self) -> bool:
        """Whether a model here takes the headers of its requests."""
        return any(version.wants_headers for version in (self._current, self._canary) if version is not None)

    # ---- answering ----

    def predict(self, code: int, request_id: str, body: bytes, meta: bytes = b"") -> Answer:
        """Passes one request to the model and waits for its answer, or for one that says why there is none."""
        call = AwaitedCall(code, request_id.encode("ascii"), body, meta, is_canary=self._is_for_canary())
        self.dispatch(call, by_sender=True)
        while True:
            if call.stream is not None and call.answer is None:
                call.stream.read_for(call)
            if call.answer is not None:
                return call.answer
            call.wait(_LOOK_EVERY_S)

    def begin(self, code: int, request_id: str, body: bytes, meta: bytes, tell: Callable[[Answer], None]) -> None:
        """As `predict`, and returns at once: `tell` gets the answer, in any thread."""
        self.dispatch(Call(code, request_id.encode("ascii"), body, meta, tell, is_canary=self._is_for_canary()))

    def dispatch(self, call: Call, *, is_known: bool = False, by_sender: bool = False) -> None:
        """Sends a call to the version that is to answer it, or has it wait; `by_sender` as of `Stream.send`."""
        with self._lock:
            place = self._place(call, is_known)
        if isinstance(place, Answer):
            call.finish(place)
        elif place is not None:
            place.stream.send((call,), by_sender=by_sender)

    def _is_for_canary(self) -> bool:
        """Spreads the canary's share evenly: of ten requests at 10 %, exactly one."""
        if self._canary is None:
            return False
        with self._lock:
            if self._canary is None:
                return False
            self._canary_debt += self._canary_share
            if self._canary_debt < 1.0 - 1e-9:
                return False
            self._canary_debt -= 1.0
            return True

    def _place(self, call: Call, is_known: bool) -> ChildProcess | Answer | None:
        """Where a call is to be sent, or why nowhere; None: it waits. With the lock held."""
        version = self._version_for(call.is_canary)
        child = version.take() if version is not None else None
        if child is not None:
            if is_known:
                call.waited_s = time.monotonic() - call.begun_at
            return child
        if self._is_stopped or version is None:
            return Answer(410, message=f"{self._stop_message}: run.deploy() serves it again")
        if version.state == ERROR and self._next is None:
            return Answer(502, message=without_folders(version.message), run_id=version.run_id)
        if not is_known and len(version.queue) >= version.program.queue_limit:
            text = f"{len(version.queue)} requests are waiting for this model: try again"
            return Answer(503, message=text, retry_after_s=1, run_id=version.run_id)
        if time.monotonic() - call.begun_at >= self._wait_limit_s(version):
            return self._too_late(version)
        version.queue.append(call)
        if not self._is_watching:
            self._is_watching = True
            threading.Thread(target=self._watch_waiting, name="waiting", daemon=True).start()
        return None

    def _watch_waiting(self) -> None:
        """Answers those that have waited for longer than they are worth; ends when none waits."""
        while True:
            time.sleep(_WATCH_EVERY_S)
            late: list[tuple[Call, Answer]] = []
            with self._lock:
                versions = self.versions()
                for version in versions:
                    begun_before = time.monotonic() - self._wait_limit_s(version)
                    while version.queue and version.queue[0].begun_at <= begun_before:
                        late.append((version.queue.popleft(), self._too_late(version)))
                self._is_watching = any(version.queue for version in versions)
                is_over = not self._is_watching
            for call, answer in late:
                call.finish(answer)
            if is_over:
                return

    def _wait_limit_s(self, version: Version) -> float:
        return LOAD_WAIT_S if version.is_loading else version.program.predict_timeout_s

    def _too_late(self, version: Version) -> Answer:
        why = "the model is still loading" if version.is_loading else "the model is busy"
        return Answer(503, message=f"{why}: try again", retry_after_s=2, run_id=version.run_id)

    def _version_for(self, is_canary: bool) -> Version | None:
        return self._canary if is_canary and self._canary is not None else self._current


def gzip_flag(content_encoding: str) -> int | None:
    """The frame flag of a Content-Encoding header; None when that encoding is not known."""
    name = content_encoding.strip().lower()
    if name in ("", "identity"):
        return 0
    return frames.GZIP if name in ("gzip", "x-gzip") else None
