"""The warm parent of forked model processes: it has the interpreter and our modules loaded, and never a model.

The serving process sends `{"fork": ...}` with the descriptors of a child's lanes, or `{"kill": pid}`; the nursery
answers `{"forked": pid}`, and `{"ended": pid, "code": n}` when it has collected a child (n negative for a signal). It
kills only what it has not collected, so a process id that was given to somebody else is never hit. It has one thread
and runs no user's code, so a fork has no lock held by a thread that is not there. It ends with the serving process.

It is a fresh interpreter. A program that does nothing but serve forks it from itself, before it has threads, an open
store or any code of a user (`fork_from_here`): interpreter and modules are there then, and their memory is shared.
"""

from __future__ import annotations

import array
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
import threading
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from verta_local.interpreter import Interpreter, is_own_program

_LENGTH = struct.Struct("!I")
_DESCRIPTORS_LIMIT = 250  # of one message, by the kernel
# What every process imports until its model is loaded: of ours, and of the standard library what ours import late.
_NEEDED_TO_LOAD = (
    "cloudpickle",
    "pwd",
    "queue",
    "sqlite3",
    "unicodedata",
    "verta_local.loading",
    "verta_store.contents",
    "verta_store.names",
    "verta_store.source_memory",
    "verta_store.verified",
)
_FORK_TIMEOUT_S = 20.0  # the first one may import a library


class NurseryGone(Exception):
    """The nursery ended: start another one."""


# ---- in the serving process ----


class _Process(Protocol):
    """The nursery's process, as the serving process sees it."""

    def wait(self) -> object:
        """Collects it when it has ended."""

    def kill(self) -> None:
        """Sends SIGKILL, unless it was collected."""


class Nursery:
    """The serving process's hand on a nursery, which listens at the other end of `lane`.

    `interpreter` is the one that it runs in, with the variables that it started with.
    """

    def __init__(self, interpreter: Interpreter, lane: socket.socket, process: _Process) -> None:
        self.interpreter = interpreter
        self.is_alive = True
        self._lane = lane
        self._process = process
        self._send_lock = threading.Lock()
        self._fork_lock = threading.Lock()
        self._changed = threading.Condition()
        self._forked: list[_Forked] = []
        self._children: dict[int, _Forked] = {}
        self._listener = threading.Thread(target=self._listen, name="nursery", daemon=True)
        self._listener.start()

    @classmethod
    def started(cls, interpreter: Interpreter, work_folder: Path) -> Nursery:
        """One that is a fresh interpreter. Raises: OSError, ValueError when it cannot be started."""
        import subprocess  # noqa: PLC0415 - start-up time

        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = subprocess.Popen(
                    interpreter.command("verta_local.serving.nursery", [str(theirs.fileno())]),
                    stdin=subprocess.DEVNULL,
                    cwd=work_folder,
                    env=interpreter.environment,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        return cls(interpreter, ours, process)

    def fork(
        self, environment: dict[str, str], libraries: list[str], descriptors: Sequence[int], work_folder: Path
    ) -> _Forked:
        """A child with these variables; `descriptors` are its log, then its lanes. Raises: NurseryGone."""
        order = {"environment": environment, "libraries": libraries, "folder": os.fspath(work_folder)}
        with self._fork_lock:
            self._send({"fork": order}, descriptors)
            with self._changed:
                if not self._changed.wait_for(lambda: self._forked or not self.is_alive, _FORK_TIMEOUT_S):
                    self.is_alive = False
                if self._forked:
                    return self._forked.pop()
            self.close()
            raise NurseryGone

    def kill(self, pid: int) -> None:
        """Has a child and all that it started killed."""
        try:
            self._send({"kill": pid})
        except NurseryGone:
            pass  # `_listen` killed it

    def close(self) -> None:
        """Ends the nursery."""
        try:
            self._lane.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended by itself
        self._listener.join(5)
        if self._listener.is_alive():
            self._process.kill()
            self._listener.join()

    def _send(self, order: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        body = json.dumps(order).encode("ascii")
        try:
            with self._send_lock:
                if descriptors:
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
                    self._lane.sendmsg([_LENGTH.pack(len(body))], [rights])
                else:
                    self._lane.sendall(_LENGTH.pack(len(body)))
                self._lane.sendall(body)
        except OSError:
            raise NurseryGone from None

    def _listen(self) -> None:
        while (report := _receive(self._lane)) is not None:
            with self._changed:
                if "forked" in report:
                    child = _Forked(self, report["forked"])
                    self._children[child.pid] = child
                    self._forked.append(child)
                    self._changed.notify_all()
                else:
                    self._children.pop(report["ended"]).has_code(report["code"])
        with self._changed:
            self.is_alive = False
            left = list(self._children.values())
            self._children.clear()
            self._changed.notify_all()
        for child in left:  # it was killed: its children have no parent that would tell how they end
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except OSError:
                pass  # it has ended as well
            child.has_code(-int(signal.SIGKILL))
        self._lane.close()
        self._process.wait()


class _ForkedFromHere:
    """A process that this one has forked."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._lock = threading.Lock()  # it is not signalled once it was collected: its id is free then
        self._is_collected = False

    def wait(self) -> None:
        try:
            os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
            with self._lock:
                os.waitpid(self._pid, 0)
                self._is_collected = True
        except ChildProcessError:  # the program around us has collected it
            self._is_collected = True

    def kill(self) -> None:
        with self._lock:
            if not self._is_collected:
                os.kill(self._pid, signal.SIGKILL)


class _Forked:
    """A child of the nursery; see `launch.Launched`."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.returncode: int | None = None
        self._nursery = nursery
        self._pid = pid
        self._ended = threading.Event()

    @property
    def pid(self) -> int:
        return self._pid

    def has_ended(self) -> bool:
        return self._ended.is_set()

    def kill(self) -> None:
        if not self._ended.is_set():
            self._nursery.kill(self._pid)

    def wait(self) -> None:
        self._ended.wait()

    def has_code(self, code: int) -> None:
        """Told by the nursery's thread when it has ended."""
        self.returncode = code
        self._ended.set()


def _receive(lane: socket.socket) -> dict[str, Any] | None:
    """The next message; None at the end."""
    start = _receive_exactly(lane, _LENGTH.size)
    body = _receive_exactly(lane, _LENGTH.unpack(start)[0]) if start is not None else None
    return None if body is None else dict(json.loads(body))


def _receive_exactly(lane: socket.socket, size: int) -> bytes | None:
    found = bytearray()
    while len(found) < size:
        try:
            piece = lane.recv(size - len(found))
        except OSError:
            return None
        if not piece:
            return None
        found += piece
    return bytes(found)


# ---- at the start of the serving process ----


def fork_from_here(modules: Sequence[str] = ()) -> Nursery | None:
    """Forks the nursery from this process; for programs that do nothing but serve, when they start.

    `modules` are imported before: what loads a model and the caller need both.

    None where that would not be what a fresh interpreter is: on other systems than Linux, with threads, with options
    of the interpreter, inside another program, or after modules came from the folder of the script. The caller has
    not yet read what a model must not see: descriptors but the standard ones are closed there, memory is not wiped.
    """
    if not _is_as_fresh():
        return None
    interpreter = Interpreter.current()
    path = interpreter.path_of_fork()
    if path is None:
        return None
    for name in modules:
        importlib.import_module(name)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    gc.freeze()
    ours, theirs = socket.socketpair()
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        return None
    if pid:
        theirs.close()
        return Nursery(interpreter, ours, _ForkedFromHere(pid))
    _end(theirs, ours, path)


def _is_as_fresh() -> bool:
    if sys.platform != "linux" or not all((sys.executable, sys.stdin, sys.stdout, sys.stderr)):
        return False
    if not is_own_program():
        return False
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def _end(lane: socket.socket, other: socket.socket, path: list[str]) -> NoReturn:
    """In the fork: forgets the program around it, is the nursery, and in a fork of that the child."""
    code = 1
    try:
        other.close()
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        for number in map(int, os.listdir("/proc/self/fd")):
            if number > 2 and number != lane.fileno():
                try:
                    os.close(number)
                except OSError:
                    pass  # that of the listing itself
        os.chdir("/")
        sys.path[:] = path
        sys.modules["__main__"] = types.ModuleType("__main__")  # as with -c: there is no file of it
        code = _run(lane)
    except SystemExit:
        raise
    except BaseException:
        # As a fresh interpreter would: not what the program around this makes of an error.
        sys.excepthook(*sys.exc_info())
    sys.exit(code)


# ---- in the nursery ----


def main(arguments: list[str]) -> int:
    """Runs the nursery, and in a fork of it the child; `arguments` is the number of its socket."""
    lane = socket.socket(fileno=int(arguments[0]))
    lane.set_inheritable(False)
    return _run(lane)


def _run(lane: socket.socket) -> int:
    from verta_local.serving import child  # noqa: PLC0415 - only here: the serving process never needs these
    from verta_local.serving.frames import PASSED  # noqa: PLC0415 - as above

    for name in _NEEDED_TO_LOAD:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()  # of whoever forked this
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    name_process("verta nursery")
    numbers = _Keeper(lane).run()
    if numbers is None:
        os._exit(0)  # it has nothing to tidy up, and a child that ends in the meantime nobody to tell
    return child.main([PASSED, *map(str, numbers)])


class _Keeper:
    """Forks, watches and kills; single-threaded."""

    def __init__(self, lane: socket.socket) -> None:
        self._lane = lane
        self._children: set[int] = set()
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)

    def run(self) -> list[int] | None:
        """None when the serving process is gone; in a child: the descriptors of its lanes."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._lane, selectors.EVENT_READ, "order")
            selector.register(self._wake_read, selectors.EVENT_READ, "child")
            while True:
                for key, _ in selector.select():
                    if key.data == "child":
                        self._wake_read.recv(4096)
                        self._collect()
                        continue
                    order, descriptors = self._next_order()
                    if order is None:
                        return None
                    if "kill" in order:
                        self._kill(order["kill"])
                    else:
                        numbers = self._fork(order["fork"], descriptors)
                        if numbers is not None:
                            return numbers

    def _next_order(self) -> tuple[dict[str, Any] | None, list[int]]:
        try:
            start, descriptors, _, _ = socket.recv_fds(self._lane, _LENGTH.size, _DESCRIPTORS_LIMIT)
        except OSError:
            return None, []
        rest = _receive_exactly(self._lane, _LENGTH.size - len(start)) if start else None
        body = _receive_exactly(self._lane, _LENGTH.unpack(start + rest)[0]) if rest is not None else None
        return (json.loads(body), list(descriptors)) if body is not None else (None, [])

    def _fork(self, order: dict[str, Any], descriptors: list[int]) -> list[int] | None:
        for name in order["libraries"]:
            if name not in sys.modules:
                try:
                    importlib.import_module(name)
                except Exception:  # whatever it is, the model's own import meets it and reports it
                    pass
        gc.collect()
        gc.freeze()  # a collection in the child would touch, and so copy, the pages that it shares
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that NumPy has threads: it minds forks itself
            pid = os.fork()
        if pid:
            self._children.add(pid)
            for number in descriptors:
                os.close(number)
            self._send({"forked": pid})
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._lane.close()
        self._wake_read.close()
        self._wake_write.close()
        os.setsid()
        try:
            os.chdir(order["folder"])
        except OSError:
            pass  # somebody deleted it: the model has no business there anyway
        log, *lanes = descriptors
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        os.environ.clear()
        os.environ.update(order["environment"])
        name_process("verta model")
        random = sys.modules.get("numpy.random")
        if random is not None:
            random.seed()  # else every model would draw the same numbers
        return lanes

    def _kill(self, pid: int) -> None:
        if pid not in self._children:
            return
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:  # it has not made its group yet
            os.kill(pid, signal.SIGKILL)

    def _collect(self) -> None:
        for pid in list(self._children):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                continue
            try:
                os.killpg(pid, signal.SIGKILL)  # what it started; not collected yet, so the number is still its own
            except ProcessLookupError:
                pass
            _, status = os.waitpid(pid, 0)
            self._children.discard(pid)
            self._send({"ended": pid, "code": os.waitstatus_to_exitcode(status)})

    def _send(self, report: dict[str, Any]) -> None:
        body = json.dumps(report).encode("ascii")
        try:
            self._lane.sendall(_LENGTH.pack(len(body)) + body)
        except OSError:
            pass  # the serving process is gone: the next read says so


def name_process(name: str) -> None:
    """What `ps` and `top` show; Linux only."""
    try:
        Path("/proc/self/comm").write_text(name[:15])
    except OSError:
        pass  # another system, or no /proc: it is only for people
