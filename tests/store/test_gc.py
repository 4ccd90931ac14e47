"""Garbage collection: what goes and what stays, when, and what is said about it; alone with the store.

What happens beside writers is in test_gc_writers.py and test_gc_races.py.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from collecting import (
    NS,
    everything,
    folder_of,
    is_there,
    journal_paths,
    later,
    listing,
    log,
    no_syncing,
    record,
    trash_of,
)
from new_entities import new_run

from verta_store import Store, close_all, gc, leases, records
from verta_store.errors import CollectionRefused, MissingObject, StoreWriteError
from verta_store.fsck import verify
from verta_store.gc import DAY_S, Rules, collect
from verta_store.objects import Ref

__all__ = ["no_syncing"]

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


def test_the_protocols_times_are_those_of_the_format_document() -> None:
    rules = Rules()
    assert (gc.DEFAULT_GRACE_S, rules.minimum_grace_s, rules.trash_wait_s) == (14 * DAY_S, DAY_S, DAY_S)
    assert (rules.silent_s, rules.turn_s, leases.TOUCH_EVERY_S) == (600, 3600, 60)
