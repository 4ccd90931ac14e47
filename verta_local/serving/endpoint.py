"""One deployed model as the supervisor keeps it: its present child, the one that replaces it, what waits for them.

    start ──> deploying ──ready──> deployed ──child died──> deploying ──ready──> deployed ...
                  └──failed──> error <──five deaths in a minute──┘

A replacement (another program, or the same one after a hang) loads beside the present child, takes over when it is
ready, and the old child is drained: no request is lost.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verta_local.serving import frames
from verta_local.serving.logfile import LogFile
from verta_local.serving.process import ChildGone, ChildProcess, PredictTimeout, Program
from verta_local.tracebacks import without_folders

QUEUE_LIMIT = 128  # requests that wait for a lane, besides those that have one
LOAD_WAIT_S = 30.0  # how long a request waits for a model that loads, before it is told to come again
_DEATHS_LIMIT = 5
_DEATHS_WITHIN_S = 60.0
_RESTART_DELAYS_S = (0.0, 0.1, 0.5, 2.0)  # after the first, second ... death within that time
_STOP_DRAIN_S = 10.0
_OK = 200

DEPLOYING = "deploying"
DEPLOYED = "deployed"
ERROR = "error"
STOPPED = "not deployed"


@dataclass(frozen=True)
class Answer:
    """An HTTP status, a JSON body, and after how many seconds to try again (0: no such hint)."""

    status: int
    body: bytes = b""
    message: str = ""
    retry_after_s: int = 0


class Endpoint:
    """A route with a model behind it. All methods may be called from any thread."""

    def __init__(self, route: str, program: Program, token: str | None, log_folder: Path, work_folder: Path) -> None:
        self.route = route
        self.token = token
        self.program = program
        self.created_at = time.time()
        self.requests: dict[int, int] = {}
        self.restarts = 0
        self.waiting = 0
        self._log_folder = log_folder
        self._log = _log_of(program, log_folder)
        self._work_folder = work_folder
        lock = threading.RLock()
        self._changed = threading.Condition(lock)  # state, children, what is in flight on a retiring child
        self._lane_free = threading.Condition(lock)  # wakes one waiting request; with _changed it would wake all
        self._spawning = False
        self._state = DEPLOYING
        self._message = "the model is loading"
        self._generation = 0
        self._settled_generation = 0
        self._failure: dict[str, Any] | None = None
        self._loaded_program: Program | None = None  # the last one that worked
        self._active: ChildProcess | None = None
        self._starting: ChildProcess | None = None
        self._retiring: set[ChildProcess] = set()
        self._deaths: deque[float] = deque()

    # ---- deploying ----

    def deploy(self, program: Program) -> None:
        """Starts the program, or puts it in place of the present one; nothing when that very program runs."""
        with self._changed:
            fresh = self._generation == 0 or self._state in (ERROR, STOPPED)
            if not fresh and program.same_as(self.program):
                return
            if program.identity != self.program.identity:
                self._log = _log_of(program, self._log_folder)
            self.program = program
            self._generation += 1
            self._failure = None
            if fresh:
                self._deaths.clear()
                self._set_state(DEPLOYING, "the model is loading")
            outdated, self._starting = self._starting, None
            if outdated is not None:
                outdated.retiring = True
        if outdated is not None:
            outdated.kill()
        self._start_child()

    def stop(self, drain_s: float = _STOP_DRAIN_S) -> None:
        """Takes the endpoint down: waiting requests are told so, running ones are answered within `drain_s`."""
        with self._changed:
            self._set_state(STOPPED, "the model was undeployed")
            children = [child for child in (self._active, self._starting) if child is not None]
            for child in children:
                child.retiring = True
            children += list(self._retiring)
            self._active = self._starting = None
        for child in children:
            self._drain(child, drain_s)

    def kill(self) -> None:
        """Ends all children at once, whatever they are doing."""
        with self._changed:
            self._set_state(STOPPED, "the server was stopped")
            children = [child for child in (self._active, self._starting, *self._retiring) if child is not None]
            self._active = self._starting = None
        for child in children:
            child.retiring = True
            child.kill()

    # ---- answering ----

    def predict(self, code: int, request_id: str, body: bytes) -> Answer:
        """Passes one request to the model and gives its answer, or one that says why there is none."""
        head = request_id.encode("ascii")
        answer = self._try_once(code, head, body)
        if answer is None:
            answer = self._try_once(code, head, body)
        return answer or Answer(502, message="the model's process ends again and again: its log says more")

    def _try_once(self, code: int, head: bytes, body: bytes) -> Answer | None:
        """One child's answer; None when that child was dead before it read anything of the request."""
        child_or_answer = self._take_lane()
        if isinstance(child_or_answer, Answer):
            return child_or_answer
        child, lane = child_or_answer
        try:
            frame = child.exchange(lane, code, body, head)
        except PredictTimeout:
            self._on_timeout(child)
            limit_s = child.program.predict_timeout_s
            return Answer(502, message=f"the model did not answer within {limit_s:g} s; its process is being replaced")
        except ChildGone as gone:
            how = self._on_gone(child)
            return Answer(502, message=f"the model's process {how}") if gone.was_sent else None
        if frame.code != _OK:
            child.log.mark_answered()  # the traceback that the model left there is this answer's, not its last words
        with self._changed:
            child.give_back(lane)
            if self.waiting:
                self._lane_free.notify()
            if child.retiring:
                self._changed.notify_all()
        return Answer(frame.code, frame.body)

    def _take_lane(self) -> tuple[ChildProcess, int] | Answer:
        with self._changed:
            child = self._active
            lane = child.take_lane() if child is not None else None
            if child is not None and lane is not None:
                return child, lane
            if self.waiting >= QUEUE_LIMIT:
                return Answer(
                    503, message=f"{self.waiting} requests are waiting for this model: try again", retry_after_s=1
                )
            self.waiting += 1
            try:
                return self._wait_for_lane()
            finally:
                self.waiting -= 1

    def _wait_for_lane(self) -> tuple[ChildProcess, int] | Answer:
        start = time.monotonic()
        while True:
            if self._state == STOPPED:
                return Answer(410, message=f"{self._message}: run.deploy() serves it again")
            if self._state == ERROR:
                return Answer(502, message=without_folders(self._message))
            child = self._active
            lane = child.take_lane() if child is not None else None
            if child is not None and lane is not None:
                return child, lane
            is_loading = child is None or child.is_gone
            limit_s = LOAD_WAIT_S if is_loading else self.program.predict_timeout_s
            left_s = start + limit_s - time.monotonic()
            if left_s <= 0:
                why = "the model is still loading" if is_loading else "the model is busy"
                return Answer(503, message=f"{why}: try again", retry_after_s=2)
            self._lane_free.wait(left_s)

    # ---- looking ----

    def status(self) -> dict[str, Any]:
        """The state as the admin API shows it (to the owner only: token and full traceback are in it)."""
        with self._changed:
            return {
                "status": self._state,
                "message": self._message,
                "token": self.token,
                "route": self.route,
                "run_id": self.program.spec["run_id"],
                "run_name": self.program.spec.get("run_name"),
                "store_id": self.program.spec.get("store_id"),
                "store": self.program.spec.get("store"),
                "generation": self._generation,
                "settled_generation": self._settled_generation,
                "failure": self._failure,
                "restarts": self.restarts,
                "created_at": self.created_at,
                "pid": self._active.pid if self._active is not None else None,
                "log": str(self._log.path),
            }

    def wait_settled(self, generation: int, timeout_s: float) -> None:
        """Waits until that generation is ready or has failed, at most `timeout_s`."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._settled_generation >= generation or self._state in (ERROR, STOPPED), timeout_s
            )

    @property
    def state(self) -> str:
        return self._state

    @property
    def in_flight(self) -> int:
        """Requests that wait or run now."""
        with self._changed:
            children = [self._active, *self._retiring]
            return self.waiting + sum(child.in_flight for child in children if child is not None)

    def cut_log(self) -> None:
        """Keeps the log of the running child within its bounds."""
        self._log.cut_if_large()

    # ---- what children report (from their watching threads) ----

    def child_ready(self, child: ChildProcess) -> None:
        """A child loaded its model: it takes over."""
        with self._changed:
            if child is not self._starting:
                return  # it was overtaken by a later deploy; that one kills it
            old, self._active, self._starting = self._active, child, None
            self._loaded_program = child.program
            self._settled_generation = max(self._settled_generation, child.generation)
            self._set_state(DEPLOYED, "the model is served")
            if old is not None:
                self._retire(old)

    def child_failed(self, child: ChildProcess, message: str, traceback: str) -> None:
        """A child could not load its model."""
        with self._changed:
            if child is self._starting:
                self._starting = None
                self._load_failed(child, traceback or message)

    def child_ended(self, child: ChildProcess) -> None:
        """A child's process is gone, for whatever reason; told twice of the same child is as told once."""
        how = "" if child.retiring or child.reported_failure else child.ending()
        with self._changed:
            self._retiring.discard(child)
            self._changed.notify_all()
            if child is self._starting:
                self._starting = None
                if child.generation > self._settled_generation:
                    # It never served: a model that dies while it loads is broken, not unlucky.
                    self._load_failed(child, f"the model's process {how}\nThis was while the model was loading.")
                else:
                    self._died(how)
            elif child is self._active:
                self._active = None
                self._died(how)

    # ---- inner steps; all but the first are called with the lock held ----

    def _start_child(self, delay_s: float = 0.0) -> None:
        if delay_s:
            time.sleep(delay_s)
        with self._changed:
            if self._spawning or self._starting is not None or self._state in (STOPPED, ERROR):
                return
            self._spawning = True
        while True:  # again, if another deploy came in between
            with self._changed:
                program, generation, log = self.program, self._generation, self._log
            try:
                child = ChildProcess(program, log, self._work_folder, self)
            except (OSError, ValueError) as error:  # ValueError: a null character in the environment
                self._spawn_failed(generation, f"cannot start the model's process: {error}")
                return
            child.generation = generation
            with self._changed:
                is_wanted = self._state != STOPPED
                is_current = is_wanted and self._generation == generation
                if is_current:
                    self._starting = child
                if is_current or not is_wanted:
                    self._spawning = False
            child.retiring = not is_current
            child.watch()
            if is_current:
                return
            child.kill()
            if not is_wanted:
                return

    def _spawn_failed(self, generation: int, message: str) -> None:
        with self._changed:
            self._spawning = False
            self._settled_generation = max(self._settled_generation, generation)
            self._failure = {"generation": generation, "message": message}
            if self._active is None:
                self._set_state(ERROR, message)
            self._changed.notify_all()

    def _load_failed(self, child: ChildProcess, text: str) -> None:
        self._settled_generation = max(self._settled_generation, child.generation)
        self._failure = {"generation": child.generation, "message": text}
        if self._active is not None:
            # The replacement is broken, the old one goes on; `failure` tells whoever deployed it.
            assert self._loaded_program is not None
            self.program = self._loaded_program
            self._log = self._active.log
            self._set_state(DEPLOYED, "the model is served; the one that was to replace it did not load")
        else:
            self._set_state(ERROR, text)

    def _died(self, how: str) -> None:
        deaths = self._count_death()
        if deaths >= _DEATHS_LIMIT:
            often = f"the model's process died {deaths} times within a minute and is not started again"
            self._set_state(ERROR, f"{often}; the last time it {how}")
            return
        self.restarts += 1
        self._set_state(DEPLOYING, f"the model's process {how}\nIt is being started again.")
        delay_s = _RESTART_DELAYS_S[deaths - 1]
        threading.Thread(target=self._start_child, args=(delay_s,), name="restart", daemon=True).start()

    def _count_death(self) -> int:
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths[0] < now - _DEATHS_WITHIN_S:
            self._deaths.popleft()
        return len(self._deaths)

    def _on_gone(self, child: ChildProcess) -> str:
        """A request found its child dead: says how it ended, when nobody is sent to it any more."""
        with self._changed:
            child.in_flight -= 1
            child.is_gone = True
            self._changed.notify_all()
        how = child.ending()
        if not child.ended.is_set():
            child.stop(grace_s=0.0)  # it only closed its lane
        # Before the answer, so that whoever reads it and asks again meets the next child. The watching thread says
        # the same once more, which changes nothing.
        self.child_ended(child)
        return without_folders(how)

    def _on_timeout(self, child: ChildProcess) -> None:
        with self._changed:
            child.lose_lane()
            self._changed.notify_all()
            if child is not self._active or self._starting is not None or self._spawning:
                return
            self.restarts += 1
            if self._count_death() >= _DEATHS_LIMIT:
                self._active = None
                self._retire(child)
                self._set_state(ERROR, "the model did not answer in time again and again; it is not started again")
                return
            # The present child keeps answering on its other lanes until the new one is ready.
            threading.Thread(target=self._start_child, name="replace-hung", daemon=True).start()

    def _retire(self, child: ChildProcess) -> None:
        child.retiring = True
        self._retiring.add(child)
        limit_s = child.program.predict_timeout_s + 1
        threading.Thread(target=self._drain, args=(child, limit_s), name="drain", daemon=True).start()

    def _drain(self, child: ChildProcess, limit_s: float) -> None:
        with self._changed:
            child.retiring = True
            self._changed.wait_for(lambda: child.in_flight <= 0 or child.ended.is_set(), limit_s)
        child.stop(grace_s=0.0 if child.hung or not child.is_ready else 3.0)

    def _set_state(self, state: str, message: str) -> None:
        if self._state != STOPPED or state == DEPLOYING:
            self._state = state
            self._message = message
        self._changed.notify_all()
        self._lane_free.notify_all()


def _log_of(program: Program, folder: Path) -> LogFile:
    return LogFile(folder, "-".join(part for part in program.identity if part))


def gzip_flag(content_encoding: str) -> int | None:
    """The frame flag of a Content-Encoding header; None when that encoding is not known."""
    name = content_encoding.strip().lower()
    if name in ("", "identity"):
        return 0
    return frames.GZIP if name in ("gzip", "x-gzip") else None
