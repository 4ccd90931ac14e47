"""The choice of the HTTP side: granian where it is installed, else waitress."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from verta_local.serving.front import Front

_VARIABLE = "VERTA_LOCAL_HTTP_SERVER"
_KINDS = ("granian", "waitress")


class Listener(Protocol):
    """What a supervisor needs of its HTTP server; it listens from the moment it is made."""

    port: int

    def serve_until(self, is_stopping: Callable[[], bool]) -> None:
        """Blocks until `is_stopping()`; `wake()` has it look."""

    def wake(self) -> None:
        """Safe in signal handlers, from any thread, and after the end."""

    def drain(self, limit_s: float, is_hurried: Callable[[], bool]) -> None:
        """Takes no new connection, answers what is in flight for at most `limit_s`, and closes everything."""


def make_server(application: Front, host: str, port: int, body_limit_bytes: int) -> Listener:
    """The fastest listener that is installed. `VERTA_LOCAL_HTTP_SERVER` may name one: granian or waitress.

    Raises: ValueError for what is no host or port, or no listener; OSError when the address cannot be bound.
    """
    wanted = os.environ.get(_VARIABLE, "")
    if wanted not in ("", *_KINDS):
        raise ValueError(f"{_VARIABLE} is {' or '.join(_KINDS)}, not {wanted!r:.100}")
    if wanted != "waitress":
        from verta_local.serving.fast_listener import GranianServer, Unfit  # noqa: PLC0415 - start-up time

        try:
            return GranianServer(application, host, port, body_limit_bytes)
        except Unfit as reason:
            if wanted:
                raise ValueError(f"{_VARIABLE} asks for granian: {reason}") from None
    from verta_local.serving.listener import HttpServer  # noqa: PLC0415 - start-up time: brings waitress

    return HttpServer(application, host, port, body_limit_bytes)
