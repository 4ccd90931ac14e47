"""Steps of the tests of garbage collection: what is logged, what time it is, and what is there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from verta_store import Store, close_all, files, records
from verta_store.collected import Report
from verta_store.gc import DAY_S, Rules, collect
from verta_store.objects import Ref
from verta_store.trash import parse_name

NS = 10**9


@pytest.fixture(autouse=True)
def no_syncing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power cuts."""
    monkeypatch.setattr(files, "sync_file", lambda *_, **__: None)


def record(ref: Ref) -> dict[str, Any]:
    return {"kind": ref.kind, "digest": ref.digest, "size_bytes": ref.size_bytes, "name": "name"}


def log(store: Store, run: str, key: str, ref: Ref, **options: bool) -> Ref:
    store.put(run, records.ARTIFACTS, {key: record(ref)}, **options)
    return ref


def folder_of(tmp_path: Path, text: str = "small", large: int = 70_000) -> Path:
    folder = tmp_path / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "small").write_text(text)
    (folder / "large").write_bytes(b"L" * large)
    return folder


def later(days: float = 0, hours: float = 0) -> Rules:
    """The protocol as it is, so much later by the drive's clock."""
    return Rules(clock=lambda now_ns: now_ns + int((days * DAY_S + hours * 3600) * NS))


def everything(store: Store) -> Report:
    """Collects twice, as somebody who waits long enough."""
    close_all()
    collect(store, rules=later(days=15))
    return collect(store, rules=later(days=17))


def listing(root: str) -> set[str]:
    return {
        os.path.relpath(os.path.join(parent, name), root)
        for parent, _, names in os.walk(root)
        for name in names
        if "journals" not in parent and "leases" not in parent
    }


def is_there(store: Store, ref: Ref) -> bool:
    return os.path.lexists(
        os.path.join(
            store.root,
            "trees" if ref.kind == "tree" else "objects",
            "sha256",
            ref.digest[7:9],
            ref.digest[9:],
        )
    )


def trash_of(store: Store) -> set[str]:
    found = {name for path in Path(store.root, "trash").iterdir() for name in os.listdir(path)}
    return {part.digest for part in map(parse_name, found) if part is not None}


def journal_paths(store: Store) -> list[Path]:
    return sorted(Path(store.root, "journals").glob("*/*.jsonl"))
