"""The server that deployed models run in: one small supervisor, one child process a model.

    frames, guard, metrics, logfile, accesslog, routes      what travels, who may speak, what is seen of it
    child > turns > answering > wire, tensors, invocations  the model's process, its threads, and its protocols
    launch > nursery, environments, scheduling              how that process is started, and in which Python
    calls, stream > process > version                       requests under way; a child; replicas
    rollout > endpoint > table                              what replaces what; a URL; all of them
    listeners > listener (waitress), fast_listener          who speaks HTTP
    front, orders, admin, *_pages, openapi > supervisor     what is answered
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
