"""Every test has its own user folders and stores; nothing of the person who runs the tests is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import verta_local
import verta_store
from verta_local import Client

# A busy machine makes an example slow and not wrong.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

# A shell starts what it does not wait for with Ctrl-C ignored, and processes hand that down: also those of the tests,
# which are interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The packages under test, be it the tree or an installed wheel: for the processes that the tests start.
ROOTS = dict.fromkeys(str(Path(module.__file__ or "").parents[1]) for module in (verta_local, verta_store))


@pytest.fixture(autouse=True)
def user_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of this test's cache, state and data; stores that it opened are closed behind it."""
    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith("VERTA_")]:
        monkeypatch.delenv(name)
    for name in ("CACHE", "STATE", "DATA"):
        monkeypatch.setenv(f"VERTA_LOCAL_{name}", str(home / name.lower()))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(ROOTS))
    yield home
    verta_store.close_all()


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """A client of a new store in `tmp_path/store`."""
    return Client(str(tmp_path / "store"))


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a text as a script in `tmp_path`, in a process of its own; what it printed is in `stdout`."""

    def run(
        code: str, *, name: str = "script.py", check: bool = True, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        script = tmp_path / name
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(code)
        command = [sys.executable, str(script)]
        done = subprocess.run(command, cwd=cwd or tmp_path, capture_output=True, text=True, timeout=50)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run
