"""`store.json`: what a store is, how a new one is made, and who else may use it.

The fields are in `store/README.md`, section "store.json".
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from typing import Any

from . import drive, files, ids
from .errors import StoreFormatError, StoreNotFound

STORE_FILE = "store.json"

# Of the store as a whole. In one of format 1 no journals are packed: a reader of that time would not find them.
FORMAT = 2
FOLDERS = ("objects", "trees", "names", "journals", "claims", "leases", "tmp", "trash")

_UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")

# Without links `store.json` is created empty and filled by the next call: how long a reader waits for that.
_FILLED_WITHIN_S = 2.0


def is_there(root: str) -> bool:
    """Whether a folder is a store; one that this user may not look into is none.

    Raises:
        StoreNotFound: it cannot be told, because the folder is somebody else's.
    """
    try:
        os.stat(os.path.join(root, STORE_FILE))
    except PermissionError as error:
        if not os.path.isdir(root):
            return False  # it is a folder above that keeps us out
        raise StoreNotFound(
            f"permission denied in {root}: if it is a store, it is a private one of somebody else, who can make one "
            "for all of you with: verta-local init PATH --shared",
            path=root,
        ) from error
    except OSError:
        return False
    return True


def read_description(root: str) -> dict[str, Any]:
    """What `store.json` says.

    Raises:
        StoreNotFound: there is none.
        StoreFormatError: it cannot be read, or is of a newer format.
    """
    path = os.path.join(root, STORE_FILE)
    try:
        data = _read_filled(path)
        found = json.loads(data)
        version = found["format"]
        if not _UUID.fullmatch(found["store_id"]) or not isinstance(version, int):
            raise ValueError("no store id")
    except FileNotFoundError as error:
        raise StoreNotFound(f"there is no store in {root}; make one with Client({root!r})", path=root) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreFormatError(
            f"{path} is not the description of a store ({error}); bring it back from a copy of the store",
            path=path,
        ) from error
    if version > FORMAT:
        raise StoreFormatError(
            f"the store {root} has format {version}, this version of verta_local reads up to {FORMAT}; "
            "upgrade it with: pip install --upgrade verta_local",
            path=path,
        )
    return dict(found)


def _read_filled(path: str) -> bytes:
    deadline = time.monotonic() + _FILLED_WITHIN_S
    while True:
        with open(path, "rb") as file:
            data = file.read()
        if data:
            return data
        if time.monotonic() > deadline:
            raise ValueError("it is empty: whoever made it was interrupted; if the store is new, delete the file")
        time.sleep(0.02)


def create(root: str, sharing: str) -> bool:
    """Makes the store in an empty or a new folder. Returns False when another process was faster.

    Raises:
        StoreFormatError: the folder holds something else.
        StoreWriteError: it cannot be written.
    """
    where = drive.Drive(root, sharing)
    with files.writing("a new store", root):
        _make_root(where)
        # A `store.json` in it is that of another process, which was a moment faster.
        ours = (*FOLDERS, STORE_FILE)
        foreign = [name for name in os.listdir(root) if name not in ours and not name.startswith(".")]
        if foreign:
            raise StoreFormatError(
                f"{root} holds other files ({', '.join(sorted(foreign)[:3])}) and no store; "
                "name an empty or a new folder",
                path=root,
            )
        for name in FOLDERS:
            _make_own(where, os.path.join(root, name))
        from . import probe  # noqa: PLC0415 - start-up time

        temporary = os.path.join(root, "tmp")
        description = {
            "format": FORMAT,
            "store_id": ids.random_uuid(),
            "created_ms": ids.now_ms(),
            "sharing": sharing,
            "capabilities": probe.capabilities(temporary),
        }
        data = json.dumps(description, indent=2).encode("ascii") + b"\n"
        draft = os.path.join(temporary, ids.random_hex(16))
        was_created = files.create_exclusive(os.path.join(root, STORE_FILE), data, draft)
        files.sync_folder(root)
        return was_created


def _make_root(where: drive.Drive) -> None:
    """Makes the store's folder with what is missing above it, durable; a folder that was there keeps its mode."""
    missing = []
    folder = where.root
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for folder in reversed(missing):
        try:
            if folder == where.root or where.is_shared:
                where.make_own_folder(folder)
            else:
                os.mkdir(folder)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise
        files.sync_folder(os.path.dirname(folder))


def _make_own(where: drive.Drive, path: str) -> None:
    """Makes one of the store's own folders; one of ours whose maker died before he had set its mode gets it now."""
    try:
        where.make_own_folder(path)
    except FileExistsError:
        found = os.stat(path)
        if not stat.S_ISDIR(found.st_mode):
            raise
        if hasattr(os, "getuid") and found.st_uid == os.getuid():
            drive.set_mode(path, where.modes.folder)
