"""The engine of verta_local: a store of immutable objects and append-only journals, with a SQLite index.

The format document is `store/README.md`.
"""

from __future__ import annotations

from .objects import Ref
from .store import Store, close_all, open_store

__all__ = ["Ref", "Store", "close_all", "open_store"]
