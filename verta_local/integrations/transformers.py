"""Transformers: a callback that logs a Trainer's training to a run. Not in Verta."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verta_local.errors import MissingExtra
from verta_local.integrations.recorder import Recorder

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingExtra(
        "verta_local.integrations.transformers needs Transformers; install it with: pip install transformers"
    ) from error

if TYPE_CHECKING:
    from verta_local.run import ExperimentRun

_PRIVATE = ("dir", "token", "path")  # of this machine, or secret


class VertaCallback(TrainerCallback):
    """Give it to `Trainer(..., callbacks=[VertaCallback(run)])`.

    The training arguments become hyperparameters (without folders and tokens), with the model's type and number of
    parameters; what the trainer logs becomes observations, with the global step as their epoch; what it says at the
    end (`train_loss`, `train_runtime`, ...) metrics. Only the main process logs.
    """

    def __init__(self, run: ExperimentRun) -> None:
        self._recorder = Recorder(run)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Logs the hyperparameters."""
        if not state.is_world_process_zero:
            return
        settings = {
            name: value
            for name, value in args.to_sanitized_dict().items()
            if value is not None and not any(word in name for word in _PRIVATE)
        }
        if model is not None:
            settings["model_type"] = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
            settings["model_parameters"] = sum(each.numel() for each in model.parameters())
        self._recorder.hyperparameters(settings)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Logs what the trainer reports."""
        if not state.is_world_process_zero or not logs:
            return
        found = {name: value for name, value in logs.items() if name != "epoch"}
        if "train_runtime" in found:  # the summary at the end of the training
            self._recorder.metrics(found)
        else:
            self._recorder.observations(found, epoch=state.global_step)
