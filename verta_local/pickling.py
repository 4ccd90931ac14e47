"""Writes the pickle of a model, sees what it refers to, and says what is at fault where it cannot be written.

The only file that imports cloudpickle; its readers import it when a model is logged, never before.
"""

from __future__ import annotations

import importlib.machinery
import io
import os
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cloudpickle

from .frameworks import framework_of
from .local_modules import imports_of_code, is_local_file
from .model_formats import reduce_model

_MAX_FAULT_DEPTH = 12  # steps from the model to what cannot be pickled; a sentence with more helps nobody


@dataclass(frozen=True)
class Pickled:
    """A pickle, the modules that it names or that its code imports when it runs, and whether it holds bytecode."""

    data: bytes
    module_names: frozenset[str]
    by_value: bool


def pickle_model(model: object) -> Pickled:
    """Pickle a class, function or object: by reference what can be imported elsewhere, all else by value.

    By value go definitions in `__main__` (script or notebook) or inside functions, with the globals that they use,
    and those in modules that no file backs.

    Raises:
        TypeError: it cannot be pickled; one sentence that says which global or attribute is at fault.
    """
    try:
        data, pickler = _dump(model)
        unimportable = [module for name in pickler.owners if (module := sys.modules.get(name)) and _is_dynamic(module)]
        if unimportable:
            data, pickler = _dump_by_value(model, unimportable)
    except Exception as error:  # objects raise what they like when asked for their state
        raise TypeError(_fault_sentence(model, error)) from error
    return Pickled(data, frozenset(pickler.module_names), pickler.wrote_code)


class _WatchingPickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Notes the modules of all that it writes. The C pickler calls `reducer_override` for all but plain builtins."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.module_names: set[str] = set()
        self.owners: set[str] = set()  # modules of classes and functions
        self.wrote_code = False
        self._package_of_code: dict[int, str] = {}
        self._framework_of: dict[type, str | None] = {}

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is types.FunctionType:
            self._note(obj.__module__)
            self._package_of_code[id(obj.__code__)] = obj.__globals__.get("__package__") or ""
        elif kind is types.CodeType:  # of a function that goes by value
            self.wrote_code = True
            if id(obj) in self._package_of_code:
                self.module_names |= imports_of_code(obj, self._package_of_code[id(obj)])
        elif kind is types.ModuleType:
            self.module_names.add(obj.__name__)
        elif isinstance(obj, type):
            self._note(obj.__module__)
            if (place := _other_place(obj)) is not None:
                return getattr, place
        else:
            if kind not in self._framework_of:
                self._framework_of[kind] = framework_of(kind)
                self._note(kind.__module__)
            framework = self._framework_of[kind]
            if framework is not None and (written := reduce_model(obj, framework)) is not None:
                return written
        if kind is types.BuiltinFunctionType:
            self._note(obj.__module__)
        return super().reducer_override(obj)

    def _note(self, name: object) -> None:
        if isinstance(name, str):
            self.module_names.add(name)
            self.owners.add(name)


def _other_place(cls: type) -> tuple[types.ModuleType, str] | None:
    """The module and the name that a class has there, where that is not what the class calls itself.

    `annoy.AnnoyIndex` calls itself `annoy.Annoy`, which nobody can import. cloudpickle takes such a class by value,
    and one without Python code then fails when it is loaded.
    """
    module = sys.modules.get(cls.__module__)
    if module is None or module.__name__ == "__main__" or _goes_by_value(module.__name__):
        return None
    found: object = module
    for part in cls.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is cls:
        return None
    names = (name for name, value in list(vars(module).items()) if value is cls)
    return next(((module, name) for name in names), None)


def _goes_by_value(module_name: str) -> bool:
    registered = cloudpickle.list_registry_pickle_by_value()
    return any(module_name == name or module_name.startswith(name + ".") for name in registered)


def _dump(model: object) -> tuple[bytes, _WatchingPickler]:
    file = io.BytesIO()
    pickler = _WatchingPickler(file)
    pickler.dump(model)
    return file.getvalue(), pickler


def _dump_by_value(model: object, modules: list[types.ModuleType]) -> tuple[bytes, _WatchingPickler]:
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        return _dump(model)
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _is_dynamic(module: types.ModuleType) -> bool:
    """Whether no other process can import this module: it was made in memory, or lies in the user's own archive."""
    if module.__name__ == "__main__":
        return False  # cloudpickle takes it by value anyway
    if module.__name__ == "__mp_main__":  # what `__main__` is called in a process started by multiprocessing
        return True
    top = sys.modules.get(module.__name__.partition(".")[0], module)
    file = getattr(top, "__file__", None)
    if isinstance(file, str):
        return not os.path.exists(file) and is_local_file(file)
    spec = getattr(top, "__spec__", None)
    return not isinstance(spec, importlib.machinery.ModuleSpec) and not hasattr(top, "__path__")


# Saying what is at fault


def _fault_sentence(model: object, error: Exception) -> str:
    name = getattr(model, "__qualname__", None) or f"of type {type(model).__qualname__}"
    steps, culprit = _fault(model)
    cause = " ".join(str(error).split()) or type(error).__name__
    if not steps:
        return f"the model {name} cannot be pickled: {cause}"
    kind = type(culprit)
    return (
        f"the model {name} cannot be pickled: {', '.join(steps)} is a {kind.__module__}.{kind.__qualname__} ({cause}); "
        "make it in __init__() or predict() instead, or log it as an artifact"
    )


def _fault(model: object) -> tuple[list[str], object]:
    """The steps from the model to the innermost part that cannot be pickled by itself, and that part.

    Parts are tried one by one, rather than followed in the pickler, because the C pickler does not tell where it
    is, and what is at fault may hide behind an object's own `__getstate__`.
    """
    steps: list[str] = []
    visited = {id(model)}
    while len(steps) < _MAX_FAULT_DEPTH:
        for label, part in _parts(model):
            if id(part) in visited or _is_picklable(part):
                continue
            visited.add(id(part))
            steps.append(label)
            model = part
            break
        else:
            break
    return steps, model


def _is_picklable(part: object) -> bool:
    try:
        _dump(part)
    except Exception:  # the same any error as above
        return False
    return True


def _parts(whole: object) -> Iterator[tuple[str, object]]:
    if isinstance(whole, type):
        for name, value in vars(whole).items():
            if name in ("__dict__", "__weakref__", "__doc__", "__module__"):
                continue
            if isinstance(value, property):
                value = value.fget
            value = getattr(value, "__func__", value)  # of classmethod and staticmethod
            label = "method" if isinstance(value, types.FunctionType) else "class attribute"
            yield f"{label} {name!r}", value
        for base in whole.__bases__:
            yield f"base class {base.__qualname__!r}", base
    elif isinstance(whole, types.FunctionType):
        for name in _names_of(whole.__code__):
            if name in whole.__globals__:
                yield f"global {name!r}", whole.__globals__[name]
        for name, cell in zip(whole.__code__.co_freevars, whole.__closure__ or (), strict=True):
            try:
                yield f"variable {name!r} of the enclosing function", cell.cell_contents
            except ValueError:
                continue  # not bound yet
        for position, default in enumerate([*(whole.__defaults__ or ()), *(whole.__kwdefaults__ or {}).values()]):
            yield f"default {position + 1} of its arguments", default
    elif isinstance(whole, dict):
        for key, value in whole.items():
            yield f"item {key!r}"[:80], value
    elif isinstance(whole, (list, tuple, set, frozenset)):
        for position, value in enumerate(whole):
            yield f"item {position}", value
    elif not isinstance(whole, types.ModuleType) and isinstance(getattr(whole, "__dict__", None), dict):
        for name, value in vars(whole).items():
            yield f"attribute {name!r}", value


def _names_of(code: types.CodeType) -> list[str]:
    names = list(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names.extend(_names_of(const))
    return names
