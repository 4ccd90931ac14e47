"""Memory that the serving process does not need any more goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import Any

import pytest

# Each thread fills a heap of its own, keeps what lies at its end, and lets go of the rest.
_FRAGMENTED = """
import threading
from verta_local.serving.heap import give_back_free_memory
kept = []
def fill():
    blocks = [bytearray(50_000) for _ in range(200)]
    kept.append(blocks[-1])
def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6
before = resident_mb()
for _ in range(8):
    threads = [threading.Thread(target=fill) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
held = resident_mb()
give_back_free_memory()
print(before, held, resident_mb())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or sys.platform != "linux", reason="it is about glibc")
def test_what_threads_needed_and_let_go_of_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _FRAGMENTED], capture_output=True, text=True, timeout=15)
    assert done.returncode == 0, done.stderr
    before, held, after = map(float, done.stdout.split())
    assert held - before > 8
    assert after - before < (held - before) / 2


def test_the_server_does_it_now_and_then(make_server: Any, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr("verta_local.serving.supervisor._TRIM_EVERY_S", 0.05)
    monkeypatch.setattr("verta_local.serving.supervisor._CHORES_EVERY_S", 0.02)
    monkeypatch.setattr("verta_local.serving.supervisor.give_back_free_memory", lambda: calls.append(1))
    make_server()
    tools.eventually(lambda: len(calls) >= 3)
