"""What runs in a worker process: see `workers`, which starts it. Its imports are what its start costs."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from .copying import copy_names
from .hashing import hash_files
from .messages import Message, receive, send
from .walking import plain_signature


def _copy(*arguments: Any) -> Message:
    return copy_names(*arguments).packed()


def _hash(paths: list[str]) -> Message:
    return Message(hash_files(paths))


def _look(folder: str) -> Message:
    return Message(plain_signature(folder))


TASKS: dict[str, Callable[..., Message]] = {"copy": _copy, "hash": _hash, "look": _look}


def serve(parent: int) -> None:
    """The whole life of a worker: does what comes in by stdin, until its end or that of the process `parent`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who then closes the pipe
    os.umask(0)  # so that a file has its mode from its creation on
    if hasattr(os, "getppid"):
        _thread.start_new_thread(_end_with, (parent,))
    while message := receive(sys.stdin.buffer):
        name, *arguments = message.data
        send(sys.stdout.buffer, TASKS[name](*arguments))


def _end_with(parent: int) -> None:
    """Ends this process when its parent has gone; another child of his may hold the pipe open."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
