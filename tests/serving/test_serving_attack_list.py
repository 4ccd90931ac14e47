"""The table "Attacks" of docs/serving.md: each attack names the tests that make it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

_HERE = Path(__file__).parents[1]
_ROWS = (_HERE.parent / "docs" / "serving.md").read_text("utf-8").partition("| attack | tests |\n|---|---|\n")[2]
ATTACKS = [line.strip("|").split(" | ") for line in _ROWS.partition("\n\n")[0].splitlines()]


def test_there_is_a_list() -> None:
    assert len(ATTACKS) >= 24
    kinds = re.findall(r"\*\*(.+?)\*\*", _ROWS)
    assert kinds == ["Names in URLs", "Server", "Stored text", "Loading", "Shared drive", "Logged folders", "Secrets"]


@pytest.mark.parametrize(("attack", "tests"), ATTACKS)
def test_each_attack_names_tests_that_exist(attack: str, tests: str) -> None:
    named = re.findall(r"`(test_\w+)::(test_\w+)`", tests)
    assert named and len(named) == tests.count("::"), attack
    for file, test in named:
        (path,) = _HERE.rglob(f"{file}.py")
        functions = {node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}
        assert test in functions, f"{file} has no {test}"
