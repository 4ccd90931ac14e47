"""`fit(..., run=run)`, and that the patch behind it harms nobody."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from verta_local import Client

pytest.importorskip("sklearn")

from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import has_fit_parameter

SIGNATURE = inspect.signature(Ridge.fit)
ORIGINAL = Ridge.fit

import verta_local.integrations.sklearn as integration  # noqa: E402

ROWS, VALUES = [[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]], [0, 0, 0, 1, 1, 1]


@pytest.fixture(autouse=True)
def patched() -> Iterator[None]:
    integration.patch()
    yield
    integration.unpatch()


def test_fit_with_a_run_logs_the_parameters(client: Client) -> None:
    """Those of every kind: what is no scalar as text."""
    run = client.set_experiment_run()
    model = LogisticRegression(C=0.5, class_weight={0: 1.0, 1: 2.0}).fit(ROWS, VALUES, run=run)
    found = run.get_hyperparameters()
    assert set(found) == set(model.get_params())
    assert found["C"] == 0.5 and found["fit_intercept"] is True and found["class_weight"] == "{0: 1.0, 1: 2.0}"


def test_pipelines_and_searches_take_it_too(client: Client) -> None:
    """Parameters of inner steps have their names."""
    run = client.set_experiment_run("pipeline")
    make_pipeline(StandardScaler(), Ridge(alpha=2.0)).fit(ROWS, VALUES, run=run)
    assert run.get_hyperparameter("ridge__alpha") == 2.0
    run = client.set_experiment_run("search")
    search = GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=2).fit(ROWS, VALUES, run=run)
    assert run.get_hyperparameter("cv") == 2 and search.best_params_["alpha"] in (0.1, 1.0)


def test_without_a_run_nothing_is_different() -> None:
    """The signature, cloning, pickling, and metadata that others look for."""
    assert inspect.signature(Ridge.fit) == SIGNATURE and has_fit_parameter(Ridge(), "sample_weight")
    model = clone(pickle.loads(pickle.dumps(Ridge(alpha=3.0).fit(ROWS, VALUES, sample_weight=[1.0] * 6))))
    assert model.alpha == 3.0
    with pytest.raises(TypeError, match="unexpected keyword argument 'runs'"):
        Ridge().fit(ROWS, VALUES, runs=1)


def test_patching_twice_is_patching_once_and_can_be_undone() -> None:
    integration.patch()
    assert Ridge.fit.__wrapped__ is ORIGINAL  # type: ignore[attr-defined]
    integration.unpatch()
    assert Ridge.fit is ORIGINAL
    assert "__init_subclass__" not in BaseEstimator.__dict__


def test_a_class_defined_later_is_reached(client: Client) -> None:
    class Mine(BaseEstimator):
        def __init__(self, depth: int = 1) -> None:
            self.depth = depth

        def fit(self, X: Any, y: Any = None) -> Mine:
            return self

    run = client.set_experiment_run()
    Mine(depth=3).fit(ROWS, run=run)  # type: ignore[call-arg]
    assert run.get_hyperparameters() == {"depth": 3}


def test_parameters_can_be_logged_without_a_patch(client: Client) -> None:
    integration.unpatch()
    run = client.set_experiment_run()
    integration.log_params(Ridge(alpha=2.0), run)
    assert run.get_hyperparameter("alpha") == 2.0
    with pytest.raises(TypeError, match="must be an experiment run, not str"):
        integration.log_params(Ridge(), "run")  # type: ignore[arg-type]
