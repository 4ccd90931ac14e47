"""The supervisor's hand on one child process: starts it, speaks with it over its lanes, sees how it ends."""

from __future__ import annotations

import heapq
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from verta_local.interpreter import Interpreter
from verta_local.serving import frames
from verta_local.serving.logfile import LogFile

DEFAULT_LOADER = "verta_local.loading:load_model"
# Four requests at a time: Python code takes turns anyway, so more threads only help models that wait; with four, a
# short request passes by three long ones, and the stacks cost next to nothing.
DEFAULT_THREADS = 4
DEFAULT_PREDICT_TIMEOUT_S = 60.0
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

    def same_as(self, other: Program) -> bool:
        """Whether a child of the other would behave the same; the environment variables are not compared."""
        mine = (self.spec, self.interpreter.executable, self.threads, self.predict_timeout_s, self.loader)
        theirs = (other.spec, other.interpreter.executable, other.threads, other.predict_timeout_s, other.loader)
        return mine == theirs


class Observer(Protocol):
    """Who is told what becomes of a child; called from the child's own watching thread."""

    def child_ready(self, child: ChildProcess) -> None: ...

    def child_failed(self, child: ChildProcess, message: str, traceback: str) -> None: ...

    def child_ended(self, child: ChildProcess) -> None: ...


class ChildGone(Exception):
    """The child ended while it had a request."""


class PredictTimeout(Exception):
    """The child did not answer in time; its lane can not be used again."""


@dataclass
class _Lane:
    socket: socket.socket
    reader: frames.FrameReader = field(init=False)

    def __post_init__(self) -> None:
        self.reader = frames.FrameReader(self.socket)


class ChildProcess:
    """One running copy of a model. The idle lanes are guarded by the lock of the deployment that owns it."""

    def __init__(self, program: Program, log: LogFile, work_folder: Path, observer: Observer) -> None:
        self.program = program
        self.generation = 0
        self.batch_predict = False
        self.is_ready = False
        self.reported_failure = False
        self.retiring = False
        self.in_flight = 0
        self.hung = 0
        self.idle: list[int] = list(range(program.threads))  # a heap: the lowest idle lane is taken first
        self.ended = threading.Event()
        self.started_at = time.monotonic()
        self._log = log
        self._log_start = log.size_bytes()
        self._observer = observer
        self._start(work_folder)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def take_lane(self) -> int | None:
        """The lowest idle lane, or None. Call with the owner's lock held."""
        if not self.idle:
            return None
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

    def exchange(self, lane_number: int, code: int, body: bytes, head: bytes) -> frames.Frame:
        """Sends one request on a taken lane and waits for its answer. Raises: ChildGone, PredictTimeout."""
        lane = self._lanes[lane_number]
        try:
            frames.send_frame(lane.socket, code, body, head)
            return lane.reader.read()
        except TimeoutError:
            raise PredictTimeout from None
        except (EOFError, OSError):
            raise ChildGone from None

    def ending(self) -> str:
        """How the process ended, as the end of a sentence, with the last lines that it wrote."""
        self.ended.wait(2.0)  # the lane closes a moment before the exit code is known
        code = self._popen.returncode
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
        tail = self._log.tail(self._log_start)
        return f"{how}; its last output:\n{tail}" if tail else f"{how}, without any output"

    def stop(self, grace_s: float = _EXIT_GRACE_S) -> None:
        """Ends the process: in an orderly way within `grace_s`, else by SIGKILL. Returns when it is gone."""
        if grace_s > 0 and not self.ended.is_set():
            try:
                frames.send_frame(self._control, frames.EXIT)
            except OSError:
                pass  # it is on its way out
            self.ended.wait(grace_s)
        if not self.ended.is_set():
            self.kill()
            self.ended.wait(10.0)

    def kill(self) -> None:
        """Sends SIGKILL to the process and all that it started."""
        if self.ended.is_set():
            return
        try:
            if sys.platform != "win32":
                os.killpg(self._popen.pid, signal.SIGKILL)
            else:
                self._popen.kill()
        except ProcessLookupError:
            pass

    def _start(self, work_folder: Path) -> None:
        program = self.program
        ends = frames.LaneEnds.open(2 + program.threads)
        environment = {**program.interpreter.environment, **ends.environment}
        log = self._log.open_append()
        try:
            popen = subprocess.Popen(
                program.interpreter.command("verta_local.serving.child", ends.arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=work_folder,
                env=environment,
                pass_fds=ends.inherited,
                start_new_session=True,  # Ctrl-C in the supervisor's terminal is not for the child
            )
        except BaseException:
            ends.close()
            raise
        finally:
            os.close(log)
        try:
            lanes = ends.connected()
        except OSError:
            popen.kill()
            popen.wait()
            ends.close()
            raise
        self._control, self._lifeline = lanes[0], lanes[1]
        for lane in lanes[2:]:
            lane.settimeout(program.predict_timeout_s)
        self._lanes = [_Lane(lane) for lane in lanes[2:]]
        self._popen = popen

    def watch(self) -> None:
        """Begins to load the model and to report to the observer; call once."""
        name = f"watch-{self._popen.pid}"
        threading.Thread(target=self._watch, name=name, args=(self._popen,), daemon=True).start()

    def _watch(self, popen: subprocess.Popen[bytes]) -> None:
        order = {
            "spec": self.program.spec,
            "loader": self.program.loader,
            "body_limit_bytes": self.program.body_limit_bytes,
        }
        try:
            frames.send_frame(self._control, frames.LOAD, json.dumps(order).encode())
            report = self._first_report(popen)
        except OSError:
            report = None
        if report is not None and report.code == frames.READY:
            self.batch_predict = bool(json.loads(report.body)["batch_predict"])
            self.is_ready = True
            self._observer.child_ready(self)
        elif report is not None:
            found = json.loads(report.body)
            self.reported_failure = True
            self._observer.child_failed(self, str(found["message"]), str(found["traceback"]))
        self._wait_for_end(popen)
        self.ended.set()
        for lane in self._lanes:
            try:
                lane.socket.shutdown(socket.SHUT_RDWR)  # a program that the model started may hold the other end
            except OSError:
                pass
        self._observer.child_ended(self)
        for open_socket in (self._control, self._lifeline, *(lane.socket for lane in self._lanes)):
            open_socket.close()

    def _first_report(self, popen: subprocess.Popen[bytes]) -> frames.Frame | None:
        """READY or FAILED, or None when the child ended before it said either."""
        # Not one long read: a program that the loading model started may keep the other end open after its death.
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            while not selector.select(timeout=0.5):
                if popen.poll() is not None:
                    return None
        try:
            return frames.FrameReader(self._control).read()
        except (EOFError, OSError):
            return None

    def _wait_for_end(self, popen: subprocess.Popen[bytes]) -> None:
        if hasattr(os, "waitid"):
            try:
                os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT)
                # Not reaped yet, so the group's number cannot have been given to anyone else.
                os.killpg(popen.pid, signal.SIGKILL)
            except (ChildProcessError, ProcessLookupError, PermissionError):
                pass
        popen.wait()
