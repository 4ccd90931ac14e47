"""Starts a fresh Python that finds this package exactly where this process found it.

A served model must not see the folder of the script that logged it or the current folder: what it needs is in the
store. So a new interpreter starts without those two, and gets the places of our own packages named one by one.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

# Our packages first; then what they import. A name that the new interpreter finds by itself adds nothing to its path.
_OWN = ("verta_local", "verta_store")
_NEEDED = (*_OWN, "cloudpickle", "filelock", "flask", "waitress", "packaging", "sqlite_utils")

# Runs in the new interpreter; argv is: number of pairs, name=folder pairs, module, the module's own arguments.
# `-c` puts '' (the current folder) on the path: it is taken off before anything is imported by name.
_BOOTSTRAP = """\
import sys
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


@dataclass(frozen=True)
class Interpreter:
    """A Python program with the places of our packages and its environment variables, as JSON-ready values."""

    executable: str
    folders: dict[str, str]
    environment: dict[str, str] = field(repr=False)  # may hold secrets: never in a log

    @classmethod
    def current(cls) -> Interpreter:
        """The interpreter of this process.

        Raises: RuntimeError where Python is embedded in another program, so that there is none to start.
        """
        if not sys.executable:
            raise RuntimeError("no Python interpreter to start: sys.executable is empty in this program")
        return cls(sys.executable, package_folders(), dict(os.environ))

    def command(self, module: str, arguments: Sequence[str] = ()) -> list[str]:
        """The command line that runs `module.main(arguments)` in a fresh interpreter."""
        pairs = [f"{name}={folder}" for name, folder in self.folders.items()]
        return [self.executable, "-c", _BOOTSTRAP, str(len(pairs)), *pairs, module, *arguments]
