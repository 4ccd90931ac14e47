"""Verification finds any damage and names what it hurts; of a sound store it says nothing."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from new_entities import new_run

from verta_store import Ref, Store, description, hashing, journal, workers
from verta_store.damages import Problem
from verta_store.errors import CollectionRefused, StoreReadError, StoreWriteError
from verta_store.fsck import verify
from verta_store.gc import collect
from verta_store.journal import OPEN_SUFFIX, SEALED_SUFFIX, list_journals
from verta_store.query import Query
from verta_store.repair import repair

LARGE = 64 * 1024


def artifact(ref: Ref, name: str) -> dict[str, object]:
    return {"kind": ref.kind, "digest": ref.digest, "size_bytes": ref.size_bytes, "name": name}


@pytest.fixture
def filled(store: Store, tmp_path: Path) -> Store:
    """Two blobs, two trees that share a large file, three sealed journals; nothing open, nothing unreferenced."""
    for number in range(2):
        run = new_run(store, f"run {number}")
        source = tmp_path / f"folder{number}"
        (source / "sub" / "empty").mkdir(parents=True)
        (source / "shared").write_bytes(b"s" * LARGE)
        (source / "sub" / "small").write_bytes(b"small %d" % number)
        (source / "sub" / "none").write_bytes(b"")
        store.put_all(
            run,
            {
                "artifacts": {
                    "weights": artifact(store.put_bytes(os.urandom(3000)), "weights.bin"),
                    "folder": artifact(store.put_tree(source), "folder"),
                },
                "metrics": {"a": number},
            },
        )
        store.seal()
    store.path_of("blob", store.values(run, "artifacts")["weights"]["digest"], "weights.bin")
    store.add_points(run, "loss", [(1.5, 1, 1)] * 20)
    store.close()
    store.refresh()  # this host has read every journal
    assert verify(store, deep=True).is_clean
    return store


def truth(store: Store) -> list[Path]:
    """Every file that is truth: objects, trees and their manifests, journals."""
    return sorted(
        path for top in ("objects", "trees", "journals") for path in Path(store.root, top).rglob("*") if path.is_file()
    )


def test_a_sound_store_is_clean_and_counted(filled: Store) -> None:
    for deep in (False, True):
        report = verify(filled, deep=deep)
        assert report.is_clean and not report.problems and not report.notes, report
        assert (report.journal_count, report.blob_count, report.tree_count) == (3, 2, 2)
        assert report.record_count == sum(
            path.read_bytes().count(b"\n") - 1 for path in truth(filled) if path.suffix == ".jsonl"
        )
    assert report.bytes_read > 3000


def test_verification_changes_nothing(filled: Store) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in Path(filled.root).rglob("*")}
    verify(filled, deep=True)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in Path(filled.root).rglob("*")} == before


def shared_blob(store: Store) -> Path:
    return Path(store.object_path("sha256:" + hashlib.sha256(b"s" * LARGE).hexdigest()))


def change(path: Path, data: bytes) -> None:
    """Writes other bytes under a name, as a new file: hard links of the old one stay whole."""
    path.unlink()
    path.write_bytes(data)


def bit(path: Path, choose: random.Random, _: Store) -> None:
    data = bytearray(path.read_bytes())
    data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    change(path, bytes(data))


def byte(path: Path, choose: random.Random, _: Store) -> None:
    data = bytearray(path.read_bytes())
    at = choose.randrange(len(data))
    data[at] = (data[at] + choose.randrange(1, 256)) % 256
    change(path, bytes(data))


def zeros(path: Path, choose: random.Random, _: Store) -> None:
    data = bytearray(path.read_bytes())
    begin = choose.randrange(len(data))
    end = min(len(data), begin + choose.choice([1, 16, 512, 4096]))
    data[begin:end] = bytes(end - begin)
    change(path, bytes(data))


def cut(path: Path, choose: random.Random, _: Store) -> None:
    change(path, path.read_bytes()[: choose.randrange(path.stat().st_size)])


def junk(path: Path, choose: random.Random, _: Store) -> None:
    change(path, path.read_bytes() + choose.randbytes(choose.randint(1, 64)))


def delete(path: Path, choose: random.Random, _: Store) -> None:
    path.unlink()


def swap(path: Path, choose: random.Random, store: Store) -> None:
    others = [p for p in truth(store) if p.suffix == path.suffix and p.read_bytes() != path.read_bytes()]
    other = choose.choice(others)
    mine, theirs = path.read_bytes(), other.read_bytes()
    change(path, theirs)
    change(other, mine)


def insert(path: Path, choose: random.Random, _: Store) -> None:
    data = path.read_bytes()
    at = choose.randrange(len(data))
    change(path, data[:at] + choose.randbytes(choose.randint(1, 64)) + data[at:])


def cut_out(path: Path, choose: random.Random, _: Store) -> None:
    data = path.read_bytes()
    at = choose.randrange(len(data))
    change(path, data[:at] + data[at + choose.randint(1, 64) :])


def repeat(path: Path, choose: random.Random, _: Store) -> None:
    change(path, path.read_bytes() * 2)


def become_folder(path: Path, choose: random.Random, _: Store) -> None:
    path.unlink()
    path.mkdir()


def become_link(path: Path, choose: random.Random, _: Store) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def become_dangling(path: Path, choose: random.Random, _: Store) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES: list[Callable[[Path, random.Random, Store], None]] = [
    bit, byte, zeros, cut, junk, delete, swap, insert, cut_out, repeat, become_folder, become_link, become_dangling,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_any_damage_to_any_file_is_found_and_the_file_is_named(
    filled: Store, tmp_path: Path, damage: Callable[[Path, random.Random, Store], None]
) -> None:
    root = Path(filled.root)
    shutil.copytree(root, tmp_path / "sound", symlinks=True)
    choose = random.Random(f"20261122 {damage.__name__}")
    files = truth(filled)
    shared = shared_blob(filled)  # named by no record: the trees that hold it are hurt by themselves
    for turn in range(len(files) * (3 if damage in (bit, byte) else 1)):
        path = files[turn % len(files)]
        if not path.stat().st_size and damage not in (delete, junk, become_folder, become_link, become_dangling):
            continue  # an empty file has no byte to damage
        before = path.read_bytes()
        damage(path, choose, filled)
        is_changed = path.is_symlink() or not path.is_file() or path.read_bytes() != before
        if damage is delete and path == shared:
            is_changed = False  # no loss: each tree has its own name for the file
        report = verify(filled, deep=True)
        assert report.is_clean != is_changed, f"{damage.__name__} of {path}"
        if is_changed:
            found = [problem for problem in report.problems if problem.path == str(path)]
            assert found and all(problem.advice for problem in found), report.problems
            assert all(problem.affects for problem in found) or path == shared or "journals" in path.parts
        for problem in report.problems:
            assert isinstance(problem, Problem) and "\n" not in str(problem)
        shutil.rmtree(root)
        shutil.copytree(tmp_path / "sound", root, symlinks=True)
    assert verify(filled, deep=True).is_clean


@pytest.mark.parametrize("victim", ["objects", "trees", "journals/*", "objects/sha256/*", "trees/sha256/*/*"])
def test_a_lost_folder_is_found(filled: Store, victim: str) -> None:
    root = Path(filled.root)
    folder = sorted(path for path in root.glob(victim) if path.is_dir())[0]
    shutil.rmtree(folder)
    assert verify(filled, deep=True).problems


def test_a_journal_that_this_host_has_read_is_missed_until_it_is_back(filled: Store) -> None:
    stem = sorted(list_journals(filled.root))[0]
    path = Path(filled.root, "journals", stem + SEALED_SUFFIX)
    path.rename(path.with_suffix(".away"))
    for _ in range(2):
        (problem,) = [problem for problem in verify(filled).problems if problem.path == str(path)]
        assert "gone" in problem.what and problem.advice
        filled.refresh()
        filled.close()
    path.with_suffix(".away").rename(path)
    assert verify(filled, deep=True).is_clean
    assert new_run(filled, "run 0") in {row.id for row in filled.find(Query("run"))}


def test_a_quick_look_finds_what_is_gone_or_of_another_size(filled: Store) -> None:
    for path in truth(filled):
        if path.is_relative_to(Path(filled.root, "journals")) or path == shared_blob(filled):
            continue
        kept = path.read_bytes()
        for data in (None, kept + b"x"):
            path.unlink()
            if data is not None:
                path.write_bytes(data)
            assert not verify(filled).is_clean, path
            path.unlink(missing_ok=True)
            path.write_bytes(kept)
    assert verify(filled).is_clean


def test_a_damaged_object_names_the_runs_and_keys_that_refer_to_it(filled: Store) -> None:
    run = new_run(filled, "run 0")
    digest = filled.values(run, "artifacts")["weights"]["digest"]
    path = Path(filled.object_path(digest))
    change(path, bytes(3000))
    (problem,) = verify(filled, deep=True).problems
    assert problem.path == str(path) and problem.kind == "changed"
    assert problem.affects == (f"run 'run 0' ({run}) key 'weights'",)
    assert "overwrite=True" in problem.advice
    change(path, b"")
    (problem,) = verify(filled).problems
    assert "0 bytes instead of 3000" in str(problem)
    path.unlink()
    (problem,) = verify(filled).problems
    assert problem.kind == "missing"


def test_a_renamed_run_is_named_by_its_new_name(filled: Store) -> None:
    run = new_run(filled, "run 0")
    filled.put(run, "fields", {"name": "new name"}, overwrite=True)
    Path(filled.object_path(filled.values(run, "artifacts")["weights"]["digest"])).unlink()
    (problem,) = verify(filled).problems
    assert "new name" in problem.affects[0]


@pytest.mark.parametrize("name", ["saved_model.pb", "sub/x", "sub"])
def test_what_a_loader_leaves_in_a_tree_and_what_nobody_refers_to_is_no_damage(filled: Store, name: str) -> None:
    tree = filled.values(new_run(filled, "run 0"), "artifacts")["folder"]["digest"]
    extra = Path(filled.tree_path(tree), "extra." + name.replace("/", "_"))
    extra.write_bytes(b"a loader's own")
    filled.put_bytes(b"nobody refers to me")
    filled.close()
    assert verify(filled, deep=True).is_clean


def test_an_unreferenced_object_that_is_damaged_is_told_too(filled: Store) -> None:
    """A later artifact of the same content would trust it."""
    ref = filled.put_bytes(b"nobody refers to me")
    change(Path(filled.object_path(ref.digest)), b"something else here")
    (problem,) = verify(filled, deep=True).problems
    assert problem.affects == ()


def test_a_tree_of_which_a_power_cut_left_the_folder_alone_is_a_note_and_no_damage(
    filled: Store, tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a").write_bytes(b"a")
    ref = filled.put_tree(tmp_path / "new")
    manifest = Path(filled.tree_path(ref.digest) + ".manifest")
    manifest.unlink()
    report = verify(filled, deep=True)
    assert report.is_clean and any("has no manifest" in note for note in report.notes)
    manifest.write_bytes(b"another")
    (problem,) = verify(filled, deep=True).problems
    assert problem.path == str(manifest)
    assert filled.put_tree(tmp_path / "new") == ref
    assert verify(filled, deep=True).is_clean


def test_a_torn_tail_of_an_open_journal_is_a_note_and_no_damage(filled: Store) -> None:
    filled.put(new_run(filled, "run 0"), "metrics", {"b": 1})
    path = Path(filled.root, "journals", filled._journal.stem + OPEN_SUFFIX)
    whole = path.read_bytes()
    for cut_at in range(1, len(whole), 29):
        path.write_bytes(whole[:cut_at])
        report = verify(filled, deep=True)
        assert report.is_clean, report
        assert bool(report.notes) == (whole[cut_at - 1 : cut_at] != b"\n")
    path.write_bytes(whole)


def test_damage_in_an_open_journal_before_its_end_is_found(filled: Store) -> None:
    run = new_run(filled, "run 0")
    for number in range(5):
        filled.put(run, "attributes", {f"k{number}": number})
    path = Path(filled.root, "journals", filled._journal.stem + OPEN_SUFFIX)
    whole = path.read_bytes()
    begin_of_last = whole.rindex(b"\n", 0, -1) + 1
    for at in range(0, begin_of_last - 1, 17):
        damaged = bytearray(whole)
        damaged[at] ^= 8
        path.write_bytes(damaged)
        assert not verify(filled).is_clean, at
    path.write_bytes(whole)
    assert verify(filled).is_clean


def test_a_journal_under_another_name_or_of_another_store_is_told(filled: Store) -> None:
    stem = next(iter(list_journals(filled.root)))
    path = Path(filled.root, "journals", stem + SEALED_SUFFIX)
    shutil.copy(path, path.with_name("20200101t000000-1-00000000.jsonl"))
    (problem,) = verify(filled).problems
    assert "swapped or renamed" in problem.what
    path.with_name("20200101t000000-1-00000000.jsonl").unlink()
    path = Path(filled.root, "store.json")
    path.write_text(path.read_text().replace(filled.id, ("1" if filled.id[0] == "0" else "0") + filled.id[1:]))
    assert any("another store" in problem.what for problem in verify(filled).problems)


@pytest.mark.parametrize("content", ["", "{}", "junk"])
def test_a_damaged_description_is_told(filled: Store, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr(description, "_FILLED_WITHIN_S", 0.1)
    Path(filled.root, "store.json").write_text(content)
    problems = verify(filled).problems
    assert any(problem.kind == "description" for problem in problems)


def test_a_damaged_name_is_told_as_a_derived_file(filled: Store) -> None:
    (name,) = (path for path in Path(filled.root, "names").rglob("*") if path.is_file())
    change(name, bytes(3000))
    (problem,) = verify(filled, deep=True).problems
    assert "derived" in problem.advice and problem.path == str(name)


def test_records_that_name_impossible_objects_are_told_and_no_crash(filled: Store) -> None:
    run = new_run(filled, "run 0")
    values = [7, "text", {"digest": "../../etc/passwd", "kind": "blob"}, {"digest": 5, "kind": "tree"},
              {"kind": "path", "name": "/x"}, {"digest": "sha256:" + "0" * 64}, {"digest": "sha256:" + "1" * 64, "kind": []}]  # fmt: skip
    for number, value in enumerate(values):
        filled.put(run, "artifacts", {f"bad{number}": value})
    report = verify(filled, deep=True)
    assert not report.is_clean
    assert all("\n" not in str(problem) for problem in report.problems)


def test_a_store_is_verified_although_its_device_takes_no_more_writes(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.put(new_run(filled, "run 0"), "metrics", {"b": 1})

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    for name in ("fsync", "fdatasync", "write"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(StoreWriteError):
        filled.flush()
    assert verify(filled, deep=True).is_clean


def test_a_journal_that_the_device_cannot_read_is_told_and_all_else_is_verified(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [Path(filled.root, "journals", stem + SEALED_SUFFIX) for stem in list_journals(filled.root)]
    path = str(next(path for path in paths if b'"run 0"' in path.read_bytes()))  # another has points only
    real = journal.read_journal

    def read(name: str, *arguments: object, **more: object) -> object:
        if name == path:
            raise OSError(5, "Input/output error", name)
        return real(name, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(journal, "read_journal", read)
    filled.close()
    shutil.rmtree(filled.cache_dir)
    (problem,) = verify(filled, deep=True).problems
    assert problem.path == path and "Input/output error" in problem.what and "--accept-loss" in problem.advice
    with pytest.raises(StoreReadError, match=r"could not read the journal .* check the disk .* verta-local verify"):
        filled.find(Query("run"))
    with pytest.raises(CollectionRefused, match="cannot be read: Input/output error"):
        collect(filled)
    os.rename(path, path + ".away")
    monkeypatch.undo()
    assert repair(filled, accept_loss=True).after.is_clean
    collect(filled)
    assert len(filled.find(Query("run"))) == 1, "the one whose journal is there"


@pytest.mark.parametrize("worker_count", [0, 2])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "a folder", "a link", "a fifo"])
def test_damage_among_thousands_of_files_is_found_whoever_reads_them(
    store: Store, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, worker_count: int
) -> None:
    monkeypatch.setattr(hashing, "WORKERS_FROM", 1)
    monkeypatch.setattr(hashing, "_TASK_FILES", 7)
    monkeypatch.setattr(workers, "worker_count", lambda: worker_count)
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        (source / f"ü{number}").write_bytes(b"%d" % number * 100)
    ref = store.put_tree(source)
    value = {"kind": "tree", "digest": ref.digest, "size_bytes": ref.size_bytes, "name": "source"}
    store.put(run, "artifacts", {"many": value})
    assert verify(store, deep=True).is_clean
    victim = Path(store.tree_path(ref.digest), "ü17")
    victim.chmod(0o644)
    data = victim.read_bytes()
    if damage in ("flipped", "cut"):
        victim.write_bytes(data[:-1] + (b"x" if damage == "flipped" else b""))
    else:
        victim.unlink()
        if damage == "a folder":
            victim.mkdir()
        elif damage == "a fifo":
            os.mkfifo(victim)
        elif damage == "a link":
            victim.symlink_to(source / "ü17")
    (problem,) = verify(store, deep=True).problems
    assert problem.path == str(victim) and "many" in problem.affects[0]
    wanted = {"flipped": "do not match", "cut": "it has 199 bytes instead of 200", "gone": "the file is gone"}
    assert wanted.get(damage, "something else than a file") in problem.what
    assert problem.kind == ("missing" if damage == "gone" else "changed")
