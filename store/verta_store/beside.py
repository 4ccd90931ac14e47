"""Something that is worked out in a thread, for who will ask for it later."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Found = TypeVar("Found")


class Beside(Generic[Found]):
    """Works something out in a thread of its own, or at once where there is none to be had."""

    def __init__(self, work: Callable[[], Found]) -> None:
        self._work = work
        self._found: list[Found] = []
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = threading.Thread(target=self._run, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # at the end of the interpreter, or too many
            self._thread = None
            self._run()

    def _run(self) -> None:
        try:
            self._found.append(self._work())
        except BaseException as error:
            self._failure = error

    def is_running(self) -> bool:
        """Whether `result` would wait."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Returns when it has ended, however."""
        if self._thread is not None:
            self._thread.join()

    def result(self) -> Found:
        """What was found. Raises what the work raised."""
        self.wait()
        if self._failure is not None:
            raise self._failure
        return self._found[0]
