"""Which of the user's own modules a model needs, and the folder in which they travel with it.

Local is a module whose file lies in no place that Python or a package installer owns: not the standard library,
not a site-packages or dist-packages folder, and neither of our own packages. An installed module is a requirement;
a local one travels as files, laid out so that the folder works as one entry of `sys.path`.

As in Verta: `custom_modules` takes files, folders and module names, and `[]` means nothing. Differs: without it,
only the local modules that the model really reaches travel, not every file below `sys.path`.
"""

from __future__ import annotations

import ast
import dis
import functools
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import pkgutil
import shutil
import site
import sys
import sysconfig
import types
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_MEBIBYTE = 1024 * 1024
# Data of this size belongs into an artifact, where it is stored once and not again with each model.
_MAX_DATA_FILE_BYTES = 10 * _MEBIBYTE
# And so does so much of it, where a whole project, its data set included, is one package.
_MAX_DATA_FILES = 2_000
_MAX_DATA_BYTES = 100 * _MEBIBYTE

_OWN_PACKAGES = frozenset({"verta_local", "verta_store"})
_MAIN_MODULES = frozenset({"__main__", "__mp_main__"})
_INSTALLED_FOLDER_NAMES = frozenset({"site-packages", "dist-packages"})
_CODE_SUFFIXES = tuple(sorted(importlib.machinery.all_suffixes(), key=len, reverse=True))


@dataclass(frozen=True)
class FoundModules:
    """The files to travel with a model, as (path below the folder with '/', source file), sorted.

    `names` are the local modules that the model reaches (whether they travel or not), `third_party` the top-level
    names of the installed ones.
    """

    files: tuple[tuple[str, Path], ...]
    names: tuple[str, ...] = ()
    third_party: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.files)


def find_modules(names: Iterable[str]) -> FoundModules:
    """Return the local modules among `names`, and those that they import, also inside functions.

    A module that is part of a package brings the package's whole folder (data files too), another one its file
    alone. A folder without `__init__.py` counts as a package where it directly holds a module that is needed.
    Left out: hidden files and folders (they hold caches and secrets), `__pycache__`, virtual environments; and
    with a UserWarning data files of more than 10 MiB, and all data files of a package that has more than 2,000
    of them or 100 MiB in sum.

    Warns also when a module was edited after it was imported: the files travel as they are now.
    """
    importlib.invalidate_caches()  # a file may have been written just now, from a notebook's cell
    local, third_party = _reachable(names)
    _warn_of_edits(local)
    files: dict[str, Path] = {}
    for source, destination in _roots(local):
        if source.is_dir():
            _add_package(files, destination, source)
        else:
            files.setdefault(destination, source)
    return FoundModules(tuple(sorted(files.items())), tuple(sorted(local)), tuple(sorted(third_party)))


def collect_modules(custom_modules: Sequence[str | os.PathLike[str]], names: Iterable[str] = ()) -> FoundModules:
    """Return the files that the user listed: files, folders (with hidden files) and importable modules.

    Modules that the model needs, given by `names`, and that are not listed do not travel.

    They are placed so that they are imported as they are here, by their place below the entries of `sys.path`;
    what lies below none of them is placed as below the current folder. Left out: `.git`, `__pycache__` and
    virtual environments.

    Raises:
        TypeError: not a list of str or paths.
        ValueError: a name that is neither a file, a folder nor an importable module.
    """
    if not isinstance(custom_modules, (list, tuple)):
        raise TypeError(
            "custom_modules must be a list of files, folders and module names, or None; "
            f"found {type(custom_modules).__name__}"
        )
    files: dict[str, Path] = {}
    for item in custom_modules:
        if not isinstance(item, (str, os.PathLike)):
            raise TypeError(f"custom_modules must hold str or paths; found {type(item).__name__}: {item!r}")
        path = Path(item).expanduser()
        if str(item) and path.exists():  # '' would be the current folder
            for source, destination in _places(Path(os.path.abspath(path))):
                if source.is_dir():
                    _add_listed(files, destination, source)
                else:
                    files.setdefault(destination, source)
            continue
        located = _locate(str(item)) if isinstance(item, str) else None
        if located is None:
            raise ValueError(f"custom_modules contains {str(item)!r}: no file, folder or importable module")
        for source, destination in _roots({located.name: located}, namespaces=True):
            if source.is_dir():
                _add_listed(files, destination, source)
            else:
                files.setdefault(destination, source)
    local, third_party = _reachable(names)
    return FoundModules(tuple(sorted(files.items())), tuple(sorted(local)), tuple(sorted(third_party)))


def stage_modules(destination: str | os.PathLike[str], found: FoundModules) -> None:
    """Copy the files into the folder `destination`, made if need be; it then works as one entry of `sys.path`."""
    destination = Path(destination)
    destination.mkdir(parents=True, exist_ok=True)
    for relative, source in found.files:
        target = destination / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        shutil.copymode(source, target)


def is_local_file(file: str | os.PathLike[str]) -> bool:
    """Whether a module's file is the user's own: in no place of Python or a package installer, and not ours."""
    for path in {os.path.abspath(file), os.path.realpath(file)}:
        if not _INSTALLED_FOLDER_NAMES.isdisjoint(Path(path).parts):
            return False
        if any(path.startswith(folder) for folder in _installed_folders()):
            return False
    return True


def imports_of_code(code: types.CodeType, package: str) -> set[str]:
    """Return the names of modules that a function's code may import when it runs, nested functions too.

    For functions that travel by value (from a notebook, where there is no file to read). `package` is that of the
    function's module, for relative imports.
    """
    names: set[str] = set()
    before: list[object] = [None, None]
    for instruction in dis.get_instructions(code):
        if instruction.opname == "EXTENDED_ARG":
            continue
        if instruction.opname == "IMPORT_NAME":  # the compiler puts level and names right before
            level, members = before[-2:]
            base = _absolute(str(instruction.argval), level if isinstance(level, int) else 0, package)
            names |= _with_members(base, members if isinstance(members, tuple) else ())
        before.append(instruction.argval)
    if not {"import_module", "__import__"}.isdisjoint(code.co_names):
        names |= {const for const in code.co_consts if isinstance(const, str)}
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names |= imports_of_code(const, package)
    return names


# From names to files


@dataclass(frozen=True)
class _Located:
    """Where a module is: its file (None for a namespace package), and its folders if it is a package."""

    name: str
    file: Path | None
    folders: tuple[Path, ...] | None

    @property
    def is_local(self) -> bool:
        if self.name.partition(".")[0] in _OWN_PACKAGES:
            return False
        places = [self.file] if self.file is not None else self.folders or ()
        return any(is_local_file(place) for place in places)


def _locate(name: str) -> _Located | None:
    """Where the module `name` is or would be found, without importing anything; None without a file or folder."""
    if not name or name in _MAIN_MODULES or not all(part.isidentifier() for part in name.split(".")):
        return None
    if name in sys.modules:
        module = sys.modules[name]
        return _located(name, getattr(module, "__file__", None), getattr(module, "__path__", None))
    parent = name.rpartition(".")[0]
    if parent:
        return _locate_in(_locate(parent), name)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # what finders raise for names they cannot deal with
        return None
    return None if spec is None else _located(name, spec.origin, spec.submodule_search_locations)


def _locate_in(parent: _Located | None, name: str) -> _Located | None:
    """A module in a package. Not by importlib.util.find_spec, which would import the package."""
    portions: list[str] = []
    for folder in (parent.folders if parent is not None else None) or ():
        finder = pkgutil.get_importer(str(folder))
        spec = finder.find_spec(name) if finder is not None else None
        if spec is not None and spec.loader is not None:
            return _located(name, spec.origin, spec.submodule_search_locations)
        portions.extend((spec.submodule_search_locations if spec is not None else None) or ())
    return _located(name, None, portions) if portions else None


def _located(name: str, file: object, folders: object) -> _Located | None:
    path = Path(os.path.abspath(file)) if isinstance(file, str) and os.path.isfile(file) else None
    try:
        places = None if folders is None else tuple(Path(os.path.abspath(str(each))) for each in folders)  # type: ignore[attr-defined]
    except TypeError:  # an object that plays a module and answers any attribute
        places = None
    return None if path is None and not places else _Located(name, path, places)


@functools.cache
def _installed_folders() -> tuple[str, ...]:
    """The folders of the standard library and of installed packages, each with a separator at the end."""
    folders = {*site.getsitepackages(), site.getusersitepackages()}
    bases = {(sys.prefix, sys.exec_prefix), (sys.base_prefix, sys.base_exec_prefix)}  # a virtual environment's too
    for scheme in sysconfig.get_scheme_names():
        for base, platbase in bases:
            paths = sysconfig.get_paths(scheme, {"base": base, "platbase": platbase})
            folders |= {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    both = {os.path.abspath(folder) for folder in folders} | {os.path.realpath(folder) for folder in folders}
    return tuple(sorted(os.path.join(folder, "") for folder in both))


# From modules to what they import


def _reachable(names: Iterable[str]) -> tuple[dict[str, _Located], set[str]]:
    """The local modules reachable from `names`, and the top-level names of the installed ones."""
    local: dict[str, _Located] = {}
    third_party: set[str] = set()
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        located = _locate(name)
        if located is None:
            continue
        if not located.is_local:
            third_party.add(name.partition(".")[0])
            continue
        local[name] = located
        waiting.append(name.rpartition(".")[0])  # a package's __init__ runs before its modules
        if located.folders is not None and located.file is not None:
            # What a package imported by means that no reading of its source finds, it has imported by now.
            waiting.extend(each for each in list(sys.modules) if each.startswith(name + "."))
        waiting.extend(_imports_of_source(located))
    return local, third_party - sys.stdlib_module_names - _OWN_PACKAGES - {"cloudpickle"}


def _imports_of_source(located: _Located) -> set[str]:
    if located.file is None or located.file.suffix not in importlib.machinery.SOURCE_SUFFIXES:
        return set()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in the user's text
            tree = ast.parse(located.file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return set()  # what does not parse cannot be imported either; whoever imports it gets the error
    package = located.name if located.folders is not None else located.name.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node.module or "", node.level, package)
            names |= _with_members(base, [alias.name for alias in node.names])
        elif isinstance(node, ast.Call):
            names |= _import_call(node, package)
    return names


def _import_call(node: ast.Call, package: str) -> set[str]:
    """The name in `importlib.import_module("name")` or `__import__("name")`."""
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    if name not in ("import_module", "__import__") or not node.args or not isinstance(node.args[0], ast.Constant):
        return set()
    text = node.args[0].value
    if not isinstance(text, str):
        return set()
    return {_absolute(text.lstrip("."), len(text) - len(text.lstrip(".")), package)}


def _absolute(name: str, level: int, package: str) -> str:
    """The absolute name of a relative import; '' where it leads out of the package."""
    if level == 0:
        return name
    base = package.split(".")
    if level > len(base):
        return ""
    return ".".join(part for part in (*base[: len(base) - level + 1], name) if part)


def _with_members(base: str, members: Iterable[object]) -> set[str]:
    """`from base import member`: each member may be a module."""
    return {base, *(f"{base}.{member}" for member in members if member != "*")} if base else set()


# From modules to the folders and files that travel


def _roots(local: dict[str, _Located], namespaces: bool = False) -> Iterator[tuple[Path, str]]:
    """(folder or file, destination) for the modules, outer packages first.

    A destination follows the module's name, not its file's: a module may have been loaded under another name.
    `namespaces`: a namespace package that is asked for itself brings its folders.
    """
    done: set[str] = set()
    for name in sorted(local):
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            prefix = ".".join(parts[:end])
            located = local.get(prefix) or _locate(prefix)
            if located is not None and located.file is not None:
                break
        else:
            located, prefix = local[name], name
        if prefix in done:
            continue
        done.add(prefix)
        destination = prefix.replace(".", "/")
        if located.folders is not None:
            if located.file is not None or namespaces:
                for folder in located.folders:
                    yield folder, destination
        elif located.file is not None:
            if "." in prefix:  # in a namespace package: the folder that holds it
                yield located.file.parent, destination.rpartition("/")[0]
            yield located.file, destination + _suffix_of(located.file)


def _suffix_of(file: Path) -> str:
    """`.py`, or all of `.cpython-311-x86_64-linux-gnu.so`."""
    return next((suffix for suffix in _CODE_SUFFIXES if file.name.endswith(suffix)), file.suffix)


def _places(path: Path) -> Iterator[tuple[Path, str]]:
    """(source, destination) for a file or folder of the user's list, so that it is imported as it is here."""
    entries = [Path(os.path.abspath(entry)) for entry in sys.path]
    entries = [entry for entry in dict.fromkeys(entries) if entry.is_dir() and is_local_file(entry)]
    found = False
    for entry in entries:
        if path.is_relative_to(entry):
            found = True
            yield path, "" if path == entry else path.relative_to(entry).as_posix()
    for entry in entries:
        # A folder that holds entries of sys.path: modules are imported from there by their short names.
        if path.is_dir() and entry != path and entry.is_relative_to(path):
            yield entry, ""
    if found:
        return
    current = Path.cwd()
    yield path, path.relative_to(current).as_posix() if path.is_relative_to(current) else path.name
    if path.is_dir() and not (path / "__init__.py").exists():
        yield path, ""  # no package: as likely meant to be on sys.path itself


def _add_listed(files: dict[str, Path], destination: str, folder: Path) -> None:
    """Add all files of a folder that the user named."""
    for source in _files_in(folder, with_hidden=True):
        files.setdefault((Path(destination) / source.relative_to(folder)).as_posix(), source)


def _add_package(files: dict[str, Path], destination: str, folder: Path) -> None:
    """Add the code and, within bounds, the data of a package that was found."""
    code, data, large, data_bytes = [], [], [], 0
    for source in _files_in(folder, with_hidden=False):
        if source.name.endswith(_CODE_SUFFIXES):
            code.append(source)
        elif (size_bytes := source.stat().st_size) > _MAX_DATA_FILE_BYTES:
            large.append(f"{source.relative_to(folder.parent)} ({size_bytes // _MEBIBYTE} MiB)")
        else:
            data.append(source)
            data_bytes += size_bytes
    if len(data) > _MAX_DATA_FILES or data_bytes > _MAX_DATA_BYTES:
        large.append(f"{len(data)} data files of {folder.name} ({data_bytes // _MEBIBYTE} MiB)")
        data = []
    if large:
        warnings.warn(
            f"too large to travel with the model's modules: {', '.join(large)}; log what the model needs of it with "
            "log_artifact() and name the key in `artifacts`, or list the folder in `custom_modules`",
            stacklevel=5,
        )
    for source in (*code, *data):
        files.setdefault((Path(destination) / source.relative_to(folder)).as_posix(), source)


def _files_in(folder: Path, with_hidden: bool) -> Iterator[Path]:
    visited: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:  # a symbolic link that leads back up
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(each for each in folders if not _is_left_out(place, each, with_hidden))
        for name in sorted(names):
            source = Path(place, name)
            if source.is_file() and (with_hidden or not name.startswith(".")):  # no FIFO: it would block
                yield source


def _is_left_out(place: str, folder: str, with_hidden: bool) -> bool:
    if folder in ("__pycache__", ".git") or os.path.exists(os.path.join(place, folder, "pyvenv.cfg")):
        return True
    return folder.startswith(".") and not with_hidden


# Modules that were edited after they were imported


def _warn_of_edits(local: dict[str, _Located]) -> None:
    edited = [name for name, located in local.items() if located.file and is_edited(name, located.file)]
    if edited:
        warnings.warn(
            f"{', '.join(sorted(edited))} changed on disk after the import; the present text is logged, "
            "not what ran here: import again to try what is logged",
            stacklevel=5,
        )


def is_edited(name: str, file: Path) -> bool:
    """Whether a function of an imported module is no longer what its file says; moved lines do not count."""
    module = sys.modules.get(name)
    # Another loader than Python's own may have rewritten the code (pytest does): nothing to compare with.
    if module is None or type(getattr(module, "__loader__", None)) is not importlib.machinery.SourceFileLoader:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return True
    codes = dict(_codes_by_name(compiled, ""))
    for function in _functions_of(module):
        code = function.__code__
        # A decorator's wrapper carries the name of what it wraps, but not in its code.
        if code.co_filename != compiled.co_filename or code.co_name != function.__qualname__.rpartition(".")[2]:
            continue
        versions = codes.get(function.__qualname__, [])
        if "<locals>" not in function.__qualname__ and not any(_same_code(code, each) for each in versions):
            return True
    return False


def _codes_by_name(code: types.CodeType, prefix: str) -> dict[str, list[types.CodeType]]:
    """Qualified name -> the code of each function so named (there may be two, in `if` and `else`)."""
    found: dict[str, list[types.CodeType]] = {}
    for const in code.co_consts:
        if not isinstance(const, types.CodeType):
            continue
        if const.co_flags & inspect.CO_OPTIMIZED:  # a function; a class body is not
            found.setdefault(prefix + const.co_name, []).append(const)
        else:
            for name, codes in _codes_by_name(const, f"{prefix}{const.co_name}.").items():
                found.setdefault(name, []).extend(codes)
    return found


def _functions_of(module: types.ModuleType) -> Iterator[types.FunctionType]:
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, types.FunctionType):
            yield value
        elif isinstance(value, type):
            for member in list(vars(value).values()):
                member = getattr(member, "__func__", member)  # of classmethod and staticmethod
                if isinstance(member, types.FunctionType) and member.__module__ == module.__name__:
                    yield member


def _same_code(one: types.CodeType, other: types.CodeType) -> bool:
    if (one.co_code, one.co_names, one.co_varnames) != (other.co_code, other.co_names, other.co_varnames):
        return False
    if len(one.co_consts) != len(other.co_consts):
        return False
    for left, right in zip(one.co_consts, other.co_consts, strict=True):
        if isinstance(left, types.CodeType) and isinstance(right, types.CodeType):
            if not _same_code(left, right):
                return False
        elif type(left) is not type(right) or (left != right and repr(left) != repr(right)):
            return False
    return True
