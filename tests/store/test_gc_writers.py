"""Garbage collection and the processes that it finds: at work, dead, of other hosts, collecting themselves.

What happens in the same moment is in test_gc_races.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from collecting import NS, folder_of, is_there, journal_paths, later, log, no_syncing
from new_entities import new_run

from verta_store import Store, close_all, leases
from verta_store.errors import CollectionRefused
from verta_store.gc import collect

__all__ = ["no_syncing"]


# -- who else is there


SLEEPER = """
import sys, time
from verta_store import open_store
store = open_store(sys.argv[1], sys.argv[2])
ref = store.put_bytes(sys.argv[3].encode())
if sys.argv[4] == "hold":
    store.hold([sys.argv[5]], "serving a test")
    store.leases.settled(ref.digest)
print(ref.digest, flush=True)
time.sleep(60)
"""


def start(store: Store, tmp_path: Path, what: str = "put", digest: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLEEPER, store.root, str(tmp_path / "c"), "of a sleeper", what, digest]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_writer_at_work_keeps_all_that_it_may_name_and_alone_is_refused(store: Store, tmp_path: Path) -> None:
    older = store.put_bytes(b"older than the writer")
    close_all()
    process = start(store, tmp_path)
    try:
        with pytest.raises(CollectionRefused, match=f"you are not alone: .*process {process.pid}"):
            collect(store, grace_s=0, is_alone=True)
        report = collect(store, rules=later(days=40))
        assert (report.trashed.object_count, report.kept.object_count) == (1, 1)
        assert not is_there(store, older)
    finally:
        end(process)


def test_after_a_writer_that_was_killed_its_folder_and_lease_and_what_it_stored_go(
    store: Store, tmp_path: Path
) -> None:
    process = start(store, tmp_path)
    (lease,) = leases.read_leases(store.root)
    folder = Path(store.root, "tmp", lease.name)
    (folder / "half-a-copy").write_bytes(b"x" * 1000)
    end(process)
    assert process.returncode == -signal.SIGKILL
    report = collect(store, grace_s=0, is_alone=True)
    assert os.listdir(Path(store.root, "tmp")) == os.listdir(Path(store.root, "leases")) == []
    assert report.ended_writers == [lease.owner]
    assert report.freed.size_bytes == 1000 + len("of a sleeper")


def foreign_lease(store: Store, hours_ago: float, **fields: object) -> tuple[Path, Path]:
    """A lease and a temporary folder of a process of another host, silent for so long by the drive's clock."""
    name = "other-12345678-99-abcdef01"
    lease, folder = Path(store.root, "leases", name + ".jsonl"), Path(store.root, "tmp", name)
    about = {"kind": "writer", "machine": "another", "pid": 99, "since": 0, "user": "ann", "host": "other", **fields}
    lease.write_text(json.dumps(about) + "\n")
    folder.mkdir()
    (folder / "half-a-copy").write_bytes(b"x" * 10)
    at_ns = (folder / "half-a-copy").stat().st_mtime_ns - int(hours_ago * 3600 * NS)
    for path in (lease, folder / "half-a-copy", folder):
        os.utime(path, ns=(at_ns, at_ns))
    return lease, folder


def test_a_writer_of_another_host_counts_as_dead_when_it_was_silent_for_the_grace(store: Store) -> None:
    lease, folder = foreign_lease(store, hours_ago=25)
    collect(store)
    assert lease.exists()
    assert folder.exists()
    collect(store, grace_s=26 * 3600)
    assert lease.exists()
    collect(store, grace_s=24 * 3600)
    assert not lease.exists()
    assert not folder.exists()


@pytest.mark.parametrize(("minutes", "is_refused"), [(5, True), (15, False)])
def test_alone_a_writer_of_another_host_counts_as_dead_after_ten_minutes_of_silence(
    store: Store, minutes: float, is_refused: bool
) -> None:
    lease, _ = foreign_lease(store, hours_ago=minutes / 60)
    if is_refused:
        with pytest.raises(CollectionRefused, match="ann on other"):
            collect(store, grace_s=0, is_alone=True)
    else:
        collect(store, grace_s=0, is_alone=True)
    assert lease.exists() == is_refused


def test_a_living_writer_of_another_host_keeps_what_is_younger_than_its_lease(store: Store) -> None:
    ref = store.put_bytes(b"forgotten")
    close_all()
    lease, _ = foreign_lease(store, hours_ago=0)
    assert collect(store, rules=later(days=13)).kept.object_count == 1
    os.utime(lease, ns=(2**62, 2**62))  # it goes on touching it
    assert collect(store, rules=later(days=15)).kept.object_count == 1
    assert is_there(store, ref)


def test_temporary_things_without_a_lease_go_when_they_are_old(store: Store) -> None:
    folder = Path(store.root, "tmp", "vm-12345678-1-12345678")
    folder.mkdir()
    file = Path(store.root, "tmp", "clock-1234")
    file.touch()
    collect(store, rules=later(days=13))
    assert folder.exists()
    assert file.exists()
    collect(store, rules=later(days=15))
    assert os.listdir(Path(store.root, "tmp")) == []


def test_what_a_process_serves_stays_until_it_ends(store: Store, tmp_path: Path) -> None:
    run = new_run(store, "served")
    blob = log(store, run, "blob", store.put_bytes(b"served"))
    tree = log(store, run, "tree", store.put_tree(folder_of(tmp_path)))
    name = store.path_of("blob", blob.digest, "model.bin")
    store.delete(run)
    close_all()
    processes = [start(store, tmp_path, "hold", ref.digest) for ref in (blob, tree)]
    try:
        for days in (100, 200, 300):
            collect(store, rules=later(days=days))
        assert is_there(store, blob)
        assert is_there(store, tree)
        assert os.path.exists(name)
    finally:
        for process in processes:
            end(process)
    for days in (400, 500):
        collect(store, rules=later(days=days))
    assert not is_there(store, blob)
    assert not is_there(store, tree)
    assert not os.path.exists(name)


def test_a_model_that_is_loaded_for_serving_holds_its_objects(store: Store, run: str) -> None:
    from verta_local import loading, trust

    ref = log(store, run, "model.pkl", store.put_bytes(b"not a pickle"))
    spec = {"store": store.root, "cache_dir": store.cache_dir, "run_name": "first", "model": {"digest": ref.digest}}
    spec["author"] = trust.own_author()
    with pytest.raises(Exception, match="first"):
        loading.load_model({**spec, "artifacts": {}, "author": trust.own_author()})
    (lease,) = [lease for lease in leases.read_leases(store.root) if lease.kind == "reader"]
    assert lease.digests == {ref.digest}
    assert "serving the model of run 'first'" in lease.owner


# -- one at a time, out of courtesy


def turn_of(store: Store) -> Path:
    return Path(store.root, "leases", "collector.json")


def test_a_second_collection_is_refused_while_one_runs(store: Store) -> None:
    me = {"user": "ann", "host": "here", "pid": os.getpid(), "machine": leases.this_machine()}
    turn_of(store).write_text(json.dumps(me))
    with pytest.raises(CollectionRefused, match=r"another garbage collection .*ann on here"):
        collect(store)
    collect(store, is_dry_run=True)
    assert turn_of(store).exists()


@pytest.mark.parametrize(
    ("about", "hours"),
    [
        ({"pid": 2**22 + 1, "machine": leases.this_machine()}, 0),  # killed, on this machine
        ({"pid": os.getpid(), "machine": leases.this_machine()}, 1.1),
        ({"pid": 1, "machine": "another"}, 1.1),
        (None, 0.02),  # killed before it could write whose it is
    ],
)
def test_the_turn_of_a_collection_that_died_is_taken(store: Store, about: dict[str, Any] | None, hours: float) -> None:
    turn_of(store).write_text(json.dumps({"user": "ann", "host": "here", **about}) if about else "")
    collect(store, rules=later(hours=hours))
    assert not turn_of(store).exists()


def test_a_turn_that_is_not_signed_yet_counts_for_a_minute(store: Store) -> None:
    turn_of(store).write_text("")
    with pytest.raises(CollectionRefused, match="somebody"):
        collect(store, rules=later(hours=0.01))
    assert turn_of(store).exists()


def test_the_turn_is_given_back_after_a_refusal(store: Store, run: str) -> None:
    store.put(run, "metrics", {"a": 1})
    store.close()
    os.truncate(journal_paths(store)[0], 50)
    for _ in range(2):
        with pytest.raises(CollectionRefused, match="damaged"):
            collect(store)
    assert not turn_of(store).exists()
