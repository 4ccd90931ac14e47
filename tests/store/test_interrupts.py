"""An exception at any moment of a log call, as an interrupted notebook or a time limit by signal raises it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from verta_store import Store, open_store
from verta_store.fsck import verify


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store", tmp_path / "cache", create=True)


def test_what_is_logged_after_an_interrupted_write_is_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = store.create("run", None, "r").id
    store.put(run, "metrics", {"a": 1})
    write = os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        write(descriptor, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.put(run, "metrics", {"b": 2})
    monkeypatch.setattr(os, "write", write)
    store.put(run, "metrics", {"c": 3})
    store.put(run, "metrics", {"d": 4})
    found = store.values(run, "metrics")
    assert {"a": 1, "c": 3, "d": 4}.items() <= found.items()
    store.close()
    assert verify(store, deep=True).is_clean


def test_a_loop_that_is_interrupted_again_and_again_loses_nothing(tmp_path: Path) -> None:
    code = f"""
import os, signal, threading, time
from verta_store import open_store
store = open_store({str(tmp_path / "store")!r}, {str(tmp_path / "cache")!r}, create=True)
run = store.create("run", None, "r").id
done = False
class Interrupt(Exception): pass
def interrupt(*_):
    if not done: raise Interrupt
signal.signal(signal.SIGALRM, interrupt)
acknowledged, number, interrupts = [], 0, 0
while interrupts < 60:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.004)
        while True:
            number += 1
            store.put(run, "metrics", {{f"m{{number}}": number}})
            acknowledged.append(number)
            if number % 50 == 0:
                store.values(run, "metrics")
    except Interrupt:
        interrupts += 1
done = True
signal.setitimer(signal.ITIMER_REAL, 0)
store.put(run, "metrics", {{"last": 0}})
found = store.values(run, "metrics")
print(len(acknowledged), sum(f"m{{n}}" not in found for n in acknowledged), "last" in found)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    count, lost, is_last = done.stdout.split()
    assert int(count) > 100 and lost == "0" and is_last == "True"
    store = open_store(tmp_path / "store", tmp_path / "cache2")
    assert verify(store, deep=True).is_clean


def test_a_second_seal_from_a_signal_handler_writes_no_second_footer(store: Store, monkeypatch: Any) -> None:
    run = store.create("run", None, "r").id
    store.put(run, "metrics", {"a": 1})
    fsync = os.fsync

    def sealed_again(descriptor: int) -> None:
        store.seal()  # as the handler of SIGTERM does, in the middle of it
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sealed_again)
    store.seal()
    monkeypatch.setattr(os, "fsync", fsync)
    assert verify(store, deep=True).is_clean
    (path,) = (Path(store.root) / "journals").rglob("*.jsonl")
    assert path.read_text().count('"k":"seal"') == 1


def test_a_pool_of_workers_that_is_terminated_leaves_a_sound_store(tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(f"""
import multiprocessing
from verta_store import open_store
ROOT, CACHE = {str(tmp_path / "store")!r}, {str(tmp_path / "cache")!r}
def work(number):
    store = open_store(ROOT, CACHE, create=True)
    store.put(store.create("run", None, "r").id, "metrics", {{f"m{{number}}": number}})
if __name__ == "__main__":
    for _ in range(3):
        with multiprocessing.get_context("spawn").Pool(3) as pool:
            pool.map(work, range(_ * 20, _ * 20 + 20))
    store = open_store(ROOT, CACHE)
    print(len(store.values(store.create("run", None, "r").id, "metrics")))
""")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=50)
    assert done.stdout.split() == ["60"], done.stderr
    report = verify(open_store(tmp_path / "store", tmp_path / "cache"), deep=True)
    assert report.is_clean, report.problems


def test_a_store_that_was_deleted_is_an_error_and_is_not_made_again(store: Store, tmp_path: Path) -> None:
    run = store.create("run", None, "r").id
    store.put(run, "metrics", {"a": 1})
    os.rename(tmp_path / "store", tmp_path / "elsewhere")
    for call in (lambda: store.values(run, "metrics"), lambda: store.put_bytes(b"content"), lambda: store.refresh()):
        with pytest.raises(OSError, match=r"gone|No such file"):
            call()
    assert not (tmp_path / "store").exists()
    # Another store in its place is another store.
    other = open_store(tmp_path / "store", tmp_path / "cache", create=True)
    assert other.id != store.id and other.create("run", None, "r").id == run
    assert other.values(run, "metrics") == {}
