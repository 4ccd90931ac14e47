"""Tests with the real libraries: each skips where its library is not installed. `pytest -m integrations` runs them.

They run where the libraries' own deprecation warnings are not ours to fix: a warning fails a test only if it comes
from our packages.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.integrations)
            item.add_marker(pytest.mark.timeout(300))  # TensorFlow and torch take 5 to 15 s to import
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.filterwarnings("error:::verta_local"))


_PREDICT = """
import json, sys
from verta_local.loading import load_model
from verta_local.serving import wire
model = load_model(json.load(open(sys.argv[1])))
print(wire.encode(model.predict(json.loads(sys.argv[2]))).decode())
"""


@pytest.fixture
def predict_elsewhere(tmp_path: Path) -> Callable[[Any, Any], Any]:
    """The answer of a run's model to a JSON value, loaded as a server loads it, in a process of its own."""

    def predict(run: Any, data: Any) -> Any:
        spec = tmp_path / "spec.json"
        spec.write_text(json.dumps(run.model_spec()))
        command = [sys.executable, "-c", _PREDICT, str(spec), json.dumps(data)]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return predict
