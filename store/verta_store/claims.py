"""Claims: the one thing in a store that only one of many writers can have, on any hosts: a name for good.

A claim is a small read-only file, created whole and exclusively, and never changed or released again: what can be
deleted and made anew claims a name that tells its generations apart. The format is in `store/README.md`, "Claims".
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from . import drive, files, ids, records
from .errors import BadRecord, ClaimTaken

# Ours, never a user's word: it is the name of a folder.
_KIND = r"[a-z][a-z0-9-]{0,39}"

# `{"c":"`, 64 hexadecimal digits, `",`: the check value stands in front, over everything behind it.
_HEAD_BYTES = 72

# Without links a claim is for a moment shorter than it will be: how long a reader waits for the rest.
_FILLED_WITHIN_S = 2.0


class Claim(NamedTuple):
    """Who has a name, since when, and what he said with it. `at_ms` is by his clock."""

    kind: str
    name: str
    value: Mapping[str, Any] = {}
    host: str = ""
    user: str = ""
    at_ms: int = 0


class Claims:
    """The claims of one store."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._folders = files.DurableFolders(root)

    def claim(self, kind: str, name: str, value: Mapping[str, Any]) -> Claim:
        """Takes a name; durable when this returns.

        Raises:
            ClaimTaken: somebody has it; `claim` says who.
            BadRecord: a kind that is none, or a value that JSON cannot hold.
            StoreWriteError: the drive refused; the name is as free as before.
        """
        path = self._path(kind, name)
        made = Claim(kind, name, dict(value), ids.host_name(), ids.user_name(), ids.now_ms())
        data = _encode(made)
        draft = os.path.join(self._root, "tmp", f"claim-{ids.random_hex(32)}")
        with files.writing("a claim", path):
            self._folders.make(os.path.dirname(path))
            is_ours = files.create_exclusive(path, data, draft)
        if is_ours:
            return made
        owner = self.find(kind, name) or Claim(kind, name)
        who = f"{owner.user} on {owner.host}" if owner.host else "somebody"
        raise ClaimTaken(f"the {kind} {name!r} is taken by {who}; choose another", owner)

    def find(self, kind: str, name: str) -> Claim | None:
        """The claim of a name; None when it is free. One whose file is damaged is still taken, by nobody known."""
        path = self._path(kind, name)
        try:
            return self._read(path)
        except FileNotFoundError:
            return None
        except ValueError:
            return Claim(kind, name)

    def _read(self, path: str) -> Claim:
        deadline = time.monotonic() + _FILLED_WITHIN_S
        while True:
            try:
                return read_claim(drive.of(self._root).look(path, files.read_file))
            except ValueError:
                if time.monotonic() > deadline or not _is_new(path):
                    raise
            time.sleep(0.02)

    def _path(self, kind: str, name: str) -> str:
        if not re.fullmatch(_KIND, kind):
            raise BadRecord(f"the kind of a claim is a short word in lower case, not {kind!r}")
        return os.path.join(self._root, "claims", kind, name_digits(name))


def name_digits(name: str) -> str:
    """The file's name for a claimed name: 64 hexadecimal digits."""
    return hashlib.sha256(b"verta_local claim " + name.encode("utf-8", "surrogatepass")).hexdigest()


def _encode(claim: Claim) -> bytes:
    fields = {
        "format": records.FORMAT,
        "kind": claim.kind,
        "name": claim.name,
        "host": claim.host,
        "user": claim.user,
        "pid": os.getpid(),
        "at": claim.at_ms,
        "v": claim.value,
    }
    rest = records.encode(fields)[1:].encode("ascii") + b"\n"
    return b'{"c":"%s",%s' % (hashlib.sha256(rest).hexdigest().encode("ascii"), rest)


def read_claim(data: bytes) -> Claim:
    """The claim of a file's bytes.

    Raises:
        ValueError: the bytes are not what was written; the message says how.
    """
    if not data.endswith(b"\n"):
        raise ValueError("it was cut off")
    rest = data[_HEAD_BYTES:]
    if data[:_HEAD_BYTES] != b'{"c":"%s",' % hashlib.sha256(rest).hexdigest().encode("ascii"):
        raise ValueError("its bytes do not match its check value")
    found = json.loads(data)
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in ("kind", "name")):
        raise ValueError("it is no claim")
    value = found.get("v")
    return Claim(
        found["kind"],
        found["name"],
        {key: records.unescape(item) for key, item in value.items()} if isinstance(value, dict) else {},
        str(found.get("host", "")),
        str(found.get("user", "")),
        found["at"] if isinstance(found.get("at"), int) else 0,
    )


def damages(root: str) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) of each file under `claims/` that is no sound claim."""
    top = os.path.join(root, "claims")
    for kind in sorted(files.list_names(top)):
        folder = os.path.join(top, kind)
        if not os.path.isdir(folder):
            yield folder, "it is no folder of claims"
            continue
        for name in sorted(files.list_names(folder)):
            path = os.path.join(folder, name)
            if name.startswith(drive.POKE):
                continue
            try:
                data = files.read_file(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                yield path, f"it cannot be read: {error.strerror}"
                continue
            try:
                found = read_claim(data)
            except ValueError as error:
                # Without links a claim grows in its place; one with its line end has all that it will ever have.
                if data.endswith(b"\n") or not _is_new(path):
                    yield path, str(error)
                continue
            if (found.kind, name_digits(found.name)) != (kind, name):
                yield path, f"it is the claim of the {found.kind} {found.name!r}: swapped or renamed"


def _is_new(path: str) -> bool:
    """Whether a file may still be on its way into place."""
    try:
        return abs(time.time() - os.stat(path).st_mtime) < drive.SETTLED_AFTER_S
    except OSError:
        return False
