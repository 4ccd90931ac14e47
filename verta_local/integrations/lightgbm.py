"""LightGBM: a callback that logs a training to a run. Not in Verta."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from verta_local.errors import MissingExtra
from verta_local.integrations.recorder import Recorder

try:
    import lightgbm  # noqa: F401 - said at import, like the other integrations
except ImportError as error:
    raise MissingExtra(
        "verta_local.integrations.lightgbm needs LightGBM; install it with: pip install lightgbm"
    ) from error

if TYPE_CHECKING:
    from verta_local.run import ExperimentRun


def verta_callback(run: ExperimentRun) -> Callable[[Any], None]:
    """A callback for `lightgbm.train(..., callbacks=[verta_callback(run)])`, `lightgbm.cv` and the estimators.

    Before the first round: the parameters as hyperparameters. After each round: an observation for each metric of
    each validation set, as `<data set>-<metric>` with the round as its epoch; of a cross-validation the mean, and the
    deviation as `<data set>-<metric>-std`.
    """
    recorder = Recorder(run)
    has_begun = False

    def callback(env: Any) -> None:
        nonlocal has_begun
        if not has_begun:
            has_begun = True
            recorder.hyperparameters(env.params)
        found = {}
        for result in env.evaluation_result_list or ():
            data, metric, value = result[0], result[1], result[2]
            # `cv` gives "cv_agg" in place of the data set's name in older versions, with both names in the second.
            name = "-".join(metric.split(" ")) if data == "cv_agg" else f"{data}-{metric}"
            found[name] = value
            if len(result) > 4:
                found[f"{name}-std"] = result[4]
        recorder.observations(found, epoch=env.iteration)

    callback.order = 15  # type: ignore[attr-defined]  # LightGBM's own: before early stopping (30), which ends a round
    return callback
