"""Journals: append-only files of records, each written by exactly one process.

A line is one JSON object that begins with its check value, chained over the file so far; a sealed journal ends with
a footer and carries no `.open` in its name. The format is in `store/README.md`, section "Journals".
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
import threading
import zlib
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from . import drive, files, ids, records
from .errors import StoreWriteError
from .listing import OPEN_SUFFIX, SEALED_SUFFIX, list_journals
from .sealed_journals import SealedJournals

# `{"c":"` + 8 hexadecimal digits + `",`: the check value stands in front, at a fixed place.
_HEAD_BYTES = 16
# Not compiled here, but at the first use, which `re` remembers: who only logs does not need it.
_CHECKS = rb'\{"c":"([0-9a-f]{8})",'

# The promise: a record that was acknowledged survives a power cut at most this much later.
SYNC_WITHIN_S = 1.0

# Said of all of a sealed journal: that it is changed, and not where.
FOOTER_MISMATCH = "bytes that do not match the footer's SHA-256"

# Behind damage, a line may continue the chain from one of this many values; one damaged byte needs three of them.
_RESUME_VALUES = 8


class JournalWriter:
    """This process's own journal: opened at the first record, sealed at the end of the process."""

    def __init__(
        self, root: str, store_id: str, clock: ids.HybridClock, *, full_durability: bool, sealed_path: str = ""
    ) -> None:
        """`sealed_path` is a file in the user's cache folder, for what `SealedJournals` remembers."""
        self._sealed = SealedJournals(root, sealed_path)
        self._folder = os.path.join(root, "journals")
        self._root = root
        self._store_id = store_id
        self._clock = clock
        self._full = full_durability
        # Re-entrant, because the handler of SIGTERM seals from within whatever the main thread was doing.
        self.lock = threading.RLock()
        self._descriptor = -1
        self._check = 0
        self._size_bytes = 0
        self._count = 0
        self._synced_bytes = 0
        self._sync_failure: OSError | None = None  # of the background, until somebody could be told
        self._is_dirty = False
        # Set while the journal's last line may be other than what is noted here. An exception may come at any moment
        # (an interrupted notebook, a time limit by signal), and a line that continues from the wrong check value is
        # lost: so the next record after that goes to a new journal.
        self._is_doubtful = False
        self._is_sealing = False
        self._is_gone = False
        self._wake: threading.Event | None = None
        self.stem = ""  # `<host id>/<utc>-<pid>-<random>`, '' before the first record
        self.stems: dict[str, None] = {}  # of all journals that this process has opened here, the oldest first

    def append(self, kind: str, entity: str, fields: Mapping[str, Any]) -> int:
        """Writes one record with one `write(2)`; it is in the kernel when this returns. Returns its time.

        Raises:
            BadRecord: a value that JSON cannot hold; nothing was written.
            StoreWriteError: the file system refused; the journal ends at the last whole record.
        """
        text = records.encode(fields, is_flat=kind == records.POINTS)
        with self.lock:
            if self._is_doubtful:
                self._abandon()
            if self._is_gone:
                raise self._deleted()
            if self._descriptor < 0:
                self._open()
            record_time, wall = self._clock.tick()
            drift = "" if record_time >> ids.CLOCK_BITS == wall else f'"w":{wall},'
            rest = text[1:] if len(text) > 2 else '"x":0}'
            self._write(f'"h":{record_time},"k":"{kind}",{drift}"e":"{entity}",{rest}\n'.encode("ascii"))
            if self._full:
                self._sync(data_only=True)
            elif not self._is_dirty:
                self._is_dirty = True
                if self._wake is None:
                    self._start_syncer()
                assert self._wake is not None
                self._wake.set()
        return record_time

    def flush(self) -> None:
        """Returns when every record written so far is on the device.

        Raises:
            StoreWriteError: the device refused, now or since the last call.
        """
        with self.lock:
            # Not `_is_dirty`: the background thread takes that back before its sync has ended.
            if self._descriptor >= 0 and self._synced_bytes < self._size_bytes:
                self._sync()
            failure, self._sync_failure = self._sync_failure, None
            if failure is not None:
                # Linux tells of lost pages once; that this second sync went well says nothing about them.
                raise files.write_error("the journal to the device", failure, self._folder) from failure

    def observe(self, seen: int) -> None:
        """Moves this writer's clock on to the time of a record that it has read."""
        with self.lock:
            self._clock.observe(seen)

    def seal(self) -> None:
        """Ends the journal with its footer and takes the `.open` out of its name. A later record opens a new one."""
        with self.lock:
            # Re-entered by the handler of SIGTERM: the footer is on its way already.
            if self._descriptor < 0 or self._is_sealing:
                return
            self._is_sealing = True
            path = self._path(OPEN_SUFFIX)
            try:
                with open(path, "rb", buffering=0) as file:
                    whole = file.read()
                if len(whole) == self._size_bytes:
                    footer = {"n": self._count, "sha256": hashlib.sha256(whole).hexdigest()}
                    self._write(f'"k":"{records.SEAL}",{records.encode(footer)[1:]}\n'.encode("ascii"))
                    self._sync()
                    self._close()  # SMB and Windows rename nothing that is open
                    drive.of(self._root).rename(path, self._path(SEALED_SUFFIX))
                    files.sync_folder(os.path.dirname(path))
                    self._sealed.note(self.stem)
            except OSError:
                # An unsealed journal is as good as a sealed one for every reader; only `verify` can say less
                # about it. One with a footer counts as sealed under its open name too. There is nobody left to hear
                # of an error here.
                pass
            finally:
                self._abandon()
                self._is_sealing = False

    def forget_after_fork(self) -> None:
        """In the child of a fork: the journal belongs to the parent, so the next record opens a new one."""
        self.lock = threading.RLock()
        self._wake = None
        self._abandon()
        self._is_sealing = False
        self.stems.clear()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            try:
                os.close(descriptor)
            except OSError:
                pass  # a network drive tells here of what a sync has told already

    def _abandon(self) -> None:
        self._close()
        self._size_bytes = 0
        self._synced_bytes = 0
        self._is_dirty = False
        self._is_doubtful = False
        self.stem = ""

    def _deleted(self) -> StoreWriteError:
        return StoreWriteError(
            f"the journal that this process writes was deleted, or its store {self._root}: what was logged since the "
            "start of this process may be lost. Bring the store back, and start this process again",
            path=self._root,
        )

    def _path(self, suffix: str) -> str:
        return os.path.join(self._folder, self.stem + suffix)

    def _open(self) -> None:
        host = ids.host_id()
        at_ms = ids.now_ms()
        name = f"{ids.utc_stamp(at_ms)}-{os.getpid()}-{ids.random_hex(8)}"
        folder = os.path.join(self._folder, host)
        path = os.path.join(folder, name + OPEN_SUFFIX)
        self._is_doubtful = True  # until the header is written
        with files.writing("a new journal", path):
            if not os.path.isdir(folder):
                files.make_folder(folder, self._root)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | files.O_BINARY | files.O_CLOEXEC
            mode = drive.of(self._root).modes.record
            self._descriptor = os.open(path, flags, mode)
            drive.set_mode(self._descriptor, mode)
        self.stem = f"{host}/{name}"
        self.stems[self.stem] = None
        self._check = 0
        self._size_bytes = 0
        self._synced_bytes = 0
        self._count = 0
        header: dict[str, Any] = {
            "format": records.FORMAT,
            "store": self._store_id,
            "name": self.stem,
            "host": ids.host_name(),
            "user": ids.user_name(),
            "pid": os.getpid(),
            "python": ".".join(map(str, sys.version_info[:3])),
            "at": at_ms,
        }
        if before := self._sealed.newest(host):
            header["after"] = before
        try:
            self._write(f'"k":"{records.JOURNAL}",{records.encode(header)[1:]}\n'.encode("ascii"))
            files.sync_folder(folder)
        except (OSError, StoreWriteError) as error:
            self._abandon()
            try:
                os.unlink(path)  # empty or torn, never acknowledged to anybody
            except OSError:
                pass
            if isinstance(error, StoreWriteError):
                raise
            raise files.write_error("a new journal", error, path) from error

    def _write(self, body: bytes) -> None:
        check = zlib.crc32(body, self._check)
        line = b'{"c":"%08x",' % check + body
        self._is_doubtful = True
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):
                files.write_all(self._descriptor, line[written:])
        except OSError as error:
            path = self._path(OPEN_SUFFIX)  # before the journal is left
            self._cut_back()
            self._is_doubtful = False
            raise files.write_error("a record", error, path) from error
        self._check = check
        self._size_bytes += len(line)
        self._count += 1
        self._is_doubtful = False

    def _cut_back(self) -> None:
        """After a refused write: takes a partial line off, or leaves this journal for a new one."""
        try:
            os.ftruncate(self._descriptor, self._size_bytes)
        except OSError:
            self._abandon()  # a torn tail stays behind, which every reader knows

    def _sync(self, *, data_only: bool = False) -> None:
        try:
            files.sync_file(self._descriptor, data_only=data_only)
        except OSError as error:
            raise files.write_error("the journal to the device", error, self._path(OPEN_SUFFIX)) from error
        self._synced_bytes = self._size_bytes
        self._is_dirty = False

    def _start_syncer(self) -> None:
        self._wake = threading.Event()
        threading.Thread(target=self._sync_in_background, args=(self._wake,), daemon=True).start()

    def _sync_in_background(self, wake: threading.Event) -> None:
        pause = threading.Event()
        while self._wake is wake:
            wake.wait()
            pause.wait(SYNC_WITHIN_S / 2)
            wake.clear()
            # A second descriptor, so that the lock is not held while the device works: a log call never waits.
            with self.lock:
                if self._descriptor < 0 or self._wake is not wake:
                    continue
                self._is_dirty = False
                twin = os.dup(self._descriptor)
                stem, size_bytes = self.stem, self._size_bytes
            try:
                try:
                    self._is_gone = os.fstat(twin).st_nlink == 0
                    files.sync_file(twin, data_only=True)
                finally:
                    os.close(twin)  # before the lock: whoever seals has it, and cannot rename what is open here
            except OSError as error:
                self._sync_failure = error
            else:
                with self.lock:
                    if self.stem == stem:
                        self._synced_bytes = max(self._synced_bytes, size_bytes)


class Position(NamedTuple):
    """How far a journal was read: all before `offset` was taken in, and `check` is the chain's value there."""

    offset: int = 0
    check: int = 0
    record_count: int = 0
    is_sealed: bool = False


class Damage(NamedTuple):
    """A part of a journal that is not what its writer wrote."""

    path: str
    offset: int
    size_bytes: int
    what: str


class JournalPart:
    """What a read of a journal found: decoded records in file order, and where the next read starts."""

    def __init__(self, position: Position, path: str) -> None:
        self.path = path  # of its file, or of the pack that it is in
        self.lines: list[dict[str, Any]] = []
        self.position = position
        self.damages: list[Damage] = []
        self.tail = b""  # behind the last good line: a record that is not finished, or is damaged
        self.has_more = False  # behind `position`, because only a part of what is there was asked for
        self.is_short = False  # it ends before where the read was to start: an older copy was put back


def read_journal(path: str, start: Position, *, whole: bool = False, at_most_bytes: int | None = None) -> JournalPart:
    """Reads the new bytes of a journal; a torn tail is left for a later read, damage in the middle is skipped.

    Of more than `at_most_bytes` it reads a part that ends with a line, more if that holds nothing good, and sets
    `has_more`.

    `start` is the position that an earlier read returned. With `whole` the footer of a sealed journal is checked
    against every byte (`start` must be the beginning).

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        if start.offset:
            file.seek(start.offset)
        data = file.read() if at_most_bytes is None else file.read(at_most_bytes)
        if len(data) == at_most_bytes:
            part = parse_journal(data[: data.rfind(b"\n") + 1], start, path)
            if part.position.offset > start.offset and not part.damages and not part.tail:
                part.has_more = True
                return part
            data += file.read()
        is_short = bool(start.offset) and not data and file.seek(0, os.SEEK_END) < start.offset
    part = parse_journal(data, start, path)
    part.is_short = is_short
    if part.damages and path.endswith(OPEN_SUFFIX):
        # A network drive may show the end of what another host writes before what stands in front of it, which is
        # NUL until it has come. What is passed over as damage would never be looked at again.
        hole = data.find(b"\0")
        if hole >= 0 and drive.holding(path).is_unsettled(path):
            part = parse_journal(data[:hole], start, path)
    if whole and part.position.is_sealed:
        _check_footer(data, part, path)
    return part


def read_listed(
    root: str, stem: str, suffix: str, start: Position, *, whole: bool = False, at_most_bytes: int | None = None
) -> tuple[str, JournalPart] | None:
    """Reads a journal that a listing showed, under the name that it has now: it may have been sealed since.

    Returns:
        (its path, what was read), or None when it is not to be found for the moment.

    Raises:
        OSError: as `read_journal`.
    """

    def read() -> tuple[str, JournalPart] | None:
        in_use: OSError | None = None
        for end in (suffix, SEALED_SUFFIX, OPEN_SUFFIX):
            path = os.path.join(root, "journals", stem + end)
            try:
                return path, read_journal(path, start, whole=whole, at_most_bytes=at_most_bytes)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    in_use = error  # under one of the other names, it may be
                elif error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
        if in_use is not None:
            raise in_use
        return None

    return drive.of(root).patiently(read)


def parse_whole(data: bytes, path: str) -> JournalPart:
    """All records of a journal, its footer checked against every byte."""
    part = parse_journal(data, Position(), path)
    if part.position.is_sealed:
        _check_footer(data, part, path)
    return part


def parse_journal(data: bytes, start: Position, path: str) -> JournalPart:
    """The records in `data`, which begins at `start` of the journal at `path`."""
    part = JournalPart(start, path)
    offset = 0
    check = start.check
    count = start.record_count
    is_sealed = start.is_sealed
    crc = zlib.crc32
    end = len(data)
    good_until = 0
    pending: Damage | None = None
    straight = 0  # behind damage: the chain's value if only check values were hurt
    half = half_check = 0  # the line of damage that was read last, and the chain's value before it
    resume: deque[int] = deque(maxlen=_RESUME_VALUES)  # behind damage: what the chain's value may be
    while offset < end:
        newline = data.find(b"\n", offset)
        if newline < 0:
            break
        line_end = newline + 1
        line = data[offset:line_end]
        body = line[_HEAD_BYTES:]
        found = crc(body, check)
        if not (is_good := line.startswith(b'{"c":"%08x",' % found)) and pending is not None:
            for value in resume:
                found = crc(body, value)
                if is_good := line.startswith(b'{"c":"%08x",' % found):
                    break
        if is_good:
            if pending is not None:
                part.damages.append(pending)
                pending = None
            record = _record_of(line)
            check = found
            if record is None:
                # Its writer's fault, or a fraud; the chain goes on behind it, and so does the footer's count.
                what = "a line that is no record"
                part.damages.append(Damage(path, start.offset + offset, len(line), what))
                count += 1
            elif is_sealed:
                part.damages.append(
                    Damage(
                        path,
                        start.offset + offset,
                        len(line),
                        "a record behind the footer of a sealed journal",
                    )
                )
            elif record["k"] == records.SEAL:
                is_sealed = True
                if record.get("n") != count:
                    lost = f"the footer counts {record.get('n')} records, {count} were read"
                    part.damages.append(Damage(path, start.offset + offset, 0, lost))
            else:
                count += 1
                part.lines.append(record)
            good_until = line_end
        else:
            # The next line checks against the value that this one states, or would have with its check value
            # damaged, or that a line inside it states whose line end is damaged: so reading goes on behind it.
            # Whether this is a torn tail instead shows when nothing good follows.
            if pending is None:
                first, straight = offset, check
                resume.clear()
            else:
                first = pending.offset - start.offset
                # Where a byte of a line's head has become a line end, that line and this one are one.
                resume.append(crc(data[half + _HEAD_BYTES : line_end], half_check))
            pending = Damage(path, start.offset + first, line_end - first, "a damaged record")
            half, half_check = offset, straight
            straight = crc(body, straight)
            resume.append(straight)
            resume.extend(int(stated, 16) for stated in re.findall(_CHECKS, line)[-3:])
        offset = line_end
    part.tail = data[good_until:]
    part.position = Position(start.offset + good_until, check, count, is_sealed)
    if is_sealed and part.tail:
        what = "bytes behind the footer of a sealed journal"
        part.damages.append(Damage(path, part.position.offset, len(part.tail), what))
    return part


_ABOUT_THE_FILE = {records.JOURNAL, records.SEAL}
_decode = json.JSONDecoder().raw_decode


def _record_of(line: bytes) -> dict[str, Any] | None:
    """The record of a line, or None for one that is not JSON, has no kind, or not the fields of its kind."""
    try:
        text = line.decode("ascii")
        record, end = _decode(text)  # `json.loads` without its search for spaces, in half of its time
        if end != len(text) - 1:
            record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if type(record) is not dict or type(kind := record.get("k")) is not str:
        return None
    return record if kind in _ABOUT_THE_FILE or records.is_sound(record) else None


def _check_footer(data: bytes, part: JournalPart, path: str) -> None:
    """Compares a sealed journal with the SHA-256 in its footer: finds what a CRC may let pass."""
    whole = data[: part.position.offset]
    begin = whole.rfind(b"\n", 0, len(whole) - 1) + 1
    footer = json.loads(whole[begin:])
    if footer.get("k") == records.SEAL and hashlib.sha256(whole[:begin]).hexdigest() != footer.get("sha256"):
        part.damages.append(Damage(path, 0, begin, FOOTER_MISMATCH))


__all__ = [
    "OPEN_SUFFIX",
    "SEALED_SUFFIX",
    "Damage",
    "JournalPart",
    "JournalWriter",
    "Position",
    "list_journals",
    "parse_journal",
    "parse_whole",
    "read_journal",
    "read_listed",
]
