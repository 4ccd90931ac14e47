"""What a store holds in files of their own: blobs, trees and the views of them, with this host's memories of both.

One room for all of it, because a run of numbers needs none: `Store` imports and makes it at the first artifact.
"""

from __future__ import annotations

import os

from .errors import MissingObject
from .leases import Leases
from .materialize import Materializer
from .objects import Objects, missing
from .source_memory import SourceMemory
from .temporary import TemporaryFolder
from .tree import Trees
from .verified import VerifiedCache

_IN_MEMORY = ":memory:"


class Contents:
    """The objects of one store. `memories` is the folder for what this host remembers, '' for its own memory."""

    def __init__(self, root: str, leases: Leases, memories: str, names: str, *, is_case_sensitive: bool) -> None:
        self._root = root
        self.temporary = TemporaryFolder(root, leases)
        self.verified = VerifiedCache(os.path.join(memories, "verified.sqlite") if memories else _IN_MEMORY)
        self.sources = SourceMemory(os.path.join(memories, "sources.sqlite") if memories else _IN_MEMORY)
        self.objects = Objects(root, self.temporary, self.verified, self.sources)
        self.trees = Trees(root, self.objects, self.temporary, self.verified, is_case_sensitive=is_case_sensitive)
        self.views = Materializer(root, self.objects, self.trees, self.temporary, self.verified, names)

    def keeper(self, kind: str) -> Objects | Trees:
        """Who keeps the objects of a kind, "blob" or "tree"."""
        return self.trees if kind == "tree" else self.objects

    def missing(self, digest: str) -> MissingObject:
        """The error for a digest that is not here."""
        return missing(digest, self._root)

    def close(self) -> None:
        """Lets go of files."""
        self.temporary.close()
        self.verified.close()
        self.sources.close()

    def forget_after_fork(self) -> None:
        """In the child of a fork: what is open is the parent's."""
        self.temporary.forget_after_fork()
        self.verified.forget_after_fork()
        self.sources.forget_after_fork()
