"""The listing of journals: nothing new is ever missed, and what has not changed is not listed again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from verta_store import drive
from verta_store.errors import StoreNotFound
from verta_store.listing import OPEN_SUFFIX, SEALED_SUFFIX, Listing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of one host, below `tmp_path`."""
    path = tmp_path / "journals" / "host-12345678"
    path.mkdir(parents=True)
    return path


def test_each_journal_is_seen_at_once_however_fast_they_come(folder: Path, tmp_path: Path) -> None:
    listing = Listing(str(tmp_path))
    for number in range(500):
        (folder / f"{number}{OPEN_SUFFIX}").touch()
        assert len(listing.journals()) == number + 1
    for number in range(500):
        (folder / f"{number}{OPEN_SUFFIX}").rename(folder / f"{number}{SEALED_SUFFIX}")
        assert listing.journals()[f"host-12345678/{number}"] == SEALED_SUFFIX
    for number in range(500):
        (folder / f"{number}{SEALED_SUFFIX}").unlink()
        assert len(listing.journals()) == 499 - number


def test_a_change_is_seen_though_its_time_was_put_back(folder: Path, tmp_path: Path) -> None:
    (folder / f"a{SEALED_SUFFIX}").touch()
    listing = Listing(str(tmp_path))
    before = folder.stat()
    time.sleep(0.2)
    assert len(listing.journals()) == 1
    (folder / f"a{SEALED_SUFFIX}").rename(folder / f"b{SEALED_SUFFIX}")
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert list(listing.journals()) == ["host-12345678/b"]


def test_another_hosts_folder_is_seen_and_one_that_goes(folder: Path, tmp_path: Path) -> None:
    listing = Listing(str(tmp_path))
    assert listing.journals() == {}
    other = tmp_path / "journals" / "other-12345678"
    for _ in range(20):
        other.mkdir()
        assert listing.journals() == {}
        (other / f"a{OPEN_SUFFIX}").touch()
        assert listing.journals() == {"other-12345678/a": OPEN_SUFFIX}
        (other / f"a{OPEN_SUFFIX}").unlink()
        other.rmdir()
        assert listing.journals() == {}


def test_what_has_not_changed_is_not_listed_again_and_is_the_same_dict(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / f"a{SEALED_SUFFIX}").touch()
    listing = Listing(str(tmp_path))
    time.sleep(0.2)  # a change in the same step of the clock could not be seen
    first = listing.journals()

    def fail(*_: object) -> list[str]:
        raise AssertionError("listed")

    if drive.of(str(tmp_path)).is_stat_true:
        monkeypatch.setattr(os, "listdir", fail)
        monkeypatch.setattr(os, "scandir", fail)
    assert listing.journals() is first and len(first) == 1


def test_on_a_share_a_folder_is_listed_whatever_its_times_say(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(drive._drives, str(tmp_path), drive.Drive(str(tmp_path), "group"))
    listing = Listing(str(tmp_path))
    time.sleep(0.2)
    assert listing.journals() == {}
    stale, real = os.stat(folder), os.stat
    (folder / f"a{SEALED_SUFFIX}").touch()
    monkeypatch.setattr(os, "stat", lambda path, **more: stale if path == str(folder) else real(path, **more))
    assert len(listing.journals()) == 1


def test_a_store_that_is_gone_is_said_and_one_that_comes_back_is_read(folder: Path, tmp_path: Path) -> None:
    (folder / f"a{SEALED_SUFFIX}").touch()
    listing = Listing(str(tmp_path))
    assert len(listing.journals()) == 1
    (tmp_path / "journals").rename(tmp_path / "away")
    (tmp_path / "away").rename(tmp_path.parent / "away")
    with pytest.raises(StoreNotFound, match="is gone"):
        listing.journals()
    (tmp_path / "store.json").touch()
    assert listing.journals() == {}  # a copy without its empty folder
    (tmp_path.parent / "away").rename(tmp_path / "journals")
    assert len(listing.journals()) == 1
