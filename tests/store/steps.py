"""Stops a piece of work at each of its system calls on a store, to do something there: be killed, or let others in."""

from __future__ import annotations

import builtins
import os
import shutil
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# What changes a drive, and what looks at it; `builtins.open` counts among both.
CHANGES = ("mkdir", "rename", "replace", "link", "unlink", "rmdir", "utime", "write", "open")
LOOKS = ("stat", "lstat", "listdir", "scandir")


@contextmanager
def at_step(root: str, number: int, act: Callable[[], None], names: tuple[str, ...] = CHANGES) -> Iterator[list[str]]:
    """Calls `act` before the `number`-th of the calls `names` on something in `root`; yields the log of these calls.

    While `act` runs nothing is counted. With `number` 0 the steps are only logged.
    """
    log: list[str] = []
    is_busy = False
    worker = threading.get_ident()  # not the threads that sync and touch in the background

    def wrap(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            nonlocal is_busy
            path = arguments[0] if arguments else None
            is_ours = (isinstance(path, str) and path.startswith(root)) or name == "write"
            if is_ours and not is_busy and threading.get_ident() == worker:
                log.append(f"{name} {str(path)[len(root) :]}")
                if len(log) == number:
                    is_busy = True
                    try:
                        act()
                    finally:
                        is_busy = False
            return call(*arguments, **named)

        return step

    open_file = wrap("open", builtins.open)
    kept_open = builtins.open
    kept = {name: getattr(os, name) for name in names}
    for name, call in kept.items():
        setattr(os, name, wrap(name, call))
    builtins.open = open_file
    try:
        yield log
    finally:
        builtins.open = kept_open
        for name, call in kept.items():
            setattr(os, name, call)


def kill_at_each_step(template: str, folder: str, work: Callable[[str], None], survivor: Callable[[str], None]) -> int:
    """Kills `work` on a copy of a store at its first step, at its second and so on; `survivor` looks at what is left.

    Each is given the copy's path, in a process of its own, and fails by raising. Returns how many steps there were.

    Raises:
        AssertionError: `work` failed by itself, or a survivor did; the traceback is on stderr.
    """
    number = 0
    while True:
        number += 1
        root = os.path.join(folder, f"killed-{number}")
        shutil.copytree(template, root)

        def killed(root: str = root, number: int = number) -> None:
            with at_step(root, number, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                work(root)

        status = in_child(killed)
        if status == 0:
            return number - 1
        assert status == -signal.SIGKILL, f"failed by itself before step {number}"
        assert in_child(lambda root=root: survivor(root)) == 0, f"killed at step {number}"  # type: ignore[misc]
        shutil.rmtree(root)


def in_child(work: Callable[[], None]) -> int:
    """Runs `work` in a fork. Returns 0, 1 when it raised (said on stderr), or the signal that ended it, negative."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
