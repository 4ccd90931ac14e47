"""The server that deployed models run in: one small supervisor, one child process a model.

    frames  wire  logfile  guard  metrics                  what travels, how it is read, who may speak
    child, nursery                                          the model's process, and the warm parent of its forks
    launch                                                  how such a process is started
    process > version > endpoint > table                    a child, a program's replicas, a URL, all of them
    listener, front, admin > supervisor                     HTTP
    background, foreground                                  the two ways to run a supervisor

The supervisor never parses a request's body and never unpickles; the child does both.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ModelToServe", "ServedModel", "serve_foreground"]


def __getattr__(name: str) -> Any:
    # Start-up time: the child imports this package, and must not pay for the server.
    if name in __all__:
        from verta_local.serving import foreground  # noqa: PLC0415

        return getattr(foreground, name)
    raise AttributeError(name)
