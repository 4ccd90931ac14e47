"""What is not imported until it is needed: the price of `import verta_local` and of `verta-local ls`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from verta_local import Client, config
from verta_local.deployment import DeployedModel

HEAVY = {"flask", "pandas", "sqlite_utils", "cloudpickle", "waitress", "numpy", "packaging", "http", "multiprocessing"}
# Of the standard library: `dataclasses` brings `inspect`, `ast` and `tokenize`, a quarter of what Python itself takes.
HEAVY |= {"dataclasses", "inspect"}


@pytest.mark.parametrize("statement", ["import verta_local", "from verta_local import Client"])
def test_importing_brings_no_library_that_is_not_needed(statement: str, python: Callable[..., Any]) -> None:
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    assert HEAVY & set(json.loads(python(code).stdout)) == set()


def test_logging_a_run_brings_none_either(python: Callable[..., Any]) -> None:
    code = """
from verta_local import Client
run = Client("store").set_experiment_run()
run.log_metric("m", 1)
run.log_artifact_path("a", "b")
run.get_metrics()
import json, sys
print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))
"""
    assert HEAVY & set(json.loads(python(code).stdout.splitlines()[-1])) == set()


def test_neither_does_deploying(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    run = client.set_experiment_run()
    run.log_model(doubles(), custom_modules=[])
    run.log_requirements([])
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    monkeypatch.setenv("VERTA_LOCAL_HTTP_SERVER", "waitress")
    run.deploy(wait=True)
    assert run.get_deployed_model().predict(21) == 42
    lines = _imported((config.serving_dir() / "supervisor.log").read_text())
    run.undeploy(wait=True)
    assert "waitress" in lines
    assert NOT_TO_SERVE & set(lines) == set()
    if sys.platform == "linux":
        assert lines.count("site") == 1


def _imported(text: str) -> list[str]:
    """The modules that processes imported, from what they wrote about it."""
    return [line.rpartition("|")[2].strip() for line in text.splitlines() if line.startswith("import time:")]


def test_importing_costs_at_most_a_tenth_of_a_second_of_cpu() -> None:
    assert _cpu_s(["-c", "import verta_local"]) < 0.1


def test_listing_a_thousand_runs_costs_at_most_a_quarter_of_a_second_of_cpu(client: Client) -> None:
    for number in range(1000):
        run = client.set_experiment_run()
        run.log_metrics({"recall": number / 1000, "loss": 1.0})
        run.log_hyperparameters({"trees": number})
    client.flush()
    command = ["-m", "verta_local", "--store", client.store_path, "ls"]
    _cpu_s(command)  # the index is brought up to date once
    assert _cpu_s(command) < 0.25


def _cpu_s(arguments: list[str]) -> float:
    """The least CPU seconds of five runs of Python: what a busy machine adds is no property of ours."""
    found = []
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        after = os.times()
        found.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return min(found)


def doubles() -> type:
    """A class that travels by value."""

    class Doubles:
        def predict(self, data):  # type: ignore[no-untyped-def]
            return 2 * data

    return Doubles


# What the pages, the other protocols, and requirements that are not met need; none of it before the first prediction.
NOT_TO_SERVE = {
    "flask",
    "werkzeug",
    "jinja2",
    "packaging",
    "sqlite_utils",
    "ssl",
    "email",
    "csv",
    "zipfile",
    "tempfile",
}
NOT_TO_SERVE |= {"importlib.metadata", "http", "urllib.request", "multiprocessing", "concurrent.futures", "pickletools"}
NOT_TO_SERVE |= {"verta_local.serving.tensors", "verta_local.serving.invocations", "verta_local.requirements"}


def test_serving_the_first_prediction_brings_no_library_that_is_not_needed(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = client.set_experiment_run()
    run.log_model(doubles(), custom_modules=[])
    run.log_requirements([])
    client.flush()
    monkeypatch.delenv("PYTHONPROFILEIMPORTTIME", raising=False)
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1", "VERTA_LOCAL_HTTP_SERVER": "waitress"}
    command = [sys.executable, "-m", "verta_local", "--store", client.store_path, "serve", run.id, "--token", "t"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        url = next(line.split()[1] for line in process.stdout if line.strip().startswith("url"))
        assert DeployedModel(url, "t").predict(21) == 42
        process.terminate()
        _, errors = process.communicate(timeout=20)
    lines = _imported(errors)
    imported = set(lines)
    assert {"waitress", "verta_local.serving.answering", "verta_local.installed"} <= imported
    assert {name for name in NOT_TO_SERVE if name in imported} == set()
    if sys.platform == "linux":
        assert lines.count("site") == 1  # one interpreter was started: the model's process is a fork
