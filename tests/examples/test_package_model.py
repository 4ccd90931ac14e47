"""The example of a class model in a user's own package: served, and right, from whatever folder it is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def test_model_of_a_user_package_is_served_and_right(
    run_python: Callable[..., object], examples: Path, assert_nothing_runs: Callable[[], None]
) -> None:
    output = run_python(examples / "package_model" / "train.py")
    assert "served: the interpreter raises an exception when the attribute is missing." in output.text
    # A tenth of the words corrects 50 %; no helper module corrects nothing.
    assert "best: 100% of the text" in output.text
    assert output.number(r"corrected over HTTP: ([\d.]+)%") >= 75
    assert_nothing_runs()


def test_package_model_runs_from_its_own_folder(run_python: Callable[..., object], examples: Path) -> None:
    output = run_python("train.py", cwd=examples / "package_model")
    assert output.number(r"corrected over HTTP: ([\d.]+)%") >= 75
