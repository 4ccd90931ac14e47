"""Where modules are, which of them are the user's own, and what they import, found without importing anything.

Local is a module whose file lies in no place that Python or a package installer owns: not the standard library,
not a site-packages or dist-packages folder, and neither of our own packages.
"""

from __future__ import annotations

import ast
import dis
import functools
import importlib.machinery
import importlib.util
import os
import pkgutil
import site
import sys
import sysconfig
import types
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_OWN_PACKAGES = frozenset({"verta_local", "verta_store"})
_MAIN_MODULES = frozenset({"__main__", "__mp_main__"})
_INSTALLED_FOLDER_NAMES = frozenset({"site-packages", "dist-packages"})


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


@dataclass(frozen=True)
class Located:
    """Where a module is: its file (None for a namespace package), and its folders if it is a package."""

    name: str
    file: Path | None
    folders: tuple[Path, ...] | None

    @property
    def is_local(self) -> bool:
        """Whether it is the user's own."""
        if self.name.partition(".")[0] in _OWN_PACKAGES:
            return False
        places = [self.file] if self.file is not None else self.folders or ()
        return any(is_local_file(place) for place in places)


def locate(name: str) -> Located | None:
    """Where the module `name` is or would be found, without importing anything; None without a file or folder."""
    if not name or name in _MAIN_MODULES or not all(part.isidentifier() for part in name.split(".")):
        return None
    if name in sys.modules:
        module = sys.modules[name]
        return _located(name, getattr(module, "__file__", None), getattr(module, "__path__", None))
    parent = name.rpartition(".")[0]
    if parent:
        return _locate_in(locate(parent), name)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # what finders raise for names they cannot deal with
        return None
    return None if spec is None else _located(name, spec.origin, spec.submodule_search_locations)


def _locate_in(parent: Located | None, name: str) -> Located | None:
    """A module in a package. Not by importlib.util.find_spec, which would import the package."""
    portions: list[str] = []
    for folder in (parent.folders if parent is not None else None) or ():
        finder = pkgutil.get_importer(str(folder))
        spec = finder.find_spec(name) if finder is not None else None
        if spec is not None and spec.loader is not None:
            return _located(name, spec.origin, spec.submodule_search_locations)
        portions.extend((spec.submodule_search_locations if spec is not None else None) or ())
    return _located(name, None, portions) if portions else None


def _located(name: str, file: object, folders: object) -> Located | None:
    path = Path(os.path.abspath(file)) if isinstance(file, str) and os.path.isfile(file) else None
    try:
        places = None if folders is None else tuple(Path(os.path.abspath(str(each))) for each in folders)  # type: ignore[attr-defined]
    except TypeError:  # an object that plays a module and answers any attribute
        places = None
    return None if path is None and not places else Located(name, path, places)


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


def reachable(names: Iterable[str]) -> tuple[dict[str, Located], set[str]]:
    """The local modules reachable from `names`, and the top-level names of the installed ones."""
    local: dict[str, Located] = {}
    third_party: set[str] = set()
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        located = locate(name)
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


def _imports_of_source(located: Located) -> set[str]:
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
