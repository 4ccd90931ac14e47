"""A route with a model behind it: who may ask, which version answers a request, and what waits for it.

The queue is bounded and a request waits no longer than it is worth: while the model loads for half a minute, else for
as long as one prediction may take. A request that a dead process never read goes to the next one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verta_local.serving import frames
from verta_local.serving.launch import Launcher
from verta_local.serving.process import ChildGone, ChildProcess, PredictTimeout, Program
from verta_local.serving.rollout import Rollout
from verta_local.serving.version import DEPLOYED, DEPLOYING, ERROR, STOPPED, Version
from verta_local.tracebacks import without_folders

__all__ = ["DEPLOYED", "DEPLOYING", "ERROR", "STOPPED", "Answer", "Endpoint"]

LOAD_WAIT_S = 30.0  # how long a request waits for a model that loads, before it is told to come again
_OK = 200


@dataclass(frozen=True)
class Answer:
    """An HTTP status with a body, or a message; after how many seconds to try again (0: no such hint).

    `meta` is what the model's process says beside the body, `run_id` is whose model answered ("" for none), `waited_s`
    how long the request waited for a lane.
    """

    status: int
    body: bytes = b""
    message: str = ""
    retry_after_s: int = 0
    meta: bytes = b""
    run_id: str = ""
    waited_s: float = 0.0


class Endpoint(Rollout):
    """A route with a model behind it. All methods may be called from any thread."""

    def __init__(self, route: str, program: Program, token: str | None, log_folder: Path, launcher: Launcher) -> None:
        super().__init__(route, program, log_folder, launcher)
        self.token = token
        self._old_token: tuple[str, float] | None = None  # still good until that time

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
        """Passes one request to the model and gives its answer, or one that says why there is none."""
        head = request_id.encode("ascii")
        is_canary = self._canary is not None and self._is_for_canary()
        answer = self._try_once(is_canary, code, head, body, meta)
        if answer is None:
            answer = self._try_once(is_canary, code, head, body, meta)
        return answer or Answer(502, message="the model's process ends again and again: its log says more")

    def _try_once(self, is_canary: bool, code: int, head: bytes, body: bytes, meta: bytes) -> Answer | None:
        """One child's answer; None when that child was dead before it read anything of the request."""
        taken = self._take_lane(is_canary)
        if isinstance(taken, Answer):
            return taken
        version, child, lane, waited_s = taken
        run_id = child.program.identity[1]
        try:
            frame = child.exchange(lane, code, body, head, meta)
        except PredictTimeout:
            version.request_timed_out(child)
            limit_s = child.program.predict_timeout_s
            text = f"the model did not answer within {limit_s:g} s; its process is being replaced"
            return Answer(502, message=text, run_id=run_id)
        except ChildGone as gone:
            how = version.request_gone(child)
            return Answer(502, message=f"the model's process {how}", run_id=run_id) if gone.was_sent else None
        if frame.code != _OK:
            child.log.mark_answered()  # the traceback that the model left there is this answer's, not its last words
        with self._lock:
            version.give_back(child, lane)
        return Answer(frame.code, frame.body, meta=frame.meta, run_id=run_id, waited_s=waited_s)

    def _is_for_canary(self) -> bool:
        """Spreads the canary's share evenly: of ten requests at 10 %, exactly one."""
        with self._lock:
            if self._canary is None:
                return False
            self._canary_debt += self._canary_share
            if self._canary_debt < 1.0 - 1e-9:
                return False
            self._canary_debt -= 1.0
            return True

    def _take_lane(self, is_canary: bool) -> tuple[Version, ChildProcess, int, float] | Answer:
        with self._lock:
            version = self._version_for(is_canary)
            taken = version.take_lane() if version is not None else None
            if version is not None and taken is not None:
                return version, *taken, 0.0
            if version is not None and version.waiting >= version.program.queue_limit:
                return Answer(
                    503,
                    message=f"{version.waiting} requests are waiting for this model: try again",
                    retry_after_s=1,
                    run_id=version.program.identity[1],
                )
            return self._wait_for_lane(is_canary)

    def _wait_for_lane(self, is_canary: bool) -> tuple[Version, ChildProcess, int, float] | Answer:
        start = time.monotonic()
        while True:
            version = self._version_for(is_canary)
            if self._is_stopped or version is None:
                return Answer(410, message=f"{self._stop_message}: run.deploy() serves it again")
            run_id = version.program.identity[1]
            if version.state == ERROR and self._next is None:
                return Answer(502, message=without_folders(version.message), run_id=run_id)
            taken = version.take_lane()
            if taken is not None:
                return version, *taken, time.monotonic() - start
            limit_s = LOAD_WAIT_S if version.is_loading else version.program.predict_timeout_s
            left_s = start + limit_s - time.monotonic()
            if left_s <= 0:
                why = "the model is still loading" if version.is_loading else "the model is busy"
                return Answer(503, message=f"{why}: try again", retry_after_s=2, run_id=run_id)
            version.waiting += 1
            try:
                version.lane_free.wait(left_s)
            finally:
                version.waiting -= 1

    def _version_for(self, is_canary: bool) -> Version | None:
        return self._canary if is_canary and self._canary is not None else self._current


def gzip_flag(content_encoding: str) -> int | None:
    """The frame flag of a Content-Encoding header; None when that encoding is not known."""
    name = content_encoding.strip().lower()
    if name in ("", "identity"):
        return 0
    return frames.GZIP if name in ("gzip", "x-gzip") else None
