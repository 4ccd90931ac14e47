"""The callbacks of XGBoost and LightGBM, with real trainings."""

from __future__ import annotations

from typing import Any

import pytest

from verta_local import Client

np = pytest.importorskip("numpy")


@pytest.fixture
def data() -> tuple[Any, Any]:
    rows = np.random.default_rng(0).random((80, 3))
    return rows, (rows[:, 0] > 0.5).astype(int)


def test_xgboost_rounds_become_observations(client: Client, data: Any) -> None:
    """By the training function, the estimator and a cross-validation."""
    xgboost = pytest.importorskip("xgboost")
    from verta_local.integrations.xgboost import verta_callback

    run = client.set_experiment_run("train")
    train, check = xgboost.DMatrix(data[0][:60], data[1][:60]), xgboost.DMatrix(data[0][60:], data[1][60:])
    evals: dict[str, Any] = {}
    parameters = {"objective": "binary:logistic", "eval_metric": ["logloss", "auc"]}
    xgboost.train(
        parameters, train, 4, evals=[(train, "train"), (check, "check")], evals_result=evals,
        callbacks=[verta_callback(run)], verbose_eval=False,
    )  # fmt: skip
    assert set(run.get_observations()) == {"train-logloss", "train-auc", "check-logloss", "check-auc"}
    points = run.get_observation("check-logloss")
    assert [epoch for _, _, epoch in points] == [0, 1, 2, 3]
    assert [value for value, _, _ in points] == evals["check"]["logloss"]

    run = client.set_experiment_run("cv")
    xgboost.cv(parameters, train, 3, nfold=3, callbacks=[verta_callback(run)])
    assert {"test-auc", "test-auc-std"} <= set(run.get_observations())
    assert len(run.get_observation("test-auc")) == 3

    pytest.importorskip("sklearn")
    run = client.set_experiment_run("estimator")
    estimator = xgboost.XGBClassifier(n_estimators=3, callbacks=[verta_callback(run)])
    estimator.fit(*data, eval_set=[data], verbose=False)
    assert len(run.get_observation("validation_0-logloss")) == 3


def test_lightgbm_rounds_become_observations_and_parameters_hyperparameters(client: Client, data: Any) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    from verta_local.integrations.lightgbm import verta_callback

    run = client.set_experiment_run("train")
    train = lightgbm.Dataset(data[0][:60], data[1][:60])
    check = lightgbm.Dataset(data[0][60:], data[1][60:], reference=train)
    evals: dict[str, Any] = {}
    parameters = {"objective": "binary", "metric": ["auc", "binary_logloss"], "num_leaves": 4, "verbose": -1}
    lightgbm.train(
        parameters, train, 4, valid_sets=[check], valid_names=["check"],
        callbacks=[verta_callback(run), lightgbm.record_evaluation(evals), lightgbm.early_stopping(2, verbose=False)],
    )  # fmt: skip
    assert run.get_hyperparameter("num_leaves") == 4 and run.get_hyperparameter("objective") == "binary"
    points = run.get_observation("check-binary_logloss")
    assert [value for value, _, _ in points] == evals["check"]["binary_logloss"]
    assert [epoch for _, _, epoch in points] == list(range(len(points)))

    run = client.set_experiment_run("cv")
    lightgbm.cv(parameters, train, 3, nfold=3, callbacks=[verta_callback(run)])
    assert {"valid-auc", "valid-auc-std"} <= set(run.get_observations())
    assert len(run.get_observation("valid-auc")) == 3
