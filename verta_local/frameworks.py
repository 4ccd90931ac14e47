"""What `predict(data)` means for a model of a library: JSON values in, what the library takes, its answer out.

A class model brings its own `predict`. The models of a library that were logged as objects do not all take the lists
that a request holds: an XGBoost Booster wants a DMatrix, a torch module a tensor, and Keras takes a list of lists for
several inputs. No library is imported that the model did not bring: kinds are told by the names of base classes.
"""

from __future__ import annotations

import sys
from typing import Any, Protocol

KERAS_PACKAGES = ("keras", "tf_keras")
# How a model that was given as a file, folder or stream is written: as it is.
FILE_METHOD = "file"


def framework_of(kind: type) -> str | None:
    """ "keras", "tensorflow", "torchscript", "torch" or "booster" (XGBoost's) for the class of a model, else None."""
    bases = [(base.__module__.partition(".")[0], base.__name__) for base in kind.__mro__]
    if any(top in KERAS_PACKAGES for top, _ in bases):
        return "keras" if any(top in KERAS_PACKAGES and name == "Model" for top, name in bases) else None
    if ("torch", "ScriptModule") in bases:
        return "torchscript"
    if ("torch", "Module") in bases:
        return "torch"
    if ("tensorflow", "Module") in bases or ("tensorflow", "_UserObject") in bases:  # the latter: from a SavedModel
        return "tensorflow"
    return "booster" if ("xgboost", "Booster") in bases else None


class Predictor(Protocol):
    """What is served."""

    def predict(self, data: Any) -> Any:
        """The answer for one request's value."""


def predictor(model: Any) -> Predictor | None:
    """The model itself if its own `predict` takes JSON values, else one that converts; None if it cannot predict."""
    framework = framework_of(type(model))
    has_predict = callable(getattr(model, "predict", None))
    if framework == "keras":
        return _KerasPredictor(model)
    if framework in ("torch", "torchscript") and not has_predict:
        return _TorchPredictor(model)
    if framework == "tensorflow":
        return _TensorFlowPredictor(model)
    if any(
        base.__module__.partition(".")[0] == "xgboost" and base.__name__ == "Booster" for base in type(model).__mro__
    ):
        return _BoosterPredictor(model)
    if has_predict:
        return model  # type: ignore[no-any-return]
    return _FunctionPredictor(model) if callable(model) else None


class _FunctionPredictor:
    """A logged function, or an object that can be called."""

    def __init__(self, function: Any) -> None:
        self.predict = function


class _KerasPredictor:
    """Arrays in: one, a list of them for several inputs, or a dict of them by name."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def predict(self, data: Any) -> Any:
        inputs = getattr(self._model, "inputs", None) or []
        value: Any
        if isinstance(data, dict):
            value = {name: _array(item) for name, item in data.items()}
        elif isinstance(data, list) and len(inputs) > 1 and len(data) == len(inputs):
            value = [_array(item) for item in data]
        else:
            value = _array(data)
        return self._model.predict(value, verbose=0)


class _TorchPredictor:
    """A module in evaluation mode, without gradients; numbers become what its parameters are."""

    def __init__(self, model: Any) -> None:
        self._torch = sys.modules["torch"]
        self._model = model.eval()
        first = next(iter(model.parameters()), None)
        self._device = first.device if first is not None else "cpu"
        floating = [each.dtype for each in model.parameters() if each.is_floating_point()]
        self._dtype = floating[0] if floating else self._torch.float32
        # JSON does not tell 1.0 from 1 (JavaScript writes both as 1): whole numbers are indices for a module that
        # looks embeddings up, and else numbers like all others.
        self._takes_indices = any("Embedding" in type(each).__name__ for each in model.modules())

    def predict(self, data: Any) -> Any:
        with self._torch.inference_mode():
            if isinstance(data, dict):
                return self._model(**{name: self._tensor(value) for name, value in data.items()})
            return self._model(self._tensor(data))

    def _tensor(self, data: Any) -> Any:
        tensor = self._torch.as_tensor(data)
        is_number = tensor.dtype != self._torch.bool
        if tensor.is_floating_point() or (is_number and not self._takes_indices):
            tensor = tensor.to(self._dtype)
        return tensor.to(self._device)


class _TensorFlowPredictor:
    """What a SavedModel offers: `predict`, else being called, else its serving signature.

    A tf.function takes lists and makes of them what its input_signature asks for; a signature takes tensors only.
    """

    def __init__(self, model: Any) -> None:
        self._tensorflow = sys.modules["tensorflow"]
        self._function: Any = None
        self._specs: dict[str, Any] = {}
        signatures = getattr(model, "signatures", None) or {}
        if callable(getattr(model, "predict", None)):
            self._function = model.predict
        elif callable(model):
            self._function = model
        elif "serving_default" in signatures:
            self._function = signatures["serving_default"]
            self._specs = dict(self._function.structured_input_signature[1])
        else:
            raise TypeError(
                "the TensorFlow model offers nothing to call: give it a tf.function named predict or __call__ "
                "with an input_signature"
            )

    def predict(self, data: Any) -> Any:
        if not self._specs:
            return self._function(data)
        named = data if isinstance(data, dict) and data.keys() == self._specs.keys() else None
        if named is None:
            if len(self._specs) > 1:
                raise ValueError(f"the model takes a dict with the keys {', '.join(self._specs)}")
            named = {name: data for name in self._specs}
        convert = self._tensorflow.convert_to_tensor
        return self._function(**{name: convert(named[name], spec.dtype) for name, spec in self._specs.items()})


class _BoosterPredictor:
    """XGBoost's own model, which takes its own matrices."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def predict(self, data: Any) -> Any:
        matrix = sys.modules["xgboost"].DMatrix(_array(data), feature_names=self._model.feature_names)
        return self._model.predict(matrix)


def _array(data: Any) -> Any:
    import numpy  # noqa: PLC0415 - only where a library has imported it

    array = numpy.asarray(data)
    return array.astype(object) if array.dtype.kind == "U" else array  # Keras takes text as objects only
