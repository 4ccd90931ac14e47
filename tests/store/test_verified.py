"""What was found whole once is not read again, until anything about the file has changed; the memory itself may go."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from verta_store import digest
from verta_store.verified import VerifiedCache


class Watched:
    """A file with a memory of it, and a count of how often it was read."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / "file"
        self.path.write_bytes(b"content" * 100)
        self.digest = digest.digest_of_bytes(b"content" * 100)
        self.cache_path = folder / "cache" / "verified.sqlite"
        self.cache = VerifiedCache(str(self.cache_path))
        self.reads = 0
        real = digest.digest_of_file

        def count(path: str) -> tuple[str, int]:
            self.reads += 1
            return real(path)

        monkeypatch.setattr(digest, "digest_of_file", count)

    def check(self) -> bool:
        """Whether the file is whole."""
        return not self.cache.check(str(self.path), [(str(self.path), self.digest)])


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(tmp_path, monkeypatch)


def test_a_file_is_read_once_also_by_the_next_process(watched: Watched) -> None:
    for _ in range(5):
        assert watched.check()
    watched.cache.close()
    watched.cache = VerifiedCache(str(watched.cache_path))
    assert watched.check() and watched.reads == 1
    watched.cache.close()


@pytest.mark.parametrize(
    "change", ["same size, mtime put back", "appended", "replaced by a file of the same age", "cut"]
)
def test_any_change_is_noticed(watched: Watched, change: str) -> None:
    assert watched.check()
    before = watched.path.stat()
    if change == "appended":
        with open(watched.path, "ab") as file:
            file.write(b"x")
    elif change == "cut":
        os.truncate(watched.path, 10)
    elif change.startswith("same"):
        time.sleep(0.02)
        watched.path.write_bytes(b"CONTENT" * 100)
    else:
        other = watched.path.with_name("other")
        other.write_bytes(b"CONTENT" * 100)
        os.replace(other, watched.path)
    os.utime(watched.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not watched.check() and watched.reads == 2
    watched.cache.close()


def test_a_damaged_file_is_never_remembered(watched: Watched) -> None:
    watched.path.write_bytes(b"CONTENT" * 100)
    for number in range(1, 4):
        assert not watched.check() and watched.reads == number
    watched.cache.close()


def test_a_file_that_is_gone_is_said_to_be(watched: Watched) -> None:
    watched.path.unlink()
    with pytest.raises(FileNotFoundError):
        watched.check()


@pytest.mark.parametrize("damage", ["garbage", "empty", "gone", "a folder", "cut"])
def test_a_memory_that_is_damaged_costs_a_read_and_nothing_else(watched: Watched, damage: str) -> None:
    assert watched.check()
    watched.cache.close()
    path = watched.cache_path
    if damage == "garbage":
        path.write_bytes(os.urandom(9000))
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.unlink()
        if damage == "a folder":
            path.mkdir()
    for _ in range(4):
        assert watched.check()
    if damage != "a folder":
        assert watched.reads <= 4
        reads = watched.reads
        assert watched.check() and watched.reads == reads, "it remembers again"
    watched.cache.close()


def test_a_memory_that_cannot_be_written_costs_reads_and_nothing_else(tmp_path: Path, watched: Watched) -> None:
    (tmp_path / "no folder").write_bytes(b"")
    watched.cache = VerifiedCache(str(tmp_path / "no folder" / "verified.sqlite"))
    assert watched.check() and watched.check()
    assert watched.reads == 2


def test_threads_share_one_memory(watched: Watched) -> None:
    found: list[bool] = []

    def work() -> None:
        for number in range(30):
            found.append(watched.check())
            if number % 10 == 3:
                watched.cache.close()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 180
    watched.cache.close()
