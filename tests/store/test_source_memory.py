"""A folder that was logged before is not read again, and no change to it is ever missed."""

from __future__ import annotations

import mmap
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from verta_store import Ref, Store, copying, folder_copy, objects, open_store, tree, workers
from verta_store.digest import digest_of_bytes, sample_of_file
from verta_store.errors import BadContent
from verta_store.fsck import verify
from verta_store.source_memory import SourceMemory


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store", tmp_path / "cache", create=True)


@pytest.fixture(params=[3, 23])  # files: a few are copied one by one, more by `copy_names`
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of old, synced files: what may be remembered."""
    top = tmp_path / "data"
    (top / "sub").mkdir(parents=True)
    for name in ("a.bin", "b.bin", "sub/c.bin", *(f"sub/{number}" for number in range(request.param - 3))):
        (top / name).write_bytes(os.urandom(5000))
    os.sync()
    time.sleep(2.1)
    return top


def copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths that are read from now on."""
    read: list[str] = []

    def watch(module: ModuleType, name: str) -> None:
        real = getattr(module, name)

        def noted(source: str, *arguments: object, **more: object) -> object:
            read.append(source)
            return real(source, *arguments, **more)

        monkeypatch.setattr(module, name, noted)

    watch(objects, "copy_in")
    watch(folder_copy, "copy_in")
    many = folder_copy.copy_names

    def noted_many(source: str, target: str, names: list[str], device: int | None) -> copying.CopiedFiles:
        read.extend(os.path.join(source, name) for name in names)
        return many(source, target, names, device)

    monkeypatch.setattr(folder_copy, "copy_names", noted_many)
    return read


def can_remember(folder: Path) -> bool:
    if SourceMemory(str(folder.parent / "probe.sqlite")).trusted_device(str(folder)) is None:
        return False
    with open(folder / "a.bin", "rb") as file:
        return copying.is_rememberable(os.fstat(file.fileno()), file.fileno())


def test_an_unchanged_folder_and_file_are_not_read_again(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_remember(folder):
        pytest.skip("this file system or kernel does not tell enough to remember a file")
    tree, blob = store.put_tree(folder), store.put_file(folder / "a.bin")
    read = copies(monkeypatch)
    assert (store.put_tree(folder), store.put_file(folder / "a.bin")) == (tree, blob)
    assert read == []
    assert verify(store, deep=True).is_clean


def edit_and_put_the_time_back(path: Path) -> None:
    found = path.stat()
    path.write_bytes(os.urandom(5000))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def swap_by_renaming(path: Path) -> None:
    twin = path.with_suffix(".new")
    twin.write_bytes(os.urandom(5000))
    found = path.stat()
    os.utime(twin, ns=(found.st_atime_ns, found.st_mtime_ns))
    os.replace(twin, path)


def make_executable(path: Path) -> None:
    path.chmod(0o755)


CHANGES: list[Callable[[Path], None]] = [edit_and_put_the_time_back, swap_by_renaming, make_executable]


@pytest.mark.parametrize("change", CHANGES)
def test_no_change_is_missed(store: Store, folder: Path, change: Callable[[Path], None]) -> None:
    before = store.put_tree(folder)
    change(folder / "sub" / "c.bin")
    after = store.put_tree(folder)
    assert after != before
    stored = Path(store.path_of("tree", after.digest, "data"), "sub", "c.bin")
    assert stored.read_bytes() == (folder / "sub" / "c.bin").read_bytes()


def test_an_added_and_a_removed_file_are_seen(store: Store, folder: Path) -> None:
    refs = [store.put_tree(folder)]
    (folder / "new").write_bytes(b"")
    refs.append(store.put_tree(folder))
    (folder / "new").unlink()
    (folder / "a.bin").unlink()
    refs.append(store.put_tree(folder))
    assert len(set(refs)) == 3


def test_a_store_through_a_memory_map_is_not_missed(store: Store, folder: Path) -> None:
    path = folder / "a.bin"
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        refs: list[Ref] = []
        for number in range(4):
            view[0:4] = b"%4d" % number  # the times move at the first store to a clean page, and not always
            refs.append(store.put_file(path))
            if number == 1:
                view.flush()
            assert refs[-1].digest == digest_of_bytes(path.read_bytes())
    assert len(set(refs)) == 4


def test_a_file_that_was_changed_just_now_is_not_remembered(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "fresh.bin").write_bytes(os.urandom(10))
    store.put_tree(folder)
    read = copies(monkeypatch)
    store.put_tree(folder)
    assert str(folder / "fresh.bin") in read


def test_a_damaged_store_is_mended_though_the_source_is_remembered(store: Store, folder: Path) -> None:
    ref = store.put_tree(folder)
    stored = Path(store.path_of("tree", ref.digest, "data"), "a.bin")
    stored.chmod(0o644)
    stored.write_bytes(os.urandom(5000))
    assert store.put_tree(folder) == ref
    assert Path(store.path_of("tree", ref.digest, "data"), "a.bin").read_bytes() == (folder / "a.bin").read_bytes()


@pytest.mark.parametrize("damage", ["", "flipped", "gone"])
def test_a_large_tree_is_looked_at_beside_the_walk(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    if not can_remember(folder):
        pytest.skip("this file system or kernel does not tell enough to remember a file")
    monkeypatch.setattr("verta_store.tree._CHECKED_BESIDE_FROM", 1)
    ref = store.put_tree(folder)
    stored = Path(store.path_of("tree", ref.digest, "data"), "sub", "c.bin")
    if damage == "flipped":
        stored.chmod(0o644)
        stored.write_bytes(os.urandom(5000))
    elif damage == "gone":
        shutil.rmtree(stored.parents[1])
    read = copies(monkeypatch)
    assert store.put_tree(folder) == ref
    assert bool(read) == bool(damage)
    assert stored.read_bytes() == (folder / "sub" / "c.bin").read_bytes()


def test_a_damaged_memory_is_none(store: Store, folder: Path, tmp_path: Path) -> None:
    ref = store.put_tree(folder)
    store.close()
    for path in (tmp_path / "cache").rglob("sources.sqlite*"):
        path.write_bytes(b"no database" * 1000)
    assert store.put_tree(folder) == ref


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of 2 MiB, of which nothing is remembered but that it is stored."""
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(2 << 20))
    return path


def test_a_large_file_that_is_stored_already_is_read_and_not_copied(
    store: Store, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = store.put_file(large)
    shutil.copyfile(large, tmp_path / "twin.bin")
    read = copies(monkeypatch)
    assert store.put_file(large) == ref and store.put_file(tmp_path / "twin.bin") == ref
    assert read == []
    assert not [left for own in Path(store.root, "tmp").iterdir() for left in own.iterdir()]


def test_a_file_with_the_sample_of_another_is_told_from_it_by_its_hash(store: Store, large: Path) -> None:
    refs = {store.put_file(large)}
    sample = sample_of_file(large)
    with open(large, "r+b") as file:
        file.seek((1 << 20) + 5000)
        file.write(b"between two pieces")
    assert sample_of_file(large) == sample
    refs.add(store.put_file(large))
    assert len(refs) == 2 and digest_of_bytes(large.read_bytes()) in {ref.digest for ref in refs}
    assert verify(store, deep=True).is_clean


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_twin_that_is_damaged_or_gone_is_stored_anew(store: Store, large: Path, damage: str) -> None:
    ref = store.put_file(large)
    stored = Path(store.object_path(ref.digest))
    stored.chmod(0o644)
    if damage == "gone":
        stored.unlink()
    else:
        data = bytearray(stored.read_bytes())
        data[100] ^= 1
        stored.write_bytes(data if damage == "flipped" else data[:100])
    assert store.put_file(large) == ref
    store.check("blob", ref.digest)
    assert stored.read_bytes() == large.read_bytes()


def test_a_file_of_the_same_size_is_not_hashed_in_vain(
    store: Store, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_file(large)
    large.write_bytes(os.urandom(2 << 20))
    monkeypatch.setattr("verta_store.file_copy._clone", lambda *_: False)  # a clone is hashed when it is made
    monkeypatch.setattr("verta_store.digest.digest_of_descriptor", lambda *_: pytest.fail("hashed before the copy"))
    assert store.put_file(large).size_bytes == 2 << 20


def test_a_fifo_is_refused_and_not_waited_for(store: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BadContent):
        store.put_file(tmp_path / "fifo")


def test_a_file_that_changes_between_its_reading_and_that_of_a_link_to_it_is_not_remembered(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what was read by the link would be served for ever."""
    if not can_remember(folder):
        pytest.skip("this file system or kernel does not tell enough to remember a file")
    large = folder / "z" / "large"
    large.parent.mkdir()
    large.write_bytes(b"old " * (300 << 10))  # so large that it is read in the order of the folders
    (folder / "a").mkdir()
    (folder / "a" / "link").symlink_to("../z/large")
    os.sync()
    time.sleep(2.1)
    real = folder_copy.copy_in

    def changed_meanwhile(source: str, target: str, **more: Any) -> copying.Copied:
        copied = real(source, target, **more)
        if target.endswith("link"):
            with open(large, "r+b") as file:
                file.write(b"NEW ")
                file.flush()
                os.fsync(file.fileno())
            time.sleep(2.1)
        return copied

    with monkeypatch.context() as patched:
        patched.setattr(folder_copy, "copy_in", changed_meanwhile)
        store.put_tree(folder)
    ref = store.put_tree(folder)
    stored = Path(store.path_of("tree", ref.digest, ""))
    assert (stored / "a" / "link").read_bytes() == (stored / "z" / "large").read_bytes() == large.read_bytes()
    read = copies(monkeypatch)
    assert store.put_tree(folder) == ref and read == [], "now it is remembered"


def test_workers_are_started_for_a_remembered_folder_only_when_it_has_changed(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_remember(folder):
        pytest.skip("this file system or kernel does not tell enough to remember a file")
    started: list[int] = []
    real = workers.Workers.__enter__

    def enter(pool: workers.Workers) -> workers.Workers:
        started.append(1)
        return real(pool)

    monkeypatch.setattr(workers.Workers, "__enter__", enter)
    monkeypatch.setattr(folder_copy, "WORKERS_FROM", 3)
    monkeypatch.setattr(workers, "worker_count", lambda: 2)
    ref = store.put_tree(folder)
    assert len(started) == 1
    assert store.put_tree(folder) == ref and len(started) == 1
    (folder / "a.bin").write_bytes(b"changed")
    assert store.put_tree(folder) != ref and len(started) == 2


def test_a_remembered_folder_is_logged_where_no_thread_can_be_had(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the end of an interpreter of Python 3.12, of a folder that a process is to look at."""
    monkeypatch.setattr(tree, "_CHECKED_BESIDE_FROM", 1)
    ref = store.put_tree(folder)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert store.put_tree(folder) == ref
