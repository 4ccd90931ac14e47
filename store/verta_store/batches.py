"""The batches in the trash, as one collection moves things there, puts them back and deletes them.

A batch is a folder `trash/<time>-<8 hex>/`, one a collection. The layout is in `store/README.md`, section "Garbage
collection"; how readers bring things back is in `trash.py`.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Container, Iterable

from . import digest as digests
from . import drive, files, ids
from .collected import Amount, Measure, Report, Waiting, files_in
from .trash import FOLDER, Part, parse_name

_BATCH = re.compile(r"[0-9]{8}t[0-9]{6}-[0-9a-f]{8}")
_BEGUN = "begun-"  # and what counted as old then, in ns; empty files, because a disk may be full
_ENDED = "ended"  # its time is when the first sweep ended: from then the batch waits
DOOMED = "doomed-"  # nothing in the trash under such a name is looked for any more


class Batches:
    """The trash of one store for one collection, whose `report` it keeps; `wait_ns` is how long a batch waits there."""

    def __init__(self, root: str, report: Report, wait_ns: int, drive_now_ns: Callable[[], int]) -> None:
        self._root = root
        self._top = os.path.join(root, FOLDER)
        self._drive = drive.of(root)
        self._report = report
        self._wait_ns = wait_ns
        self._drive_now_ns = drive_now_ns
        self._own = ""  # the folder of what this collection moves
        self.cutoff_ns = 0  # what is older counts as old: known when the leases are judged

    # -- the first sweep -------------------------------------------------------------------------------------------

    def move(self, parts: list[Part]) -> bool:
        """Renames one object into the trash, and back when a writer met it in that moment. Returns if it is there."""
        batch = self._own_batch()
        is_moved = False
        # A writer freshens the manifest of a tree and then looks for the folder (`Trees.keep`): so either it finds
        # no folder, or we find the freshened manifest below, here or in its place.
        for part in parts:
            home = part.home(self._root)
            if self._rename(home, os.path.join(batch, part.name)):
                is_moved = True
            elif os.path.lexists(home):
                break  # a folder that may not be moved keeps its manifest
        digest, kind = parts[0].digest, parts[0].kind
        if is_moved and self._is_fresh(digest, kind, batch, self.cutoff_ns):
            self._put_back(digest, kind, batch)
            return False
        return is_moved

    def delete_at_once(self, paths: Iterable[str]) -> None:
        """Deletes one object without a batch: for a drive so full that it takes no folder."""
        for path in paths:
            doomed = os.path.join(self._top, f"{DOOMED}{ids.random_hex(16)}")
            if os.path.lexists(path) and self._rename(path, doomed):
                self._report.freed.add(delete(doomed))
        self._report.freed.object_count += 1

    def has_room(self) -> bool:
        """Whether the drive takes a folder for what this collection moves."""
        try:
            self._own_batch()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return False
        return True

    def end_first_sweep(self, find_kept: Callable[[], Container[str]]) -> None:
        """What was named, or taken for serving, meanwhile comes back at once; from now on the batch waits."""
        if self._own:
            kept = find_kept()
            for digest, kind in _objects_of(self._own):
                if digest in kept:
                    self._put_back(digest, kind, self._own)
            _create(os.path.join(self._own, _ENDED))

    def remove_own_if_empty(self) -> None:
        """Takes this collection's batch away when nothing is in it."""
        self._remove_if_empty(self._own)

    def _own_batch(self) -> str:
        """The folder in the trash for what this run moves; it says from the start what counted as old."""
        if not self._own:
            self._own = self._make_batch(attempts=10)
        return self._own

    def _make_batch(self, attempts: int) -> str:
        name = f"{ids.utc_stamp(self._report.now_ms)}-{ids.random_hex(8)}"
        batch = os.path.join(self._top, name)
        try:
            files.make_folder(batch, self._root)
            with open(os.path.join(batch, f"{_BEGUN}{self.cutoff_ns}"), "xb"):
                return batch
        except FileNotFoundError:
            if attempts <= 1:
                raise
        return self._make_batch(attempts - 1)  # another collection has just swept it, because it was empty

    def _is_fresh(self, digest: str, kind: str, batch: str, cutoff_ns: int) -> bool:
        """Whether a writer has met an object since it was found old, be it in the trash or in its place."""
        part = Part(kind, digest, kind == "tree")
        for path in (os.path.join(batch, part.name), part.home(self._root)):
            try:
                if os.lstat(path).st_mtime_ns >= cutoff_ns:
                    return True
            except OSError:
                continue
        return False

    def _put_back(self, digest: str, kind: str, batch: str) -> None:
        """Renames an object back to its place, the manifest of a tree first; what is there already is left there."""
        is_back = False
        for part in ([Part(kind, digest, True)] if kind == "tree" else []) + [Part(kind, digest)]:
            home, path = part.home(self._root), os.path.join(batch, part.name)
            if os.path.lexists(path) and not os.path.lexists(home):
                files.make_folder(os.path.dirname(home), self._root)
                is_back = self._rename(path, home) or is_back
        self._report.put_back_count += is_back

    def _rename(self, path: str, target: str) -> bool:
        try:
            self._drive.rename(path, target)
            return True
        except FileNotFoundError:
            return False  # another collection, or a reader who brought it back, was faster
        except OSError as error:
            if not os.path.lexists(target):
                self._report.notes.append(f"{path} could not be moved: {error.strerror}")
            return False

    # -- the second sweep ------------------------------------------------------------------------------------------

    def sweep(self, kept: Container[str], sync_journals: Callable[[], None]) -> None:
        """Puts back what is named again, and deletes what has waited long enough."""
        now_ns = self._drive_now_ns()
        is_synced = False
        for name in sorted(filter(_BATCH.fullmatch, files.list_names(self._top))):
            batch = os.path.join(self._top, name)
            is_due = self._due_ns(batch) <= now_ns
            if is_due and not is_synced:
                # A deletion must not outlive, in a power cut, the record that made it right.
                sync_journals()
                is_synced = True
            self._sweep_batch(batch, kept, is_due)
        # Last, because it may need a folder, and the drive may be full.
        for name in files.list_names(self._top):
            if name.startswith(drive.POKE):
                continue  # somebody is looking at this very moment
            # Damaged copies that a good one has replaced.
            if not _BATCH.fullmatch(name) and self.has_room():
                self._rename(os.path.join(self._top, name), os.path.join(self._own_batch(), f"other-{name}"))

    def _due_ns(self, batch: str) -> int:
        """When a batch may be deleted; one whose sweep was killed begins to wait now."""
        path = os.path.join(batch, _ENDED)
        if batch != self._own:
            _create(path)
        try:
            return os.stat(path).st_mtime_ns + self._wait_ns
        except FileNotFoundError:
            return 1 << 63  # our own, which is still being filled; or another collection has just emptied it

    def _sweep_batch(self, batch: str, kept: Container[str], is_due: bool) -> None:
        cutoff_ns = _cutoff_of(batch)
        for digest, kind in _objects_of(batch):
            if digest in kept or self._is_fresh(digest, kind, batch, cutoff_ns):
                self._put_back(digest, kind, batch)
                if not self._is_home(kind, digest):
                    continue  # it cannot be put back: it stays where readers find it
            if is_due:
                self._delete_object(digest, kind, batch)
        for name in files.list_names(batch):
            path = os.path.join(batch, name)
            if name.startswith(DOOMED):
                self._report.freed.add(delete(path))
            elif is_due and name.startswith("other-"):
                self.doom(path)
        if batch != self._own:
            self._remove_if_empty(batch)

    def _remove_if_empty(self, batch: str) -> None:
        names = sorted(files.list_names(batch), reverse=True) if batch else []
        if names and all(name == _ENDED or name.startswith((_BEGUN, drive.POKE)) for name in names):
            # Last `begun`: without it all that another collection may yet move here is put back.
            for name in names:
                files.remove_file(os.path.join(batch, name))
            try:
                os.rmdir(batch)
            except OSError:
                pass  # another collection uses it

    def _is_home(self, kind: str, digest: str) -> bool:
        parts = [Part(kind, digest), Part(kind, digest, kind == "tree")]
        return all(os.path.lexists(part.home(self._root)) for part in parts)

    def _delete_object(self, digest: str, kind: str, batch: str) -> None:
        """Deletes what of an object is in the batch; its names too, if this was the object and no copy of it."""
        is_copy = self._is_home(kind, digest)
        for part in [Part(kind, digest), Part(kind, digest, True)]:
            path = os.path.join(batch, part.name)
            if os.path.lexists(path):
                self.doom(path)
        if not is_copy:
            self._report.freed.object_count += 1
            if kind == "blob":
                self.delete_names(digest)

    def doom(self, path: str) -> None:
        """Deletes for good. The rename first: a reader can bring back all of a folder, or nothing of it."""
        doomed = os.path.join(os.path.dirname(path), f"{DOOMED}{ids.random_hex(16)}")
        if self._rename(path, doomed):
            self._report.freed.add(delete(doomed))

    def delete_names(self, digest: str) -> None:
        """Deletes the names that a blob had for its users."""
        folder = os.path.join(self._root, "names", digests.shard(digest))
        if not os.path.lexists(folder):
            return
        doomed = os.path.join(self._own_batch(), f"{DOOMED}{ids.random_hex(16)}")
        if self._rename(folder, doomed):
            if self._is_home("blob", digest) and self._rename(doomed, folder):
                return  # stored again in this moment, and named again
            self._report.freed.add(delete(doomed))

    # -- the report ------------------------------------------------------------------------------------------------

    def report_waiting(self, kept: Container[str], now_ns: int) -> None:
        """Lists what waits; in a dry run, counts what would be deleted."""
        for name in sorted(files.list_names(self._top)):
            batch = os.path.join(self._top, name)
            measure = Measure()
            amount = Amount()
            for digest, kind in _objects_of(batch):
                if digest not in kept:
                    paths = [os.path.join(batch, Part(kind, digest, each).name) for each in (False, True)]
                    paths.append(os.path.join(self._root, "names", digests.shard(digest)))
                    amount.add(measure.of(paths))
            if not amount.object_count:
                continue
            try:
                due_ns = os.stat(os.path.join(batch, _ENDED)).st_mtime_ns + self._wait_ns
            except OSError:
                due_ns = now_ns + self._wait_ns  # the sweep was killed: it waits from the next one on
            if self._report.is_dry_run and due_ns <= now_ns:
                self._report.freed.add(amount)
            else:
                self._report.waiting.append(Waiting(name, amount, due_ns // 10**6))


def _objects_of(batch: str) -> list[tuple[str, str]]:
    """(digest, kind) of what a batch in the trash holds, whole or in part."""
    parts = [part for part in map(parse_name, sorted(files.list_names(batch))) if part is not None]
    return list(dict.fromkeys((part.digest, part.kind) for part in parts))


def _cutoff_of(batch: str) -> int:
    """What counted as old when the batch was begun; 0, so that all counts as met, when that is not known."""
    for name in files.list_names(batch):
        if name.startswith(_BEGUN) and name[len(_BEGUN) :].isdigit():
            return int(name[len(_BEGUN) :])
    return 0


def _create(path: str) -> None:
    try:
        with open(path, "xb"):
            pass
    except (FileExistsError, FileNotFoundError):
        pass


def delete(path: str) -> Amount:
    """Deletes a file or folder. Returns how many files went and what the device got back."""
    amount = Amount()
    for file in list(files_in(path)):
        try:
            found = os.lstat(file)
        except OSError:
            continue
        files.remove_file(file)
        if os.path.lexists(file):
            continue  # the next collection tries again
        amount.file_count += 1
        if found.st_nlink <= 1:
            amount.size_bytes += found.st_size
    files.remove_folder(path)
    return amount
