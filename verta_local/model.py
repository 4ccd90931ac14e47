"""Packs a model for the store: its pickle, its type, its API and the user's own modules that it needs.

A model that is given as a file, folder or stream is stored as it is: only its description is made here.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .frameworks import FILE_METHOD
from .model_api import ModelAPI
from .modules import FoundModules, collect_modules, find_modules

_METHOD = "cloudpickle"


@dataclass(frozen=True)
class PackedModel:
    """A model, ready to be stored; `data` is None for one that is a file or folder, stored as it is.

    `type` is "class", "torch", "tensorflow", "xgboost", "sklearn", "custom" (an object with predict), "callable" or
    None. `method` says how `data` was written, `python` by which version. `by_value`: it holds bytecode, which only
    the same minor version of Python runs. `api` is the model API as JSON values; it has neither "input" nor
    "output" where none was given. `third_party` are the import names of installed modules that the model
    reaches, for a hint where requirements are missing; not complete.
    """

    data: bytes | None
    type: str | None
    method: str
    python: str
    by_value: bool
    api: dict[str, Any]
    modules: FoundModules
    third_party: tuple[str, ...]

    def description(self) -> dict[str, Any]:
        """How the model is to be loaded, as JSON values for the run's record."""
        return {
            "type": self.type,
            "method": self.method,
            "python": self.python,
            "by_value": self.by_value,
            "third_party": list(self.third_party),
            # Where these hid installed or Python's own modules of the same name, they do so again when it is loaded.
            "local_modules": list(self.modules.names),
        }


def pack_model(
    model: object,
    custom_modules: Sequence[str | os.PathLike[str]] | None = None,
    model_api: ModelAPI | None = None,
    *,
    has_artifacts: bool = False,
) -> PackedModel:
    """Pickle `model` and find what must travel with it; nothing is written to disk.

    Args:
        custom_modules: files, folders and module names that travel with the model; None for the local modules
            that it needs, [] for none.
        has_artifacts: its `__init__` is to be given artifacts, so that it must be a class.

    A class from a local module is pickled by its name, and the module's file travels; from `__main__` or from
    inside a function it is pickled with the globals that it uses.

    Raises:
        TypeError: the model cannot be pickled (see `pickling`), or `custom_modules` is no list of str.
        ValueError: a custom module that does not exist, artifacts for what is no class, or a model API of
            another type.
    """
    from .pickling import Pickled, pickle_model  # noqa: PLC0415 - start-up time

    if custom_modules is not None:
        collect_modules(custom_modules)  # a wrong list is said before long work
    is_file = is_stored_as_it_is(model)
    pickled = Pickled(b"", frozenset(), False) if is_file else pickle_model(model)
    # As in Verta, these two come after the attempt to serialise.
    if has_artifacts and not isinstance(model, type):
        raise ValueError(
            f"`artifacts` can only be given with a class as the model; found an object of type "
            f"{type(model).__qualname__}: log the class itself, it is given the artifacts when it is deployed"
        )
    if model_api is not None and not isinstance(model_api, ModelAPI):
        raise ValueError(f"`model_api` must be a verta_local.utils.ModelAPI; found {type(model_api).__qualname__}")
    if custom_modules is None:
        found = find_modules(pickled.module_names)
    else:
        found = collect_modules(custom_modules, pickled.module_names)
    return PackedModel(
        data=None if is_file else pickled.data,
        type=None if is_file else model_type(model),
        method=FILE_METHOD if is_file else _METHOD,
        python=platform.python_version(),
        by_value=pickled.by_value,
        api={"version": "v1"} if model_api is None else model_api.to_dict(),
        modules=found,
        third_party=found.third_party,
    )


def is_stored_as_it_is(model: object) -> bool:
    """Whether a model is given as the path of a file or folder, or as a stream. As in Verta's later clients."""
    return isinstance(model, (str, os.PathLike)) or (not isinstance(model, type) and hasattr(model, "read"))


def model_type(model: object) -> str | None:
    """Verta's word for the kind of a model, found by the names of its base classes: no library is imported."""
    if isinstance(model, type):
        return "class"
    bases = [(base.__module__.partition(".")[0], base.__name__) for base in type(model).__mro__]
    if ("torch", "Module") in bases:
        return "torch"
    if any(top in ("keras", "tensorflow", "tf_keras") for top, _ in bases):
        return "tensorflow"
    if any(top == "xgboost" for top, _ in bases):  # before scikit-learn, whose base class its estimators have
        return "xgboost"
    if ("sklearn", "BaseEstimator") in bases:
        return "sklearn"
    if callable(getattr(model, "predict", None)):
        return "custom"
    return "callable" if callable(model) else None
