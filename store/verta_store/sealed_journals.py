"""Which journals this user's processes on this host have sealed last, so that the next one can name them.

A journal that its successors name is missed when it is gone, by whoever verifies the store, on any host. The rule is in
`store/README.md`, section "Journals". This is a cache: where it is lost, the next journal names none.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from . import drive, files
from .listing import OPEN_SUFFIX, SEALED_SUFFIX, is_stem

# So many names in a header: several processes that end at one moment are all named by the next that begins.
_NAMED = 8
_READ_BYTES = 4096
_LONGEST_BYTES = 64 << 10

# What a repair has put aside; never read again but by people, and by `gc`, which takes nothing that it names.
QUARANTINE = "quarantine"
# In the quarantine: of a journal that is gone, and that somebody has said may be.
GIVEN_UP = ".gone"
# And of one, or of a pack, that is there, and of which somebody has said that what is damaged may be lost.
ACCEPTED = ".damaged"


class SealedJournals:
    """A file in the cache folder, a stem a line; written to with one append by each process that seals."""

    def __init__(self, root: str, path: str) -> None:
        """`path` is '' where there is no place for such a file."""
        self._root = root
        self._path = path

    def note(self, stem: str) -> None:
        """Says that a journal was sealed, under its final name, and is durable there."""
        if not self._path:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | files.O_CLOEXEC
        try:
            try:
                descriptor = os.open(self._path, flags, 0o600)
            except FileNotFoundError:
                files.make_private_folder(os.path.dirname(self._path))
                descriptor = os.open(self._path, flags, 0o600)
            try:
                if os.fstat(descriptor).st_size > _LONGEST_BYTES:
                    os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{stem}\n".encode("ascii"))
            finally:
                os.close(descriptor)
        except OSError:
            pass  # the next journal names one less

    def newest(self, host: str) -> list[str]:
        """The names, without the host id, of the last journals of a host that are in the store still."""
        if not self._path:
            return []
        try:
            with open(self._path, "rb", buffering=0) as file:
                size_bytes = os.fstat(file.fileno()).st_size
                file.seek(max(0, size_bytes - _READ_BYTES))
                lines = file.read().decode("ascii", "replace").splitlines()
        except OSError:
            return []
        found: dict[str, None] = {}
        for stem in reversed(lines):
            if stem.startswith(f"{host}/") and is_stem(stem) and _is_there(self._root, stem):
                found[stem.partition("/")[2]] = None
                if len(found) == _NAMED:
                    break
        return list(found)


def _is_there(root: str, stem: str) -> bool:
    path = os.path.join(root, "journals", stem)
    return os.path.lexists(path + SEALED_SUFFIX) or os.path.lexists(path + OPEN_SUFFIX)


def named_before(header: Mapping[str, Any]) -> Iterator[str]:
    """The stems that the first line of a journal names as sealed before it."""
    host = str(header.get("name", "")).partition("/")[0]
    names = header.get("after", ())
    for name in names if isinstance(names, list) else ():
        if isinstance(name, str) and is_stem(stem := f"{host}/{name}"):
            yield stem


def gone(root: str, stems: Iterable[str]) -> list[str]:
    """Which of these journals are in the store no more, but for those that were put aside or given up."""
    missing = [stem for stem in stems if not _is_there(root, stem)]
    if not missing:
        return []
    aside = set()
    top = os.path.join(root, QUARANTINE)
    for batch in files.list_names(top):
        for host in files.list_names(os.path.join(top, batch, "journals")):
            folder = os.path.join(top, batch, "journals", host)
            for name in files.list_names(folder):
                # A folder or a link in a journal's place was never that journal.
                if not name.endswith(ACCEPTED) and stat.S_ISREG(os.lstat(os.path.join(folder, name)).st_mode):
                    aside.add(f"{host}/{name.partition('.')[0]}")
    where = drive.of(root)
    return sorted(
        stem
        for stem in set(missing) - aside
        # Asked once more: a listing may be old on a share, and a journal may just have been sealed.
        if not where.has(os.path.join(root, "journals", stem + SEALED_SUFFIX)) and not _is_there(root, stem)
    )
