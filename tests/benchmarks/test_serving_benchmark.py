"""The comparison of servers runs, small: our own side for real, the others only where they are installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measured by /proc")


def run_comparison(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=100
    )


def test_our_server_is_loaded_and_found_back_after_a_crash(tmp_path: Path) -> None:
    """Every request is answered, at 1, 8 and 64 clients; servers that are not installed are named in one sentence."""
    numbers = tmp_path / "numbers.json"
    words = ("--only", "throughput", "--seconds", "0.3", "--starts", "1", "--scratch", str(tmp_path))
    done = run_comparison(*words, "--json", str(numbers))
    assert done.returncode == 0, done.stderr
    assert "mlflow is left out: name its environment with --peer-venv mlflow=FOLDER" in done.stdout
    rows = json.loads(numbers.read_text())["rows"]
    assert rows[0]["server"] == "verta-local (waitress)"
    for row in rows:
        assert [load["clients"] for load in row["loads"]] == [1, 8, 64]
        assert all(load["rate"] > 0 and load["lost"] == 0 and load["cpu_s"] > 0 for load in row["loads"])
        assert row["cold_s"] > 0 and row["memory_bytes"] > 1e6 and row["back_s"] < 10


def test_an_unknown_server_or_part_is_named() -> None:
    """A sentence and exit code 2, before anything is made."""
    done = run_comparison("--only", "speed")
    assert done.returncode == 2
    assert "no part 'speed'" in done.stderr
    done = run_comparison("--peer-venv", "apache=/tmp")
    assert done.returncode == 2
    assert "no server 'apache'" in done.stderr
