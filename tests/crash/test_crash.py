"""A sample of the crash sweeps; all of them: `python tests/crash`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.timeout(400)  # 0.3 s a point where nothing else runs
def test_a_sample_of_kills_power_cuts_and_errors_breaks_no_promise(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE), "--budget", "5", "--jobs", "2", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "85 points, 0 failures" in done.stdout


def test_the_sweep_notices_a_promise_that_is_broken(tmp_path: Path) -> None:
    """An engine that does not sync must not pass: the harness is tested too."""
    code = f"""
import sys
sys.path[:0] = {[str(HERE), *sys.path]!r}
from pathlib import Path
import sweep, interposer
from verta_store import files
real = files.sync_folder
files.sync_folder = lambda path: None
found = sweep.Sweep(Path({str(tmp_path)!r})).run(
    "names", [interposer.Plan("kill after", at) for at in range(60, 400, 20)], power="names lost", jobs=2
)
print(found)
sys.exit(0 if found.failures else 1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
