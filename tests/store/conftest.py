"""Stores for the engine's tests: one in `tmp_path`, and further ones on it as another process or host would have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from new_entities import new_run

import verta_store.opening
from verta_store import Store, close_all, open_store
from verta_store.description import read_description


@pytest.fixture(autouse=True)
def no_open_stores() -> Iterator[None]:
    """Closes what a test opened, and forgets it, so that a thousand examples do not leave a thousand stores."""
    yield
    close_all()
    verta_store.opening._open_stores.clear()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A new, empty store."""
    return open_store(tmp_path / "store", tmp_path / "cache", create=True)


@pytest.fixture
def another(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Opens the same folder as another process would: own journal, and own index where `cache` says so."""
    opened: list[Store] = []

    def open_another(store: Store, cache: str = "other-cache", durability: str = "normal") -> Store:
        opened.append(Store(store.root, read_description(store.root), str(tmp_path / cache), durability))
        return opened[-1]

    yield open_another
    for one in opened:
        one.close()


@pytest.fixture
def run(store: Store) -> str:
    """The id of a run in the store."""
    return new_run(store)
