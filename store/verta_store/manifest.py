"""The manifest of a tree: what is in it, as the canonical bytes whose hash is the tree's digest.

The format is in `store/README.md`, section "Trees".
"""

from __future__ import annotations

import json
import os
import stat
import unicodedata
from collections.abc import Iterable, Mapping
from json.encoder import encode_basestring_ascii
from typing import NamedTuple

from . import digest as digests

_HEADER = "verta_local tree 1"


class Entry(NamedTuple):
    """One line of a manifest. A folder has no digest and size 0."""

    path: str  # relative, with `/`
    is_folder: bool
    is_executable: bool = False
    size_bytes: int = 0
    digest: str = ""

    def line(self) -> str:
        """The entry as a manifest has it."""
        if self.is_folder:
            return folder_line(self.path)
        return file_line(self.path, self.is_executable, self.size_bytes, self.digest or "-")


def file_line(path: str, is_executable: bool, size_bytes: int, digest: str) -> str:
    """The manifest's line of a file: `kind mode size digest path`, the path as JSON text."""
    return f"file {'x' if is_executable else '-'} {size_bytes} {digest} {encode_basestring_ascii(path)}"


def folder_line(path: str) -> str:
    """The manifest's line of a folder."""
    return f"dir - 0 - {encode_basestring_ascii(path)}"


def write_manifest(entries: Iterable[Entry]) -> bytes:
    """The canonical bytes of a manifest."""
    return join_lines({entry.path: entry.line() for entry in entries})


def join_lines(lines: Mapping[str, str]) -> bytes:
    """The canonical bytes of a manifest, of path -> line: sorted by the NFC form of the path, one line an entry."""
    ordered = sorted(lines) if "".join(lines).isascii() else sorted(lines, key=_sort_key)
    return "\n".join((_HEADER, *(lines[path] for path in ordered), "")).encode("ascii")


def _sort_key(path: str) -> tuple[bytes, str]:
    if path.isascii():
        return path.encode("ascii"), path
    return unicodedata.normalize("NFC", path).encode("utf-8", "surrogatepass"), path


def read_manifest(data: bytes) -> list[Entry]:
    """The entries of a manifest whose bytes were checked against its digest.

    Raises:
        ValueError: it is no manifest.
    """
    lines = data.decode("ascii").splitlines()
    if not lines or lines[0] != _HEADER:
        raise ValueError(f"a manifest begins with '{_HEADER}'")
    entries = []
    for line in lines[1:]:
        kind, mode, size, digest, path = line.split(" ", 4)
        # JSON without an escape is the text itself, and reads in a tenth of the time.
        name = json.loads(path) if "\\" in path else path[1:-1]
        entries.append(Entry(name, kind == "dir", mode == "x", int(size), "" if digest == "-" else digest))
    return entries


def parts_of(top: str, entries: list[Entry]) -> list[tuple[str, str]]:
    """(path, digest) of every file of a manifest below the folder `top`."""
    return [(path_below(top, entry.path), entry.digest) for entry in entries if not entry.is_folder]


def path_below(top: str, path: str) -> str:
    """Where an entry's path is below the folder `top`; that itself for ''."""
    if not path:
        return top
    return f"{top}{os.sep}{path if os.sep == '/' else path.replace('/', os.sep)}"


def folder_entries(top: str) -> list[Entry]:
    """The manifest of a folder as it is now, by reading all of it; links are not followed."""
    entries = []
    for parent, folders, names in os.walk(top):
        prefix = "" if parent == top else os.path.relpath(parent, top).replace(os.sep, "/") + "/"
        entries += [Entry(prefix + name, True) for name in folders]
        for name in names:
            path = os.path.join(parent, name)
            digest, size_bytes = digests.digest_of_file(path)
            is_executable = bool(os.stat(path).st_mode & stat.S_IXUSR)
            entries.append(Entry(prefix + name, False, is_executable, size_bytes, digest))
    return entries
