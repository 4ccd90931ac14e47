"""A repair restores what the store holds twice, puts the damaged aside, deletes nothing, and may be killed."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from new_entities import new_run
from test_fsck import DAMAGES, LARGE, change, filled, shared_blob, swap, truth
from test_index import answers

from verta_store import Store, close_all, open_store
from verta_store.fsck import verify
from verta_store.gc import Rules, collect
from verta_store.journal import SEALED_SUFFIX, list_journals
from verta_store.query import Query
from verta_store.repair import repair

__all__ = ["filled"]


def aside(store: Store) -> dict[str, bytes]:
    """What lies in the quarantine: the path that it had -> its bytes."""
    top = Path(store.root, "quarantine")
    return {
        str(Path(*path.relative_to(top).parts[1:])): path.read_bytes()
        for path in top.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def with_twin(store: Store) -> list[Path]:
    """The names of the large file that two trees and the blobs share."""
    return [path for path in truth(store) if path.stat().st_size == LARGE]


def test_a_sound_store_stays_as_it_is_and_gives_the_same_answers(filled: Store) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in truth(filled)}
    said = answers(filled)
    report = repair(filled)
    assert report.after.is_clean and not (report.restored or report.set_aside or report.notes)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in truth(filled)} == before
    assert answers(filled) == said
    assert not os.path.exists(os.path.join(filled.root, "quarantine"))


@pytest.mark.parametrize("damage", [one for one in DAMAGES if one is not swap], ids=lambda damage: damage.__name__)
def test_what_the_store_holds_twice_is_whole_again_and_the_damaged_is_kept(
    filled: Store, damage: Callable[[Path, random.Random, Store], None]
) -> None:
    choose = random.Random(f"repair {damage.__name__}")
    for path in with_twin(filled):
        kept = path.read_bytes()
        damage(path, choose, filled)
        is_file = path.is_file() and not path.is_symlink()
        damaged = path.read_bytes() if is_file else b""
        report = repair(filled)
        assert report.after.is_clean, report.after.problems
        assert path.read_bytes() == kept if path.exists() else damage.__name__ == "delete"
        assert path.exists() or path == shared_blob(filled), "the trees have it: that a blob is gone is no damage"
        if is_file:
            assert damaged in aside(filled).values()


def test_what_was_restored_is_read_only(filled: Store) -> None:
    for path in with_twin(filled):
        change(path, b"damaged")
        repair(filled)
        assert path.stat().st_mode & 0o777 == 0o444


def test_what_has_no_twin_is_put_aside_and_said_to_be_missing_until_it_is_logged_again(filled: Store) -> None:
    run = new_run(filled, "run 0")
    digest = filled.values(run, "artifacts")["weights"]["digest"]
    path = Path(filled.object_path(digest))
    kept = path.read_bytes()
    change(path, b"x" + kept[1:])
    report = repair(filled)
    (problem,) = report.after.problems
    assert problem.kind == "missing" and problem.path == str(path) and "key 'weights'" in problem.affects[0]
    assert aside(filled) == {str(path.relative_to(filled.root)): b"x" + kept[1:]}
    filled.put_bytes(kept)
    assert verify(filled, deep=True).is_clean


def test_a_blob_comes_back_from_the_copy_that_a_model_was_given(filled: Store) -> None:
    (named,) = (path for path in Path(filled.root, "names").rglob("weights.bin") if path.is_file())
    digest = "sha256:" + hashlib.sha256(named.read_bytes()).hexdigest()
    path, kept = Path(filled.object_path(digest)), named.read_bytes()
    change(named, kept)  # a copy, as on a drive without links
    change(path, b"x" + kept[1:])
    report = repair(filled)
    assert report.after.is_clean and path.read_bytes() == kept


def test_a_manifest_and_an_empty_folder_come_back_from_what_is_there(filled: Store) -> None:
    for manifest in list(Path(filled.root, "trees").rglob("*.manifest")):
        kept = manifest.read_bytes()
        for damage in (b"", kept[:-5], None):
            manifest.unlink()
            if damage is not None:
                manifest.write_bytes(damage)
            report = repair(filled)
            assert report.after.is_clean and manifest.read_bytes() == kept, report
        empty = manifest.with_suffix("") / "sub" / "empty"
        empty.rmdir()
        assert repair(filled).after.is_clean and empty.is_dir()


def test_a_manifest_that_its_folder_no_longer_gives_stays_damaged_and_is_kept(filled: Store) -> None:
    manifest = sorted(Path(filled.root, "trees").rglob("*.manifest"))[0]
    (manifest.with_suffix("") / "left by a loader").write_bytes(b"")
    manifest.chmod(0o644)
    manifest.write_bytes(b"not a manifest")
    report = repair(filled)
    assert not report.after.is_clean and b"not a manifest" in aside(filled).values()


def test_a_damaged_name_goes_aside_and_is_made_again_at_the_next_use(filled: Store) -> None:
    (named,) = (path for path in Path(filled.root, "names").rglob("weights.bin") if path.is_file())
    digest = "sha256:" + named.parent.parent.name + named.parent.name
    kept = named.read_bytes()
    change(named, b"other")
    assert repair(filled).after.is_clean
    assert Path(filled.path_of("blob", digest, "weights.bin")).read_bytes() == kept


def test_swapped_journals_find_their_names_again(filled: Store) -> None:
    said = answers(filled)
    one, two = [Path(filled.root, "journals", stem + SEALED_SUFFIX) for stem in sorted(list_journals(filled.root))[:2]]
    mine, theirs = one.read_bytes(), two.read_bytes()
    change(one, theirs)
    change(two, mine)
    assert not verify(filled).is_clean
    report = repair(filled)
    assert report.after.is_clean and (one.read_bytes(), two.read_bytes()) == (mine, theirs)
    assert answers(filled) == said


def test_a_journal_of_another_store_and_a_folder_go_aside(
    filled: Store, tmp_path: Path, another: Callable[..., Store]
) -> None:
    foreign = open_store(tmp_path / "foreign", tmp_path / "foreign-cache", create=True)
    new_run(foreign)
    foreign.seal()
    folder = next(Path(filled.root, "journals").iterdir())
    theirs = next(Path(foreign.root, "journals").rglob("*.jsonl"))
    shutil.copy(theirs, folder / theirs.name)
    (folder / "20200101t000000-1-cccccccc.jsonl").mkdir()
    report = repair(filled)
    assert report.after.is_clean and len(report.set_aside) == 2
    assert theirs.read_bytes() in aside(filled).values()


def test_a_journal_of_which_nothing_is_left_goes_aside_once_that_is_accepted(filled: Store) -> None:
    path = next(Path(filled.root, "journals").rglob("*.jsonl"))
    change(path, b"\0" * 4096)
    report = repair(filled)
    assert path.exists() and not report.set_aside and any(one.path == str(path) for one in report.after.problems)
    report = repair(filled, accept_loss=True)
    assert not path.exists() and b"\0" * 4096 in aside(filled).values()
    assert all(problem.kind == "missing" for problem in report.after.problems), "what it named is another matter"


def test_a_damaged_journal_stays_for_its_sound_records(filled: Store) -> None:
    stem = next(stem for stem in list_journals(filled.root) if b"loss" in journal_of(filled, stem))
    path = Path(filled.root, "journals", stem + SEALED_SUFFIX)
    data = bytearray(path.read_bytes())
    data[data.index(b"loss")] ^= 1
    change(path, bytes(data))
    report = repair(filled)
    assert not report.after.is_clean and path.read_bytes() == bytes(data)
    assert len(filled.find(Query("run"))) == 2


def test_an_open_journal_is_never_moved(filled: Store) -> None:
    run = new_run(filled, "run 0")
    filled.put(run, "metrics", {"b": 1})
    path = Path(filled.root, "journals", filled._journal.stem + ".open.jsonl")
    before = path.stat().st_ino
    assert repair(filled).after.is_clean
    filled.put(run, "metrics", {"c": 1})
    assert path.stat().st_ino == before and filled.values(run, "metrics")["c"] == 1


def test_nothing_is_collected_that_a_journal_in_quarantine_names(filled: Store) -> None:
    stem = next(stem for stem in sorted(list_journals(filled.root)) if b"weights" in journal_of(filled, stem))
    folder = Path(filled.root, "quarantine", "20260101t000000-0000abcd", "journals", "host")
    folder.mkdir(parents=True)
    shutil.copy(Path(filled.root, "journals", stem + SEALED_SUFFIX), folder / "a.jsonl")
    for row in filled.find(Query("run")):
        filled.delete(row.id)
    close_all()
    blobs = {path for path in truth(filled) if "objects" in path.parts}
    for days in (20, 40):
        collect(filled, rules=Rules(clock=lambda now_ns, days=days: now_ns + days * 86400 * 10**9))  # type: ignore[misc]
    left = blobs & set(truth(filled))
    assert left and left != blobs


def journal_of(store: Store, stem: str) -> bytes:
    return Path(store.root, "journals", stem + SEALED_SUFFIX).read_bytes()


KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
from steps import kill_at_each_step
from verta_store import files, open_store
from verta_store.repair import repair
files.sync_file = lambda *_, **__: None
template, folder, count = sys.argv[1], sys.argv[2], int(sys.argv[3])

def work(root):
    repair(open_store(root, folder + "/cache"))

def survivor(root):
    report = repair(open_store(root, folder + "/cache"))
    assert report.after.is_clean, report.after.problems
    kept = [name for _, _, names in os.walk(os.path.join(root, "quarantine")) for name in names]
    assert len(kept) == count, kept

print(kill_at_each_step(template, folder, work, survivor))
"""


def test_a_repair_killed_at_any_step_loses_nothing_and_the_next_one_ends_it(filled: Store) -> None:
    one, two = [Path(filled.root, "journals", stem + SEALED_SUFFIX) for stem in sorted(list_journals(filled.root))[:2]]
    mine, theirs = one.read_bytes(), two.read_bytes()
    change(one, theirs)
    change(two, mine)
    manifest, whole = sorted(Path(filled.root, "trees").rglob("*.manifest"))
    damaged = [whole.with_suffix("") / "shared", shared_blob(filled), manifest]
    for path in damaged:
        change(path, b"damaged" * 10)
    filled.close()
    code = KILLED.format(tests=os.path.dirname(__file__))
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory, prefix="verta_local-") as folder:
        command = [sys.executable, "-c", code, filled.root, str(Path(folder).resolve()), str(len(damaged))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
