"""The trash: where collected objects wait, under names that say how to bring them back.

The layout is in `store/README.md`, section "Garbage collection".
"""

from __future__ import annotations

import errno
import os
import re
from typing import NamedTuple

from . import digest as digests
from . import drive, files

FOLDER = "trash"

_NAME = re.compile(r"(blob|tree)-([a-z0-9]+)-([0-9a-f]{64})(\.manifest)?")

# What a rename onto a name that exists already answers.
_IS_THERE = (errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR)


class Part(NamedTuple):
    """What one name in the trash stands for: a blob's file, a tree's folder or a tree's manifest."""

    kind: str  # "blob" or "tree"
    digest: str
    is_manifest: bool = False

    @property
    def name(self) -> str:
        """The name in a batch, `blob-sha256-<64 hex>`: flat, so that looking for it is one system call."""
        algorithm, _, digits = self.digest.partition(":")
        return f"{self.kind}-{algorithm}-{digits}{'.manifest' if self.is_manifest else ''}"

    def home(self, root: str) -> str:
        """Where the part belongs in the store."""
        top = "objects" if self.kind == "blob" else "trees"
        return os.path.join(root, top, digests.shard(self.digest)) + (".manifest" if self.is_manifest else "")


def parse_name(name: str) -> Part | None:
    """What a name in a batch stands for; None for one that is not of this kind."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    kind, algorithm, digits, manifest = found.groups()
    return Part(kind, f"{algorithm}:{digits}", bool(manifest)) if kind == "tree" or not manifest else None


def find(root: str, part: Part) -> str | None:
    """The path of a part in the trash, or None."""
    top = os.path.join(root, FOLDER)
    try:
        batches = drive.of(root).names(top)
    except OSError:
        return None
    for batch in batches:
        path = os.path.join(top, batch, part.name)
        if os.path.lexists(path):
            return path
    return None


def bring_back(root: str, part: Part) -> bool:
    """Renames a part out of the trash to where it belongs. Returns whether it is there now, whoever put it there."""
    home = part.home(root)
    # Several rounds: another process may take it, in either direction, between the look and the rename.
    for _ in range(4):
        if os.path.lexists(home):
            return True
        path = find(root, part)
        if path is None:
            return os.path.lexists(home)
        try:
            files.make_folder(os.path.dirname(home), root)
            drive.of(root).rename(path, home)
            return True
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno in _IS_THERE:
                return True
            return os.path.lexists(home)  # a drive that may only be read: its next collection brings it back
    return os.path.lexists(home)


def bring_back_object(root: str, kind: str, digest: str) -> bool:
    """Brings back a whole blob, or a tree's folder and manifest. Returns whether all of it is there now."""
    if kind == "tree":
        # The folder goes into the trash first and comes back last: with a folder in place the manifest is near.
        return bring_back(root, Part(kind, digest, True)) and bring_back(root, Part(kind, digest))
    return bring_back(root, Part(kind, digest))
