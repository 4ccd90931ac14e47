"""Clones of runs: all that was logged, nothing twice, and nothing shared afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from verta_local import Client
from verta_local.run import ExperimentRun


@pytest.fixture
def run(tmp_path: Path) -> ExperimentRun:
    client = Client(str(tmp_path / "store"), use_git=False)
    run = client.set_experiment_run("original", desc="about", tags=["a", "b"], attrs={"x": [1]})
    run.log_hyperparameters({"h": 1, "i": None})
    run.log_metric("m", 0.5)
    for value in (3, 2, 1):
        run.log_observation("loss", value, timestamp=1_500_000_000_000)
    run.log_artifact("large", os.urandom(100_000))
    run.log_code(exec_path=__file__)
    return run


def test_everything_comes_with_a_clone_and_no_byte_is_stored_twice(run: ExperimentRun) -> None:
    objects = sum(len(files) for _, _, files in os.walk(os.path.join(run._store.root, "objects")))
    copy = run.clone()
    assert copy.id != run.id and copy.name != run.name
    assert copy.get_description() == "about"
    for get in ("hyperparameters", "metrics", "attributes", "observations", "tags", "artifact_keys"):
        assert getattr(copy, f"get_{get}")() == getattr(run, f"get_{get}")(), get
    assert copy.get_artifact("large") == run.get_artifact("large")
    with copy.get_code() as code:  # type: ignore[union-attr]
        assert code.namelist() == ["test_clone.py"]
    assert sum(len(files) for _, _, files in os.walk(os.path.join(run._store.root, "objects"))) == objects
    copy.log_metric("n", 1)
    run.delete()
    assert copy.get_metrics() == {"m": 0.5, "n": 1}
    assert copy.get_observation("loss")[0][0] == 3


def test_parts_can_be_left_out(run: ExperimentRun) -> None:
    copy = run.clone(copy_artifacts=False, copy_code_version=False, copy_datasets=False)
    assert copy.get_artifact_keys() == [] and copy.get_metrics() == {"m": 0.5}
    with pytest.raises(RuntimeError):
        copy.get_code()


def test_a_clone_may_go_to_another_experiment_under_its_own_name(run: ExperimentRun) -> None:
    client = Client(run._store.root)
    client.set_project("other")
    experiment = client.set_experiment("other")
    copy = run.clone(experiment.id)
    assert copy.name == "original"
    assert [found.id for found in experiment.expt_runs] == [copy.id]
    assert run.clone(experiment_id=experiment.id).name != "original"


@pytest.mark.parametrize("wrong", ["nothing", 7])
def test_an_unknown_experiment_is_a_value_error(run: ExperimentRun, wrong: object) -> None:
    with pytest.raises(ValueError, match="Experiment not found"):
        run.clone(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Experiment not found"):
        run.clone(run.id)


def test_a_model_is_cloned_with_its_artifact_keys_or_without(run: ExperimentRun) -> None:
    class Model:
        def __init__(self, artifacts: dict[str, str]) -> None:
            self.path = artifacts["large"]

        def predict(self, data: object) -> object:
            return data

    run.log_model(Model, custom_modules=[], artifacts=["large"])
    copy = run.clone()
    assert copy.get_attribute("verta_model_artifacts") == ["large"]
    assert copy.get_model()(run.fetch_artifacts(["large"])).predict(1) == 1
    assert "verta_model_artifacts" not in run.clone(copy_artifacts=False).get_attributes()
