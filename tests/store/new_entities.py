"""Entities for the engine's tests."""

from __future__ import annotations

from verta_store import Store


def new_run(store: Store, name: str = "first", *, project: str = "project", experiment: str = "experiment") -> str:
    """Makes (or meets) a run with what lies above it, and returns its id."""
    above = store.create("project", None, project)
    above = store.create("experiment", above.id, experiment)
    return store.create("run", above.id, name).id
