"""Whose turn it is to collect garbage: a courtesy, on which nothing depends.

The protocol is in `gc.py`, and in `store/README.md`, section "Garbage collection".
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from . import drive, files, ids, leases
from .errors import CollectionRefused

# Between making the file and signing it lie milliseconds: one that is empty for longer is that of a collection which
# was killed just then, or met a full disk.
_UNSIGNED_NS = 60 * 10**9


class Turn:
    """A file that keeps a second collection from doing the same work. A courtesy: two at once lose nothing."""

    def __init__(self, root: str, silence_ns: int, now_ns: Callable[[], int]) -> None:
        self._root = root
        self._path = os.path.join(root, leases.FOLDER, "collector.json")
        self._silence_ns = silence_ns
        self._now_ns = now_ns

    def take(self) -> None:
        """Takes the turn, also from a collection that has died.

        Raises:
            CollectionRefused: somebody else has it.
        """
        about = {"user": ids.user_name(), "host": ids.host_name(), "pid": os.getpid(), "machine": leases.this_machine()}
        for _ in range(3):
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | files.O_BINARY | files.O_CLOEXEC
                files.make_folder(os.path.dirname(self._path), self._root)
                descriptor = os.open(self._path, flags, drive.of(self._root).modes.record)
            except FileExistsError:
                self._remove_stale()
                continue
            drive.set_mode(descriptor, drive.of(self._root).modes.record)
            try:
                files.write_all(descriptor, json.dumps(about).encode("ascii"))
            except OSError:
                pass  # a full disk; an empty file says as much, only not whose it is
            finally:
                os.close(descriptor)
            return

    def _remove_stale(self) -> None:
        try:
            with open(self._path, "rb") as file:
                touched_ns = os.fstat(file.fileno()).st_mtime_ns
                text = file.read()
        except FileNotFoundError:
            return
        try:
            found = json.loads(text)
            owner = leases.Lease("", "", found["machine"], found["pid"], 0, touched_ns)
            who = f"{found['user']} on {found['host']}, process {found['pid']}"
        except (ValueError, KeyError, TypeError):
            owner, who = leases.Lease("", "", "", 0, 0, touched_ns), "somebody"
        now_ns = self._now_ns()
        silence_ns = self._silence_ns if owner.pid else min(self._silence_ns, _UNSIGNED_NS)
        # A process of this machine that lives may also hang: after that time its turn is over too.
        if owner.is_alive(now_ns, silence_ns) and now_ns - touched_ns <= silence_ns:
            raise CollectionRefused(
                f"another garbage collection of this store is running ({who}); wait for it, "
                f"or delete {self._path} if that is not so",
                path=self._path,
            )
        files.remove_file(self._path)

    def give_back(self) -> None:
        """Ends the turn."""
        files.remove_file(self._path)  # one that stays is taken by the next collection, in time
