"""Which journals a store has: its folders listed, and not listed again while they are known to be unchanged.

Every read of a store begins here, so this must cost next to nothing when nothing is new, however many journals
there are. The rules for network drives are in `store/README.md`, section "On a network drive".
"""

from __future__ import annotations

import os
import re
import time
from typing import NamedTuple

from . import drive
from .errors import StoreNotFound

OPEN_SUFFIX = ".open.jsonl"
SEALED_SUFFIX = ".jsonl"
PACK_SUFFIX = ".pack.gz"
# Not compiled here, but at the first use, which `re` remembers: who only logs may not need it.
_STEM = r"[a-z0-9-]{1,60}/[a-z0-9-]{1,60}"

# A folder's time of change proves nothing about changes within the same step of that clock, so one that was changed
# this short a time ago is listed again. Steps are those of the kernel's tick, at most 10 ms; on FAT they are of 2 s.
_SETTLED_AFTER_NS = 10**8
_SETTLED_AFTER_COARSE_NS = 4 * 10**9


def is_stem(text: object) -> bool:
    """Whether this may be a journal's name, `<host id>/<utc>-<pid>-<random>`: what a header says becomes a path."""
    return isinstance(text, str) and re.fullmatch(_STEM, text) is not None


class _Seen(NamedTuple):
    """What a folder held, and by what its next change is noticed; None: it has to be listed again to know."""

    mark: tuple[int, ...] | None
    names: list[str]


class Listing:
    """What `journals/` of one store holds, as one reader goes on looking at it. Not to be shared by threads."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._top = os.path.join(root, "journals")
        self._seen: dict[str, _Seen] = {}
        self._hosts: tuple[str, ...] = ()
        self._journals: dict[str, str] = {}
        self.packs: tuple[str, ...] = ()  # `<host id>/<name>`, as of the last look at the journals

    def journals(self, *, at_once: bool = False) -> dict[str, str]:
        """All journals with a file of their own: stem `<host id>/<name>` -> suffix (open or sealed). Sets `packs`.

        The very same dict as before while nothing has changed; not to be written to. On a share they are those of
        at most a second ago, with `at_once` those of now.

        Raises:
            StoreNotFound: the store's folder is gone: moved, deleted, or its drive not mounted.
        """
        where = drive.of(self._root)
        before = self._seen
        self._seen = {}
        if (hosts := self._look_for_hosts(where, before, at_once)) is None:
            self._journals, self.packs = {}, ()
            return self._journals
        is_same = len(before) == len(hosts) + 1
        for host in hosts:
            folder = os.path.join(self._top, host)
            known = before.get(folder)
            if known is not None and not at_once and known.mark is not None and known.mark == _mark_of(where, folder):
                self._seen[folder] = known
                continue
            mark = _mark_of(where, folder)
            try:
                names = where.names(folder, at_once=at_once)
            except FileNotFoundError:
                is_same = False
                continue
            self._seen[folder] = _Seen(mark, names)
            is_same = is_same and known is not None and names == known.names
        if not is_same:
            self._journals = self._read_names(hosts)
        return self._journals

    def _look_for_hosts(self, where: drive.Drive, before: dict[str, _Seen], at_once: bool) -> tuple[str, ...] | None:
        """The folders of the hosts; None for a store whose copy did not keep the empty folder above them."""
        known = before.get(self._top)
        if known is not None and not at_once and known.mark is not None and known.mark == _mark_of(where, self._top):
            self._seen[self._top] = known
            return self._hosts
        mark = _mark_of(where, self._top)
        try:
            if where.is_careful:
                where.poke(self._top, at_once=at_once)
            with os.scandir(self._top) as entries:
                self._hosts = tuple(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError as error:
            if os.path.isdir(self._root) and os.listdir(self._root):
                return None
            raise StoreNotFound(
                f"the store {self._root} is gone: it was moved or deleted, or its drive is not mounted; bring it "
                "back, or open it where it is now with Client(path)",
                path=self._root,
            ) from error
        self._seen[self._top] = _Seen(mark, list(self._hosts))
        return self._hosts

    def _read_names(self, hosts: tuple[str, ...]) -> dict[str, str]:
        found: dict[str, str] = {}
        packs = []
        for host in hosts:
            seen = self._seen.get(os.path.join(self._top, host))
            for name in seen.names if seen else ():
                if name.endswith(OPEN_SUFFIX):
                    # Both names at once can be seen for a moment around the renaming; the sealed one says more.
                    found.setdefault(f"{host}/{name[: -len(OPEN_SUFFIX)]}", OPEN_SUFFIX)
                elif name.endswith(SEALED_SUFFIX):
                    found[f"{host}/{name[: -len(SEALED_SUFFIX)]}"] = SEALED_SUFFIX
                elif name.endswith(PACK_SUFFIX):
                    packs.append(f"{host}/{name[: -len(PACK_SUFFIX)]}")
        self.packs = tuple(sorted(packs))
        return found


def list_journals(root: str, *, at_once: bool = False) -> dict[str, str]:
    """As `Listing.journals`, for one look."""
    return Listing(root).journals(at_once=at_once)


def _mark_of(where: drive.Drive, folder: str) -> tuple[int, ...] | None:
    """By what a later look sees that a folder was not changed since; None where that cannot be told."""
    if not where.is_stat_true:
        return None
    try:
        found = os.stat(folder)
    except OSError:
        return None
    # The change time too: a copying program may put the other one back.
    patience_ns = _SETTLED_AFTER_NS if found.st_ctime_ns % 10**9 else _SETTLED_AFTER_COARSE_NS
    if not 0 <= found.st_ctime_ns <= time.time_ns() - patience_ns:
        return None
    return found.st_ino, found.st_dev, found.st_mtime_ns, found.st_ctime_ns
