"""Lightning: a logger that writes a training to a run. Not in Verta."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from verta_local.errors import MissingExtra
from verta_local.integrations.recorder import Recorder

try:
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.utilities import rank_zero_only
except ImportError:
    try:
        from pytorch_lightning.loggers import Logger
        from pytorch_lightning.utilities import rank_zero_only
    except ImportError as error:
        raise MissingExtra(
            "verta_local.integrations.lightning needs Lightning; install it with: pip install lightning"
        ) from error

if TYPE_CHECKING:
    from verta_local.run import ExperimentRun


class VertaLogger(Logger):
    """Give it to `Trainer(logger=VertaLogger(run))`.

    What a module saves by `save_hyperparameters()` becomes hyperparameters; what it logs by `self.log()` becomes
    observations, with the step as their epoch. Only the process of rank 0 logs.
    """

    def __init__(self, run: ExperimentRun) -> None:
        super().__init__()
        self._run = run
        self._recorder = Recorder(run)

    @property
    def name(self) -> str:
        """The run's name."""
        return self._run.name

    @property
    def version(self) -> str:
        """The run's id."""
        return self._run.id

    @property
    def experiment(self) -> ExperimentRun:
        """The run, for `self.logger.experiment.log_artifact(...)` in a module."""
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Logs a module's saved hyperparameters."""
        found = vars(params) if isinstance(params, Namespace) else dict(params or {})
        self._recorder.hyperparameters(_flat(found))

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Logs what was collected at a step; the epoch number that Lightning adds to it is left out."""
        self._recorder.observations({name: value for name, value in metrics.items() if name != "epoch"}, epoch=step)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with their keys joined by `/`."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            found.update(_flat(value, f"{prefix}{name}/"))
        else:
            found[f"{prefix}{name}"] = value
    return found
