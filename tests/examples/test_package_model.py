"""The example of a class model in a user's own package: served, and right, from whatever folder it is run."""

from __future__ import annotations

import json
import shutil
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


def test_model_of_a_user_package_is_served_after_its_source_is_gone(
    run_python: Callable[..., object], examples: Path, assert_nothing_runs: Callable[[], None], tmp_path: Path
) -> None:
    project = tmp_path / "project"
    shutil.copytree(examples / "package_model", project, ignore=shutil.ignore_patterns("__pycache__"))
    output = run_python("train.py", cwd=project)
    shutil.rmtree(project)

    run_id = output.text.split("verta-local serve ")[1].strip()
    run_python("-m", "verta_local", "deploy", run_id)
    try:
        answer = run_python("-m", "verta_local", "predict", run_id, '"An excpetion."').text
    finally:
        run_python("-m", "verta_local", "undeploy", run_id)
    assert json.loads(answer) == "an exception."
    assert_nothing_runs()
