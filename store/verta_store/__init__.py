"""The engine of verta_local: a store of immutable objects and append-only journals, with a SQLite index.

The format document is `store/README.md`.
"""

from __future__ import annotations

from .opening import close_all, open_store
from .store import Store

TYPE_CHECKING = False  # as type checkers read it
if TYPE_CHECKING:
    from .objects import Ref

__all__ = ["Ref", "Store", "close_all", "open_store"]


def __getattr__(name: str) -> object:
    # Only who keeps objects needs their libraries: a process that logs numbers starts in half the time without.
    if name == "Ref":
        from .objects import Ref  # noqa: PLC0415

        return Ref
    raise AttributeError(f"module 'verta_store' has no attribute {name!r}")
