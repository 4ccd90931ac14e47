"""What a garbage collection reports: what went, what waits, and whose it was."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass
class Amount:
    """Objects (blobs and trees), the files they consist of, and the bytes that the device gets back."""

    object_count: int = 0
    file_count: int = 0
    size_bytes: int = 0

    def add(self, other: Amount) -> None:
        """Adds another amount to this one."""
        self.object_count += other.object_count
        self.file_count += other.file_count
        self.size_bytes += other.size_bytes


@dataclass
class Share:
    """What of the garbage belonged to one run. `reason`: "deleted", "overwritten", "dropped" or "never logged"."""

    name: str
    entity: str
    reason: str
    amount: Amount = field(default_factory=Amount)


@dataclass(frozen=True)
class Waiting:
    """A batch in the trash. `until_ms` is by the drive's clock: from then on a collection deletes it."""

    batch: str
    amount: Amount
    until_ms: int


@dataclass
class Packed:
    """Small journals that became packs, and those of earlier packs that were deleted since the packs hold them."""

    pack_count: int = 0
    journal_count: int = 0
    size_bytes: int = 0  # of these journals
    packed_bytes: int = 0  # of the packs
    deleted_count: int = 0
    deleted_bytes: int = 0


@dataclass
class Report:
    """What a collection did, or with `is_dry_run` would do."""

    is_dry_run: bool
    grace_s: float
    now_ms: int = 0  # the drive's clock
    freed: Amount = field(default_factory=Amount)  # deleted for good, with names, temporary files and copies
    trashed: Amount = field(default_factory=Amount)  # moved to the trash
    kept: Amount = field(default_factory=Amount)  # unreferenced, but younger than the grace or than a writer's lease
    put_back_count: int = 0  # objects that were in the trash and are referenced again
    shares: list[Share] = field(default_factory=list)  # of what was moved, the largest first
    waiting: list[Waiting] = field(default_factory=list)
    ended_writers: list[str] = field(default_factory=list)  # whose lease and temporary folder were swept
    packed: Packed = field(default_factory=Packed)
    notes: list[str] = field(default_factory=list)


class Measure:
    """Adds up what files will give back when all of them are gone: a file with several names counts with its last."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], int] = {}

    def of(self, paths: Iterable[str]) -> Amount:
        """The amount of one object, whose files and folders are at `paths`."""
        amount = Amount(1)
        for top in paths:
            for path in files_in(top):
                try:
                    found = os.lstat(path)
                except OSError:
                    continue
                amount.file_count += 1
                seen = self._seen.get((found.st_dev, found.st_ino), 0) + 1
                if found.st_nlink > 1:
                    self._seen[found.st_dev, found.st_ino] = seen
                if seen >= found.st_nlink:
                    amount.size_bytes += found.st_size
        return amount


def files_in(top: str) -> Iterator[str]:
    """The file at `top`, or every file below that folder."""
    try:
        with os.scandir(top) as listing:
            entries = list(listing)
    except NotADirectoryError:
        yield top
        return
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from files_in(entry.path)
        else:
            yield entry.path
