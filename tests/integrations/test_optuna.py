"""The callback of Optuna, with real studies."""

from __future__ import annotations

from typing import Any

import pytest

from verta_local import Client

optuna = pytest.importorskip("optuna")

from verta_local.integrations.optuna import VertaCallback  # noqa: E402


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_each_trial_becomes_a_run(client: Client) -> None:
    """Pruned and failed ones too; the best is found by a query."""

    def objective(trial: Any) -> float:
        x = trial.suggest_float("x", -1, 1)
        trial.set_user_attr("note", "tried")
        trial.report(x, step=0)
        if trial.number == 2:
            raise optuna.TrialPruned
        if trial.number == 3:
            raise ZeroDivisionError
        return x * x

    client.set_project("search")
    experiment = client.set_experiment("squares")
    study = optuna.create_study(study_name="squares", sampler=optuna.samplers.RandomSampler(0))
    study.optimize(objective, n_trials=5, callbacks=[VertaCallback(client)], catch=ZeroDivisionError)
    assert len(experiment.expt_runs) == 5
    best = experiment.expt_runs.bottom_k("metrics.value", 1)[0]
    assert best.name == f"squares-trial-{study.best_trial.number}"
    assert best.get_hyperparameters() == study.best_params and best.get_metric("value") == study.best_value
    assert best.get_tags() == ["complete"] and best.get_metric("duration_s") >= 0
    assert best.get_attribute("optuna/user_attributes") == {"note": "tried"}
    assert best.get_observation("intermediate_value")[0][0] == study.best_params["x"]
    pruned = client.set_experiment_run("squares-trial-2")
    assert pruned.get_tags() == ["pruned"] and "x" in pruned.get_hyperparameters()
    assert client.set_experiment_run("squares-trial-3").get_tags() == ["fail"]


def test_several_values_have_names(client: Client) -> None:
    """Given, or counted; the number has to fit."""

    def objective(trial: Any) -> tuple[float, float]:
        return trial.suggest_float("x", 0, 1), 1.0

    for names, expected in ((None, ["value_0", "value_1"]), (["loss", "size"], ["loss", "size"])):
        study = optuna.create_study(study_name=f"two-{names}", directions=["minimize", "maximize"])
        study.optimize(objective, n_trials=1, callbacks=[VertaCallback(client, names)])
        run = client.set_experiment_run(f"two-{names}-trial-0")
        assert [name for name in run.get_metrics() if name != "duration_s"] == expected
    study = optuna.create_study(study_name="wrong")
    with pytest.raises(ValueError, match="the trial has 1 values, but 2 metric names"):
        study.optimize(lambda trial: 1.0, n_trials=1, callbacks=[VertaCallback(client, ["a", "b"])])
