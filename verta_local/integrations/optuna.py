"""Optuna: a callback that makes a run of each trial. Not in Verta."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verta_local.errors import MissingExtra
from verta_local.integrations.recorder import Recorder

try:
    import optuna
except ImportError as error:
    raise MissingExtra("verta_local.integrations.optuna needs Optuna; install it with: pip install optuna") from error

if TYPE_CHECKING:
    from verta_local.client import Client


class VertaCallback:
    """Give it to `study.optimize(objective, callbacks=[VertaCallback(client)])`.

    Each finished trial becomes a run `<study>-trial-<number>` of the client's active experiment, with the trial's
    parameters as hyperparameters, its values as metrics, its reports as observations, its user attributes as
    attributes, and a tag of its state ("complete", "pruned", "fail").

    Args:
        client: whose active experiment the runs go to.
        metric_names: names of the values; by default the study's own, else "value", or "value_0", "value_1", ...
    """

    def __init__(self, client: Client, metric_names: list[str] | None = None) -> None:
        self._client = client
        self._metric_names = metric_names

    def __call__(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        """Logs one trial."""
        run = self._client.set_experiment_run(f"{study.study_name}-trial-{trial.number}")
        recorder = Recorder(run)
        recorder.hyperparameters(trial.params)
        for step, value in sorted(trial.intermediate_values.items()):
            recorder.observations({"intermediate_value": value}, epoch=step)
        found = trial.values or []
        recorder.metrics(dict(zip(self._names(study, len(found)), found, strict=True)))
        if trial.duration is not None:
            recorder.metrics({"duration_s": trial.duration.total_seconds()})
        run.log_tag(trial.state.name.lower())
        if trial.user_attrs:
            run.log_attributes({"optuna/user_attributes": trial.user_attrs}, overwrite=True)

    def _names(self, study: Any, count: int) -> list[str]:
        names = self._metric_names or getattr(study, "metric_names", None)
        if names is None:
            return ["value"] if count == 1 else [f"value_{number}" for number in range(count)]
        if count not in (0, len(names)):
            raise ValueError(f"the trial has {count} values, but {len(names)} metric names: {', '.join(names)}")
        return list(names[:count])
