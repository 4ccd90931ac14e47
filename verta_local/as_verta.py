"""`import verta_local.as_verta`: from then on `import verta`, and `from verta.x import y`, mean `verta_local`.

For code that cannot be changed: one line in front of it, in a script, a notebook or `conftest.py`. It is no part of a
model: a class that imports `verta` in its own code must import `verta_local` instead, to load in another process.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_THEIRS, _OURS = "verta", "verta_local"


class _Alias(MetaPathFinder, Loader):
    """Finds `verta.a.b` as the module `verta_local.a.b` itself: one module under two names, never two copies."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != _THEIRS:
            return None
        ours = _OURS + fullname[len(_THEIRS) :]
        try:
            found = importlib.util.find_spec(ours)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return None  # "No module named 'verta.x'", as it should be
        return ModuleSpec(fullname, self, is_package=found.submodule_search_locations is not None)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(_OURS + spec.name[len(_THEIRS) :])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # It has run already; importing it under the other name has only changed what it says of itself.
        assert module.__spec__ is not None, "the import system has just set it"
        module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Makes `verta` another name of `verta_local`; a second time changes nothing.

    Raises:
        ImportError: another `verta` is imported already.
    """
    present = sys.modules.get(_THEIRS)
    if present is not None and present is not sys.modules[_OURS]:
        raise ImportError(
            f"another package `verta` is imported already ({getattr(present, '__file__', '?')}); import "
            "verta_local.as_verta before it"
        )
    if not any(isinstance(finder, _Alias) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Alias())


install()
