"""The folder in `tmp/` in which a process prepares what gets its name in the store by one rename."""

from __future__ import annotations

import os
import threading

from . import drive, files, ids
from .leases import Leases


class TemporaryFolder:
    """This process's own folder in `tmp/`, made on first use and removed at the end."""

    def __init__(self, root: str, leases: Leases) -> None:
        self._root = root
        self._path = ""
        self._lock = threading.Lock()
        self.leases = leases

    def path(self) -> str:
        """The folder, existing, with a lease of the same name: what has none is swept by the next collection."""
        with self._lock:
            if not self._path or not os.path.isdir(self._path):
                self.leases.ensure()
                top = os.path.join(self._root, "tmp")
                path = os.path.join(top, self.leases.name)
                with files.writing("a temporary folder", top):
                    files.make_folder(top, self._root)
                    drive.of(self._root).make_own_folder(path)
                self._path = path
            return self._path

    def size_bytes(self) -> int:
        """How much is in the folder now, for who shows the progress of a copy."""
        total = 0
        for parent, _, names in os.walk(self._path) if self._path else ():
            for name in names:
                try:
                    total += os.stat(os.path.join(parent, name)).st_size
                except OSError:
                    pass  # it got its name in the store meanwhile
        return total

    def new_name(self) -> str:
        """A path in the folder that nothing else uses."""
        return os.path.join(self.path(), ids.random_hex(16))

    def close(self) -> None:
        """Removes the folder with what is left in it."""
        if self._path:
            files.remove_folder(self._path)
            self._path = ""

    def forget_after_fork(self) -> None:
        """In the child of a fork: the folder is the parent's."""
        self._lock = threading.Lock()
        self._path = ""
