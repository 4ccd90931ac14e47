"""Which versions of a model there are at a route: the present one, the one that is to replace it, a canary.

A replacement (another run, or the same one with other settings) loads beside the present version and takes over when
all its replicas answer; then the old one answers what it has and ends: no request is lost. One that does not load, or
a canary that dies again and again, is dropped, and the present version goes on.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from verta_local.deployment_settings import log_name
from verta_local.serving.calls import Call
from verta_local.serving.launch import Launcher
from verta_local.serving.logfile import LogFile
from verta_local.serving.process import Program
from verta_local.serving.version import DEPLOYED, DEPLOYING, ERROR, STOPPED, Version

_STOP_DRAIN_S = 10.0


class Rollout:
    """The versions of the model at one route. All methods may be called from any thread."""

    def __init__(self, route: str, program: Program, log_folder: Path, launcher: Launcher) -> None:
        self.route = route
        self.created_at = time.time()
        self.restarts: Counter[tuple[str, str]] = Counter()  # (run id, reason) -> how often
        self._log_folder = log_folder
        self._launcher = launcher
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._first_program = program
        self._current: Version | None = None
        self._next: Version | None = None  # loads, to take the place of the current one or to be a canary
        self._canary: Version | None = None
        self._leaving: list[Version] = []
        self._canary_share = 0.0
        self._next_share: float | None = None  # None: it is to take over
        self._canary_debt = 0.0
        self._is_stopped = False
        self._stop_message = ""
        self._generation = 0
        self._settled_generation = 0
        self._failure: dict[str, Any] | None = None

    # ---- deploying ----

    def deploy(self, program: Program, canary_share: float | None = None) -> None:
        """Starts the program, or puts it in place of the present one; nothing when that very program runs.

        `canary_share` (over 0, below 1): it gets that share of the requests beside the present one. Deploying a
        canary without a share lets it take over; deploying the present program again ends the canary.
        """
        dropped: list[Version] = []
        with self._changed:
            current, canary = self._current, self._canary
            is_fresh = current is None or self._is_stopped or (current.state == ERROR and self._next is None)
            if not is_fresh and self._is_underway(program, canary_share):
                return
            self._generation += 1
            self._failure = None
            if self._next is not None:
                dropped.append(self._next)
                self._next = None
            started = None
            if not is_fresh and canary is not None and program.same_as(canary.program):
                if canary_share is None:
                    self._promote(canary)
                self._canary_share = canary_share or 0.0
                self._settled_generation = self._generation
            elif not is_fresh and current is not None and program.same_as(current.program) and canary_share is None:
                if canary is not None:
                    self._drop_canary()
                self._settled_generation = self._generation
            else:
                started = self._new_version(program)
                if is_fresh:
                    self._is_stopped = False
                    if canary is not None:
                        self._drop_canary()
                    self._current = started
                else:
                    self._next, self._next_share = started, canary_share
            self._notify()
        for version in dropped:
            version.kill()
        if started is not None:
            started.start()

    def end_canary(self) -> None:
        """Sends all requests to the present version; the canary answers what it has and ends."""
        with self._changed:
            if self._next is not None and self._next_share is not None:
                self._leave(self._next)
                self._next = None
            if self._canary is not None:
                self._drop_canary()
            self._notify()

    def stop(self, drain_s: float = _STOP_DRAIN_S) -> None:
        """Takes the endpoint down: waiting requests are told so, running ones are answered within `drain_s`."""
        versions = self._stopped_versions("the model was undeployed")
        threads = [threading.Thread(target=version.stop, args=(drain_s,), daemon=True) for version in versions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def kill(self) -> None:
        """Ends all children at once, whatever they are doing."""
        for version in self._stopped_versions("the server was stopped"):
            version.kill()

    # ---- looking ----

    @property
    def program(self) -> Program:
        """What is served, or is to be as soon as it has loaded; not the canary."""
        with self._lock:
            if self._next is not None and self._next_share is None:
                return self._next.program
            return self._current.program if self._current is not None else self._first_program

    @property
    def canary_program(self) -> Program | None:
        """What gets a share of the requests, or is to as soon as it has loaded."""
        with self._lock:
            if self._next is not None and self._next_share is not None:
                return self._next.program
            return self._canary.program if self._canary is not None else None

    def serves(self, identity: tuple[str, str]) -> bool:
        """Whether the run is served here, as the canary too."""
        canary = self.canary_program
        return self.program.identity == identity or (canary is not None and canary.identity == identity)

    def status(self) -> dict[str, Any]:
        """The state as the admin API shows it (to the owner only: a full traceback is in it)."""
        with self._lock:
            program, current = self.program, self._current
            pids = current.pids if current is not None else []
            return {
                "status": self.state,
                "message": self._message(),
                "route": self.route,
                "run_id": program.spec["run_id"],
                "run_name": program.spec.get("run_name"),
                "store_id": program.spec.get("store_id"),
                "store": program.spec.get("store"),
                "generation": self._generation,
                "settled_generation": self._settled_generation,
                "failure": self._failure,
                "restarts": sum(self.restarts.values()),
                "restart_reasons": _by_reason(self.restarts),
                "created_at": self.created_at,
                "pid": pids[0] if pids else None,
                "pids": pids,
                "replicas": program.replicas,
                "threads": program.threads,
                "log": str((current.log if current is not None else self._log_of(program)).path),
                "canary": self._canary_status(),
            }

    def versions(self) -> list[Version]:
        """Those that answer now: the current one and the canary."""
        with self._lock:
            return [version for version in (self._current, self._canary) if version is not None]

    def is_version(self, run_id: str) -> bool:
        """Whether that run answers here."""
        return any(version.run_id == run_id for version in self.versions())

    def wait_settled(self, generation: int, timeout_s: float) -> None:
        """Waits until that generation is ready or has failed, at most `timeout_s`."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._settled_generation >= generation or self.state in (ERROR, STOPPED), timeout_s
            )

    @property
    def state(self) -> str:
        """DEPLOYING, DEPLOYED, ERROR or STOPPED."""
        with self._lock:
            if self._is_stopped:
                return STOPPED
            if self._current is None:
                return DEPLOYING
            if self._current.state == ERROR and self._next is not None:
                return DEPLOYING
            return self._current.state

    @property
    def waiting(self) -> int:
        """Requests that wait for a free thread of the model."""
        return sum(len(version.queue) for version in self.versions())

    @property
    def in_flight(self) -> int:
        """Requests that wait or run now."""
        with self._lock:
            return sum(version.in_flight for version in (*self.versions(), *self._leaving))

    def cut_logs(self) -> None:
        """Keeps the logs of the running children within their bounds."""
        for version in self.versions():
            version.log.cut_if_large()

    # ---- what versions report, with the lock held ----

    def version_settled(self, version: Version) -> None:
        """A version answers, or did not load."""
        if version not in (self._current, self._next):
            return  # it was overtaken by a later deploy
        self._settled_generation = max(self._settled_generation, version.generation)
        if version.state == ERROR:
            self._failure = {"generation": version.generation, "message": version.message}
            if version is self._next:
                self._leave(version)
                self._next = None  # the old one goes on; `failure` tells whoever deployed it
        elif version is self._next:
            self._next = None
            if self._next_share is None:
                self._promote(version)
            else:
                if self._canary is not None:
                    self._drop_canary()
                self._canary, self._canary_share, self._canary_debt = version, self._next_share, 0.0
        self._notify()

    def version_gave_up(self, version: Version) -> None:
        """A version that served is in the state error."""
        if version is self._canary:
            run_id = version.program.identity[1]
            text = f"the canary of run {run_id} was ended: {version.message}"
            self._failure = {"generation": version.generation, "message": text}
            self._drop_canary()
        self._notify()

    def version_restarted(self, version: Version, reason: str) -> None:
        """A child of a version is being replaced."""
        self.restarts[version.program.identity[1], reason] += 1

    def dispatch(self, call: Call, *, is_known: bool = False) -> None:
        """Sends a call to the version that is to answer it; without the lock."""
        raise NotImplementedError

    # ---- inner steps, with the lock held ----

    def _is_underway(self, program: Program, canary_share: float | None) -> bool:
        if self._next is not None:
            return program.same_as(self._next.program) and canary_share == self._next_share
        if self._current is None or self._canary is not None or canary_share is not None:
            return False
        return program.same_as(self._current.program)

    def _new_version(self, program: Program) -> Version:
        log = self._log_of(program)
        return Version(program, self._generation, log, self._launcher, self._lock, self)

    def _promote(self, version: Version) -> None:
        if version is self._canary:
            self._canary = None
        elif self._canary is not None:
            self._drop_canary()
        if self._current is not None:
            self._leave(self._current)
        self._current = version

    def _drop_canary(self) -> None:
        if self._canary is not None:
            self._leave(self._canary)
        self._canary, self._canary_share = None, 0.0

    def _leave(self, version: Version) -> None:
        version.retire()
        self._leaving = [each for each in self._leaving if each.in_flight] + [version]

    def _stopped_versions(self, message: str) -> list[Version]:
        with self._changed:
            self._is_stopped, self._stop_message = True, message
            found = [version for version in (self._current, self._next, self._canary, *self._leaving) if version]
            self._next = self._canary = None
            self._leaving = []
            self._notify()
        return found

    def _notify(self) -> None:
        self._changed.notify_all()
        for version in (self._current, self._next, self._canary, *self._leaving):
            if version is not None:
                version.release_waiting()

    def _message(self) -> str:
        if self._is_stopped:
            return self._stop_message
        if self._current is None:
            return "the model is loading"
        failed = self._failure is not None and self._current.generation != self._generation
        if self._current.state == DEPLOYED and failed:
            return "the model is served; the one that was to replace it did not load"
        return self._current.message

    def _canary_status(self) -> dict[str, Any] | None:
        version = self._canary or (self._next if self._next_share is not None else None)
        if version is None:
            return None
        share = self._canary_share if version is self._canary else self._next_share
        spec = version.program.spec
        shown = {"run_id": spec["run_id"], "run_name": spec.get("run_name"), "share": share}
        return {**shown, "status": version.state, "message": version.message, "pids": version.pids}

    def _log_of(self, program: Program) -> LogFile:
        return LogFile(self._log_folder, log_name(*program.identity))


def _by_reason(restarts: Counter[tuple[str, str]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for (_, reason), count in restarts.items():
        found[reason] += count
    return dict(found)
