"""Copies of one store: put back from a backup, merged, used side by side, filled by several hosts in any order."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from new_entities import new_run

from verta_store import Store, close_all, open_store, packing, packs
from verta_store.description import read_description
from verta_store.errors import CollectionRefused, MissingObject
from verta_store.fsck import verify
from verta_store.gc import Rules, collect
from verta_store.index_file import path_of
from verta_store.query import Query, SortKey
from verta_store.records import ARTIFACTS

LATER_NS = 20 * 24 * 3600 * 10**9


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Any:
    yield
    close_all()


def opened(root: Path, cache: Path) -> Store:
    """A Store of its own, as another process has it."""
    return Store(str(root), read_description(str(root)), str(cache), "normal")


def on_host(host: str, root: Path, cache: Path, statements: str) -> None:
    """Runs statements with `store` and `run` at hand."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from new_entities import new_run
from verta_store import open_store
store = open_store({str(root)!r}, {str(cache / host)!r}, create=True)
run = new_run(store)
def artifact(data):
    ref = store.put_bytes(data)
    return {{"kind": "blob", "digest": ref.digest, "size_bytes": ref.size_bytes, "name": "x"}}
{statements}
"""
    path = os.pathsep.join(sys.path)
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "VERTA_LOCAL_HOST": host, "PYTHONPATH": path}, check=True
    )


def artifact(store: Store, data: bytes) -> dict[str, Any]:
    ref = store.put_bytes(data)
    return {"kind": "blob", "digest": ref.digest, "size_bytes": ref.size_bytes, "name": "x"}


def collect_twice(store: Store) -> None:
    """To the trash, and out of it."""
    for times in (1, 2):
        store.close()
        collect(store, rules=Rules(clock=lambda now_ns, times=times: now_ns + times * LATER_NS))


def test_an_index_notices_that_an_older_copy_was_put_back(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", tmp_path / "cache", create=True)
    run = new_run(store)
    store.flush()
    shutil.copytree(tmp_path / "store", tmp_path / "backup")  # while somebody works
    late = new_run(store, "late")
    store.put(late, ARTIFACTS, {"m": artifact(store, b"weights")})
    assert len(store.find(Query("run"))) == 2
    close_all()  # sealed: in the copy the journal is open
    for is_sealed in (True, False):
        shutil.rmtree(tmp_path / "store")
        shutil.copytree(tmp_path / "backup", tmp_path / "store")
        store = opened(tmp_path / "store", tmp_path / "cache")
        assert [row.id for row in store.find(Query("run"))] == [run], is_sealed
        assert not store.values(late, ARTIFACTS) and verify(store, deep=True).is_clean
        if is_sealed:  # and cut at a record's end while it is open
            (journal,) = (tmp_path / "store" / "journals").rglob("*.open.jsonl")
            whole = journal.read_bytes()
            shutil.copytree(tmp_path / "store", tmp_path / "longer")
            journal.write_bytes(whole[: whole.rstrip(b"\n").rindex(b"\n") + 1])
            assert opened(tmp_path / "store", tmp_path / "cache").find(Query("run")) == []
            journal.write_bytes(whole)


def test_two_copies_of_a_store_are_used_side_by_side(tmp_path: Path) -> None:
    first = open_store(tmp_path / "a", tmp_path / "cache", create=True)
    new_run(first)
    first.close()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    second = opened(tmp_path / "b", tmp_path / "cache")
    for store, name in ((first, "only in a"), (second, "only in b")) * 2:
        new_run(store, name)
        store.close()
        assert sorted(row.name for row in store.find(Query("run"))) == ["first", name]
        assert verify(store).is_clean
        assert not collect(store, is_dry_run=True).trashed.object_count
    assert first.index_state().path != second.index_state().path
    shutil.rmtree(tmp_path / "a")
    os.rename(tmp_path / "b", tmp_path / "a")
    third = opened(tmp_path / "a", tmp_path / "cache")
    assert sorted(row.name for row in third.find(Query("run"))) == ["first", "only in b"]


def test_an_index_goes_with_a_store_that_moves(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", tmp_path / "cache", create=True)
    folder = str(tmp_path / "cache" / "stores" / store.id)
    assert path_of(folder, store.root, store.id) == os.path.join(folder, "index.sqlite")
    os.rename(tmp_path / "store", tmp_path / "moved")
    for _ in range(2):
        assert path_of(folder, str(tmp_path / "moved"), store.id) == os.path.join(folder, "index.sqlite")
    shutil.copytree(tmp_path / "moved", tmp_path / "store")
    assert path_of(folder, str(tmp_path / "store"), store.id) != os.path.join(folder, "index.sqlite")


def test_an_overwrite_of_two_keys_replaces_of_each_only_what_its_writer_knew(tmp_path: Path) -> None:
    on_host("ant", tmp_path / "a", tmp_path, "")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    on_host("bee", tmp_path / "b", tmp_path, "store.put(run, 'artifacts', {'a': artifact(b'of bee')})")
    statements = """
store.put(run, 'artifacts', {'b': artifact(b'old')})
store.put(run, 'artifacts', {'a': artifact(b'of ant'), 'b': artifact(b'new')}, overwrite=True)
"""
    on_host("ant", tmp_path / "a", tmp_path, statements)
    shutil.copytree(tmp_path / "b", tmp_path / "a", dirs_exist_ok=True)
    store = open_store(tmp_path / "a", tmp_path / "cache")
    assert [(one.key, one.host, one.winner_host) for one in store.conflicts()] == [("a", "bee", "ant")]
    (conflict,) = store.conflicts()
    (run,) = store.find(Query("run"))
    values = store.values(run.id, ARTIFACTS)
    collect_twice(store)
    assert store.read_verified(conflict.value["digest"]) == b"of bee"
    assert [store.read_verified(values[key]["digest"]) for key in "ab"] == [b"of ant", b"new"]
    with pytest.raises(MissingObject):  # that one was replaced knowingly
        store.read_verified("sha256:" + hashlib.sha256(b"old").hexdigest())


def test_what_is_sorted_as_equal_has_one_order_in_every_index(tmp_path: Path) -> None:
    on_host("zoe", tmp_path / "store", tmp_path, "other = new_run(store, 'zoe'); store.put(other, 'metrics', {'m': 1})")
    store = opened(tmp_path / "store", tmp_path / "cache")
    assert len(store.find(Query("run"))) == 2
    on_host(
        "adam", tmp_path / "store", tmp_path, "other = new_run(store, 'adam'); store.put(other, 'metrics', {'m': 1})"
    )
    fresh = opened(tmp_path / "store", tmp_path / "fresh")
    for is_descending in (True, False):
        by = SortKey("metrics", "m", is_descending)
        for query in (Query("run", sort=by), Query("run", top=(by, 1)), Query("run").where("metrics.m == 1")):
            assert store.find(query) == fresh.find(query)
        assert store.find(Query("run", sort=by), 1) == fresh.find(Query("run", sort=by), 1)
    close_all()


def test_what_is_lost_is_remembered_when_another_journal_is_mended(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", tmp_path / "cache", create=True)
    run = new_run(store)
    store.put(run, "metrics", {"a": 1})
    hurt = tmp_path / "store" / "journals" / f"{store._journal.stem}.jsonl"
    store.close()
    new_run(store, "second")
    gone = tmp_path / "store" / "journals" / f"{store._journal.stem}.jsonl"
    store.close()
    assert len(store.find(Query("run"))) == 2
    gone.unlink()
    good = hurt.read_bytes()
    hurt.write_bytes(good.replace(b'"a":1', b'"a":2'))
    assert len(verify(store).problems) == 2
    hurt.write_bytes(good)
    (problem,) = verify(store).problems
    assert problem.path == str(gone) and "has read it before" in problem.what
    with pytest.raises(CollectionRefused):
        collect_twice(store)


def test_the_open_copy_of_a_journal_beside_the_pack_that_holds_all_of_it_hides_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", tmp_path / "cache", create=True)
    run = new_run(store)
    store.flush()
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    store.put(run, ARTIFACTS, {"a": artifact(store, b"weights")})
    store.close()
    new_run(store, "second")
    store.close()
    shutil.copytree(tmp_path / "copy", tmp_path / "store", dirs_exist_ok=True)
    report = packing.pack_journals(store.root, store.id, time.time_ns() + LATER_NS, after_s=0, fewest=2)
    packing.delete_packed(store.root, time.time_ns() + LATER_NS, 0, report)
    (left,) = (tmp_path / "store" / "journals").rglob("*.jsonl")
    assert left.name.endswith(".open.jsonl") and report.journal_count == 2
    assert verify(store).is_clean and verify(store).blob_count == 1
    store.close()
    shutil.rmtree(tmp_path / "store" / "objects")
    assert [problem.kind for problem in verify(store).problems] == ["missing"]


def test_of_two_packs_with_one_journal_the_whole_one_counts(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", tmp_path / "cache", create=True)
    run = new_run(store)
    values = {"first": 0.123456789, "second": 2}
    for key, value in values.items():
        store.put(run, "metrics", {key: value})
    store.close()
    new_run(store, "second")
    store.close()
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    for root in (tmp_path / "store", tmp_path / "copy"):  # each collects for itself; then they are merged
        report = packing.pack_journals(str(root), store.id, time.time_ns() + LATER_NS, after_s=0, fewest=2)
        packing.delete_packed(str(root), time.time_ns() + LATER_NS, 0, report)
    shutil.copytree(tmp_path / "copy", tmp_path / "store", dirs_exist_ok=True)
    first, second = sorted((tmp_path / "store" / "journals").rglob("*.pack.gz"))
    hurt_count = 0
    for path in (first, second):
        good = path.read_bytes()
        path.chmod(0o644)
        for at in range(len(good) // 2, len(good), 7):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            hurt_count += bool(packs.read_pack(str(path)).hurt())
            reader = opened(tmp_path / "store", tmp_path / f"cache-{path.name}-{at}")
            assert reader.values(run, "metrics") == values, at
            reader.close()
        path.write_bytes(good)
    assert hurt_count


@pytest.mark.skipif(sys.platform != "linux", reason="paths that are no Unicode")
def test_a_damaged_journal_is_told_where_the_path_of_the_store_is_no_unicode(tmp_path: Path) -> None:
    root = os.path.join(str(tmp_path), os.fsdecode(b"caf\xe9"), "store")
    store = open_store(root, tmp_path / "cache", create=True)
    run = new_run(store)
    store.put(run, "metrics", {"a": 1, "b": 2})
    store.close()
    (path,) = Path(root, "journals").rglob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"a":1', b'"a":3'))
    assert [row.id for row in store.find(Query("run"))] == [run] and store.values(run, "metrics") == {}
    assert len(verify(store).problems) == 1
