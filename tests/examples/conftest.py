"""Runs an example as a user does, in a process of its own, and sees to it that nothing of it stays behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

import verta_local
import verta_store


@dataclass(frozen=True)
class Output:
    """What an example printed."""

    text: str

    def number(self, pattern: str) -> float:
        """The number that the pattern's group matches in the output."""
        found = re.search(pattern, self.text)
        assert found, f"no {pattern!r} in:\n{self.text}"
        return float(found.group(1))


class RunPython(Protocol):
    """Runs Python with arguments, in `cwd` or else a temporary folder; fails if the exit code is not 0."""

    def __call__(self, *arguments: str | Path, timeout_s: float = 50, cwd: Path | None = None) -> Output: ...


@pytest.fixture
def examples() -> Path:
    """The folder of the examples."""
    return Path(__file__).parents[2] / "examples"


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment whose store and user folders are in `tmp_path`. Ends what the example left running."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("VERTA_")}
    for name in ("STORE", "CACHE", "STATE", "DATA"):
        env[f"VERTA_LOCAL_{name}"] = str(tmp_path / name.lower())
    # The package under test, be it the tree or an installed wheel.
    roots = [Path(module.__file__ or "").parents[1] for module in (verta_local, verta_store)]
    env["PYTHONPATH"] = os.pathsep.join(str(root) for root in dict.fromkeys(roots))
    yield env
    for pid in processes_of(tmp_path):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def run_python(tmp_path: Path, environment: dict[str, str]) -> RunPython:
    """Runs Python with the isolated environment."""

    def run(*arguments: str | Path, timeout_s: float = 50, cwd: Path | None = None) -> Output:
        # Files, not pipes: a process that the example left behind would hold a pipe open for ever.
        with open(tmp_path / "stdout", "w+") as stdout, open(tmp_path / "stderr", "w+") as stderr:
            command = [sys.executable, *map(str, arguments)]
            done = subprocess.run(
                command, cwd=cwd or tmp_path, env=environment, stdout=stdout, stderr=stderr, timeout=timeout_s
            )
            stdout.seek(0)
            stderr.seek(0)
            text, errors = stdout.read(), stderr.read()
        assert done.returncode == 0, f"exit code {done.returncode}\n{text}\n{errors}"
        return Output(text)

    return run


def processes_of(folder: Path) -> list[int]:
    """The processes that have `folder` in their environment or command line; needs /proc, else none."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            traces = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:  # ended meanwhile, or another user's
            continue
        if os.fsencode(folder) in traces and state != "Z" and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


@pytest.fixture
def assert_nothing_runs(tmp_path: Path) -> Callable[[], None]:
    """Call it after an example: fails if, after a moment, there is still a process of it."""

    def check() -> None:
        deadline = time.monotonic() + 10
        while (pids := processes_of(tmp_path)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not pids, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]

    return check
