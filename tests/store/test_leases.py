"""Leases: there before the first look, alive by the drive's clock, and what they protect stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from new_entities import new_run

from verta_store import Store, close_all, leases, open_store
from verta_store.errors import MissingObject, StoreWriteError
from verta_store.objects import Ref
from verta_store.verified import signature_of

NS = 10**9
HOUR_NS = 3600 * NS
OLD_NS = 10**18  # September 2001
DIGEST = "sha256:" + "ab" * 32


def record(ref: Ref) -> dict[str, object]:
    return {"kind": ref.kind, "digest": ref.digest, "size_bytes": ref.size_bytes, "name": "name"}


def lease_files(store: Store) -> list[Path]:
    return sorted(Path(store.root, "leases").glob("*.jsonl"))


def time_of(path: str | Path) -> int:
    return os.stat(path).st_mtime_ns


def make_old(path: str | Path) -> None:
    os.utime(path, ns=(OLD_NS, OLD_NS))


def test_a_writer_has_a_lease_before_it_looks_for_an_object(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    look = store._contents.objects.is_whole
    monkeypatch.setattr(
        store._contents.objects, "is_whole", lambda digest: seen.append(lease_files(store)) or look(digest)
    )
    assert not lease_files(store)
    store.put_bytes(b"content")
    assert seen
    assert all(len(files) == 1 for files in seen)


def test_metrics_alone_need_no_lease(store: Store, run: str) -> None:
    store.put(run, "metrics", {"recall": 0.9})
    assert not lease_files(store)


def test_the_folder_for_temporary_files_has_the_name_of_the_lease(store: Store) -> None:
    store.put_bytes(b"content")
    assert os.listdir(os.path.join(store.root, "tmp")) == [lease_files(store)[0].stem]


def test_a_lease_goes_with_close(store: Store) -> None:
    store.put_bytes(b"content")
    store.hold([DIGEST], "a test")
    assert len(lease_files(store)) == 2
    store.close()
    assert not lease_files(store)


def test_a_lease_says_whose_it_is_and_since_when(store: Store) -> None:
    store.put_bytes(b"content")
    (found,) = leases.read_leases(store.root)
    assert (found.kind, found.pid) == ("writer", os.getpid())
    assert found.machine == leases.this_machine() != ""
    assert 0 <= found.touched_ns - found.since_ns < 10 * NS
    assert f"process {os.getpid()}" in found.owner


def test_what_is_stored_under_a_lease_is_not_older_than_it(store: Store, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"x" * 70_000)
    blob, tree = store.put_bytes(b"content"), store.put_tree(tmp_path / "folder")
    (lease,) = leases.read_leases(store.root)
    assert time_of(store.object_path(blob.digest)) >= lease.since_ns
    assert time_of(store.tree_path(tree.digest) + ".manifest") >= lease.since_ns


def test_a_lease_is_touched_by_the_drive_and_not_by_this_hosts_clock(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_bytes(b"content")
    (path,) = lease_files(store)
    make_old(path)
    monkeypatch.setattr(time, "time_ns", lambda: 5)
    monkeypatch.setattr(time, "time", lambda: 5.0)
    store.leases.touch()
    assert time_of(path) > OLD_NS
    (lease,) = leases.read_leases(store.root)
    assert lease.since_ns > OLD_NS


def test_a_lease_is_touched_in_the_background(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "TOUCH_EVERY_S", 0.05)
    store.put_bytes(b"content")
    (path,) = lease_files(store)
    make_old(path)
    for _ in range(100):
        time.sleep(0.05)
        if time_of(path) > OLD_NS:
            return
    pytest.fail("nobody touched the lease")


def test_an_idle_writer_lets_go_of_what_is_older_and_one_that_owes_a_record_does_not(store: Store, run: str) -> None:
    ref = store.put_bytes(b"content")
    before = leases.read_leases(store.root)[0].since_ns
    time.sleep(0.02)
    store.leases.advance()
    assert leases.read_leases(store.root)[0].since_ns == before
    store.put(run, "artifacts", {"key": record(ref)})
    store.leases.advance()
    (lease,) = leases.read_leases(store.root)
    assert before < lease.since_ns <= lease.touched_ns
    store.leases.touch()
    assert leases.read_leases(store.root)[0].since_ns == lease.since_ns


def test_a_child_of_a_fork_has_a_lease_of_its_own(tmp_path: Path) -> None:
    code = f"""
import os
from verta_store import open_store
store = open_store({str(tmp_path / "store")!r}, {str(tmp_path / "cache")!r}, create=True)
store.put_bytes(b"of the parent")
if os.fork() == 0:
    store.put_bytes(b"of the child")
    print(sorted(os.listdir(store.root + "/leases")) == sorted(n + ".jsonl" for n in os.listdir(store.root + "/tmp")))
    print(len(os.listdir(store.root + "/leases")), flush=True)
    store.close()
    os._exit(0)
os.wait()
print(len(os.listdir(store.root + "/leases")))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=20)
    assert done.stdout.split() == ["True", "2", "1"], done.stderr


def test_a_process_that_was_killed_leaves_a_lease_that_counts_as_dead_here_at_once(tmp_path: Path) -> None:
    code = f"""
import os, signal
from verta_store import open_store
store = open_store({str(tmp_path / "store")!r}, {str(tmp_path / "cache")!r}, create=True)
store.put_bytes(b"content")
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=20)
    assert done.returncode == -signal.SIGKILL
    (lease,) = leases.read_leases(str(tmp_path / "store"))
    assert not lease.is_alive(lease.touched_ns, HOUR_NS)


@pytest.mark.parametrize("machine", ["", "another boot pid:[4026531836]"])
def test_a_lease_of_another_machine_lives_until_it_is_silent_for_too_long(machine: str) -> None:
    # A process number of another machine, or of another container, says nothing: no process here may have it.
    lease = leases.Lease("lease", "writer", machine, 2**22 + 1, 0, OLD_NS)
    assert lease.is_alive(OLD_NS + HOUR_NS, HOUR_NS)
    assert not lease.is_alive(OLD_NS + HOUR_NS + 1, HOUR_NS)


def test_a_lease_of_a_living_process_of_this_machine_never_ages() -> None:
    lease = leases.Lease("lease", "writer", leases.this_machine(), os.getpid(), 0, OLD_NS)
    assert lease.is_alive(OLD_NS + 10**6 * HOUR_NS, HOUR_NS)


@pytest.mark.parametrize("text", ["", '{"kind": "wri', "[]\n", '{"kind": "writer"}\n', "\0\0\0\n", '{"pid": "x"}\n'])
def test_a_lease_that_was_torn_by_a_crash_protects_what_came_after_it(store: Store, text: str) -> None:
    path = Path(store.root, "leases", "host-1-2.jsonl")
    path.write_text(text)
    (lease,) = leases.read_leases(store.root)
    assert (lease.kind, lease.machine) == ("writer", "")
    assert lease.since_ns == lease.touched_ns == time_of(path)


def test_a_torn_second_line_leaves_the_first_one_standing(store: Store) -> None:
    store.put_bytes(b"content")
    (before,) = leases.read_leases(store.root)
    with open(before.path, "a") as file:
        file.write('{"since": 99')
    (after,) = leases.read_leases(store.root)
    assert (after.since_ns, after.pid) == (before.since_ns, before.pid)


# -- meeting what is there already


@pytest.fixture
def dead_blob(store: Store) -> Ref:
    """A blob that nothing names and that looks old."""
    ref = store.put_bytes(b"content")
    make_old(store.object_path(ref.digest))
    close_all()
    return ref


def test_a_blob_that_is_met_again_counts_as_new_and_stays_known_as_whole(store: Store, dead_blob: Ref) -> None:
    path = store.object_path(dead_blob.digest)
    inode = os.stat(path).st_ino
    store.check("blob", dead_blob.digest)
    store.put_bytes(b"content")
    assert time_of(path) >= leases.read_leases(store.root)[0].since_ns
    assert os.stat(path).st_ino == inode
    assert store._contents.verified.knows(path, signature_of([path]))


def test_a_tree_that_is_met_again_counts_as_new_by_its_manifest(store: Store, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    ref = store.put_tree(tmp_path / "folder")
    top = store.tree_path(ref.digest)
    close_all()
    for path in (top, top + ".manifest", top + "/file"):
        make_old(path)
    store.put_tree(tmp_path / "folder")
    assert time_of(top + ".manifest") >= leases.read_leases(store.root)[0].since_ns
    assert time_of(top + "/file") == OLD_NS


def test_the_clock_of_this_host_has_no_say_in_how_new_an_object_is(
    store: Store, dead_blob: Ref, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns - 5 * HOUR_NS)
    monkeypatch.setattr(time, "time", lambda: (now_ns - 5 * HOUR_NS) / NS)
    store.put_bytes(b"content")
    assert abs(time_of(store.object_path(dead_blob.digest)) - now_ns) < 60 * NS


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_a_blob_of_somebody_else_is_pinned_and_comes_back_from_the_pin(
    store: Store, dead_blob: Ref, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.object_path(dead_blob.digest)
    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", refuse)
        ref = store.put_bytes(b"content")
    (pin,) = Path(store.root, "tmp").glob("*/pin-*")
    assert os.path.samefile(pin, path)
    assert time_of(path) == OLD_NS
    os.unlink(path)  # a collection took it, and another deleted it
    store.put(run, "artifacts", {"key": record(ref)})
    assert store.read_verified(ref.digest) == b"content"
    assert not pin.exists()


@pytest.mark.parametrize("how", ["bytes", "file"])
def test_a_blob_of_somebody_else_on_a_drive_without_links_is_written_again(
    store: Store, dead_blob: Ref, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").write_bytes(b"content")
    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", refuse)
        patch.setattr(os, "link", refuse)
        ref = store.put_bytes(b"content") if how == "bytes" else store.put_file(tmp_path / "source")
    assert ref == dead_blob
    assert time_of(store.object_path(ref.digest)) >= leases.read_leases(store.root)[0].since_ns
    assert store.read_verified(ref.digest) == b"content"


def test_a_drive_that_says_yes_and_keeps_the_old_time_is_seen_through(
    store: Store, dead_blob: Ref, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "utime", lambda *_, **__: None)
    store.put_bytes(b"content")
    assert list(Path(store.root, "tmp").glob("*/pin-*"))


def test_the_manifest_of_somebody_elses_tree_is_written_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    manifest = store.tree_path(store.put_tree(tmp_path / "folder").digest) + ".manifest"
    close_all()
    make_old(manifest)
    monkeypatch.setattr(os, "utime", refuse)
    ref = store.put_tree(tmp_path / "folder")
    assert time_of(manifest) >= leases.read_leases(store.root)[0].since_ns
    store.check("tree", ref.digest)


# -- sleeping too long


def test_a_writer_that_was_taken_for_dead_looks_again_before_it_names_anything(store: Store, run: str) -> None:
    ref = store.put_bytes(b"content")
    os.unlink(lease_files(store)[0])
    store.put(run, "artifacts", {"key": record(ref)})
    assert store.read_verified(ref.digest) == b"content"
    assert len(lease_files(store)) == 1


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("how", ["lease", "close"])
def test_nothing_is_named_that_was_collected_while_the_writer_slept(
    store: Store, run: str, how: str, overwrite: bool
) -> None:
    before = {"key": {"kind": "path", "name": "of before"}} if overwrite else {}
    store.put(run, "artifacts", before)
    ref = store.put_bytes(b"content")
    if how == "close":
        close_all()
    else:
        os.unlink(lease_files(store)[0])
    os.unlink(store.object_path(ref.digest))
    with pytest.raises(MissingObject, match="has no object"):
        store.put(run, "artifacts", {"key": record(ref)}, overwrite=overwrite)
    assert store.values(run, "artifacts") == before


def test_a_name_for_an_object_that_went_in_the_very_moment_is_taken_back(
    store: Store, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = store.put_bytes(b"content")
    append = store._append

    def append_late(*arguments: object) -> int:
        if os.path.lexists(store.object_path(ref.digest)):
            os.unlink(store.object_path(ref.digest))
        return append(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "_append", append_late)
    with pytest.raises(MissingObject):
        store.put(run, "artifacts", {"key": record(ref)})
    assert store.values(run, "artifacts") == {}


def test_a_value_that_is_logged_again_elsewhere_protects_its_object_as_well(
    store: Store, dead_blob: Ref, run: str
) -> None:
    store.put(run, "artifacts", {"copy": record(dead_blob)})
    assert time_of(store.object_path(dead_blob.digest)) > OLD_NS


def test_a_child_of_a_fork_may_name_what_its_parent_stored(tmp_path: Path) -> None:
    code = f"""
import os
from new_entities import new_run
from verta_store import open_store
store = open_store({str(tmp_path / "store")!r}, {str(tmp_path / "cache")!r}, create=True)
ref = store.put_bytes(b"of the parent")
run = new_run(store)
if os.fork() == 0:
    store.put(run, "artifacts", {{"key": {{"kind": ref.kind, "digest": ref.digest, "size_bytes": 13, "name": "n"}}}})
    store.close()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]), list(store.values(run, "artifacts")))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], os.path.dirname(__file__)])}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=environment)
    assert done.stdout.split() == ["0", "['key']"], done.stderr


# -- serving


def test_a_reader_names_what_it_serves(store: Store) -> None:
    assert store.hold([DIGEST, DIGEST], "serving 'first'")
    (lease,) = leases.read_leases(store.root)
    assert (lease.kind, lease.digests) == ("reader", {DIGEST})
    assert "serving 'first'" in lease.owner


def test_a_readers_lease_that_was_swept_is_made_again(store: Store) -> None:
    store.hold([DIGEST], "a test")
    os.unlink(lease_files(store)[0])
    store.leases.touch()
    assert leases.read_leases(store.root)[0].digests == {DIGEST}


def test_a_store_that_cannot_be_written_is_served_without_a_lease_and_not_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: refuse() if ".jsonl" in str(path) else make(path, *rest))
    assert store.hold([DIGEST], "a test") is False
    with pytest.raises(StoreWriteError, match=r"could not write a lease in .*: operation not permitted"):
        store.put_bytes(b"content")


def test_a_lease_is_one_json_object_a_line(another: Callable[..., Store], store: Store, run: str) -> None:
    store.put(run, "artifacts", {"key": record(store.put_bytes(b"content"))})
    store.leases.advance()
    first, second = lease_files(store)[0].read_bytes().splitlines()
    assert set(json.loads(first)) == {"format", "kind", "host", "user", "pid", "machine", "since"}
    assert set(json.loads(second)) == {"since"}


def test_two_stores_of_one_process_have_a_lease_each(store: Store, tmp_path: Path) -> None:
    other = open_store(tmp_path / "other", tmp_path / "cache", create=True)
    run = new_run(other)
    other.put(run, "artifacts", {"key": record(other.put_bytes(b"content"))})
    store.put_bytes(b"content")
    assert len(lease_files(store)) == len(lease_files(other)) == 1
