"""Plain worker processes for folders of thousands of files: never a fork of the user's process.

A worker is a Python of its own that imports a few small modules of this package by their folder, so that it works from
a wheel, an editable install and a path file alike, and starts in 20 ms. It is fed tasks over a pipe and answers each.
It ends with that pipe, or with its parent. Whatever happens to it, the caller does the work himself.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from .messages import Message, receive, send

Key = TypeVar("Key")

# More were not measured; each needs a core of its own.
_MOST = 4

# The package without its door, which would import the whole engine; `-I` and `-S` keep the user's site out.
_START = """
import sys, types
package = types.ModuleType("verta_store")
package.__path__ = [sys.argv[1]]
sys.modules["verta_store"] = package
from verta_store.worker import serve
serve(int(sys.argv[2]))
"""


def worker_count() -> int:
    """How many workers pay: one a core, none where there is one core or no Python to start."""
    name = os.path.basename(sys.executable or "").lower()
    if getattr(sys, "frozen", False) or not name.startswith(("python", "pypy")):
        return 0  # a program that has Python inside: started again it would be that program
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST) if cores > 1 else 0


class Workers:
    """Some worker processes, each driven by a thread of this one. To be used with `with`.

    They are started at its begin, and get ready beside what the caller does until he has tasks; at its end they are
    gone. The threads start them, because Ctrl-C interrupts the main thread only: never half of a start.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []
        self._driving = 0  # how many of the threads have not said that they end
        self._waiting: queue.SimpleQueue[tuple[Any, list[Any]] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Any, Message | None] | None] = queue.SimpleQueue()
        self._is_closed = False

    def __enter__(self) -> Workers:
        try:
            for _ in range(self._count):
                thread = threading.Thread(target=self._drive, daemon=True)
                thread.start()
                self._threads.append(thread)
                self._driving += 1
        except RuntimeError:
            pass  # no more threads: fewer workers, or none
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        for process in self._processes:
            process.kill()
        for _thread in range(self._count):
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def do(self, tasks: Sequence[tuple[Key, list[Any]]]) -> Iterator[tuple[Key, Message | None]]:
        """Hands out (key, task), and yields (key, answer) as they are done; None for what nobody did, or was able to.

        A task is a list: the name of a function in `worker.TASKS` and its arguments, plain data.
        """
        for task in tasks:
            self._waiting.put(task)
        left = len(tasks)
        while left and self._driving:
            result = self._done.get()
            if result is None:
                self._driving -= 1
                continue
            left -= 1
            yield result
        for _ in range(left):  # no worker could be started, or none lives
            task_left = self._waiting.get_nowait()
            assert task_left is not None, "only the end puts None"
            yield task_left[0], None

    def _drive(self) -> None:
        """Starts a worker and hands it tasks until the end, or until it fails."""
        process = None
        try:
            process = _start()
            self._processes.append(process)
            while (task := self._waiting.get()) is not None and not self._is_closed:
                answer = None
                try:
                    answer = _ask(process, task[1])
                finally:
                    if answer is None:
                        # It must be gone before somebody else does its work: two would write one file.
                        _end(process)
                    self._done.put((task[0], answer))
                if answer is None:
                    break
        except Exception:
            pass  # not started, or no memory: the caller does the work himself
        finally:
            if process is not None:
                _end(process)
            self._done.put(None)


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S"]
    if sys.flags.utf8_mode:
        command += ["-X", "utf8"]  # the names of files are to be read as here
    return subprocess.Popen(
        [*command, "-c", _START, os.path.dirname(os.path.abspath(__file__)), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None, "pipes were asked for"
        try:
            pipe.close()
        except OSError:
            pass  # what was not sent to a dead worker


def _ask(process: subprocess.Popen[bytes], task: list[Any]) -> Message | None:
    assert process.stdin is not None and process.stdout is not None, "pipes were asked for"
    try:
        send(process.stdin, Message(task))
        return receive(process.stdout)
    except (OSError, ValueError, TypeError):  # it has ended, or has printed something else
        return None
