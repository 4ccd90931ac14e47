"""The benchmarks run and print numbers; how fast things are is for `python -m benchmarks` to say, not for a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m benchmarks` with sizes of a hundredth."""
    command = [sys.executable, "-m", "benchmarks", "--scale", "0.01", "--pairs", "2", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "store")))}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=50)


def test_rows_have_numbers_and_the_scratch_folder_is_removed(tmp_path: Path) -> None:
    """Two quick rows: each line of the table has a floor, a number of ours and a ratio, in the text and as JSON."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = run_benchmarks("--only", "log,catch-up", "--scratch", str(scratch), "--json", str(tmp_path / "numbers.json"))
    assert done.returncode == 0, done.stderr
    machine, head, _, *lines = done.stdout.splitlines()
    assert machine.startswith("Python ")
    assert [cell.strip() for cell in head.split("|")][:3] == ["work", "floor (same run)", "ours"]
    rows = json.loads((tmp_path / "numbers.json").read_text())["rows"]
    assert [row["row"] for row in rows] == ["log"] * 5 + ["catch-up"] * 2
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert line.startswith(row["work"])
        has_limit = row["at_most_ratio"] is not None or row["at_most"] is not None
        assert line.rsplit("|", 1)[1].split()[0] in (("ok", "MISS") if has_limit else ("-",))
        assert min(row["floor"], row["ours"], row["ratio"]) > 0
        assert isinstance(row["is_met"], bool if has_limit else type(None))
    assert list(scratch.iterdir()) == []


def test_growth_shows_three_sizes(tmp_path: Path) -> None:
    """The cost of one unit at 1x, 10x and 100x of the work."""
    done = run_benchmarks("--only", "create", "--growth", "--scratch", str(tmp_path))
    assert done.returncode == 0, done.stderr
    head, row = (done.stdout.splitlines()[place].split("|") for place in (1, 3))
    assert [cell.strip() for cell in head] == ["cost of one unit", "1x", "10x", "100x", "growth", "verdict"]
    assert row[0].strip() == "create a run"
    assert row[-1].strip() in ("flat", "GROWS")


def test_an_unknown_row_is_named() -> None:
    """A sentence and exit code 2, before anything is made."""
    done = run_benchmarks("--only", "speed")
    assert done.returncode == 2
    assert "no row 'speed'" in done.stderr
