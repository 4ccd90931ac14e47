"""Training data as CSV, and setup scripts that must be Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from verta_local import Client
from verta_local.run import ExperimentRun
from verta_local.utils import ModelAPI


@pytest.fixture
def run(client: Client) -> ExperimentRun:
    return client.set_experiment_run()


def test_features_and_targets_become_one_csv(run: ExperimentRun) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "ü"], "t": [0.5, 1.5, 2.5]})
    part = frame[frame["a"] > 1]
    run.log_training_data(part[["a", "b"]], part["t"])
    assert pandas.read_csv(run.get_artifact("train_data")).equals(part.reset_index(drop=True))
    with pytest.raises(ValueError, match="overwrite=True"):
        run.log_training_data(frame[["a"]], frame[["t"]])
    run.log_training_data(frame[["a"]], frame[["t"]].iloc[::-1], overwrite=True)
    found = pandas.read_csv(run.get_artifact("train_data"))
    assert found.values.tolist() == [[1, 2.5], [2, 1.5], [3, 0.5]]


def test_bad_training_data_is_refused(run: ExperimentRun) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "t": [1, 2]})
    for features, targets in ((frame.values, frame["t"]), ([[1]], frame["t"]), (frame[["a"]], [1, 2])):
        with pytest.raises(TypeError, match="must be a pandas"):
            run.log_training_data(features, targets)
    with pytest.raises(ValueError, match="share column names"):
        run.log_training_data(frame, frame["t"])
    with pytest.raises(ValueError, match="rows"):
        run.log_training_data(frame[["a"]], frame["t"].iloc[:1])
    assert run.get_artifact_keys() == []


def test_without_pandas_no_training_data_can_be_given(python: object) -> None:
    code = (
        "import sys\nfrom verta_local import Client\n"
        "try:\n    Client('store').set_experiment_run().log_training_data([[1]], [1])\n"
        "except TypeError as error:\n    print(error)\nassert 'pandas' not in sys.modules"
    )
    done = python(code)  # type: ignore[operator]
    assert isinstance(done, subprocess.CompletedProcess)
    assert "must be a pandas DataFrame, not list" in done.stdout
    assert sys.executable


def test_a_setup_script_is_stored_as_it_is(run: ExperimentRun) -> None:
    script = "import os\nos.environ['NAME'] = 'ü'\n"
    run.log_setup_script(script)
    assert run.get_artifact("setup_script").read().decode() == script
    with pytest.raises(ValueError, match="overwrite=True"):
        run.log_setup_script(script)
    run.log_setup_script("pass", overwrite=True)
    assert run.get_artifact("setup_script").read() == b"pass"


@pytest.mark.parametrize(
    ("script", "line"), [("import os\nx = = 1\n", 2), ("def f(:\n  pass", 1), ("a\n\n  b = 2\n", 3)]
)
def test_what_is_no_python_is_a_syntax_error_that_names_the_line(run: ExperimentRun, script: str, line: int) -> None:
    with pytest.raises(SyntaxError, match=f"in line {line}: ") as caught:
        run.log_setup_script(script)
    assert caught.value.lineno == line
    assert run.get_artifact_keys() == []


def test_a_script_of_another_type_or_with_a_nul_is_refused(run: ExperimentRun) -> None:
    with pytest.raises(TypeError):
        run.log_setup_script(b"pass")  # type: ignore[arg-type]
    with pytest.raises(SyntaxError):
        run.log_setup_script("a\0b")


class _Doubles:
    def predict(self, data: list[float]) -> list[float]:
        return [2 * value for value in data]


def test_the_first_clients_way_to_log_a_model_for_deployment(run: ExperimentRun, tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("# none but our own\n")
    with open(file) as opened:
        run.log_model_for_deployment(_Doubles(), model_api=ModelAPI([1.0], [2.0]), requirements=opened)
    assert run.get_model().predict([3]) == [6]
    assert run.model_spec(for_deployment=True)["requirements"][-1].startswith("cloudpickle==")


def test_a_model_for_deployment_with_bad_requirements_or_half_of_the_data_logs_nothing(run: ExperimentRun) -> None:
    with pytest.raises(ValueError, match="no-such-distribution"):
        run.log_model_for_deployment(_Doubles(), requirements=["no-such-distribution"])
    with pytest.raises(ValueError, match="both `train_features` and `train_targets`"):
        run.log_model_for_deployment(_Doubles(), train_features=[1])
    assert run.get_artifact_keys() == []
