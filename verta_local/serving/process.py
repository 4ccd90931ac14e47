"""The supervisor's hand on one child process: starts it, speaks with it over its lanes, sees how it ends."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from verta_local.deployment_settings import (
    DEFAULT_PREDICT_TIMEOUT_S,
    DEFAULT_QUEUE_LIMIT,
    DEFAULT_REPLICAS,
    DEFAULT_THREADS,
    check_predict_timeout_s,
    check_queue_limit,
    check_replicas,
    check_threads,
)
from verta_local.interpreter import Interpreter
from verta_local.serving import frames
from verta_local.serving.calls import Call
from verta_local.serving.launch import Launcher
from verta_local.serving.logfile import LogFile
from verta_local.serving.stream import TICK_S, Lane, Stream

DEFAULT_LOADER = "verta_local.loading:load_model"
BODY_LIMIT_BYTES = 64 * 1024 * 1024
_EXIT_GRACE_S = 3.0
_AHEAD = 12


@dataclass(frozen=True)
class Program:
    """What a child runs: a model spec, by which interpreter, with which settings."""

    spec: dict[str, Any]
    interpreter: Interpreter
    threads: int = DEFAULT_THREADS
    predict_timeout_s: float = DEFAULT_PREDICT_TIMEOUT_S
    loader: str = DEFAULT_LOADER
    body_limit_bytes: int = BODY_LIMIT_BYTES
    replicas: int = DEFAULT_REPLICAS
    queue_limit: int = DEFAULT_QUEUE_LIMIT

    def __post_init__(self) -> None:
        """Raises: ValueError for settings that no child could work with."""
        check_threads(self.threads)
        check_predict_timeout_s(self.predict_timeout_s)
        check_replicas(self.replicas)
        check_queue_limit(self.queue_limit)

    @property
    def identity(self) -> tuple[str, str]:
        """(store id, run id): run ids derive from names, so two stores can have the same one."""
        return str(self.spec.get("store_id") or ""), str(self.spec.get("run_id") or "")

    def same_as(self, other: Program) -> bool:
        """Whether a child of the other would behave the same; the environment variables are not compared."""
        return self._compared() == other._compared()

    def _compared(self) -> tuple[object, ...]:
        settings = (self.threads, self.predict_timeout_s, self.loader, self.replicas, self.queue_limit)
        return (self.spec, self.interpreter.executable, *settings)


class Observer(Protocol):
    """Who is told what becomes of a child, by its own watching thread, and of its calls, by any (see `StreamOwner`)."""

    def child_ready(self, child: ChildProcess) -> None: ...

    def child_failed(self, child: ChildProcess, message: str, traceback: str) -> None: ...

    def child_ended(self, child: ChildProcess) -> None: ...

    def calls_answered(self, child: ChildProcess, answered: Sequence[tuple[Call, frames.Frame]]) -> None: ...

    def calls_timed_out(self, child: ChildProcess, calls: Sequence[Call]) -> None: ...

    def calls_lost(self, child: ChildProcess, calls: Sequence[Call]) -> None: ...

    def calls_unsent(self, child: ChildProcess, calls: Sequence[Call]) -> None: ...


class ChildProcess:
    """One running copy of a model. What is in flight is guarded by the lock of the deployment that owns it."""

    def __init__(self, program: Program, log: LogFile, launcher: Launcher, observer: Observer) -> None:
        self.program = program
        self.about: dict[str, Any] = {}  # what its model is like, once it is ready
        self.is_ready = False
        self.reported_failure = False
        self.wants_environment: dict[str, Any] | None = None  # what it lacks, when it failed for that
        self.retiring = False
        self.is_gone = False  # a request found it dead: it gets no further one, though its end is not known yet
        self.in_flight = 0
        self.hung = 0
        self.is_quick = False  # by its last answer
        self.ended = threading.Event()
        self.started_at = time.monotonic()
        self.log = log
        self._observer = observer
        self._start(launcher)

    @property
    def pid(self) -> int:
        return self._launched.pid

    @property
    def free_places(self) -> int:
        """How many more calls it can take now; 0 when the process has ended. Call with the owner's lock held.

        A quick model gets some more than it has threads: they are done with sooner than they could be asked for.
        """
        if self.is_gone or self.ended.is_set():
            return 0
        threads = self.program.threads
        ahead = _AHEAD if self.is_quick and threads > 1 else 0
        return threads + ahead - self.in_flight - self.hung

    def calls_answered(self, answered: Sequence[tuple[Call, frames.Frame]]) -> None:
        """As of `StreamOwner`; so are the next ones."""
        self._observer.calls_answered(self, answered)

    def calls_timed_out(self, calls: Sequence[Call]) -> None:
        self._observer.calls_timed_out(self, calls)

    def calls_lost(self, calls: Sequence[Call]) -> None:
        self._observer.calls_lost(self, calls)

    def calls_unsent(self, calls: Sequence[Call]) -> None:
        self._observer.calls_unsent(self, calls)

    @property
    def was_killed(self) -> bool:
        """Whether it is known to have ended by a signal."""
        code = self._launched.returncode
        return code is not None and code < 0

    def ending(self) -> str:
        """How the process ended, as the end of a sentence, with the last lines that it wrote."""
        self.ended.wait(2.0)  # the lane closes a moment before the exit code is known
        code = self._launched.returncode
        if code is None:
            how = "closed its connection"
        elif code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = "a signal"
            how = f"was killed by {name} ({-code})"
        else:
            how = f"ended with exit code {code}"
        tail = self.log.tail(self._log_start_byte)
        return f"{how}; its last output:\n{tail}" if tail else f"{how}, without any output"

    def stop(self, grace_s: float = _EXIT_GRACE_S) -> None:
        """Ends the process: in an orderly way within `grace_s`, else by SIGKILL. Returns when it is gone."""
        if grace_s > 0 and not self.ended.is_set():
            try:
                with self._control.using() as (control, _):
                    frames.send_frame(control, frames.EXIT)
            except OSError:
                pass  # it is on its way out
            self.ended.wait(grace_s)
        if not self.ended.is_set():
            self.kill()
            self.ended.wait(10.0)

    def kill(self) -> None:
        """Sends SIGKILL to the process and all that it started."""
        self._launched.kill()

    def _start(self, launcher: Launcher) -> None:
        program = self.program
        ends = frames.LaneEnds.open(frames.LANES)
        log = self.log.open_append()
        self._log_start_byte = self.log.size_bytes()  # after opening, which may begin a new file
        try:
            launched = launcher.start(program, ends, log)
        except BaseException:
            ends.close()
            raise
        finally:
            os.close(log)
        try:
            lanes = ends.connected()
        except OSError:
            launched.kill()
            launched.wait()
            ends.close()
            raise
        self._control = Lane(lanes[frames.CONTROL_LANE])
        self._lifeline = Lane(lanes[frames.LIFELINE])
        self._work = Lane(lanes[frames.WORK_LANE], TICK_S)
        self.stream = Stream(self._work, program.predict_timeout_s, self)
        self._launched = launched

    def watch(self) -> None:
        """Begins to load the model and to report to the observer; call once."""
        threading.Thread(target=self._watch, name=f"watch-{self.pid}", daemon=True).start()

    def _watch(self) -> None:
        order = {
            "spec": self.program.spec,
            "loader": self.program.loader,
            "body_limit_bytes": self.program.body_limit_bytes,
            "threads": self.program.threads,
        }
        try:
            with self._control.using() as (control, reader):
                frames.send_frame(control, frames.LOAD, json.dumps(order).encode())
                report = self._first_report(control, reader)
        except (EOFError, OSError):
            report = None
        if report is not None and report.code == frames.READY:
            self.about = dict(json.loads(report.body))
            self.is_ready = True
            self._observer.child_ready(self)
        elif report is not None:
            found = json.loads(report.body)
            self.reported_failure = True
            self.wants_environment = found.get("environment")
            self._observer.child_failed(self, str(found["message"]), str(found["traceback"]))
        self._launched.wait()
        self.ended.set()
        for lane in (self._control, self._lifeline, self._work):
            lane.end()
        self._observer.child_ended(self)

    def _first_report(self, control: socket.socket, reader: frames.FrameReader) -> frames.Frame | None:
        """READY or FAILED, or None when the child ended before it said either. Raises: EOFError, OSError."""
        # Not one long read: a program that the loading model started may keep the other end open after its death.
        with selectors.DefaultSelector() as selector:
            selector.register(control, selectors.EVENT_READ)
            while not selector.select(timeout=0.5):
                if self._launched.has_ended():
                    return None
        return reader.read()
