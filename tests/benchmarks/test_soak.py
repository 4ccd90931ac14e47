"""The soak runs, for seconds: its loads, crashes, upgrades and counts are real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measured by /proc")
def test_a_short_soak_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    words = ("--minutes", "0.15", "--clients", "4", "--scratch", str(tmp_path), "--json", str(numbers))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", *words], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    found = json.loads(numbers.read_text())
    assert found["answered"]["steady"] > 100 and found["answered"]["upgraded"] > 100
    assert found["lost"]["steady"] == found["lost"]["upgraded"] == 0
    assert found["left"] == [] and found["problems"] == []
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all promises held" in done.stdout
