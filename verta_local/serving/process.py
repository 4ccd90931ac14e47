"""The supervisor's hand on one child process: starts it, speaks with it over its lanes, sees how it ends."""

from __future__ import annotations

import heapq
import json
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
from verta_local.serving.launch import Launcher
from verta_local.serving.logfile import LogFile

DEFAULT_LOADER = "verta_local.loading:load_model"
BODY_LIMIT_BYTES = 64 * 1024 * 1024
_EXIT_GRACE_S = 3.0


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
    """Who is told what becomes of a child; called from the child's own watching thread."""

    def child_ready(self, child: ChildProcess) -> None: ...

    def child_failed(self, child: ChildProcess, message: str, traceback: str) -> None: ...

    def child_ended(self, child: ChildProcess) -> None: ...


class ChildGone(Exception):
    """The child ended while it had a request; `was_sent` tells whether the model can have seen any of it."""

    def __init__(self, was_sent: bool = True) -> None:
        super().__init__()
        self.was_sent = was_sent


class PredictTimeout(Exception):
    """The child did not answer in time; its lane can not be used again."""


class _Lane:
    """A connection to the child that is closed only when nobody uses it.

    The watching thread ends a lane while a request thread is about to read from it. Were it closed in that moment,
    its descriptor's number would go to the next child's lane, and the old request would wait there, or steal an
    answer. So ending is shutting down, which wakes the reader, and the last one to let go closes.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._reader = frames.FrameReader(connection)
        self._lock = threading.Lock()
        self._users = 0
        self._has_ended = False

    @contextmanager
    def using(self) -> Iterator[tuple[socket.socket, frames.FrameReader]]:
        """The connection and its reader, which stay open inside the `with`. Raises: BrokenPipeError after `end()`."""
        with self._lock:
            if self._has_ended:
                raise BrokenPipeError
            self._users += 1
        try:
            yield self._socket, self._reader
        finally:
            with self._lock:
                self._users -= 1
                if self._has_ended and not self._users:
                    self._socket.close()

    def end(self) -> None:
        """Wakes whoever reads or writes, and closes once they have let go."""
        with self._lock:
            self._has_ended = True
            try:
                self._socket.shutdown(socket.SHUT_RDWR)  # a program that the model started may hold the other end
            except OSError:
                pass
            if not self._users:
                self._socket.close()


class ChildProcess:
    """One running copy of a model. The idle lanes are guarded by the lock of the deployment that owns it."""

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
        self.idle: list[int] = list(range(program.threads))  # a heap: the lowest idle lane is taken first
        self.ended = threading.Event()
        self.started_at = time.monotonic()
        self.log = log
        self._observer = observer
        self._start(launcher)

    @property
    def pid(self) -> int:
        return self._launched.pid

    @property
    def can_take(self) -> bool:
        """Whether a lane is idle, and the process is not known to have ended. Call with the owner's lock held."""
        return bool(self.idle) and not self.is_gone and not self.ended.is_set()

    def take_lane(self) -> int:
        """The lowest idle lane, if `can_take`. Call with the owner's lock held."""
        self.in_flight += 1
        return heapq.heappop(self.idle)

    def give_back(self, lane: int) -> None:
        """Returns a lane that got its answer. Call with the owner's lock held."""
        self.in_flight -= 1
        heapq.heappush(self.idle, lane)

    def lose_lane(self) -> None:
        """Counts a lane whose request was given up. Call with the owner's lock held."""
        self.in_flight -= 1
        self.hung += 1

    def exchange(self, lane_number: int, code: int, body: bytes, head: bytes, meta: bytes = b"") -> frames.Frame:
        """Sends one request on a taken lane and waits for its answer. Raises: ChildGone, PredictTimeout."""
        was_sent = False
        try:
            with self._lanes[lane_number].using() as (lane, reader):
                # A small request is one write: when that fails, the child has read nothing of it.
                was_sent = not frames.is_one_write(body)
                frames.send_frame(lane, code, body, head, meta)
                was_sent = True
                return reader.read()
        except TimeoutError:
            raise PredictTimeout from None
        except (EOFError, OSError):
            raise ChildGone(was_sent) from None

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
        ends = frames.LaneEnds.open(2 + program.threads)
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
        for lane in lanes[2:]:
            lane.settimeout(program.predict_timeout_s)
        self._control, self._lifeline, *self._lanes = map(_Lane, lanes)
        self._launched = launched

    def watch(self) -> None:
        """Begins to load the model and to report to the observer; call once."""
        threading.Thread(target=self._watch, name=f"watch-{self.pid}", daemon=True).start()

    def _watch(self) -> None:
        order = {
            "spec": self.program.spec,
            "loader": self.program.loader,
            "body_limit_bytes": self.program.body_limit_bytes,
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
        for lane in (self._control, self._lifeline, *self._lanes):
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
