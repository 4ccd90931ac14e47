"""Stands between the engine and the operating system in one process: counts the calls that touch a store, and fails them.

The engine makes its system calls through the `os` module, so replacing the functions there needs neither root nor a
tracer. SQLite makes its calls by itself: its statements are counted instead.
"""

from __future__ import annotations

import builtins
import errno
import json
import os
import signal
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from verta_store import files

# The calls that change something, and the errors that a real file system gives for each.
_WRITES = "ENOSPC EDQUOT EIO ESTALE"
_NAMES = "ENOSPC EDQUOT EIO EACCES ESTALE"
CALLS: dict[str, str] = {
    "write": _WRITES,
    "open": _NAMES,
    "fsync": "ENOSPC EIO ESTALE",
    "fdatasync": "ENOSPC EIO ESTALE",
    "rename": _NAMES,
    "replace": _NAMES,
    "link": _NAMES,
    "symlink": "",
    "unlink": "EIO EACCES ESTALE",
    "mkdir": _NAMES,
    "rmdir": "EIO EACCES",
    "ftruncate": "EIO",
    "chmod": "EACCES",
    "fchmod": "EACCES",
    "utime": "EACCES EIO",
    "sync_file_system": "ENOSPC EIO",
    "sql": "",
}
MODES = (
    "count",
    "kill before",
    "kill after",
    "part then kill",
    "part then error",
    "error",
    "errors from here",
    "short",
    "full",
)
BLOCK_BYTES = 4096


@dataclass(frozen=True)
class Plan:
    """What is to happen at which call. `at` counts from 1; `error` is a name of `errno`.

    Of the mode "full", `at` is the size of the drive in blocks: data and folders take blocks, names take none.
    """

    mode: str = "count"
    at: int = 0
    error: str = ""


class Interposer:
    """Wraps the functions of `os` in this process; there is no way back but the end of the process."""

    def __init__(self, root: str, plan: Plan, state_path: str) -> None:
        self._root = os.path.realpath(root)
        self._above = os.path.dirname(self._root)  # its sync makes the store's own name durable
        self._plan = plan
        self._state_path = state_path
        self._lock = threading.RLock()
        self._paths: dict[int, str] = {}  # open descriptors of the store
        self.calls: list[str] = []
        self._is_done = False
        self.was_full = False  # a plan of this mode has refused something
        # What a power cut would take: names made since their folder was synced, in order; inode -> synced size.
        self._pending: list[list[str]] = []
        self._synced: dict[int, int] = {}
        self._real_stat = os.stat
        self._real_lstat = os.lstat

    def install(self) -> None:
        """Begins to count."""
        self._load_state()
        for name in CALLS:
            if hasattr(os, name) and name != "open":
                setattr(os, name, self._wrapped(name, getattr(os, name)))
        self._wrap_open()
        self._wrap_descriptors()
        self._wrap_barrier()
        real_connect = sqlite3.connect

        def connect(*arguments: Any, **more: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = real_connect(*arguments, **more)
            connection.set_trace_callback(lambda _: self._point("sql", lambda: None, ()))
            return connection

        sqlite3.connect = connect  # type: ignore[assignment]

    def save_state(self) -> None:
        """Writes down what a power cut at this moment would take."""
        with self._lock, open(self._state_path + ".new", "w", encoding="utf-8") as file:
            json.dump({"pending": self._pending, "synced": self._synced}, file)
        os.rename(self._state_path + ".new", self._state_path)

    def used_blocks(self) -> int:
        """What the store takes up on a drive with blocks of 4 KiB."""
        seen = {}
        for folder, _, names in os.walk(self._root):
            for name in names:
                try:
                    found = self._real_lstat(os.path.join(folder, name))
                except FileNotFoundError:
                    continue
                seen[found.st_ino] = -(-found.st_size // BLOCK_BYTES)
            seen[self._real_stat(folder).st_ino] = 1
        return sum(seen.values())

    def fill_up(self, but_blocks: int = 0) -> None:
        """From now on the drive has no room, or so many blocks, for more than lies on it."""
        self._plan = Plan("full", self.used_blocks() + but_blocks)

    # -- wrapping ------------------------------------------------------------------------------------------------------

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            touched = self._touched(arguments, more)
            if not touched:
                return real(*arguments, **more)
            return self._point(name, lambda: real(*arguments, **more), touched, arguments, real)

        return call

    def _wrap_open(self) -> None:
        real_open, real_builtin = os.open, builtins.open

        def os_open(path: Any, flags: int, *arguments: Any, **more: Any) -> int:
            touched = self._touched((path,), more)
            if not touched:
                return real_open(path, flags, *arguments, **more)

            def make() -> int:
                return real_open(path, flags, *arguments, **more)

            is_new = bool(flags & os.O_CREAT) and not os.path.lexists(touched[0])
            descriptor: int = self._point("open", make, touched) if flags & os.O_CREAT else make()
            with self._lock:
                self._paths[descriptor] = touched[0]
                if is_new:
                    self._pending.append(["made", touched[0]])
            return descriptor

        def builtin(path: Any, mode: str = "r", *arguments: Any, **more: Any) -> Any:
            touched = self._touched((path,), {}) if isinstance(path, (str, os.PathLike)) else ()
            if not touched or not set(mode) & set("wxa+"):
                return real_builtin(path, mode, *arguments, **more)
            is_new = not os.path.lexists(touched[0])
            file = self._point("open", lambda: real_builtin(path, mode, *arguments, **more), touched)
            with self._lock:
                self._paths[file.fileno()] = touched[0]
                if is_new:
                    self._pending.append(["made", touched[0]])
            return file

        os.open = os_open
        builtins.open = builtin

    def _wrap_descriptors(self) -> None:
        real_close, real_dup = os.close, os.dup

        def close(descriptor: int) -> None:
            with self._lock:
                self._paths.pop(descriptor, None)
            real_close(descriptor)

        def dup(descriptor: int) -> int:
            twin: int = real_dup(descriptor)
            with self._lock:
                if descriptor in self._paths:
                    self._paths[twin] = self._paths[descriptor]
            return twin

        os.close = close
        os.dup = dup

    def _wrap_barrier(self) -> None:
        """syncfs(2), which is not in `os`."""
        real = files.sync_file_system

        def sync_file_system(path: str) -> bool:
            done: bool = self._point("sync_file_system", lambda: real(path), (os.path.realpath(path),))
            if done:
                with self._lock:
                    self._pending.clear()
                    self._note_sizes()
            return done

        files.sync_file_system = sync_file_system

    def _touched(self, arguments: tuple[Any, ...], more: dict[str, Any]) -> tuple[str, ...]:
        """The paths of the store among a call's arguments; of descriptors, those they were opened by."""
        found = []
        for argument in arguments:
            if isinstance(argument, bool) or not isinstance(argument, (str, os.PathLike, int)):
                continue
            if isinstance(argument, int):
                path = self._path_of(argument)
            else:
                folder = self._path_of(more.get("dir_fd")) if more.get("dir_fd") is not None else os.getcwd()
                path = os.path.normpath(os.path.join(folder or "", os.fspath(argument)))
            if path and (path in (self._root, self._above) or path.startswith(self._root + os.sep)):
                found.append(path)
        return tuple(found)

    def _path_of(self, descriptor: int) -> str:
        """The path that a descriptor was opened by; it may have been closed behind our back, by a file object."""
        path = self._paths.get(descriptor, "")
        if not path:
            return ""
        try:
            there, here = os.fstat(descriptor), self._real_stat(path)
        except OSError:
            return path
        return path if (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev) else ""

    # -- the points ----------------------------------------------------------------------------------------------------

    def _point(
        self,
        name: str,
        call: Callable[[], Any],
        touched: tuple[str, ...],
        arguments: tuple[Any, ...] = (),
        real: Callable[..., Any] | None = None,
    ) -> Any:
        with self._lock:
            self.calls.append(name)
            number = len(self.calls)
            # Threads make the order of calls differ a little from run to run: the first that fits is the one.
            plan = self._plan
            is_here = (
                not self._is_done and plan.mode not in ("count", "full") and number >= plan.at and self._fits(name)
            )
            self._is_done |= is_here
        if is_here and plan.mode == "kill before":
            self._die()
        if is_here and plan.mode in ("part then kill", "part then error", "short"):
            assert real is not None
            written = real(arguments[0], bytes(arguments[1])[: max(1, len(arguments[1]) // 2)])
            if plan.mode == "part then kill":
                self._die()
            if plan.mode == "short":
                return written
        is_refused = is_here and plan.mode in ("error", "part then error")
        is_refused |= plan.mode == "errors from here" and number >= plan.at and plan.error in CALLS[name].split()
        if is_refused:
            code = getattr(errno, plan.error)
            raise OSError(code, os.strerror(code), *touched[:1])
        with self._lock:
            if plan.mode == "full" and real is not None:
                call = self._as_far_as_it_fits(name, call, touched, arguments, real)
            result = call()
            self._note(name, touched)
        if is_here and plan.mode == "kill after":
            self._die()
        return result

    def _as_far_as_it_fits(
        self,
        name: str,
        call: Callable[[], Any],
        touched: tuple[str, ...],
        arguments: tuple[Any, ...],
        real: Callable[..., Any],
    ) -> Callable[[], Any]:
        """The call, shortened to what a drive of this size still takes. Raises OSError when that is nothing."""
        if name not in ("mkdir", "write"):
            return call
        free_bytes = (self._plan.at - self.used_blocks()) * BLOCK_BYTES
        wanted = 1 if name == "mkdir" else len(arguments[1])
        if name != "mkdir":
            free_bytes = max(0, free_bytes) + -self._real_stat(touched[-1]).st_size % BLOCK_BYTES
        if wanted <= free_bytes:
            return call
        self.was_full = True
        if name == "mkdir" or free_bytes <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *touched[:1])
        return lambda: real(arguments[0], bytes(arguments[1])[:free_bytes])

    def _fits(self, name: str) -> bool:
        """Whether a call of this name is one that the plan is for."""
        if self._plan.error and self._plan.error not in CALLS[name].split():
            return False
        return name == "write" or self._plan.mode not in ("part then kill", "part then error", "short")

    def _die(self) -> None:
        self.save_state()
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    # -- what a power cut would take ------------------------------------------------------------------------------------

    def _load_state(self) -> None:
        try:
            with open(self._state_path, encoding="utf-8") as file:
                state = json.load(file)
            self._pending = state["pending"]
            self._synced = {int(inode): size for inode, size in state["synced"].items()}
        except FileNotFoundError:
            self._note_sizes()

    def _note_sizes(self) -> None:
        for folder, _, names in os.walk(self._root):
            for name in names:
                found = os.lstat(os.path.join(folder, name))
                self._synced[found.st_ino] = found.st_size

    def _note(self, name: str, touched: tuple[str, ...]) -> None:
        if name in ("fsync", "fdatasync"):
            try:
                found = self._real_stat(touched[0])
            except OSError:
                return
            if stat.S_ISDIR(found.st_mode):
                self._pending = [made for made in self._pending if os.path.dirname(made[-1]) != touched[0]]
            else:
                self._synced[found.st_ino] = found.st_size
        elif name in ("mkdir", "symlink") or name == "link":
            self._pending.append(["made", touched[-1]])
        elif name in ("rename", "replace") and len(touched) == 2:
            old, new = touched
            self._pending = [made for made in self._pending if made[-1] != old]
            for made in self._pending:
                for position in range(1, len(made)):
                    if made[position].startswith(old + os.sep):
                        made[position] = new + made[position][len(old) :]
            for descriptor, path in self._paths.items():
                if path == old or path.startswith(old + os.sep):
                    self._paths[descriptor] = new + path[len(old) :]
            self._pending.append(["moved", old, new])
        elif name in ("unlink", "rmdir"):
            self._pending = [made for made in self._pending if made[-1] != touched[0]]
