"""Keras: a callback that logs a training to a run, as `verta.integrations.keras`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verta_local.errors import MissingExtra
from verta_local.integrations.recorder import Recorder

try:
    import keras
except ImportError as error:
    raise MissingExtra("verta_local.integrations.keras needs Keras; install it with: pip install keras") from error

if TYPE_CHECKING:
    from verta_local.run import ExperimentRun


class VertaCallback(keras.callbacks.Callback):
    """Give it to `fit(..., callbacks=[VertaCallback(run)])`.

    Logged as hyperparameters: `optimizer`, `loss`, what Keras tells of the training (`epochs`, `steps`), and for each
    layer `layer_<i>_name`, and where it has them `layer_<i>_size`, `layer_<i>_activation`, `layer_<i>_dropoutrate`.
    After each epoch: an observation for each loss and metric, with the epoch's number. As in Verta.

    Differs: a second `fit` replaces the hyperparameters instead of keeping the first ones.
    """

    def __init__(self, run: ExperimentRun) -> None:
        super().__init__()
        self._recorder = Recorder(run)

    def on_train_begin(self, logs: Any = None) -> None:
        """Logs the hyperparameters."""
        params = {name: value for name, value in (self.params or {}).items() if name != "verbose" and value is not None}
        self._recorder.hyperparameters({**params, **_described(self.model)})

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Logs the observations of an epoch."""
        self._recorder.observations(logs or {}, epoch=epoch)


def _described(model: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("optimizer", "loss"):
        value = getattr(model, name, None)
        if value is not None:
            found[name] = _name_of(value)
    for number, layer in enumerate(getattr(model, "layers", ())):
        found[f"layer_{number}_name"] = layer.name
        if isinstance(getattr(layer, "units", None), int):
            found[f"layer_{number}_size"] = layer.units
        if getattr(layer, "activation", None) is not None:
            found[f"layer_{number}_activation"] = _name_of(layer.activation)
        if isinstance(getattr(layer, "rate", None), (int, float)):
            found[f"layer_{number}_dropoutrate"] = layer.rate
    return found


def _name_of(value: Any) -> str:
    """A text as it is, else the name of a function, or of the class of an optimizer or loss.

    Not `value.name`, which Keras counts up in a process ("sgd_3"): runs are looked for by it.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return ", ".join(_name_of(each) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_name_of(each)}" for name, each in value.items())
    return str(getattr(value, "__name__", None) or type(value).__name__)
