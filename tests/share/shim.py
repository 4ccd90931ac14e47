"""A bad network drive, made of a local folder, for a whole Python process: one process is one host.

The worst of NFS and of SMB at once, as the engine may meet it behind `os`:

* what `stat`, `listdir` and a look-up that failed said stays true for `stale_s`, unless this host changes the folder;
* that a name was not there stays true for a second also then, unless the folder is listed;
* a file that anybody has open cannot be renamed or replaced;
* there are no links and no modes, names are the same in capitals and small letters;
* an append writes where this host believes the end to be, and others see it once it is synced or closed;
* a file that another host removed answers ESTALE;
* time stamps have steps of 2 s, and the drive may have a clock of its own.

As a program it runs a script on such a drive: `VERTA_TEST_SHARE='{"roots": ["/..."]}' python shim.py SCRIPT ...`.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import functools
import io
import json
import os
import runpy
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

_TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VARIABLE = "VERTA_TEST_SHARE"
TIME_STEP_NS = 2 * 10**9
ABSENT_S = 1.0

# The true functions, kept before any of them is replaced.
# fmt: off
_REPLACED = ("open", "close", "write", "fsync", "fdatasync", "ftruncate", "stat", "lstat", "fstat", "listdir",
             "scandir", "mkdir", "rmdir", "rename", "replace", "unlink", "link", "symlink", "chmod", "fchmod", "utime")
_READING = ("read", "readv", "pread", "preadv")
# fmt: on
_true: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in (*_REPLACED, *_READING)}
_true_open = builtins.open


@dataclass
class Entry:
    """What `scandir` gives, from what this host remembers."""

    name: str
    path: str
    is_folder: bool

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self.is_folder

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return not self.is_folder

    def is_symlink(self) -> bool:
        return False

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return os.stat(self.path)

    def inode(self) -> int:
        return self.stat().st_ino

    def __fspath__(self) -> str:
        return self.path


class Listing:
    """An iterator over entries that can be closed."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[Entry]:
        return self._entries

    def __next__(self) -> Entry:
        return next(self._entries)

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        pass


@dataclass
class Share:
    """The drive, as this process sees it."""

    roots: list[str] = field(default_factory=list)
    stale_s: float = 30.0
    has_links: bool = False
    has_modes: bool = False
    is_case_sensitive: bool = False
    keeps_appends: bool = True  # until they are synced; not for tests that kill, where a kernel would still write them
    refuses_open: bool = True
    clock_ahead_s: float = 0.0
    only_for: str = ""  # a folder: what other code than that below it does, it does at the server itself
    counts: dict[str, int] = field(default_factory=dict)  # what happened how often, for tests that want to be sure

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._folders: dict[str, tuple[float, dict[str, bool]]] = {}  # names seen -> is a folder
        self._states: dict[str, tuple[float, os.stat_result]] = {}
        self._absent: dict[str, float] = {}  # names that were not there -> until when that is believed
        self._appended: dict[tuple[int, int], tuple[int, bytearray]] = {}  # (device, inode) -> descriptor, bytes
        self._removed_here: set[tuple[int, int]] = set()

    # -- what this host remembers ----------------------------------------------------------------------------------

    def on_drive(self, path: Any) -> str | None:
        """The path as an absolute text, if it lies on the drive."""
        if isinstance(path, int) or path is None or not self.roots:
            return None
        if self.only_for and not self._is_for_this_host():
            self._folders.clear()  # and this host sees it at once: staleness is for what other processes do
            self._states.clear()
            self._absent.clear()
            return None
        text = os.path.abspath(os.fsdecode(path))
        return text if any(text == root or text.startswith(root + os.sep) for root in self.roots) else None

    def _is_for_this_host(self) -> bool:
        """Whether the call comes from the code in `only_for`, be it through the standard library."""
        frame = sys._getframe(2)
        while frame is not None:
            file = frame.f_code.co_filename
            if file.startswith(self.only_for):
                return True
            if file.startswith(_TESTS) and file != __file__:
                return False
            frame = frame.f_back  # type: ignore[assignment]
        return True

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def _true_names(self, folder: str) -> dict[str, bool]:
        with _true["scandir"](folder) as listing:
            return {entry.name: entry.is_dir() for entry in listing}

    def _key(self, path: str) -> str:
        return path if self.is_case_sensitive else path.casefold()

    def _seen(self, folder: str) -> dict[str, bool] | None:
        """What this host remembers of a folder, if it trusts it still."""
        found = self._folders.get(self._key(folder))
        return found[1] if found is not None and time.monotonic() < found[0] else None

    def _remember(self, folder: str) -> dict[str, bool]:
        names = self._seen(folder)
        if names is None:
            names = self._true_names(folder)
            self._folders[self._key(folder)] = (time.monotonic() + self.stale_s, names)
        elif names != self._true_names_or_none(folder):
            self._count("stale listing")
        return names

    def _true_names_or_none(self, folder: str) -> dict[str, bool] | None:
        try:
            return self._true_names(folder)
        except OSError:
            return None

    def changed(self, *paths: str) -> None:
        """This host changed something there: the server's answer brings the folder up to date."""
        for path in paths:
            above, inside = self._key(os.path.dirname(path)), self._key(path)
            for key in [key for key in self._absent if key == inside or key.startswith(inside + os.sep)]:
                del self._absent[key]
            for known in (self._folders, self._states):
                for key in list(known):
                    if key in (above, inside) or key.startswith(inside + os.sep):
                        del known[key]  # type: ignore[attr-defined]

    def real(self, path: str, *, is_new: bool = False) -> str:
        """The path as the server spells it: another one that differs in case is the same.

        Raises ENOENT for what this host believes not to be there. With `is_new` that is asked for what lies above.
        """
        root = next(root for root in self.roots if path == root or path.startswith(root + os.sep))
        real = root
        parts = path[len(root) :].strip(os.sep).split(os.sep) if path != root else []
        for number, part in enumerate(parts):
            names = self._seen(real)
            is_last = number == len(parts) - 1
            is_absent = names is not None and not self._same(part, names)
            is_absent |= time.monotonic() < self._absent.get(self._key(os.path.join(real, part)), 0)
            if is_absent and not (is_last and is_new):
                if self._same(part, self._true_names_or_none(real) or {}):
                    self._count("stale look-up")
                raise _error(errno.ENOENT, path)
            spelled = part
            if not self.is_case_sensitive and not _exists(os.path.join(real, part)):
                spelled = self._same(part, self._true_names_or_none(real) or {}) or part
            real = os.path.join(real, spelled)
        return real

    def _same(self, name: str, names: dict[str, bool]) -> str | None:
        if name in names:
            return name
        if self.is_case_sensitive:
            return None
        return next((known for known in names if known.casefold() == name.casefold()), None)

    # -- looking ---------------------------------------------------------------------------------------------------

    def stat(self, path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        where = self.on_drive(path) if dir_fd is None else None
        true = _true["stat"] if follow_symlinks else _true["lstat"]
        if where is None:
            found: os.stat_result = true(path, dir_fd=dir_fd)
            return self._dress(found) if isinstance(path, int) and self._is_ours(found) else found
        with self._lock:
            known = self._states.get(self._key(where))
            if known is not None and time.monotonic() < known[0]:
                return known[1]
            try:
                found = self._dress(true(self.real(where)))
            except FileNotFoundError:
                self._remember_absence(where)
                raise
            self._states[self._key(where)] = (time.monotonic() + self.stale_s, found)
            return found

    def _remember_absence(self, where: str) -> None:
        """That something is not there is remembered too, by the nearest folder above that is."""
        while where not in self.roots:
            above = os.path.dirname(where)
            try:
                folder = self.real(above)
                self._remember(folder)
            except OSError:
                where = above
                continue
            key = self._key(os.path.join(folder, os.path.basename(where)))
            if self._absent.get(key, 0) < time.monotonic():
                self._absent[key] = time.monotonic() + ABSENT_S
            return

    def _listed(self, folder: str) -> dict[str, bool]:
        """What a listing shows, which ends the belief that a name in it is not there."""
        names = self._remember(folder)
        for name in names:
            self._absent.pop(self._key(os.path.join(folder, name)), None)
        return names

    def lstat(self, path: Any, *, dir_fd: int | None = None) -> os.stat_result:
        return self.stat(path, dir_fd=dir_fd, follow_symlinks=False)

    def fstat(self, descriptor: int) -> os.stat_result:
        found: os.stat_result = _true["fstat"](descriptor)
        is_seen = self._is_ours(found) and (not self.only_for or self._is_for_this_host())
        return self._dress(found) if is_seen else found

    def _is_ours(self, found: os.stat_result) -> bool:
        # Descriptors carry no path: a file is on the drive if it was opened there.
        return (found.st_dev, found.st_ino) in self._opened

    @property
    def _opened(self) -> set[tuple[int, int]]:
        return self.__dict__.setdefault("_opened_files", set())

    def _dress(self, found: os.stat_result) -> os.stat_result:
        """Time stamps of 2 s by the drive's clock, and a device number as network drives have it."""
        ahead = int(self.clock_ahead_s * 10**9)
        times = {}
        for name in ("atime", "mtime", "ctime"):
            nanoseconds = (getattr(found, f"st_{name}_ns") + ahead) // TIME_STEP_NS * TIME_STEP_NS
            times[f"st_{name}_ns"] = nanoseconds
            times[f"st_{name}"] = nanoseconds / 10**9
        mode = found.st_mode if self.has_modes else found.st_mode | 0o777
        fields = [mode, found.st_ino, os.makedev(0, 99), *found[3:7]]
        return os.stat_result([*fields, *(int(times[f"st_{name}"]) for name in ("atime", "mtime", "ctime"))], times)

    def listdir(self, path: Any = ".") -> list[str]:
        where = self.on_drive(path)
        if where is None:
            names: list[str] = _true["listdir"](path)
            return names
        with self._lock:
            return sorted(self._listed(self.real(where)))

    def scandir(self, path: Any = ".") -> Any:
        where = self.on_drive(path)
        if where is None:
            return _true["scandir"](path)
        with self._lock:
            found = self._listed(self.real(where))
            base = os.fsdecode(path)
            return Listing([Entry(name, os.path.join(base, name), kind) for name, kind in found.items()])

    # -- files -----------------------------------------------------------------------------------------------------

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        return self._open(path, flags, mode, dir_fd, is_raw=True)

    def _open(self, path: Any, flags: int, mode: int, dir_fd: int | None, *, is_raw: bool) -> int:
        where = self.on_drive(path) if dir_fd is None else None
        if where is None:
            descriptor: int = _true["open"](path, flags, mode, dir_fd=dir_fd)
            if self._opened:  # a file elsewhere may get the number of one that is gone from the drive
                found = _true["fstat"](descriptor)
                self._opened.discard((found.st_dev, found.st_ino))
            return descriptor
        is_new = bool(flags & os.O_CREAT)
        with self._lock:
            try:
                real = self.real(where, is_new=is_new)
                self._flush_file(real)
                was_there = _exists(real)
                descriptor = _true["open"](real, flags & ~os.O_APPEND, mode)
            except FileNotFoundError:
                if self._key(where) in self._states:
                    # What is known here by its number, and gone on the server.
                    self.changed(where)
                    self._count("ESTALE")
                    raise _error(errno.ESTALE, where) from None
                raise
            except FileExistsError:
                self.changed(where)
                raise
            if is_new and not was_there:
                self.changed(where)
            self._states.pop(self._key(where), None)  # opening asks the server
            found = _true["fstat"](descriptor)
            self._opened.add((found.st_dev, found.st_ino))
            if not stat.S_ISDIR(found.st_mode):
                if self.refuses_open:
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
                if flags & os.O_APPEND:
                    os.lseek(descriptor, 0, os.SEEK_END)  # where this host believes the end to be
                    if is_raw and self.keeps_appends:
                        self._appended[found.st_dev, found.st_ino] = (descriptor, bytearray())
            return descriptor

    def builtin_open(self, file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if file == "/proc/self/mountinfo":
            with _true_open(file, encoding="utf-8") as table:
                text = table.read()
            lines = [f"999 1 0:99 / {root} rw,relatime - nfs4 server:/team rw,vers=4.2\n" for root in self.roots]
            return io.StringIO(text + "".join(lines))
        if self.on_drive(file) is not None and "opener" not in named:
            named["opener"] = lambda path, flags: self._open(path, flags, 0o666, None, is_raw=False)
        return _true_open(file, mode, *arguments, **named)

    def close(self, descriptor: int) -> None:
        with self._lock:
            for key, (known, _) in list(self._appended.items()):
                if known == descriptor:
                    self._flush(key)
                    del self._appended[key]
        _true["close"](descriptor)

    def write(self, descriptor: int, data: Any) -> int:
        with self._lock:
            for known, buffer in self._appended.values():
                if known == descriptor:
                    buffer += data
                    return len(data)
        written: int = _true["write"](descriptor, data)
        return written

    def _flush(self, key: tuple[int, int]) -> None:
        descriptor, buffer = self._appended[key]
        while buffer:
            del buffer[: _true["write"](descriptor, buffer)]

    def _flush_file(self, real: str) -> None:
        """What this process wrote is there for this process."""
        if self._appended and _exists(real):
            found = _true["stat"](real)
            if (found.st_dev, found.st_ino) in self._appended:
                self._flush((found.st_dev, found.st_ino))

    def _flush_descriptor(self, descriptor: int) -> None:
        with self._lock:
            found = _true["fstat"](descriptor)
            if (found.st_dev, found.st_ino) in self._appended:
                self._flush((found.st_dev, found.st_ino))

    def fsync(self, descriptor: int) -> None:
        # To the server; whether its disk has it is not what is tested here, and waiting for a disk is slow.
        self._flush_descriptor(descriptor)

    def fdatasync(self, descriptor: int) -> None:
        self._flush_descriptor(descriptor)

    def ftruncate(self, descriptor: int, length: int) -> None:
        self._flush_descriptor(descriptor)
        _true["ftruncate"](descriptor, length)
        os.lseek(descriptor, 0, os.SEEK_END)

    def reading(self, name: str, descriptor: int, *arguments: Any) -> Any:
        found = _true["fstat"](descriptor)
        key = (found.st_dev, found.st_ino)
        if found.st_nlink == 0 and key in self._opened and key not in self._removed_here:
            self._count("ESTALE")
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return _true[name](descriptor, *arguments)

    # -- names -----------------------------------------------------------------------------------------------------

    def mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        where = self.on_drive(path) if dir_fd is None else None
        if where is None:
            _true["mkdir"](path, mode, dir_fd=dir_fd)
            return
        with self._lock:
            try:
                _true["mkdir"](self.real(where, is_new=True))
            finally:
                self.changed(where)

    def rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        where = self.on_drive(path) if dir_fd is None else None
        if where is None:
            _true["rmdir"](path, dir_fd=dir_fd)
            return
        with self._lock:
            try:
                _true["rmdir"](self.real(where, is_new=True))
            finally:
                self.changed(where)

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        where = self.on_drive(path) if dir_fd is None else None
        if where is None:
            _true["unlink"](path, dir_fd=dir_fd)
            return
        with self._lock:
            try:
                real = self.real(where, is_new=True)
                found = _true["lstat"](real)
                _true["unlink"](real)
                self._removed_here.add((found.st_dev, found.st_ino))
            finally:
                self.changed(where)

    def rename(self, source: Any, target: Any, *, src_dir_fd: Any = None, dst_dir_fd: Any = None) -> None:
        self._rename(_true["rename"], source, target)

    def replace(self, source: Any, target: Any, *, src_dir_fd: Any = None, dst_dir_fd: Any = None) -> None:
        self._rename(_true["replace"], source, target)

    def _rename(self, true: Callable[..., Any], source: Any, target: Any) -> None:
        here, there = self.on_drive(source), self.on_drive(target)
        if here is None and there is None:
            true(source, target)
            return
        if here is None or there is None:
            raise _error(errno.EXDEV, os.fsdecode(source))
        with self._lock:
            try:
                real, aim = self.real(here, is_new=True), self.real(there, is_new=True)
                if self.refuses_open and (self._is_open(real) or self._is_open(aim)):
                    self._count("refused rename")
                    raise _error(errno.EACCES, here)
                if real.casefold() == aim.casefold():
                    aim = there  # another spelling of its own name
                true(real, aim)
            finally:
                self.changed(here, there)

    def _is_open(self, real: str) -> bool:
        """Whether anybody, of this host or another, has a file open: every open takes a lock that its end drops."""
        if not _exists(real) or stat.S_ISDIR(_true["lstat"](real).st_mode):
            return False
        descriptor = _true["open"](real, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            _true["close"](descriptor)
        return False

    def link(self, source: Any, target: Any, **named: Any) -> None:
        self._link(_true["link"], source, target, named)

    def symlink(self, source: Any, target: Any, *arguments: Any, **named: Any) -> None:
        self._link(_true["symlink"], source, target, named)

    def _link(self, true: Callable[..., Any], source: Any, target: Any, named: dict[str, Any]) -> None:
        there = self.on_drive(target)
        if there is not None and not self.has_links:
            raise _error(errno.EOPNOTSUPP, there)
        true(source, target, **named)
        if there is not None:
            self.changed(there)

    def chmod(self, path: Any, mode: int, **named: Any) -> None:
        where = self.on_drive(path)
        if isinstance(path, int):
            self.fchmod(path, mode)
        elif where is None:
            _true["chmod"](path, mode, **named)
        elif not self.has_modes:
            raise _error(errno.EPERM, where)
        else:
            _true["chmod"](self.real(where), mode)
            self.changed(where)

    def fchmod(self, descriptor: int, mode: int) -> None:
        if not self.has_modes and self._is_ours(_true["fstat"](descriptor)):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        _true["fchmod"](descriptor, mode)

    def utime(self, path: Any, *arguments: Any, **named: Any) -> None:
        where = self.on_drive(path)
        if where is not None:
            with self._lock:
                self._states.pop(self._key(where), None)
                if "ns" in named:
                    ahead = int(self.clock_ahead_s * 10**9)
                    named["ns"] = tuple(one - ahead for one in named["ns"])
                path = self.real(where)
        _true["utime"](path, *arguments, **named)

    # -- installing ------------------------------------------------------------------------------------------------

    def install(self) -> Share:
        """Replaces what `os` offers, for the rest of this process and what it forks."""
        for name in _REPLACED:
            setattr(os, name, getattr(self, name))
        os.remove = os.unlink
        for name in _READING:
            setattr(os, name, functools.partial(self.reading, name))
        # `shutil` would delete by descriptors, and asks these sets what it may do so.
        shutil._use_fd_functions = False  # type: ignore[attr-defined]
        os.supports_dir_fd.clear()
        os.supports_fd.clear()
        os.supports_fd.add(os.chmod)
        for module in (builtins, io):
            module.open = self.builtin_open  # type: ignore[assignment]
        os.register_at_fork(after_in_child=self._after_fork)
        return self

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._appended = {}


def _exists(path: str) -> bool:
    try:
        _true["lstat"](path)
    except OSError:
        return False
    return True


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


def installed() -> Share | None:
    """Installs what the environment describes."""
    text = os.environ.get(VARIABLE)
    return Share(**json.loads(text)).install() if text else None


if __name__ == "__main__":
    share = installed()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], {"share": share}, run_name="__main__")
