"""A memory, per user and host, of the user's own files that were logged: so that an unchanged folder is not read again.

A file counts as unchanged when path, size, mtime, ctime and inode are those of the time when it was read. That finds an
edit of the same size, also with its mtime put back (ctime moves), and a swap by renaming (inode and ctime). Two things
could slip through and are shut out when a file is *remembered*:

* a change in the same tick of a coarse clock: a file that was changed less than two seconds ago is not remembered
  (git's "racily clean" rule);
* a store through a memory map, which moves mtime and ctime only when the page was clean: a file is only remembered
  when none of its pages is dirty, so that the next store is seen (tried on Linux 6.18: without this it is missed on
  ext4, with it seen). Where that cannot be asked, or the file system never moves the times (tmpfs), nothing is
  remembered and every file is read.

A cache: deletable at any time, and then everything is read once more.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from .local_cache import LocalCache

# File systems that move mtime and ctime at the first store to a clean page.
_TRUSTED = {"ext2", "ext3", "ext4", "xfs", "btrfs"}

_RACY_NS = 2_000_000_000

# cachestat(2), Linux 6.5: the number is the same on all architectures but alpha.
_CACHESTAT = 451


def signature(status: os.stat_result) -> str:
    """What must stay the same for a file to count as unchanged."""
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return f"{status.st_size} {times} {status.st_ino} {status.st_dev} {status.st_mode & 0o111}"


class SourceMemory(LocalCache):
    """Absolute path of a user's file -> (signature, digest)."""

    def __init__(self, path: str) -> None:
        super().__init__(
            path,
            "CREATE TABLE IF NOT EXISTS sources"
            " (path TEXT PRIMARY KEY, signature TEXT NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID",
        )
        self._trusted_devices: dict[int, bool] = {}
        self._waiting: list[tuple[str, str, str]] = []

    def known_below(self, folder: str) -> dict[str, tuple[str, str]]:
        """Path -> (signature, digest) of all that is remembered in a folder, or of one file."""
        rows = self.rows(
            "SELECT path, signature, digest FROM sources WHERE path = ? OR (path >= ? AND path < ?)",
            (folder, folder + os.sep, folder + chr(ord(os.sep) + 1)),
        )
        return {path: (found, digest) for path, found, digest in rows}

    def begin(self, descriptor: int) -> os.stat_result | None:
        """To be called before a file's first byte is read: its status, or None when it must not be remembered.

        The pages are looked at after the status was taken: a store to a clean page from here on moves the times, and
        `note` sees it; one to a dirty page before came before the reading.
        """
        status = os.fstat(descriptor)
        if time.time_ns() - max(status.st_ctime_ns, status.st_mtime_ns) < _RACY_NS:
            return None
        return status if self._is_trusted(status.st_dev) and _is_clean(descriptor) else None

    def note(self, path: str, before: os.stat_result | None, descriptor: int, digest: str) -> None:
        """Remembers a file that was read, unless `begin` said None or it changed meanwhile. Written by `save`."""
        if before is not None and signature(before) == signature(os.fstat(descriptor)):
            self._waiting.append((path, signature(before), digest))

    def save(self) -> None:
        """Writes what `note` took in."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self.write("INSERT OR REPLACE INTO sources VALUES (?, ?, ?)", waiting)

    def _is_trusted(self, device: int) -> bool:
        found = self._trusted_devices.get(device)
        if found is None:
            found = self._trusted_devices[device] = _file_system_of(device) in _TRUSTED
        return found


def _file_system_of(device: int) -> str:
    """The type of the file system on a device number, by /proc; '' where it is not known."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                fields = line.split()
                if fields[2] == wanted:
                    return fields[fields.index("-") + 1]
    except (OSError, ValueError, IndexError):
        pass
    return ""


def _is_clean(descriptor: int) -> bool:
    """Whether no page of an open file waits to be written back. False where the kernel cannot say."""
    call = _cachestat()
    return call is not None and call(descriptor)


_call: Any = None


def _cachestat() -> Any:
    """A function (descriptor) -> bool over cachestat(2), or None."""
    global _call
    if _call is None:
        _call = _make_cachestat() or False
    return _call or None


def _make_cachestat() -> Any:
    if sys.platform != "linux":
        return None
    import ctypes  # noqa: PLC0415 - start-up time

    class Range(ctypes.Structure):
        _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))

    class Found(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_uint64) for name in ("cache", "dirty", "writeback", "evicted", "recent"))

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.argtypes = (ctypes.c_long, ctypes.c_uint, ctypes.POINTER(Range), ctypes.POINTER(Found), ctypes.c_uint)
    whole, found = Range(0, 0), Found()  # length 0: to the end of the file
    pointers = ctypes.pointer(whole), ctypes.pointer(found)

    def is_clean(descriptor: int) -> bool:
        if syscall(_CACHESTAT, descriptor, *pointers, 0) != 0:
            return False
        return bool(found.dirty == 0 and found.writeback == 0)

    return is_clean
