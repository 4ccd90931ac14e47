"""XGBoost: a callback that logs a training to a run, as `verta.integrations.xgboost`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verta_local.errors import MissingExtra
from verta_local.integrations.recorder import Recorder

try:
    import xgboost
except ImportError as error:
    raise MissingExtra(
        "verta_local.integrations.xgboost needs XGBoost; install it with: pip install xgboost"
    ) from error

if TYPE_CHECKING:
    from verta_local.run import ExperimentRun


def verta_callback(run: ExperimentRun) -> Any:
    """A callback for `xgboost.train(..., callbacks=[verta_callback(run)])`, `xgboost.cv` and the estimators.

    After each round: an observation for each metric of each data set of `evals`, as `<data set>-<metric>` with the
    round as its epoch; of a cross-validation the mean, and the deviation as `<data set>-<metric>-std`. As in Verta,
    parameters are left to `run.log_hyperparameters(params)`.

    Differs: an object of today's callback class, as XGBoost takes functions no more.
    """
    return _Callback(run)


class _Callback(xgboost.callback.TrainingCallback):
    def __init__(self, run: ExperimentRun) -> None:
        super().__init__()
        self._recorder = Recorder(run)

    def after_iteration(self, model: Any, epoch: int, evals_log: dict[str, dict[str, Any]]) -> bool:
        found = {}
        for data, metrics in evals_log.items():
            for metric, history in metrics.items():
                newest = history[-1]
                if isinstance(newest, tuple):
                    found[f"{data}-{metric}"], found[f"{data}-{metric}-std"] = newest
                else:
                    found[f"{data}-{metric}"] = newest
        self._recorder.observations(found, epoch=epoch)
        return False  # go on with the training
