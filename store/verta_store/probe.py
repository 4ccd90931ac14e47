"""What the file system under a folder can do, tried out; and which kind it is, as far as the system tells.

A store needs very little: creating a file that is not there, renaming, reading what was written. Everything else has a
fallback, and what each absence costs is said here, for `verta-local doctor`.
"""

from __future__ import annotations

import os
import sys
import time
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from . import files, ids

# fmt: off
# File systems on which another host may write: what they show may be old, and SQLite must not live there.
_NETWORK_TYPES = frozenset((
    "9p", "acfs", "afs", "afpfs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs", "gpfs", "lustre",
    "moosefs", "ncpfs", "nfs", "nfs3", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs",
    "vboxsf", "virtiofs", "vmhgfs", "webdav",
))
# File systems in user space are network drives, but for these. One that is not known here is taken for a network
# drive: that costs a look more, the opposite costs data.
_LOCAL_FUSE = frozenset((
    "fuse-overlayfs", "fuse.bindfs", "fuse.cryfs", "fuse.encfs", "fuse.exfat", "fuse.fuse-overlayfs",
    "fuse.gocryptfs", "fuse.lxcfs", "fuse.mergerfs", "fuse.ntfs-3g", "fuse.squashfuse", "fuse.unionfs",
))
# fmt: on

_FICLONE = 0x40049409  # linux/fs.h
_DRIVE_REMOTE = 4  # winbase.h

_TIME_STEPS = {1: "1 ns", 100: "100 ns", 10**3: "1 us", 10**6: "1 ms", 10**9: "1 s", 2 * 10**9: "2 s"}

# Clocks further apart than this order records wrongly for a person's eye; the store's own order bears a day.
CLOCK_SKEW_S = 5.0
# Less free space than this is worth a word.
FREE_BYTES = 1 << 30


class FileSystem(NamedTuple):
    """What a folder lies on. `source` is the device or the server's export; '' where the system does not tell."""

    type: str
    source: str
    mount_point: str
    is_network: bool


def file_system_of(path: str) -> FileSystem:
    """The file system that holds a path, or would: the nearest folder above that exists decides. Best effort."""
    path = existing(path)
    if sys.platform == "win32":
        return _windows(path)
    mounts = _linux_mounts() if sys.platform == "linux" else _bsd_mounts()
    best = FileSystem("unknown", "", os.sep, False)
    for mount_point, kind, source in mounts:
        # Of two mounts on one point the later one is seen.
        is_above = path == mount_point or path.startswith(mount_point.rstrip(os.sep) + os.sep)
        if is_above and len(mount_point) >= len(best.mount_point):
            best = FileSystem(kind, source, mount_point, is_network_type(kind))
    return best


def is_network_type(kind: str) -> bool:
    """Whether a file system of this type is a network drive, by its name in the table of mounts."""
    return kind in _NETWORK_TYPES or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE)


def existing(path: str) -> str:
    """The path, or the nearest folder above it that exists; with no links in it."""
    path = os.path.realpath(path)
    while not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path


def _linux_mounts() -> list[tuple[str, str, str]]:
    """(mount point, type, source) of every mount: proc(5), `/proc/[pid]/mountinfo`."""
    found = []
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                before, _, after = line.partition(" - ")
                point, (kind, source, *_) = before.split(" ")[4], after.split(" ")
                found.append((_unquote(point), kind, _unquote(source)))
    except (OSError, ValueError, IndexError):
        pass
    return found


def _unquote(text: str) -> str:
    """Undoes the octal escapes of mountinfo (space, tab, line end, backslash)."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def _bsd_mounts() -> list[tuple[str, str, str]]:
    """The same from `mount`, which prints `//user@server/share on /Volumes/share (smbfs, nodev, ...)`."""
    import subprocess  # noqa: PLC0415 - start-up time, and only where there is no table to read

    try:
        text = subprocess.run(["/sbin/mount"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in text.splitlines():
        source, _, rest = line.partition(" on ")
        point, _, options = rest.rpartition(" (")
        found.append((point, options.partition(",")[0].rstrip(")"), source))
    return found


def _windows(path: str) -> FileSystem:
    top = os.path.splitdrive(path)[0] + os.sep
    is_remote = path.startswith("\\\\")
    if not is_remote:
        import ctypes  # noqa: PLC0415 - Windows only

        is_remote = ctypes.windll.kernel32.GetDriveTypeW(top) == _DRIVE_REMOTE  # type: ignore[attr-defined]
    return FileSystem("network" if is_remote else "local", "", top, is_remote)


def local_folder() -> str | None:
    """A folder of this user's on a disk of this host, for an index whose own folder lies on a network drive.

    None when there is none that only this user can reach.
    """
    import tempfile  # noqa: PLC0415 - start-up time, and rarely needed

    owner = os.getuid() if hasattr(os, "getuid") else ids.user_name()
    folder = os.path.join(tempfile.gettempdir(), f"verta_local-{owner}")
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    except OSError:
        return None
    try:
        found = os.lstat(folder)
    except OSError:
        return None
    # Anybody may write to the folder for temporary files: what somebody else put there first is not ours.
    is_ours = not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o077)
    if not is_ours or not os.path.isdir(folder) or os.path.islink(folder) or file_system_of(folder).is_network:
        return None
    return folder


# -- trying out ----------------------------------------------------------------------------------------------------


def capabilities(folder: str) -> dict[str, bool]:
    """What goes into `store.json` at creation: what the file system of a folder can do. Leaves nothing behind.

    Raises:
        OSError: the folder cannot be written.
    """
    with _Attempts(folder) as attempts:
        return {name: attempts.works(name) for name in ("case_sensitive", "hard_links", "symlinks", "modes")}


class Finding(NamedTuple):
    """One line of `verta-local doctor`. `is_good` is False where something should be done about it."""

    what: str
    found: str
    is_good: bool
    meaning: str


# What a store does with it, and what its absence means. Nothing here is needed but the first three.
_MEANINGS = {
    "create_once": ("creating a file once", "needed: two writers must never get the same file"),
    "rename": ("renaming", "needed: a file gets its final name when it is whole"),
    "read_back": ("reading back", "needed: what was written is what is read"),
    "replace_open": ("renaming what is open", "without it a journal that is being read keeps its name; readers know"),
    "unlink_open": ("deleting what is open", "without it garbage that is being read goes at a later gc"),
    "hard_links": ("hard links", "without them a file under its own name is a copy, and large files of folders too"),
    "reflinks": ("copies that share blocks", "without them a writable copy of an artifact takes its size"),
    "symlinks": ("symbolic links", "not used"),
    "modes": ("modes (chmod)", "without them nothing keeps a model from writing to an artifact; verify finds it"),
    "case_sensitive": ("case of names", "without it folders whose names differ only in case are refused"),
    "unicode_kept": ("accents in names", "without it a folder's listing may spell names otherwise; paths still open"),
    "long_names": ("names of 200 bytes", "without them artifacts need shorter file names"),
    "sync_file": ("syncing a file", "without it a power cut may take what was just logged"),
    "sync_folder": ("syncing a folder", "without it a power cut may take a file that was just made"),
}
NEEDED = ("create_once", "rename", "read_back")
_WORTH_A_WORD = (*NEEDED, "sync_file", "long_names")


def examine(folder: str) -> list[Finding]:
    """Everything that can be tried in a folder, in the order of a table. Leaves nothing behind.

    Raises:
        StoreWriteError: the folder cannot be written.
    """
    findings = []
    with _Attempts(folder) as attempts:
        for name, (what, meaning) in _MEANINGS.items():
            works = attempts.works(name)
            found = "yes" if works else "NO" if name in NEEDED else "no"
            findings.append(Finding(what, found, works or name not in _WORTH_A_WORD, meaning))
        findings.extend(attempts.measures())
    return findings


class _Attempts:
    """A folder of our own below the one that is looked at, and what is tried in it. Removed at the end."""

    def __init__(self, folder: str) -> None:
        self._above = folder
        self._folder = os.path.join(folder, f"probe-{os.getpid()}-{ids.random_hex(8)}")

    def __enter__(self) -> _Attempts:
        with files.writing("a file to try the drive out", self._above):
            os.mkdir(self._folder)
        return self

    def __exit__(self, *_: object) -> None:
        # Not `shutil`, whose import would be the dearest step of making a store.
        try:
            for name in os.listdir(self._folder):
                files.remove_file(os.path.join(self._folder, name))
            os.rmdir(self._folder)
        except OSError:
            pass  # a drive that still shows what was removed: garbage

    def works(self, name: str) -> bool:
        """Whether one thing can be done; an error of the system is a no."""
        try:
            attempt: Callable[[], bool] = getattr(self, f"_{name}")
            return attempt()
        except (OSError, ValueError, NotImplementedError, ImportError, AttributeError):
            return False

    def _new(self, name: str, data: bytes = b"probe") -> str:
        path = os.path.join(self._folder, name)
        with open(path, "xb") as file:
            file.write(data)
        return path

    def _create_once(self) -> bool:
        path = self._new("once")
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return True
        return False

    def _rename(self) -> bool:
        path = self._new("before")
        os.rename(path, os.path.join(self._folder, "after"))
        return not os.path.exists(path) and os.path.exists(os.path.join(self._folder, "after"))

    def _read_back(self) -> bool:
        path = self._new("content", b"first")
        with open(path, "ab") as file:
            file.write(b" second")
        with open(path, "rb") as file:
            return file.read() == b"first second"

    def _replace_open(self) -> bool:
        old, new = self._new("old", b"old"), self._new("new", b"new")
        with open(old, "rb"):
            os.replace(new, old)
        return True

    def _unlink_open(self) -> bool:
        path = self._new("open", b"open")
        with open(path, "rb") as file:
            os.unlink(path)
            return file.read() == b"open"

    def _hard_links(self) -> bool:
        path = self._new("linked")
        os.link(path, path + "-twin")
        with open(path, "rb"), open(path + "-twin", "rb"):  # which SMB refuses
            return os.stat(path).st_nlink == 2

    def _symlinks(self) -> bool:
        path = self._new("target")
        os.symlink(path, path + "-link")
        return os.path.islink(path + "-link")

    def _reflinks(self) -> bool:
        import fcntl  # noqa: PLC0415 - absent on Windows

        path = self._new("cloned", b"c" * 4096)
        with open(path, "rb") as source, open(path + "-twin", "xb") as target:
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
        return os.path.getsize(path + "-twin") == 4096

    def _modes(self) -> bool:
        path = self._new("mode")
        os.chmod(path, 0o444)
        first = os.stat(path).st_mode & 0o777
        os.chmod(path, 0o640)
        return (first, os.stat(path).st_mode & 0o777) == (0o444, 0o640)

    def _case_sensitive(self) -> bool:
        self._new("case")
        return not os.path.exists(os.path.join(self._folder, "CASE"))

    def _unicode_kept(self) -> bool:
        name = "caf\u00e9"
        self._new(name)
        other = unicodedata.normalize("NFD", name)
        return name in os.listdir(self._folder) and not os.path.exists(os.path.join(self._folder, other))

    def _long_names(self) -> bool:
        return bool(self._new("n" * 200))

    def _sync_file(self) -> bool:
        with open(self._new("synced"), "ab") as file:
            os.fsync(file.fileno())
        return True

    def _sync_folder(self) -> bool:
        if sys.platform == "win32":
            return True  # there it is neither possible nor needed
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return True

    def measures(self) -> list[Finding]:
        """Times and sizes instead of yes and no."""
        step, round_trip_s, skew_s = self._time_step(), self._round_trip_s(), self._skew_s()
        import shutil  # noqa: PLC0415 - start-up time of whoever makes a store

        usage = shutil.disk_usage(self._folder)
        found = [
            Finding("steps of time stamps", step, True, "a remembered check of an object counts from the next step on"),
            Finding(
                "creating and deleting",
                f"{round_trip_s * 1000:.2f} ms",
                round_trip_s < 0.1,
                "a share is asked so for what is new, at most once a second",
            ),
            Finding(
                "clock of the drive",
                f"{skew_s:+.1f} s" if abs(skew_s) >= 0.1 else "this host's",
                abs(skew_s) < CLOCK_SKEW_S,
                "against this host's; far apart, set the clocks (NTP): later records then look older",
            ),
            Finding("free space", _size(usage.free), usage.free > FREE_BYTES, f"of {_size(usage.total)}"),
        ]
        free_files = os.statvfs(self._folder).f_favail if hasattr(os, "statvfs") else 0
        if 0 < free_files < 10_000:  # many drives report 0 or a number without meaning
            found.append(Finding("free files", str(free_files), False, "each run and artifact takes one or more"))
        return found

    def _time_step(self) -> str:
        path = self._new("times")
        asked = 1_700_000_001_123_456_789  # an odd second, and nothing round behind it
        try:
            os.utime(path, ns=(asked, asked))
            kept = os.stat(path).st_mtime_ns
        except OSError:
            return "unknown"
        for step, text in _TIME_STEPS.items():
            if kept == asked - asked % step:
                return text
        return "unknown"

    def _round_trip_s(self) -> float:
        taken = []
        for number in range(5):
            begin = time.perf_counter()
            os.unlink(self._new(f"round-trip-{number}"))
            taken.append(time.perf_counter() - begin)
        return sorted(taken)[2]

    def _skew_s(self) -> float:
        before = time.time()
        path = self._new("clock")
        with open(path, "rb"):  # a network drive answers an open with the file's true time
            written = os.stat(path).st_mtime
        after = time.time()
        # A drive may round down, by up to 2 s: that is no skew.
        if before - 2.0 <= written <= after:
            return 0.0
        return written - after if written > after else written - before


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


__all__ = ["FileSystem", "Finding", "capabilities", "examine", "existing", "file_system_of", "local_folder"]
