"""Ways to start a model's process: a fresh interpreter, or a fork of a warm parent that has no model.

A fork shows the model in a tenth of the time, because interpreter and libraries are there already. It is made where
it is safe: on Linux, in the environment that the serving process itself runs in, from a parent with one thread that
never ran any code of a user (`nursery`). Everything else gets a fresh interpreter.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from verta_local.serving.frames import LaneEnds
from verta_local.serving.nursery import Nursery, NurseryGone

if TYPE_CHECKING:
    import subprocess

    from verta_local.interpreter import Interpreter
    from verta_local.serving.process import Program

_CAN_FORK = sys.platform == "linux"
_CAN_WAIT_WITHOUT_COLLECTING = hasattr(os, "waitid")
_NURSERIES_LIMIT = 2  # one for each set of the variables below; 15 MB each
# Read by the interpreter, the C library or a numeric library when they start: a fork cannot have others.
_STARTING_VARIABLES = ("PYTHON", "LD_", "MALLOC_", "OMP_", "OPENBLAS_", "MKL_", "GOTO_", "BLIS_", "KMP_", "NPY_", "LC_")
_STARTING_NAMES = ("LANG", "LANGUAGE", "TZ")


class Launched(Protocol):
    """A process that was started; `returncode` is None until `wait` knows it, negative for a signal."""

    returncode: int | None

    @property
    def pid(self) -> int: ...

    def has_ended(self) -> bool:
        """Whether it is known to have ended."""

    def kill(self) -> None:
        """Sends SIGKILL to the process and all that it started; nothing once it has ended."""

    def wait(self) -> None:
        """Returns when it has ended, and what it started too."""


class Launcher:
    """Starts the processes of one server's models, in `work_folder`; `may_fork` False: always fresh interpreters.

    `nursery` is one that is there already; it ends with this launcher.
    """

    def __init__(self, work_folder: Path, may_fork: bool = True, nursery: Nursery | None = None) -> None:
        self._work_folder = work_folder
        self._may_fork = may_fork and _CAN_FORK
        self._lock = threading.Lock()
        self._nurseries = {} if nursery is None else {_what_a_fork_shares(nursery.interpreter): nursery}

    def start(self, program: Program, ends: LaneEnds, log: int) -> Launched:
        """Starts a child on these lanes, its output going to the descriptor `log`. Raises: OSError, ValueError."""
        environment = {**program.interpreter.environment, **ends.environment}
        if self._may_fork and ends.inherited and program.interpreter.executable == sys.executable:
            for _ in range(2):  # again when the nursery was killed in that moment
                nursery = self._nursery_for(program)
                if nursery is None:
                    break
                try:
                    return nursery.fork(environment, _libraries_of(program), (log, *ends.inherited), self._work_folder)
                except NurseryGone:
                    continue
        import subprocess  # noqa: PLC0415 - start-up time

        return _Spawned(
            subprocess.Popen(
                program.interpreter.command("verta_local.serving.child", ends.arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._work_folder,
                env=environment,
                pass_fds=ends.inherited,
                start_new_session=True,  # Ctrl-C in the supervisor's terminal is not for the child
            )
        )

    def close(self) -> None:
        """Ends the warm parents; when all children are gone."""
        with self._lock:
            nurseries = list(self._nurseries.values())
            self._nurseries.clear()
            self._may_fork = False
        for nursery in nurseries:
            nursery.close()

    def _nursery_for(self, program: Program) -> Nursery | None:
        key = _what_a_fork_shares(program.interpreter)
        with self._lock:
            nursery = self._nurseries.get(key)
            if nursery is not None and nursery.is_alive:
                return nursery
            self._nurseries.pop(key, None)
            if not self._may_fork or len(self._nurseries) >= _NURSERIES_LIMIT:
                return None
            try:
                nursery = self._nurseries[key] = Nursery.started(program.interpreter, self._work_folder)
            except (OSError, ValueError):
                return None  # a fresh interpreter will meet the same fault, and report it as the model's
            return nursery


def _what_a_fork_shares(interpreter: Interpreter) -> tuple[object, ...]:
    """What is the same in a warm parent and its forks: programs that differ in it have different ones."""
    variables = frozenset(
        (name, value)
        for name, value in interpreter.environment.items()
        if name.startswith(_STARTING_VARIABLES) or name in _STARTING_NAMES
    )
    return interpreter.executable, frozenset(interpreter.folders.items()), variables


def _libraries_of(program: Program) -> list[str]:
    """What the warm parent may import for the model: NumPy, which survives a fork; others start threads or drivers."""
    model = program.spec.get("model")
    named = [
        *(model.get("third_party") or () if isinstance(model, dict) else ()),
        *program.spec.get("requirements", ()),
    ]
    return ["numpy"] if any(name == "numpy" or str(name).startswith("numpy==") for name in named) else []


class _Spawned:
    """A fresh interpreter, which is a child of this process."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.returncode: int | None = None
        self._popen = popen
        self._lock = threading.Lock()  # a process is not signalled once it was collected: its id is free then
        self._is_collected = False

    @property
    def pid(self) -> int:
        return self._popen.pid

    def has_ended(self) -> bool:
        if not _CAN_WAIT_WITHOUT_COLLECTING:
            return self._popen.poll() is not None
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:
            return True

    def kill(self) -> None:
        with self._lock:
            if not self._is_collected:
                self._kill_group()

    def wait(self) -> None:
        if not _CAN_WAIT_WITHOUT_COLLECTING:
            self.returncode = self._popen.wait()
            self._is_collected = True
            return
        try:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            pass  # the program around us has collected it: nothing is known of its group any more
        else:
            with self._lock:
                # Not collected yet, so the group's number cannot have been given to anyone else.
                self._kill_group()
        with self._lock:
            self.returncode = self._popen.wait()
            self._is_collected = True

    def _kill_group(self) -> None:
        try:
            if sys.platform != "win32":
                os.killpg(self.pid, signal.SIGKILL)
            else:
                self._popen.kill()
        except (ProcessLookupError, PermissionError):  # PermissionError: macOS, for a process that has ended
            pass
