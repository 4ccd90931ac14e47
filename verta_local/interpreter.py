"""Starts a fresh Python that finds this package exactly where this process found it.

A served model must not see the folder of the script that logged it or the current folder: what it needs is in the
store. So a new interpreter starts without those two, and gets the places of our own packages named one by one.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from typing import NamedTuple

# Our packages first; then what they import. A name that the new interpreter finds by itself adds nothing to its path.
_OWN = ("verta_local", "verta_store")
_NEEDED = (*_OWN, "cloudpickle", "filelock", "flask", "waitress", "packaging", "sqlite_utils")

# Runs in the new interpreter; argv is: number of pairs, name=folder pairs, module, the module's own arguments.
# `-c` puts '' (the current folder) on the path: it is taken off before anything is imported by name.
# Modules are no garbage: looking for some among them takes a twentieth of a start.
_BOOTSTRAP = """\
import gc
import sys
gc.disable()
sys.path[:] = [p for p in sys.path if p]
from importlib.util import find_spec
n = int(sys.argv[1])
for pair in sys.argv[2:2 + n]:
    name, _, folder = pair.partition("=")
    found = find_spec(name)
    if found is None:
        sys.path.append(folder)
    elif name in ("verta_local", "verta_store"):
        places = list(found.submodule_search_locations or [""])
        if __import__("os").path.dirname(places[0]) != folder:
            sys.path.insert(0, folder)
module = sys.argv[2 + n]
sys.argv[1:] = sys.argv[3 + n:]
from importlib import import_module
main = import_module(module).main
gc.freeze()
gc.enable()
sys.exit(main(sys.argv[1:]))
"""

# As above, for an environment made for one model: of our environment it may see these packages by name, and nothing
# else. Their folder (mostly the whole of our site-packages) is not put on its path.
_OWN_BOOTSTRAP = """\
import sys
sys.path[:] = [p for p in sys.path if p]
from importlib.machinery import PathFinder
n = int(sys.argv[1])
folders = dict(pair.split("=", 1) for pair in sys.argv[2:2 + n])
class Borrowed:
    def __init__(self, names):
        self.names = names
    def find_spec(self, name, path=None, target=None):
        if path is None and name in self.names and name in folders:
            return PathFinder.find_spec(name, [folders[name]], target)
sys.meta_path.insert(0, Borrowed(("verta_local", "verta_store")))
sys.meta_path.append(Borrowed(("cloudpickle", "filelock", "packaging")))
module = sys.argv[2 + n]
sys.argv[1:] = sys.argv[3 + n:]
from importlib import import_module
sys.exit(import_module(module).main(sys.argv[1:]))
"""


def package_folders() -> dict[str, str]:
    """Where this process finds our packages and what they import: name -> folder that holds it; nothing is imported."""
    folders: dict[str, str] = {}
    for name in _NEEDED:
        spec = importlib.util.find_spec(name)
        places = list(spec.submodule_search_locations or []) if spec is not None else []
        if places:
            folders[name] = os.path.dirname(os.path.abspath(places[0]))
    return folders


def is_own_program() -> bool:
    """Whether this process runs the command line, or what `Interpreter.command` started; without further options."""
    words = sys.orig_argv[1:3]
    if words[:1] == ["-c"]:
        return words[1:] == [_BOOTSTRAP]
    if words[:1] == ["-m"]:
        return words[1:] == ["verta_local"]
    return bool(words) and os.path.basename(words[0]) == "verta-local"


def _is_of(folder: str, name: str, module: object) -> bool:
    """Whether a top-level module, not one of our packages, was found in that folder."""
    file = getattr(module, "__file__", None)
    if not file or "." in name or name in (*_OWN, "__main__"):
        return False
    return folder in (os.path.dirname(file), os.path.dirname(os.path.dirname(file)))


class Interpreter(NamedTuple):  # and no dataclass, here and elsewhere on the path of a start: half a millisecond each
    """A Python program with the places of our packages and its environment variables, as JSON-ready values.

    `is_own`: it is in an environment that was made for a model.
    """

    executable: str
    folders: dict[str, str]
    environment: dict[str, str]
    is_own: bool = False

    def __repr__(self) -> str:
        # The variables may hold secrets: never in a log.
        return f"Interpreter(executable={self.executable!r}, folders={self.folders!r}, is_own={self.is_own})"

    @classmethod
    def current(cls) -> Interpreter:
        """The interpreter of this process.

        Raises: RuntimeError where Python is embedded in another program, so that there is none to start.
        """
        if not sys.executable:
            raise RuntimeError("no Python interpreter to start: sys.executable is empty in this program")
        return cls(sys.executable, package_folders(), dict(os.environ))

    def path_of_fork(self) -> list[str] | None:
        """What `sys.path` is in an interpreter that `command` starts here; for a fork of this one.

        None where modules came from the folder of the script, or from the current one: a fresh one has not got them.
        """
        path = sys.path[:]
        # `-c` is how `command` starts a program: it has taken the folder off.
        if sys.orig_argv[1:2] != ["-c"] and not getattr(sys.flags, "safe_path", False):
            script_folder = os.path.abspath(path.pop(0))
            if any(_is_of(script_folder, name, module) for name, module in list(sys.modules.items())):
                return None
        path = [folder for folder in path if folder]
        for name, folder in self.folders.items():
            found = PathFinder.find_spec(name, path)
            if found is None:
                path.append(folder)
            elif name in _OWN and os.path.dirname(next(iter(found.submodule_search_locations or [""]))) != folder:
                path.insert(0, folder)
        return path

    def command(self, module: str, arguments: Sequence[str] = ()) -> list[str]:
        """The command line that runs `module.main(arguments)` in a fresh interpreter."""
        pairs = [f"{name}={folder}" for name, folder in self.folders.items()]
        bootstrap = _OWN_BOOTSTRAP if self.is_own else _BOOTSTRAP
        return [self.executable, "-c", bootstrap, str(len(pairs)), *pairs, module, *arguments]
