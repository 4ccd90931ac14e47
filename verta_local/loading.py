"""The one place of the project that unpickles, or imports, what was logged.

Whatever runs logged code passes `may_load` first; every byte of a pickle is verified, and it is unpickled from the
verified bytes in memory. The engine checks digests; the user's modules are imported by `stored_modules`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import io
import linecache
import os
import pickle
import platform
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from verta_store import Store, open_store
from verta_store.digest import digests_in
from verta_store.errors import StoreError

from .errors import EnvironmentUnmet, LoadError
from .frameworks import FILE_METHOD, predictor
from .installed import unmet_pins
from .stored_modules import CONFIG_FILE, INIT_FILE, ModuleTree, borrowed, install
from .tracebacks import own_traceback
from .trust import code_of, is_trusted

# A folder of as many files is checked beside the loading of its model: a look at each takes 4 microseconds.
_CHECKED_BESIDE_FROM = 1000

_SETUP_SCRIPT = "<setup script>"  # its name in tracebacks


def may_load(digest: str, author: str | None) -> bool:
    """The policy in front of all logged code: whether the object `digest`, logged by `author`, may run here.

    Args:
        author: who logged it ("user on host", see `trust`), or None where that is not known.

    What this user logged, or has approved, may.
    """
    return is_trusted(digest, author)


def load_object(store: Store, digest: str, author: str | None = None) -> Any:
    """Return the object of a pickle in the store, or of a file that PyTorch has saved.

    Raises:
        MissingObject, CorruptObject: nothing was unpickled.
        LoadError: the policy forbids it, or unpickling failed; `.traceback` is that of the object's own code.
    """
    _require_allowed(digest, author)
    data = store.read_verified(digest)
    try:
        return _load_torch(data) if data.startswith(b"PK") else _unpickle(data)
    except (Exception, SystemExit) as error:
        raise _load_error("the object", error, None) from error


def load_model(spec: Mapping[str, Any]) -> Any:
    """Return the model of a spec, ready to predict; for a process that exists for this model alone.

    A class is called with `artifacts={key: path}`, the paths being those in the store; a class logged without
    artifacts gets `artifacts={}` if its `__init__` takes that name, else nothing. A function becomes an object
    whose `predict` it is. The user's modules stay first on `sys.path`, so that late imports find them.

    Args:
        spec: the model spec (`run.model_spec()`).

    Raises:
        EnvironmentUnmet: the requirements or the Python version are not met.
        LoadError: the policy forbids it, an object is missing or damaged, or the user's code failed; `.traceback` is
            the user's own traceback then, else ''.
    """
    try:
        store = open_store(spec["store"], spec["cache_dir"])
        store.hold(digests_in(spec), f"serving {_name_of(spec)}")  # stays loadable, should the run be deleted
        for digest, author in code_of(spec):  # before anything is installed: that runs code of others too
            _require_allowed(digest, author)
        _check_environment(spec)
        os.environ.update(spec.get("env_vars") or {})  # of log_environment; before any import that may read them
        artifacts, checks = _artifact_paths(store, spec)
        tree = _module_tree(store, spec)
        if tree is not None:
            install(tree)
        _run_setup_script(store, spec)
        logged = _read_model(store, spec, tree)
    except StoreError as error:
        raise LoadError(f"{_name_of(spec)} cannot be loaded: {error}") from error
    try:
        model = _instantiate(logged, artifacts) if isinstance(logged, type) else logged
    except (Exception, SystemExit) as error:
        _finish(checks, spec)  # damage explains what the user's code stumbled over
        what = f"{logged.__qualname__}() of {_name_of(spec)}"
        raise _load_error(what, error, tree) from error
    _finish(checks, spec)
    if isinstance(logged, type) and hasattr(os, "geteuid") and os.geteuid() == 0:
        _require_untouched(store, spec)
    if isinstance(logged, type):
        served = model if callable(getattr(model, "predict", None)) else None
    else:
        try:
            served = predictor(model)
        except Exception as error:
            raise _load_error(_name_of(spec), error, tree) from error
    if served is None:
        raise LoadError(f"{_name_of(spec)} has no method predict(data); it is of type {type(model).__qualname__}")
    return served


def _run_setup_script(store: Store, spec: Mapping[str, Any]) -> None:
    """Runs what `log_setup_script` was given. Raises LoadError with the script's own traceback."""
    script = spec.get("setup_script")
    if not script:
        return
    _require_allowed(script["digest"], script.get("author", spec.get("author")))
    code = store.read_verified(script["digest"]).decode("utf-8")
    # The traceback shows the script's lines, though they are in no file.
    linecache.cache[_SETUP_SCRIPT] = (len(code), None, code.splitlines(keepends=True), _SETUP_SCRIPT)
    try:
        exec(compile(code, _SETUP_SCRIPT, "exec", dont_inherit=True), {"__name__": "__setup_script__"})
    except (Exception, SystemExit) as error:
        raise _load_error(f"the setup script of {_name_of(spec)}", error, None) from error


def load_logged_model(spec: Mapping[str, Any]) -> Any:
    """Return what was given to `log_model`: the class itself, or the object. For the user's own process.

    The user's modules are borrowed for it (see `stored_modules.borrowed`): the process is left as it was. That
    requirements are missing is said only when loading fails for it.

    Raises:
        MissingObject, CorruptObject: nothing was unpickled or imported.
        LoadError: as `load_model`.
    """
    store = open_store(spec["store"], spec["cache_dir"])
    tree = _module_tree(store, spec)
    with contextlib.nullcontext() if tree is None else borrowed(tree):
        if spec["model"].get("method") != FILE_METHOD:
            return _read_model(store, spec, tree)
        try:
            found = _read_model(store, spec, tree)
        except LoadError as error:
            warnings.warn(f"{error}; it comes back as its bytes", stacklevel=3)
        else:
            if found is not None:
                return found
    return _bytes_of_model(store, spec)


def _unpickle(data: bytes) -> Any:
    """Unpickle verified bytes, without changing what lives in this process.

    cloudpickle gives a class that this process defined, and that it wrote by value, back as the same object: good,
    `isinstance` holds and a dataclass equals its copy. But it also sets the class's members again, whose functions
    then no longer see the globals of the notebook that they were written in. That second step is left out.
    """
    cloudpickle = sys.modules.get("cloudpickle.cloudpickle")
    live = set(getattr(cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_ID", {}).values())
    return _SparingUnpickler(data, live).load() if live else pickle.loads(data)


class _SparingUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes, live: set[type]) -> None:
        super().__init__(io.BytesIO(data))
        self._live = live

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if name == "_class_setstate" and module.partition(".")[0] == "cloudpickle":
            return lambda target, state: target if target in self._live else found(target, state)
        return found


def _require_allowed(digest: str, author: str | None) -> None:
    if not may_load(digest, author):
        who = f"was logged by {author}" if author else "was logged by nobody known"
        raise LoadError(
            f"{digest[:19]} {who}, and loading it runs their code as you: if you trust them, approve it once with "
            "run.trust(), or: verta-local trust RUN"
        )


def _artifact_paths(store: Store, spec: Mapping[str, Any]) -> tuple[dict[str, str], list[Callable[[], None]]]:
    """Artifact key -> path in the store, in the order given to `log_model`, and what waits for the checks of folders.

    Every byte was read and checked by this host, now or earlier, when this returns. Whether anything has changed since
    then is known, too; but of a folder of thousands of files, where a look at each takes as long as loading the model,
    that goes on beside the loading, and ends before the model is used.
    """
    paths = {}
    checks = []
    for key, artifact in spec["artifacts"].items():
        kind, digest, name = artifact["kind"], artifact["digest"], artifact["name"]
        if kind not in ("blob", "tree"):  # only the text of a path was logged
            paths[key] = name
            continue
        if kind == "tree" and artifact.get("file_count", 0) >= _CHECKED_BESIDE_FROM:
            checks.append(store.begin_tree_check(digest))
        else:
            store.check(kind, digest)
        unpacked = artifact.get("unpack", False)
        path = store.unpacked_path_of(digest, name) if unpacked else store.path_of(kind, digest, name)
        paths[key] = os.fspath(path)
    return paths, checks


def _finish(checks: list[Callable[[], None]], spec: Mapping[str, Any]) -> None:
    for check in checks:
        try:
            check()
        except StoreError as error:
            raise LoadError(f"{_name_of(spec)} cannot be loaded: {error}") from error


def _require_untouched(store: Store, spec: Mapping[str, Any]) -> None:
    """Says at once what read-only modes keep everybody from but root, containers' usual user: a changed artifact.

    Of folders of thousands of files only the next loading says it: a look at each takes too long.
    """
    for key, artifact in spec["artifacts"].items():
        is_large = artifact.get("file_count", 0) >= _CHECKED_BESIDE_FROM
        if artifact["kind"] in ("blob", "tree") and not is_large:
            try:
                store.check(artifact["kind"], artifact["digest"])
            except StoreError as error:
                raise LoadError(
                    f"{_name_of(spec)} has written into its artifact {key!r} in the store, which only root can: "
                    f"{error}. Let the model open a copy for writing (shutil.copy), or run it as an ordinary user"
                ) from error


def _module_tree(store: Store, spec: Mapping[str, Any]) -> ModuleTree | None:
    """The user's modules, checked; None without any."""
    modules = spec.get("custom_modules")
    if not modules:
        return None
    digest = modules["digest"]
    _require_allowed(digest, modules.get("author", spec.get("author")))
    store.check("tree", digest)
    digests = {entry.path: entry.digest for entry in store.tree_entries(digest) if not entry.is_folder}
    if digests.keys() <= {INIT_FILE, CONFIG_FILE}:
        digests = {}
    folder = os.fspath(store.path_of("tree", digest, "custom_modules"))
    return ModuleTree(folder, digests, needed=spec["model"].get("local_modules"))


def _read_model(store: Store, spec: Mapping[str, Any], tree: ModuleTree | None) -> Any:
    """The class or object of a pickle; the object in a model file or folder, None for a file that holds none."""
    digest = spec["model"]["digest"]
    _require_allowed(digest, spec.get("author"))
    if spec["model"].get("method") == FILE_METHOD:
        read = _reader_of_file(store, spec)
    else:
        data = store.read_verified(digest)
        _check_python(spec, data)
        read = functools.partial(_unpickle, data)
    if read is None:
        return None
    try:
        return read()
    except (Exception, SystemExit) as error:
        raise _load_error(_name_of(spec), error, tree, spec) from error


def _reader_of_file(store: Store, spec: Mapping[str, Any]) -> Callable[[], Any] | None:
    from .model_formats import file_format, is_saved_model, load_saved_model, read_model_file  # noqa: PLC0415 - rare

    digest = spec["model"]["digest"]
    if spec["model"]["kind"] == "tree":
        store.check("tree", digest)
        folder = os.fspath(store.path_of("tree", digest, spec["model"]["name"]))
        return functools.partial(load_saved_model, folder) if is_saved_model(folder) else None
    data = store.read_verified(digest)
    kind = file_format(data)
    if kind is None:
        return None
    if kind in ("pickle", "torch"):
        return functools.partial(_unpickle if kind == "pickle" else _load_torch, data)
    return functools.partial(read_model_file, data, kind)


def _load_torch(data: bytes) -> Any:
    torch = importlib.import_module("torch")
    # Whole modules, as Verta took them, and not weights alone: that is unpickling, behind the same gate.
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)


def _bytes_of_model(store: Store, spec: Mapping[str, Any]) -> io.BytesIO:
    from .artifacts import zip_of  # noqa: PLC0415 - start-up time of a served model

    model = spec["model"]
    if model["kind"] == "tree":
        store.check("tree", model["digest"])
        return zip_of(os.fspath(store.path_of("tree", model["digest"], model["name"])))
    return io.BytesIO(store.read_verified(model["digest"]))


def _instantiate(model_class: type, artifacts: dict[str, str]) -> object:
    if artifacts or _accepts_artifacts(model_class):
        return model_class(artifacts=artifacts)  # as in Verta: by keyword
    return model_class()


def _accepts_artifacts(model_class: type) -> bool:
    try:
        inspect.signature(model_class).bind(artifacts={})
    except (TypeError, ValueError):  # ValueError: written in C, without a signature
        return False
    return True


# Does it fit here?


def _check_environment(spec: Mapping[str, Any]) -> None:
    unmet = unmet_pins(spec.get("requirements") or ())
    python = _wanted_python(spec) if spec["model"].get("by_value") else ""
    if unmet:
        raise EnvironmentUnmet(
            f"{_name_of(spec)} needs what is not installed here: {', '.join(str(each) for each in unmet)}; "
            f"run: python -m pip install {' '.join(each.pin for each in unmet)}",
            [str(each) for each in unmet],
            python,
        )
    if python:
        raise _other_python(spec, python)


def _wanted_python(spec: Mapping[str, Any]) -> str:
    """The minor version that logged the model, where another one runs; else ''."""
    logged = str(spec.get("python") or "").split(".")[:2]
    return ".".join(logged) if logged[0] and logged != platform.python_version().split(".")[:2] else ""


def _other_python(spec: Mapping[str, Any], python: str) -> EnvironmentUnmet:
    return EnvironmentUnmet(
        f"{_name_of(spec)} was logged by Python {spec.get('python')} with the bytecode of its functions, which Python "
        f"{platform.python_version()} cannot run: use Python {python}, or define the model in a module file and log it "
        "again",
        [],
        python,
    )


def _check_python(spec: Mapping[str, Any], data: bytes) -> None:
    python = _wanted_python(spec)
    if not python:
        return
    by_value = spec["model"].get("by_value")
    if by_value if by_value is not None else _holds_code(data):
        raise _other_python(spec, python)


def _holds_code(data: bytes) -> bool:
    """Whether cloudpickle wrote functions by value: it then names Python's type of code objects."""
    import pickletools  # noqa: PLC0415 - start-up time of a served model

    strings = {argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)}
    return "CodeType" in strings and "_builtin_type" in strings


# Errors


def _name_of(spec: Mapping[str, Any]) -> str:
    return f"the model of {spec.get('noun') or 'run'} {spec.get('run_name') or spec.get('run_id')!r}"


def _load_error(
    what: str, error: BaseException, tree: ModuleTree | None, spec: Mapping[str, Any] | None = None
) -> LoadError:
    cause = f"{type(error).__name__}: {error}".strip().removesuffix(":")
    message = f"{what} cannot be loaded: {' '.join(cause.split())}"
    if isinstance(error, ModuleNotFoundError):
        unmet = unmet_pins((spec or {}).get("requirements") or ())
        if unmet:
            message += f"; not installed here: {', '.join(str(each) for each in unmet)}"
        else:
            message += "; install it and name it in log_requirements(), or log the model with it in custom_modules"
    return LoadError(message, own_traceback(error, tree.folder if tree else None))
