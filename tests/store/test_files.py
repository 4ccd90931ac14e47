"""Files are whole, durable, and either there or not; a refused write is one sentence."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from verta_store import files
from verta_store.errors import StoreWriteError


def test_a_write_that_takes_a_part_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:7]))
    descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    files.write_all(descriptor, bytes(range(100)))
    os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == bytes(range(100))


@pytest.mark.parametrize("number", sorted(files._ADVICE))
def test_a_refusal_says_what_was_wanted_what_was_found_and_what_to_do(number: int) -> None:
    with pytest.raises(StoreWriteError) as caught, files.writing("an object", "/some/where"):
        raise OSError(number, os.strerror(number))
    text = str(caught.value)
    assert text.startswith("could not write an object in /some/where: ") and "\n" not in text
    assert caught.value.errno == number and caught.value.path == "/some/where"


def test_an_unknown_refusal_is_said_in_the_systems_words() -> None:
    with pytest.raises(StoreWriteError, match="Too many open files"), files.writing("an object"):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_is_let_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    files.sync_folder(tmp_path)


def test_a_device_that_fails_to_sync_is_not_let_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="error"):
        files.sync_folder(tmp_path)


def test_the_barrier_waits_or_says_that_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert files.sync_file_system(str(tmp_path)) in (True, False)


def watch_syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    synced: list[str] = []
    real = files.sync_folder
    monkeypatch.setattr(files, "sync_folder", lambda path: (synced.append(os.fspath(path)), real(path))[1])
    return synced


def test_made_folders_are_durable_each_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = watch_syncs(monkeypatch)
    files.make_folder(str(tmp_path / "a" / "b" / "c"), str(tmp_path))
    assert synced == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")]


def test_a_folder_that_another_process_made_is_synced_once_by_this_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)  # its maker may have died before he synced
    synced = watch_syncs(monkeypatch)
    folders = files.DurableFolders(str(tmp_path))
    for _ in range(3):
        folders.make(str(tmp_path / "a" / "b"))
        folders.make(str(tmp_path / "a" / "new"))
    assert sorted(synced) == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a")]
    assert (tmp_path / "a" / "new").is_dir()


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    folders = files.DurableFolders(str(tmp_path))
    folders.make(str(tmp_path / "a" / "b"))
    (tmp_path / "a" / "b").rmdir()
    folders.make(str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir()


def test_a_file_in_a_folders_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        files.DurableFolders(str(tmp_path)).make(str(tmp_path / "a"))


@pytest.mark.parametrize("has_links", [True, False])
def test_of_many_that_create_one_file_exactly_one_does_and_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    if not has_links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
    for turn in range(10):
        won: list[int] = []
        barrier = threading.Barrier(8)

        def create(number: int, turn: int = turn, won: list[int] = won, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            draft = str(tmp_path / f"draft{number}")
            if files.create_exclusive(str(tmp_path / f"file{turn}"), b"%d" % number * 100, draft):
                won.append(number)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = won
        assert (tmp_path / f"file{turn}").read_bytes() == b"%d" % winner * 100
    assert not list(tmp_path.glob("draft*"))


def test_an_exclusive_file_that_could_not_be_written_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for broken in ("write", "fsync"):
        for has_links in (True, False):
            with monkeypatch.context() as patch:
                patch.setattr(os, broken, refuse)
                if not has_links:
                    patch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
                with pytest.raises(OSError, match="No space"):
                    files.create_exclusive(str(tmp_path / "file"), b"x", str(tmp_path / "draft"))
            assert not os.listdir(tmp_path)


def test_publishing_keeps_what_is_there_and_drops_the_copy(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"first")
    (tmp_path / "draft").write_bytes(b"second")
    assert files.publish(str(tmp_path / "draft"), str(tmp_path / "target")) is False
    assert (tmp_path / "target").read_bytes() == b"first" and not (tmp_path / "draft").exists()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").touch()
    assert files.publish(str(tmp_path / "folder"), str(tmp_path / "new")) is True
    assert os.listdir(tmp_path / "new") == ["x"]


def test_publishing_into_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "draft").write_bytes(b"x")
    with pytest.raises(FileNotFoundError):
        files.publish(str(tmp_path / "draft"), str(tmp_path / "nowhere" / "target"))


def test_removing_what_is_gone_is_no_error(tmp_path: Path) -> None:
    files.remove_file(str(tmp_path / "nowhere"))
    files.remove_folder(str(tmp_path / "nowhere"))
