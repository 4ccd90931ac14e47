"""Whose logged code may run here: what this user logged, or has approved, by digest and author.

Unpickling runs code of whoever logged the object. In a store that several people write, an object of somebody else's
is asked about once; the answer is kept in this user's own state folder (mode 0600), never in the store.

An author is a text: "user on host", as their journal states it. A journal's word is not believed where its file
belongs to another user of the system: then it is "user (uid 1005) on host", which is nobody's own name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verta_store import ids
from verta_store.files import make_private_folder
from verta_store.listing import OPEN_SUFFIX, SEALED_SUFFIX
from verta_store.records import ARTIFACTS

from . import config
from .private_file import write_private

if TYPE_CHECKING:
    from verta_store import Store

# key of an artifact -> {"digest", "author"} of what was copied from elsewhere.
ORIGINS_SECTION = "origins"
_FILE = "trusted.json"
_JOURNAL_ENDS = (OPEN_SUFFIX, SEALED_SUFFIX)
_NOBODY = 65534  # what a network drive or a container shows where it cannot map the owner: it tells nothing


def own_author() -> str:
    """This user as an author."""
    return f"{ids.user_name()} on {ids.host_name()}"


def is_own(author: str) -> bool:
    """Whether an author is this user, on whatever host."""
    return author.rpartition(" on ")[0] == ids.user_name()


def is_trusted(digest: str, author: str | None) -> bool:
    """Whether the code of an object may run: it is this user's own, or was approved. Not where no author is known."""
    if author is None:
        return False
    return is_own(author) or author in _approvals().get(digest, ())


def code_of(spec: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """(digest, author) of all that the model of a spec has run or installed here, each part by who logged it."""
    model = {"digest": spec["model"]["digest"]}
    parts = [model, spec.get("custom_modules"), spec.get("setup_script"), *spec.get("installs", ())]
    return [(part["digest"], part.get("author", spec.get("author"))) for part in parts if part]


def approve(digests: Iterable[str], author: str) -> None:
    """Remembers that what `author` logged may run here. Raises: OSError."""
    approvals = _approvals()
    for digest in digests:
        approvals[digest] = sorted({*approvals.get(digest, ()), author})
    file = _path()
    make_private_folder(file.parent)
    write_private(file, json.dumps(approvals, indent=1).encode("ascii"))


def author_of_value(store: Store, entity: str, section: str, key: str) -> str | None:
    """Who logged the value that counts; None where no journal is known to hold it."""
    rows = store.select(
        "SELECT j.user, j.host, j.stem FROM vals v JOIN entities e ON e.num = v.entity JOIN keys k ON k.id = v.key"
        " JOIN journals j ON j.id = v.writer WHERE e.id = ? AND k.section = ? AND k.key = ?",
        (entity, section, key),
    )
    if not rows:
        return None
    user, host, stem = rows[0]
    owner = _owner_of(os.path.join(store.root, "journals", stem))
    is_others = owner is not None and owner != os.getuid()
    return f"{user} (uid {owner}) on {host}" if is_others else f"{user} on {host}"


def author_of_code(store: Store, entity: str, key: str, digest: str | None) -> str | None:
    """Whose code an artifact is: who logged it, or, where this user has copied it from elsewhere, who logged it there.

    What the entity notes of its origin is believed only where it lowers the trust: anybody may have written that note.
    """
    author = author_of_value(store, entity, ARTIFACTS, key)
    if author is None or not is_own(author):
        return author
    origin = store.values(entity, ORIGINS_SECTION).get(key, {})
    return str(origin["author"]) if origin.get("digest") == digest and origin.get("author") else author


def origins_of(store: Store, entity: str, artifacts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Whose code those of an entity's artifacts are that are not this user's own: to be noted with a copy of them.

    Args:
        artifacts: key -> record, as in the store.

    Returns:
        key -> {"digest", "author"}, for the section `ORIGINS_SECTION` of what they are copied to.
    """
    found = {}
    for key, record in artifacts.items():
        digest = record.get("digest")
        if digest:
            author = author_of_code(store, entity, key, digest)
            if author is None or not is_own(author):
                found[key] = {"digest": str(digest), "author": author or "nobody known"}
    return found


def _owner_of(path: str) -> int | None:
    """The user id that a journal belongs to; None where the system, or a packed journal, does not tell."""
    if not hasattr(os, "getuid"):
        return None
    for end in _JOURNAL_ENDS:
        try:
            owner = os.stat(path + end).st_uid
            return None if owner == _NOBODY else owner
        except OSError:
            continue
    return None


def _path() -> Path:
    return config.state_dir() / _FILE


def _approvals() -> dict[str, list[str]]:
    try:
        found = json.loads(_path().read_bytes())
        return {str(digest): [str(author) for author in authors] for digest, authors in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # none yet, or damaged: then they are asked for again
