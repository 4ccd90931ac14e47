"""Many processes and threads on one store: nothing is lost, no name has two ids, and every view is the same."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from new_entities import new_run
from test_index import answers

from verta_store import Store, open_store
from verta_store.fsck import verify
from verta_store.journal import list_journals
from verta_store.query import Query

PROCESSES = 8

HEAD = f"""
import json, os, sys, time
root, cache, go, number = sys.argv[1:4] + [int(sys.argv[4])]
sys.path.insert(0, {str(Path(__file__).parent)!r})
from new_entities import new_run
from verta_store import open_store
print("ready", flush=True)
while not os.path.exists(go):
    time.sleep(0.001)
"""


@pytest.fixture
def together(tmp_path: Path) -> Callable[..., list[Any]]:
    """Runs the same code in eight processes that begin at one moment; returns what each printed as JSON at its end."""

    def run(code: str, root: str | Path, caches: int = 1, end: str = "") -> list[Any]:
        go = tmp_path / f"go{time.monotonic_ns()}"
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", HEAD + code + end, root, tmp_path / f"cache{n % caches}", go, str(n)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for n in range(PROCESSES)
        ]
        for worker in workers:
            assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
        go.touch()
        printed = [worker.communicate()[0] for worker in workers]
        assert [worker.returncode for worker in workers] == [0] * PROCESSES
        return [json.loads(text) for text in printed]

    return run


def test_eight_processes_make_one_store(together: Callable[..., list[Any]], tmp_path: Path) -> None:
    code = """
store = open_store(root, cache, create=True)
run = new_run(store, str(number))
store.put(run, "metrics", {"a": number})
print(json.dumps([store.id, store.was_created]))
"""
    for turn in range(2):
        printed = together(code, tmp_path / f"store{turn}")
        assert len({store_id for store_id, _ in printed}) == 1
        assert sum(was_created for _, was_created in printed) == 1
        store = open_store(tmp_path / f"store{turn}", tmp_path / "cache0")
        assert sorted(row.name for row in store.find(Query("run"))) == [str(n) for n in range(PROCESSES)]
        assert verify(store, deep=True).is_clean
        assert not os.listdir(Path(store.root, "tmp"))


@pytest.mark.parametrize("caches", [1, PROCESSES])
@pytest.mark.parametrize("same", [False, True], ids=["each its own run", "all one run"])
def test_eight_processes_log_and_nothing_is_lost(
    store: Store, another: Callable[..., Store], together: Callable[..., list[Any]], caches: int, same: bool
) -> None:
    code = f"""
store = open_store(root, cache)
run = new_run(store, "one" if {same} else f"run {{number}}")
for value in range(40):
    store.put(run, "metrics", {{f"{{number}}/{{value}}": value}})
    store.put(run, "attributes", {{"shared": number}}, overwrite=True)
    store.add_points(run, "loss", [(float(number), value, value)])
    store.add_tags(run, [f"tag {{number}}", "all"])
    if value % 13 == 0:
        store.put_bytes(b"the same %d" % value)
        assert store.values(run, "metrics")[f"{{number}}/{{value}}"] == value
        store.find
print(json.dumps(run))
"""
    runs = together(code, store.root, caches)
    assert len(set(runs)) == (1 if same else PROCESSES)
    for number, run in enumerate(runs):
        metrics = store.values(run, "metrics")
        assert {metrics[f"{number}/{value}"] for value in range(40)} == set(range(40))
        mine = [point for point in store.points(run, "loss") if point.value == number]
        assert [point.epoch for point in mine] == list(range(40)), "of each writer in the order of logging"
        assert set(store.tags(run)) == ({f"tag {n}" for n in range(PROCESSES)} if same else {f"tag {number}"}) | {"all"}
        assert store.values(run, "attributes")["shared"] in (range(PROCESSES) if same else [number])
    assert sum(len(store.points(run, "loss")) for run in set(runs)) == 40 * PROCESSES
    assert answers(another(store, "fresh")) == answers(store)
    assert len(list_journals(store.root)) == PROCESSES
    report = verify(store, deep=True)
    assert report.is_clean and not report.notes, report


def test_eight_processes_get_or_create_the_same_names_and_get_the_same_ids(
    store: Store, another: Callable[..., Store], together: Callable[..., list[Any]]
) -> None:
    code = """
store = open_store(root, cache)
ids = {name: new_run(store, name, project=name[:1], experiment=name[:2]) for name in map(str, range(100, 130))}
print(json.dumps(ids))
"""
    printed = together(code, store.root, PROCESSES)
    assert all(ids == printed[0] for ids in printed)
    for reader in (store, another(store)):
        assert sorted(row.name for row in reader.find(Query("run"))) == sorted(printed[0])
        assert reader.count(Query("project")) == 1 and reader.count(Query("experiment")) == 3
        assert reader.conflicts() == []


def test_eight_processes_delete_and_make_anew_and_end_with_at_most_one(
    store: Store, another: Callable[..., Store], together: Callable[..., list[Any]]
) -> None:
    code = """
store = open_store(root, cache)
for turn in range(6):
    run = new_run(store, "same")
    try:
        store.put(run, "attributes", {f"{number}/{turn}": 1})
    except KeyError:
        continue  # another process has deleted it since: then it takes no more values
    store.delete(run)
print("0")
"""
    together(code, store.root, PROCESSES)
    other = another(store)
    for reader in (store, other):
        assert reader.count(Query("run")) == 0
    last = new_run(store, "same")
    assert new_run(other, "same") == last
    assert store.values(last, "attributes") == {}


def test_eight_processes_put_the_same_objects_and_folders(
    store: Store, together: Callable[..., list[Any]], tmp_path: Path
) -> None:
    source = tmp_path / "folder"
    source.mkdir()
    for number in range(6):
        (source / str(number)).write_bytes(bytes([number]) * (40_000 * number))
    code = f"""
store = open_store(root, cache)
refs = []
for turn in range(3):
    refs.append(store.put_tree({str(source)!r}).digest)
    refs.append(store.put_file({str(source / "5")!r}).digest)
    refs.append(store.put_bytes(b"same").digest)
    store.path_of("blob", refs[-1], "named.bin")
    store.check("tree", refs[0])
print(json.dumps(refs[:3]))
"""
    printed = together(code, store.root)
    assert len({tuple(refs) for refs in printed}) == 1
    assert len(list(Path(store.root, "trees").rglob("*.manifest"))) == 1
    assert not os.listdir(Path(store.root, "trash")) and not os.listdir(Path(store.root, "tmp"))
    assert verify(store, deep=True).is_clean


def _other_python() -> str:
    """A Python of another minor version that can run the engine; '' where there is none on the path."""
    for minor in range(10, 20):
        found = shutil.which(f"python3.{minor}")
        if found is None or minor == sys.version_info.minor:
            continue
        if subprocess.run([found, "-c", "import sqlite3, zlib, hashlib"], capture_output=True).returncode == 0:
            return found
    return ""


def test_two_interpreters_of_different_versions_share_a_store_and_its_index(store: Store, tmp_path: Path) -> None:
    other = _other_python()
    if not other:
        pytest.skip("no other Python on the path")
    code = """
store = open_store(root, cache)
run = new_run(store, "one")
for value in range(60):
    store.put(run, "metrics", {f"{number}/{value}": value / 3})
    store.add_points(run, "loss", [(float("nan") if value % 7 == 0 else value, value, value)])
    if value % 10 == 0:
        ref = store.put_bytes(b"of both %d" % value)
        store.check("blob", ref.digest)
        assert store.values(run, "metrics")[f"{number}/{value}"] == value / 3
store.close()
print(json.dumps(list(sys.version_info[:2])))
"""
    go = tmp_path / "go"
    interpreters = [sys.executable, other, sys.executable, other]
    workers = [
        subprocess.Popen(
            [python, "-c", HEAD + code, store.root, str(tmp_path / "cache"), str(go), str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, python in enumerate(interpreters)
    ]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    go.touch()
    versions = {worker.communicate()[0] for worker in workers}
    assert [worker.returncode for worker in workers] == [0] * 4 and len(versions) == 2
    (run,) = (row.id for row in store.find(Query("run")))
    assert len(store.values(run, "metrics")) == 240 and len(store.points(run, "loss")) == 240
    assert verify(store, deep=True).is_clean


def test_threads_of_one_process_log_to_one_run(store: Store, run: str) -> None:
    failures: list[BaseException] = []

    def log(number: int) -> None:
        try:
            for value in range(60):
                store.put(run, "metrics", {f"{number}/{value}": value})
                store.add_points(run, "loss", [(number, value, None)])
                store.put_bytes(b"%d" % value)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=log, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(store.values(run, "metrics")) == 480
    assert sorted(point.epoch for point in store.points(run, "loss")) == list(range(480)), "each epoch once"


def test_of_threads_that_log_the_same_key_exactly_one_is_acknowledged(store: Store, run: str) -> None:
    for turn in range(20):
        acknowledged: list[int] = []
        barrier = threading.Barrier(6)

        def log(
            number: int, turn: int = turn, done: list[int] = acknowledged, gate: threading.Barrier = barrier
        ) -> None:
            gate.wait()
            try:
                store.put(run, "metrics", {f"key {turn}": number})
                done.append(number)
            except ValueError:
                pass

        threads = [threading.Thread(target=log, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [store.values(run, "metrics")[f"key {turn}"]] == acknowledged


def _log_in_a_fork(number: int) -> str:
    store, run = _inherited
    for value in range(30):
        store.put(run, "metrics", {f"{number}/{value}": value})
        store.add_points(run, "loss", [(number, value, value)])
    store.put_bytes(b"of worker %d" % number)
    store.values(run, "metrics")
    return store._journal.stem


_inherited: tuple[Store, str]


def test_forked_workers_log_after_logging_has_started(store: Store, run: str) -> None:
    """As the workers of a data loader do."""
    global _inherited
    store.put(run, "metrics", {"before": 1})
    store.find(Query("run"))
    store.put_bytes(b"x")
    _inherited = (store, run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 and later warn of any fork of a process with threads
        with multiprocessing.get_context("fork").Pool(4) as pool:
            stems = pool.map_async(_log_in_a_fork, range(8), chunksize=1)
            for value in range(30):
                store.put(run, "metrics", {f"parent/{value}": value})
            stems.get(40)
            pool.close()
            pool.join()
    found = store.values(run, "metrics")
    assert len(found) == 1 + 30 + 8 * 30
    assert len(store.points(run, "loss")) == 240
    assert store._journal.stem not in stems.get()
    assert verify(store, deep=True).is_clean


def test_a_reader_never_sees_half_of_a_record_or_steps_back(store: Store, together: Callable[..., list[Any]]) -> None:
    code = """
store = open_store(root, cache + str(number))
run = new_run(store, "one")
if number < 4:
    for value in range(120):
        store.put_all(run, {"metrics": {f"{number}/{value}": value}, "attributes": {f"{number}/{value}": value}})
else:
    seen = 0
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline and seen < 480:
        attributes = store.values(run, "attributes")
        metrics = store.values(run, "metrics")
        assert attributes.keys() <= metrics.keys(), "one record, all or none"
        for writer in range(4):
            mine = [key for key in metrics if key.startswith(f"{writer}/")]
            assert sorted(int(key[2:]) for key in mine) == list(range(len(mine))), "in order, without holes"
        assert len(metrics) >= seen
        seen = len(metrics)
print("0")
"""
    together(code, store.root)
