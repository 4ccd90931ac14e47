"""What the README's first screen says, run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from verta_local.cli.parser import make_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```([a-z]*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def test_the_python_runs_as_it_stands_and_prints_what_is_shown(tmp_path: Path) -> None:
    (script,) = blocks("python")
    (tmp_path / "first.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "first.py"], cwd=tmp_path, capture_output=True, text=True, timeout=50, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == blocks("")[0].splitlines()
    # The three commands behind it, on the store that it left.
    shown = blocks("")[1].splitlines()
    for command in blocks("sh")[1].splitlines():
        words = command.split()
        assert words[0] == "verta-local"
        done = subprocess.run(
            [sys.executable, "-m", "verta_local", *words[1:]], capture_output=True, text=True, timeout=50
        )
        assert done.returncode == 0, done.stderr
        if words[1] == "ls":
            header, row = done.stdout.splitlines()
            assert header.split() == shown[0].split()
            assert [w for w in row.split()[1:] if ":" not in w and "-" not in w] == [
                w for w in shown[1].split()[1:] if ":" not in w and "-" not in w
            ]


def test_every_command_that_the_readme_names_exists() -> None:
    (group,) = [action for action in make_parser()._actions if hasattr(action, "choices") and action.choices]
    named = set(re.findall(r"verta-local ([a-z]+)", README))
    assert named <= set(group.choices or {}), named


def test_the_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    assert "grep -m 1 'venv-test' README.md" in (ROOT / ".ci" / "run").read_text()
    (line,) = [line for line in README.splitlines() if "venv-test" in line]
    assert line.endswith(".venv-test/bin/pytest")
