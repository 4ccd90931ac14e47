"""Models that a pickle cannot hold by itself, and model files: how they are written, told apart and read.

Keras models are written as their own `.keras` archive inside the pickle, with the user's layer classes and functions
beside it (a Keras archive only names them, so that another process would not find them); TensorFlow modules as a
SavedModel, TorchScript as its own archive. No library is imported that the model does not bring.

Reading a model file may run code from it, as unpickling does: only `loading` calls `read_model_file`, behind its gate
and with bytes that were verified.
"""

from __future__ import annotations

import importlib
import io
import os
import shutil
import sys
import tempfile
import types
import warnings
import weakref
import zipfile
from collections.abc import Callable
from typing import Any

from .frameworks import KERAS_PACKAGES

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK\x03\x04"
# Protocols 2 to 5; earlier ones are text, which nothing tells from other text.
_PICKLE_MAGICS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def reduce_model(model: object, framework: str | None) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
    """How a pickler is to write a model that it cannot write itself: (function, arguments); None for any other."""
    if framework == "keras":
        return restore_keras, (_keras_bytes(model), _custom_objects(model), _keras_package(model))
    if framework == "tensorflow":
        return restore_saved_model, (_saved_model_bytes(model),)
    if framework == "torchscript":
        stream = io.BytesIO()
        sys.modules["torch"].jit.save(model, stream)
        return restore_torchscript, (stream.getvalue(),)
    return None


# Keras


def _keras_package(model: object) -> str:
    tops = [base.__module__.partition(".")[0] for base in type(model).__mro__]
    return next(top for top in KERAS_PACKAGES if top in tops)


def _keras_bytes(model: Any) -> bytes:
    if not model.built:
        raise ValueError("the Keras model has no weights yet: call it, build() or fit() it first")
    with tempfile.TemporaryDirectory(prefix="verta_local-model-") as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        with open(path, "rb") as file:
            return file.read()


def restore_keras(data: bytes, custom_objects: dict[str, Any], package: str) -> Any:
    """The Keras model of a `.keras` archive. Called by pickles: its name and arguments stay."""
    return _load_keras(data, "model.keras", custom_objects, package)


def _load_keras(data: bytes, name: str, custom_objects: dict[str, Any], package: str) -> Any:
    models = importlib.import_module(package).models
    with tempfile.TemporaryDirectory(prefix="verta_local-model-") as folder, warnings.catch_warnings():
        # Of optimizers without state: a model that was compiled and never trained.
        warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
        path = os.path.join(folder, name)
        with open(path, "wb") as file:
            file.write(data)
        try:
            # Lambda layers hold code, as every pickle does; the gate stands in front of both.
            return models.load_model(path, custom_objects=custom_objects, safe_mode=False)
        except Exception as error:
            cause = error
            # A loss or metric that Keras writes by a name that it does not read back (HDF5 does that): the model
            # predicts all the same, and compile() brings it back to training.
            try:
                model = models.load_model(path, custom_objects=custom_objects, safe_mode=False, compile=False)
            except Exception:
                raise cause from None
        warnings.warn(
            f"the Keras model is loaded without its loss and optimizer ({_first_line(cause)}); "
            "call compile() to train it further",
            stacklevel=2,
        )
        return model


def _custom_objects(model: Any) -> dict[str, Any]:
    """The user's classes and functions in a Keras model, by the names that its archive uses."""
    found: dict[str, Any] = {}

    def note(value: Any) -> None:
        if isinstance(value, types.FunctionType):
            if _is_users(value.__module__):
                found.setdefault(value.__name__, value)
        elif _is_users(type(value).__module__) and hasattr(value, "get_config"):
            found.setdefault(type(value).__name__, type(value))

    flatten = getattr(model, "_flatten_layers", None)
    layers = list(flatten()) if callable(flatten) else [model, *model.layers]
    for layer in layers:
        note(layer)
        for value in list(vars(layer).values()):
            note(value)
    # What compile() was given; Keras keeps metrics there only.
    metrics = getattr(getattr(model, "_compile_metrics", None), "_user_metrics", None)
    for value in _values_in([getattr(model, "optimizer", None), getattr(model, "loss", None), metrics]):
        note(value)
    return found


def _values_in(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [value for item in tree.values() for value in _values_in(item)]
    if isinstance(tree, (list, tuple)):
        return [value for item in tree for value in _values_in(item)]
    return [tree]


def _is_users(module: str | None) -> bool:
    return (module or "").partition(".")[0] not in (*KERAS_PACKAGES, "tensorflow", "builtins", "numpy", "jax", "torch")


# TensorFlow and TorchScript


def _saved_model_bytes(model: object) -> bytes:
    tensorflow = sys.modules["tensorflow"]
    with tempfile.TemporaryDirectory(prefix="verta_local-model-") as folder:
        tensorflow.saved_model.save(model, folder)
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for parent, folders, names in os.walk(folder):
                for name in sorted([*folders, *names]):
                    path = os.path.join(parent, name)
                    archive.write(path, os.path.relpath(path, folder))
        return stream.getvalue()


def restore_saved_model(data: bytes) -> Any:
    """The TensorFlow object of a zipped SavedModel. Called by pickles: its name and argument stay."""
    folder = tempfile.mkdtemp(prefix="verta_local-model-")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(folder)  # paths that lead out of the folder are cut off by zipfile
    model = load_saved_model(folder)
    # Assets (vocabularies) may be read late: the folder goes with the model.
    weakref.finalize(model, shutil.rmtree, folder, True)
    return model


def load_saved_model(folder: str) -> Any:
    """The TensorFlow object of a SavedModel's folder."""
    return importlib.import_module("tensorflow").saved_model.load(folder)


def restore_torchscript(data: bytes) -> Any:
    """The TorchScript module of an archive, on the CPU. Called by pickles: its name and argument stay."""
    return importlib.import_module("torch").jit.load(io.BytesIO(data), map_location="cpu")


# Files


def is_saved_model(folder: str) -> bool:
    """Whether a folder holds a TensorFlow SavedModel."""
    return os.path.isfile(os.path.join(folder, "saved_model.pb"))


def file_format(data: bytes) -> str | None:
    """What a model file holds, by its first bytes and members: "keras", "hdf5", "torch", "torchscript", "pickle".

    None for anything else, a damaged archive too.
    """
    if data.startswith(_HDF5_MAGIC):
        return "hdf5"
    if data.startswith(_PICKLE_MAGICS):
        return "pickle"
    if not data.startswith(_ZIP_MAGIC):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return None
    if {"config.json", "metadata.json"} <= names:
        return "keras"
    members = {name.partition("/")[2] for name in names}
    if {"data.pkl", "constants.pkl"} <= members:
        return "torchscript"
    return "torch" if "data.pkl" in members else None


def read_model_file(data: bytes, kind: str) -> Any:
    """The model of a file of the format "keras", "hdf5" or "torchscript".

    Raises: whatever the library raises for a file that it cannot read, ImportError without the library.
    """
    if kind == "torchscript":
        return restore_torchscript(data)
    return _load_keras(data, "model.keras" if kind == "keras" else "model.h5", {}, "keras")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
