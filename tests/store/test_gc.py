"""Garbage collection: what goes and what stays, when, and what is said about it; alone with the store.

What happens beside writers is in test_gc_races.py.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from new_entities import new_run

from verta_store import Store, close_all, files, gc, leases, records
from verta_store.collected import Report
from verta_store.errors import CollectionRefused, MissingObject, StoreWriteError
from verta_store.fsck import verify
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


# -- what goes and what stays


def test_what_only_a_deleted_run_named_goes_and_the_rest_stays(store: Store, tmp_path: Path) -> None:
    dead, living = new_run(store, "dead"), new_run(store, "living")
    gone = [
        log(store, dead, "blob", store.put_bytes(b"only dead")),
        log(store, dead, "tree", store.put_tree(folder_of(tmp_path))),
    ]
    kept = [log(store, living, "blob", store.put_bytes(b"living"))]
    log(store, dead, "shared", kept[0])
    kept.append(log(store, living, "tree", store.put_tree(folder_of(tmp_path, "other"))))
    store.delete(dead)
    report = everything(store)
    assert [is_there(store, ref) for ref in gone] == [False, False]
    for ref in kept:
        store.check(ref.kind, ref.digest)
    assert report.freed.object_count == 2
    assert verify(store, deep=True).is_clean
    with pytest.raises(MissingObject):
        store.read_verified(gone[0].digest)


def test_what_was_overwritten_or_dropped_goes(store: Store, run: str) -> None:
    first = log(store, run, "key", store.put_bytes(b"first"))
    second = log(store, run, "key", store.put_bytes(b"second"), overwrite=True)
    dropped = log(store, run, "dropped", store.put_bytes(b"dropped"))
    store.drop(run, records.ARTIFACTS, ["dropped"])
    everything(store)
    assert [is_there(store, ref) for ref in (first, second, dropped)] == [False, True, False]
    assert verify(store, deep=True).is_clean


def test_what_lost_a_conflict_stays(store: Store, run: str, another: Callable[..., Store]) -> None:
    other = another(store)
    other.refresh()
    mine = log(store, run, "key", store.put_bytes(b"mine"))
    theirs = other.put_bytes(b"theirs")
    other._known[run, records.ARTIFACTS] = {}  # they have not seen mine
    log(other, run, "key", theirs)
    other.close()
    assert len(store.conflicts()) == 1
    everything(store)
    assert is_there(store, mine)
    assert is_there(store, theirs)


def test_what_was_stored_and_never_logged_goes(store: Store) -> None:
    ref = store.put_bytes(b"forgotten")
    everything(store)
    assert not is_there(store, ref)


def test_the_large_files_of_a_living_tree_stay_objects(store: Store, run: str, tmp_path: Path) -> None:
    log(store, run, "tree", store.put_tree(folder_of(tmp_path)))
    before = listing(os.path.join(store.root, "objects"))
    everything(store)
    assert listing(os.path.join(store.root, "objects")) == before != set()


def test_names_of_a_blob_go_with_it_and_those_of_others_stay(store: Store, tmp_path: Path) -> None:
    dead, living = new_run(store, "dead"), new_run(store, "living")
    gone = log(store, dead, "x", store.put_bytes(b"gone"))
    kept = log(store, living, "x", store.put_bytes(b"kept"))
    paths = [store.path_of("blob", ref.digest, "model.bin") for ref in (gone, kept)]
    store.delete(dead)
    everything(store)
    assert [os.path.lexists(path) for path in paths] == [False, True]
    assert store.path_of("blob", kept.digest, "model.bin") == paths[1]


def test_names_that_a_killed_collection_left_go_too(store: Store) -> None:
    folder = Path(store.root, "names", "sha256", "ab", "c" * 62)
    folder.mkdir(parents=True)
    (folder / "model.bin").write_text("x")
    everything(store)
    assert not folder.exists()


def test_folders_of_two_digits_stay(store: Store) -> None:
    ref = store.put_bytes(b"forgotten")
    everything(store)
    assert os.path.isdir(os.path.dirname(store.object_path(ref.digest)))


def test_what_does_not_look_like_ours_stays(store: Store) -> None:
    for name in ("objects/sha256/ab/note", "objects/README", "trees/sha256/zz/x", "names/mine"):
        path = Path(store.root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    before = listing(store.root)
    everything(store)
    assert listing(store.root) == before


def test_a_manifest_without_its_folder_and_a_folder_without_its_manifest_go(store: Store, tmp_path: Path) -> None:
    one, two = store.put_tree(folder_of(tmp_path, "one")), store.put_tree(folder_of(tmp_path, "two"))
    shutil.rmtree(store.tree_path(one.digest))
    os.unlink(store.tree_path(two.digest) + ".manifest")
    everything(store)
    assert not listing(os.path.join(store.root, "trees"))


def test_a_damaged_copy_that_was_replaced_goes_from_the_trash(store: Store, tmp_path: Path) -> None:
    ref = store.put_tree(folder_of(tmp_path))
    os.unlink(os.path.join(store.tree_path(ref.digest), "large"))
    store.put_tree(folder_of(tmp_path))
    assert len(os.listdir(os.path.join(store.root, "trash"))) == 1
    everything(store)
    assert os.listdir(os.path.join(store.root, "trash")) == []


# -- when


def test_what_is_younger_than_the_grace_stays_and_is_counted(store: Store) -> None:
    ref = store.put_bytes(b"forgotten")
    close_all()
    report = collect(store, rules=later(days=13.9))
    assert is_there(store, ref)
    assert (report.kept.object_count, report.kept.size_bytes) == (1, 9)
    assert report.trashed.object_count == 0
    assert collect(store, rules=later(days=14.1)).trashed.object_count == 1


def test_the_grace_is_by_the_drives_clock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = store.put_bytes(b"forgotten")
    close_all()
    for days in (-400, 400):
        now = time.time() + days * DAY_S
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda now=now: now)
            patch.setattr(time, "time_ns", lambda now=now: int(now * NS))
            collect(store)
        assert is_there(store, ref)


def test_what_is_in_the_trash_waits_a_day_and_then_goes(store: Store) -> None:
    ref = store.put_bytes(b"forgotten")
    close_all()
    report = collect(store, rules=later(days=15))
    assert not is_there(store, ref)
    assert trash_of(store) == {ref.digest}
    (waiting,) = report.waiting
    # Its time is the drive's, so it ends a day from now; the test's clock is days ahead of that.
    assert waiting.amount.size_bytes == 9
    for rules in (Rules(), later(hours=23.9)):
        report = collect(store, rules=rules)
        assert (report.freed.size_bytes, len(report.waiting)) == (0, 1)
    report = collect(store, rules=later(hours=24.1))
    assert (report.freed.object_count, report.freed.file_count, report.freed.size_bytes) == (1, 1, 9)
    assert os.listdir(os.path.join(store.root, "trash")) == []


@pytest.mark.parametrize("grace_s", [0, 3600, DAY_S - 1])
def test_a_grace_below_a_day_needs_the_word_that_nobody_else_is_there(store: Store, grace_s: float) -> None:
    with pytest.raises(ValueError, match="at least 24 hours"):
        collect(store, grace_s=grace_s)
    collect(store, grace_s=grace_s, is_alone=True)


@pytest.mark.parametrize("grace_s", [-1, float("nan")])
def test_a_grace_that_is_none_is_refused(store: Store, grace_s: float) -> None:
    with pytest.raises(ValueError):
        collect(store, grace_s=grace_s, is_alone=True)


def test_alone_and_without_grace_all_goes_at_once(store: Store, tmp_path: Path) -> None:
    dead = new_run(store, "dead")
    ref = log(store, dead, "tree", store.put_tree(folder_of(tmp_path)))
    manifest_bytes = os.path.getsize(store.tree_path(ref.digest) + ".manifest")
    store.delete(dead)
    store.close()
    report = collect(store, grace_s=0, is_alone=True)
    assert not is_there(store, ref)
    assert os.listdir(os.path.join(store.root, "trash")) == []
    # The tree with its two files and manifest, and the large file, which is an object too: one file with two names.
    assert (report.freed.object_count, report.freed.file_count) == (2, 4)
    assert report.freed.size_bytes == 70_000 + len("small") + manifest_bytes


def test_alone_and_without_grace_in_the_process_that_logged_all_goes_at_once(store: Store) -> None:
    dead = new_run(store, "dead")
    ref = log(store, dead, "blob", store.put_bytes(b"dead"))
    store.delete(dead)
    collect(store, grace_s=0, is_alone=True)
    assert not is_there(store, ref)


def test_alone_and_without_grace_a_drive_that_takes_no_folder_any_more_is_emptied(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, kept = new_run(store), new_run(store, "kept")
    log(store, run, "blob", store.put_bytes(b"b" * 9000))
    log(store, run, "tree", store.put_tree(folder_of(tmp_path)))
    left = log(store, kept, "blob", store.put_bytes(b"k"))
    store.delete(run)
    Path(store.root, "trash", "0123456789abcdef").write_bytes(b"a damaged copy that was replaced")
    close_all()

    def no_room(path: str, *_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    with monkeypatch.context() as full:
        full.setattr(os, "mkdir", no_room)
        with pytest.raises(StoreWriteError, match="no space left"):
            collect(store, rules=later(days=20))
        report = collect(store, grace_s=0, is_alone=True)
    assert report.freed.object_count == 3 and report.freed.size_bytes > 70_000
    assert verify(store, deep=True).is_clean
    store.check("blob", left.digest)
    collect(store, grace_s=0, is_alone=True)
    assert os.listdir(Path(store.root, "trash")) == []


def test_alone_with_a_grace_the_trash_waits_as_ever(store: Store) -> None:
    store.put_bytes(b"forgotten")
    close_all()
    report = collect(store, grace_s=3600, is_alone=True, rules=later(hours=2))
    assert len(report.waiting) == 1


# -- coming back


def in_trash(store: Store, tmp_path: Path) -> tuple[str, Ref, Ref]:
    """A run whose blob and tree are in the trash, as if another host's record had come late."""
    run = new_run(store, "late")
    blob, tree = store.put_bytes(b"late"), store.put_tree(folder_of(tmp_path))
    close_all()
    collect(store, rules=later(days=15))
    assert trash_of(store) >= {blob.digest, tree.digest}
    for ref in (blob, tree):
        fields = {"s": records.ARTIFACTS, "v": {ref.kind: record(ref)}}
        store._append(records.PUT, run, fields)
    return run, blob, tree


def test_what_is_named_again_is_put_back_whether_it_is_time_or_not(store: Store, tmp_path: Path) -> None:
    for days in (0, 30):
        run, blob, tree = in_trash(store, tmp_path)
        report = collect(store, rules=later(days=days))
        assert report.put_back_count >= 2
        for ref in (blob, tree):
            assert is_there(store, ref)
            store.check(ref.kind, ref.digest)
        assert verify(store, deep=True).is_clean
        store.delete(run)


READS: list[Callable[[Store, Ref, Ref], object]] = [
    lambda store, blob, tree: store.read_verified(blob.digest),
    lambda store, blob, tree: store.check("blob", blob.digest),
    lambda store, blob, tree: store.path_of("blob", blob.digest, "model.bin"),
]
TREE_READS: list[Callable[[Store, Ref, Ref], object]] = [
    lambda store, blob, tree: store.check("tree", tree.digest),
    lambda store, blob, tree: store.path_of("tree", tree.digest, "folder"),
]


@pytest.mark.parametrize("read", READS)
def test_a_reader_brings_a_blob_back(store: Store, tmp_path: Path, read: Callable[[Store, Ref, Ref], object]) -> None:
    _, blob, tree = in_trash(store, tmp_path)
    read(store, blob, tree)
    assert is_there(store, blob)
    assert store.read_verified(blob.digest) == b"late"


@pytest.mark.parametrize("part", ["both", "folder", "manifest"])
@pytest.mark.parametrize("read", TREE_READS)
def test_a_reader_brings_a_tree_back_whole_or_in_parts(
    store: Store, tmp_path: Path, read: Callable[[Store, Ref, Ref], object], part: str
) -> None:
    _, blob, tree = in_trash(store, tmp_path)
    home = os.path.join(store.root, "trees", "sha256", tree.digest[7:9], tree.digest[9:])
    (batch,) = Path(store.root, "trash").iterdir()
    name = f"tree-sha256-{tree.digest[7:]}"
    if part != "both":  # a collection was killed between the two renames
        end = ".manifest" if part == "folder" else ""
        os.rename(batch / (name + end), home + end)
    read(store, blob, tree)
    assert is_there(store, tree)
    store.check("tree", tree.digest)


def test_an_archive_is_unpacked_from_the_trash(store: Store, run: str, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "model"), "zip", folder_of(tmp_path))
    ref = store.put_file(archive)
    close_all()
    collect(store, rules=later(days=15))
    assert sorted(os.listdir(store.unpacked_path_of(ref.digest, "model.zip"))) == ["large", "sub"]


def test_what_is_stored_again_while_it_is_in_the_trash_is_not_touched_by_the_deletion(store: Store, run: str) -> None:
    ref = store.put_bytes(b"again")
    close_all()
    collect(store, rules=later(days=15))
    log(store, run, "key", store.put_bytes(b"again"))
    close_all()
    report = collect(store, rules=later(days=17))
    assert store.read_verified(ref.digest) == b"again"
    assert (report.freed.object_count, report.freed.file_count) == (0, 1)


def path_in_trash(store: Store, name: str) -> Path:
    (found,) = Path(store.root, "trash").glob(f"*/{name}")
    return found


def test_what_a_writer_met_in_the_moment_of_a_killed_collection_is_put_back(store: Store, tmp_path: Path) -> None:
    blob, tree = store.put_bytes(b"met"), store.put_tree(folder_of(tmp_path))
    close_all()
    collect(store, rules=later(days=15))
    for name in (f"blob-sha256-{blob.digest[7:]}", f"tree-sha256-{tree.digest[7:]}.manifest"):
        begun = int(next(path_in_trash(store, name).parent.glob("begun-*")).name[len("begun-") :])
        os.utime(path_in_trash(store, name), ns=(begun, begun))
    report = collect(store, grace_s=DAY_S, rules=later(days=1.5))
    assert report.put_back_count == 2
    for ref in (blob, tree):
        store.check(ref.kind, ref.digest)


def test_in_a_batch_that_does_not_say_what_counted_as_old_all_counts_as_met(store: Store) -> None:
    ref = store.put_bytes(b"forgotten")
    close_all()
    collect(store, rules=later(days=15))
    path_in_trash(store, "begun-*").unlink()
    collect(store, grace_s=DAY_S, rules=later(hours=24.5))
    assert store.read_verified(ref.digest) == b"forgotten"


def test_what_is_named_and_cannot_be_put_back_stays_in_the_trash_where_readers_find_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, blob, tree = in_trash(store, tmp_path)
    rename = os.rename

    def refuse(source: str, target: str) -> None:
        if "trash" not in target:
            raise PermissionError(13, "Permission denied", source)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        report = collect(store, rules=later(days=17))
    assert any("could not be moved: Permission denied" in note for note in report.notes)
    for ref in (blob, tree):
        store.check(ref.kind, ref.digest)


def test_what_may_not_be_moved_is_told_and_the_rest_goes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob, tree = store.put_bytes(b"mine"), store.put_tree(folder_of(tmp_path))
    close_all()
    rename = os.rename

    def refuse(source: str, target: str) -> None:
        if os.path.isdir(source):
            raise PermissionError(13, "Permission denied", source)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        report = collect(store, rules=later(days=15))
    assert len(report.notes) == 1
    assert not is_there(store, blob)
    store.check("tree", tree.digest)


def test_verify_is_not_alarmed_by_what_is_in_the_trash_and_reads_it(store: Store, tmp_path: Path) -> None:
    _, blob, _ = in_trash(store, tmp_path)
    before = listing(store.root)
    report = verify(store, deep=True)
    assert report.is_clean
    assert any("in the trash" in note for note in report.notes)
    assert listing(store.root) == before
    path = store.object_path(blob.digest)
    os.chmod(path, 0o644)
    Path(path).write_bytes(b"LATE")
    assert [problem.path for problem in verify(store, deep=True).problems] == [path]


# -- refusing


def journal_paths(store: Store) -> list[Path]:
    return sorted(Path(store.root, "journals").glob("*/*.jsonl"))


def test_with_a_damaged_journal_nothing_is_touched(store: Store, run: str) -> None:
    log(store, run, "key", store.put_bytes(b"named by a record that will be damaged"))
    store.put_bytes(b"forgotten")
    close_all()
    collect(store, rules=later(days=15))
    (path,) = journal_paths(store)
    data = bytearray(path.read_bytes())
    data[data.index(b'"kind":"blob"') + 2] ^= 1
    path.write_bytes(data)
    before = listing(store.root)
    with pytest.raises(CollectionRefused, match="damaged"):
        collect(store, rules=later(days=17))
    assert listing(store.root) == before


def test_a_journal_that_is_torn_at_its_end_is_no_reason_to_refuse(store: Store, run: str) -> None:
    store.put(run, "metrics", {"a": 1})
    with open(journal_paths(store)[0], "ab") as file:
        file.write(b'{"c":"0000')
    store.put_bytes(b"forgotten")
    store.leases.close()
    assert collect(store, rules=later(days=15)).trashed.object_count == 1


def test_a_dry_run_changes_nothing_and_says_what_would_go_and_whose_it_was(store: Store, tmp_path: Path) -> None:
    dead, living = new_run(store, "dead"), new_run(store, "living")
    log(store, dead, "tree", store.put_tree(folder_of(tmp_path)))
    log(store, living, "key", store.put_bytes(b"old"))
    log(store, living, "key", store.put_bytes(b"newer"), overwrite=True)
    store.put_bytes(b"nobody's")
    store.delete(dead)
    close_all()
    before = listing(store.root)
    report = collect(store, is_dry_run=True, rules=later(days=15))
    assert listing(store.root) == before
    shares = {(share.name, share.reason): share.amount for share in report.shares}
    assert {key: (one.object_count, one.file_count) for key, one in shares.items()} == {
        ("dead", "deleted"): (2, 4),  # the tree's two files and manifest, and the large file's other name
        ("living", "overwritten"): (1, 1),
        ("", "never logged"): (1, 1),
    }
    assert shares["living", "overwritten"].size_bytes == 3
    assert shares["", "never logged"].size_bytes == 8
    assert 70_005 < shares["dead", "deleted"].size_bytes < 70_500
    assert report.trashed.size_bytes == sum(one.size_bytes for one in shares.values())
    really = collect(store, rules=later(days=15))
    assert really.trashed == report.trashed
    would = collect(store, is_dry_run=True, rules=later(days=17))
    assert would.freed == collect(store, rules=later(days=17)).freed == report.trashed


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


def test_the_protocols_times_are_those_of_the_format_document() -> None:
    rules = Rules()
    assert (gc.DEFAULT_GRACE_S, rules.minimum_grace_s, rules.trash_wait_s) == (14 * DAY_S, DAY_S, DAY_S)
    assert (rules.silent_s, rules.turn_s, leases.TOUCH_EVERY_S) == (600, 3600, 60)
