"""Leases: how a process tells whoever collects garbage what it is about to name, and what it serves.

A lease is a small file in `leases/` that its process touches every minute. The fields and the rules are in
`store/README.md`, section "Leases". All times are the drive's own: the modification times of files just written.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from . import drive, files, ids
from .writers import process_exists

FOLDER = "leases"
SUFFIX = ".jsonl"
WRITER = "writer"
READER = "reader"

# How often a lease shows that its process lives; the promise to processes that look at its modification time.
TOUCH_EVERY_S = 60.0

# A writer that names nothing any more lets go of what is older than this, so that a notebook that stays open for
# weeks does not keep others' garbage.
_ADVANCE_AFTER_NS = 3600 * 10**9

# What `freshen` found.
FRESH = "fresh"
FRESHENED = "freshened"
GONE = "gone"
REFUSED = "refused"

# The coarsest time stamps of a file system (FAT) have steps of two seconds.
_TIME_STEP_NS = 2 * 10**9


class Lease(NamedTuple):
    """A lease as another process reads it."""

    path: str
    kind: str  # "writer" or "reader"
    machine: str  # which system's process numbers `pid` is one of; '' where that cannot be told
    pid: int
    since_ns: int  # a writer: everything stored or met since then may be named yet
    touched_ns: int
    digests: frozenset[str] = frozenset()  # a reader: what it serves
    owner: str = ""  # for the eye: user, host, process

    @property
    def name(self) -> str:
        """The file's name without its end: for a writer also the name of its folder in `tmp/`."""
        return os.path.basename(self.path).removesuffix(SUFFIX)

    def is_alive(self, now_ns: int, limit_ns: int) -> bool:
        """Whether its process may still run, `limit_ns` being how long one of another machine may be silent."""
        if self.machine and self.machine == this_machine():
            return process_exists(self.pid)
        return now_ns - self.touched_ns <= limit_ns


def read_leases(root: str) -> list[Lease]:
    """The leases of a store. One that is being written, or was torn by a crash, counts from its file's time.

    Raises:
        OSError: one cannot be read, so that nothing can be said of what it protects.
    """
    folder = os.path.join(root, FOLDER)
    try:
        names = sorted(drive.of(root).names(folder, at_once=True))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        if not name.endswith(SUFFIX):
            continue
        path = os.path.join(folder, name)
        try:
            with open(path, "rb") as file:
                data = file.read()
                touched_ns = os.fstat(file.fileno()).st_mtime_ns
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                continue  # its process has just ended
            raise
        found.append(_parse(path, data, touched_ns))
    return found


def _parse(path: str, data: bytes, touched_ns: int) -> Lease:
    fields: dict[str, Any] = {}
    for line in data.splitlines():
        if line.strip():
            try:
                fields.update(json.loads(line))
            except (ValueError, TypeError):
                break  # torn: what stands before it holds
    try:
        return Lease(
            path,
            READER if fields["kind"] == READER else WRITER,
            str(fields["machine"]),
            int(fields["pid"]),
            int(fields["since"]),
            touched_ns,
            frozenset(map(str, fields.get("digests", ()))),
            f"{fields.get('user')} on {fields.get('host')}, process {fields['pid']}"
            + (f", {fields['purpose']}" if fields.get("purpose") else ""),
        )
    except (KeyError, ValueError, TypeError):
        return Lease(path, WRITER, "", 0, touched_ns, touched_ns, owner=f"the unfinished lease {path}")


def this_machine() -> str:
    """Names the system whose process numbers we see: this boot of a kernel and this container. '' if unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except (OSError, ValueError):
        return ""


class _Held:
    """A lease of this process: its file, and what the drive's clock said."""

    def __init__(self, path: str, fields: dict[str, Any]) -> None:
        self.path = path
        self.fields = fields
        self.since_ns = 0
        self.touched_ns = 0
        self.size_bytes = 0

    def create(self) -> None:
        """Writes the file anew.

        Raises:
            OSError
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | files.O_BINARY | files.O_CLOEXEC
        mode = drive.holding(self.path).modes.record
        try:
            descriptor = os.open(self.path, flags, mode)
        except FileNotFoundError:
            folder = os.path.dirname(self.path)
            files.make_folder(folder, os.path.dirname(folder))
            descriptor = os.open(self.path, flags, mode)
        try:
            drive.set_mode(descriptor, mode)
            # The file's own time, before anything is looked up: what is stored or met later is not older.
            self.since_ns = os.fstat(descriptor).st_mtime_ns
            line = json.dumps({**self.fields, "since": self.since_ns}).encode("ascii") + b"\n"
            files.write_all(descriptor, line)
        finally:
            os.close(descriptor)
        self.size_bytes = len(line)
        self.touched_ns = max(os.stat(self.path).st_mtime_ns, self.since_ns)

    def touch(self) -> None:
        """Moves the file's time on by writing its last byte again: the drive, not this host, sets the time.

        Raises:
            OSError: FileNotFoundError when somebody took us for dead.
        """
        descriptor = os.open(self.path, os.O_WRONLY | files.O_BINARY | files.O_CLOEXEC)
        try:
            os.lseek(descriptor, self.size_bytes - 1, os.SEEK_SET)
            os.write(descriptor, b"\n")
        finally:
            os.close(descriptor)
        self.touched_ns = max(os.stat(self.path).st_mtime_ns, self.since_ns)

    def advance(self) -> None:
        """States that nothing older than the last touch is about to be named. Appended, never replaced."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | files.O_BINARY | files.O_CLOEXEC)
        line = b'{"since": %d}\n' % self.touched_ns
        try:
            files.write_all(descriptor, line)
        finally:
            os.close(descriptor)
        self.size_bytes += len(line)
        self.since_ns = self.touched_ns


class Leases:
    """The leases that this process holds in one store."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._lock = threading.RLock()
        self._name = ""
        self._writer: _Held | None = None
        self._readers: list[_Held] = []
        self._working = 0
        self._stop: threading.Event | None = None
        # Digest -> kind of what was stored or met here and stands in no record yet.
        self.pending: dict[str, str] = {}
        # Those of them that no lease protected for a while: looked up once more before a record names them.
        self._doubtful: set[str] = set()
        # Rises when the lease was made anew, so that the folder in `tmp/` is looked for too.
        self.generation = 0

    @property
    def name(self) -> str:
        """What this process's lease and its folder in `tmp/` are called."""
        with self._lock:
            if not self._name:
                self._name = f"{ids.host_id()}-{os.getpid()}-{ids.random_hex(8)}"
            return self._name

    def ensure(self) -> None:
        """Returns when the writer's lease is there: called before anything is looked up, or put into `tmp/`.

        Raises:
            StoreWriteError: the drive refused.
        """
        with self._lock:
            if self._writer is not None and os.path.lexists(self._writer.path):
                return
            # None yet; or this process slept so long that a collection took it for dead.
            self._doubtful |= self.pending.keys()
            self._writer = None
            self._writer = self._take(self.name, {"kind": WRITER})
            self.generation += 1

    @contextlib.contextmanager
    def working(self) -> Iterator[int]:
        """Around the storing of an object, up to `expect`: the lease is there and does not let go of older things.

        Yields which of this process's successive leases it is, for `expect`.
        """
        with self._lock:
            self.ensure()
            self._working += 1
            generation = self.generation
        try:
            yield generation
        finally:
            with self._lock:
                self._working -= 1

    def expect(self, kind: str, digest: str, generation: int) -> None:
        """Notes that an object was stored or met, and that a record will name it. Inside `working`."""
        with self._lock:
            self.pending[digest] = kind
            if self._writer is not None and self.generation == generation:
                self._doubtful.discard(digest)
            else:
                self._doubtful.add(digest)

    def is_doubtful(self, digest: str) -> bool:
        """Whether a pending digest was without a lease for a while."""
        with self._lock:
            self.ensure()
            return digest in self._doubtful

    def settled(self, digest: str) -> None:
        """Notes that a record names the object and that it was seen in its place afterwards."""
        with self._lock:
            self.pending.pop(digest, None)
            self._doubtful.discard(digest)

    def freshen(self, path: str) -> str:
        """Makes an existing file count as stored just now, so that no collection takes it.

        Returns:
            FRESH (it did so already), FRESHENED, GONE, or REFUSED: it is another user's, or the drive cannot.
        """
        with self._lock:
            if self._writer is None:
                self.ensure()
            assert self._writer is not None, "ensure made it"
            since_ns, time_ns = self._writer.since_ns, self._writer.touched_ns
        try:
            if os.stat(path).st_mtime_ns >= since_ns:
                return FRESH
            # Not `utime(path)`: on some drives that is this host's clock.
            os.utime(path, ns=(time_ns, time_ns))
            is_kept = os.stat(path).st_mtime_ns >= since_ns - _TIME_STEP_NS
            return FRESHENED if is_kept else REFUSED  # a drive may say yes and keep the old time
        except OSError as error:
            return GONE if error.errno in (errno.ENOENT, errno.ESTALE) else REFUSED

    def hold(self, digests: Iterable[str], purpose: str) -> bool:
        """Takes a reader's lease: these objects stay, whatever is deleted, until `close` or the end of the process.

        Returns False when the drive cannot be written: then a collection by somebody else may take what the
        journals no longer name.
        """
        named = sorted(set(digests))
        with self._lock:
            try:
                fields = {"kind": READER, "purpose": purpose, "digests": named}
                self._readers.append(self._take(f"{self.name}-{ids.random_hex(4)}", fields))
            except OSError:
                return False
        return True

    def advance(self) -> None:
        """Lets go of what is older than now, when nothing of it can be named any more."""
        with self._lock:
            if self._writer is None or self._working or self.pending:
                return
            try:
                self._writer.touch()
                self._writer.advance()
            except OSError:
                self._writer = None  # gone, or not to be written: the next `ensure` sees to it

    def close(self) -> None:
        """Gives all leases back. What is pending is looked up again, should it be named after this."""
        with self._lock:
            held = [*self._readers, *([self._writer] if self._writer else [])]
            self._readers = []
            self._writer = None
            self._name = ""
            self._doubtful |= self.pending.keys()
            if self._stop is not None:
                self._stop.set()
                self._stop = None
            for lease in held:
                files.remove_file(lease.path)  # one that stays counts as dead with its process

    def forget_after_fork(self) -> None:
        """In the child of a fork: the leases are the parent's."""
        self._lock = threading.RLock()
        self._name = ""
        self._writer = None
        self._readers = []
        self._working = 0
        self._stop = None
        self._doubtful |= self.pending.keys()

    def _take(self, name: str, fields: dict[str, Any]) -> _Held:
        about = {
            "format": 1,
            **fields,
            "host": ids.host_name(),
            "user": ids.user_name(),
            "pid": os.getpid(),
            "machine": this_machine(),
        }
        held = _Held(os.path.join(self._root, FOLDER, name + SUFFIX), about)
        with files.writing("a lease", held.path):
            try:
                held.create()
            except FileNotFoundError:
                held.create()  # swept before it said whose it is, by a clock that runs ahead
        if self._stop is None:
            self._stop = threading.Event()
            threading.Thread(target=self._touch_in_background, args=(self._stop,), daemon=True).start()
        return held

    def _touch_in_background(self, stop: threading.Event) -> None:
        while not stop.wait(TOUCH_EVERY_S):
            with self._lock:
                if self._stop is not stop:
                    return
                self.touch()

    def touch(self) -> None:
        """Shows that this process lives; a reader's lease that somebody took away is made again."""
        with self._lock:
            for lease in self._readers:
                try:
                    lease.touch()
                except FileNotFoundError:
                    try:
                        lease.create()
                    except OSError:
                        pass  # tried again in a minute
                except OSError:
                    pass
            if self._writer is None:
                return
            try:
                self._writer.touch()
                is_idle = not self._working and not self.pending
                if is_idle and self._writer.touched_ns - self._writer.since_ns > _ADVANCE_AFTER_NS:
                    self._writer.advance()
            except OSError:
                pass  # `ensure` finds out whether it is gone
