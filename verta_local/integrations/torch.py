"""PyTorch: a hook that logs a module's layers to a run, as `verta.integrations.torch`."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from verta_local.errors import MissingExtra
from verta_local.integrations.recorder import Recorder

try:
    import torch
except ImportError as error:
    raise MissingExtra("verta_local.integrations.torch needs PyTorch; install it with: pip install torch") from error

if TYPE_CHECKING:
    from verta_local.run import ExperimentRun

_SIZES = ("out_features", "out_channels", "hidden_size", "embedding_dim", "num_features")


def verta_hook(run: ExperimentRun) -> Callable[[Any, Any, Any], None]:
    """A hook for `module.register_forward_hook(verta_hook(run))`.

    With the module's first call it logs for each of its layers `layer_<i>_name`, and where the layer has them
    `layer_<i>_size` and `layer_<i>_dropoutrate`, as hyperparameters. A layer that only holds others (Sequential,
    ModuleList) counts as those. As in Verta; differs: once for a module, and not again with each call.
    """
    recorder = Recorder(run)
    seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def hook(module: Any, inputs: Any, output: Any) -> None:
        if module not in seen:
            seen.add(module)
            recorder.hyperparameters(_described(module))

    return hook


def _described(module: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, layer in enumerate(_layers(module)):
        found[f"layer_{number}_name"] = type(layer).__name__
        size = next((value for name in _SIZES if isinstance(value := getattr(layer, name, None), int)), None)
        if size is not None:
            found[f"layer_{number}_size"] = size
        if "Dropout" in type(layer).__name__ and isinstance(getattr(layer, "p", None), (int, float)):
            found[f"layer_{number}_dropoutrate"] = layer.p
    return found


def _layers(module: Any) -> list[Any]:
    layers = []
    for layer in module.children():
        is_box = isinstance(layer, (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict))
        layers.extend(_layers(layer) if is_box else [layer])
    return layers
