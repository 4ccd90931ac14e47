"""What a process knows without asking its index is what the index would have said, whoever logs in between."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forking import fork
from new_entities import new_run

from verta_store import Store
from verta_store.errors import KeyTaken, StoreWriteError
from verta_store.query import Query

# The other writer: a process of the same user and host shares the index; one of another host has its own.
OTHERS = pytest.mark.parametrize("cache", ["cache", "other-cache"])


def statements(store: Store) -> list[str]:
    """The SQL that the store's index runs from now on."""
    found: list[str] = []
    store.index_state()
    assert store._index._connection is not None
    store._index._connection.set_trace_callback(found.append)
    return found


def index_file(store: Store, tmp_path: Path) -> Path:
    return tmp_path / "cache" / "stores" / store.id / "index.sqlite"


# -- names ---------------------------------------------------------------------------------------------------------


def test_a_first_run_makes_no_index(store: Store, tmp_path: Path) -> None:
    ids = [new_run(store, f"run {number % 10}") for number in range(20)]
    store.put(ids[0], "metrics", {"a": 1.0})
    store.require_absent(ids[0], "artifacts", ["b"])
    assert ids[:10] == ids[10:] and len(set(ids)) == 10
    assert not index_file(store, tmp_path).exists()
    assert store.count(Query("run")) == 10
    assert store.values(ids[0], "metrics") == {"a": 1.0}
    assert index_file(store, tmp_path).exists()


@OTHERS
def test_a_name_that_another_process_made_is_found(store: Store, another: Callable[..., Store], cache: str) -> None:
    experiment = store.entity(new_run(store)).parent
    other = another(store, cache)
    for number in range(5):
        name = f"run {number}"
        assert store.named("run", experiment, name) is None
        made = other.create("run", experiment, name)
        assert store.named("run", experiment, name) == made
        assert store.create("run", experiment, name) == made
    assert store.count(Query("run")) == 6


@OTHERS
def test_a_name_that_another_process_made_in_a_new_store_is_found(
    store: Store, another: Callable[..., Store], cache: str
) -> None:
    project = store.create("project", None, "project")
    made = another(store, cache).create("experiment", project.id, "experiment")
    found = store.named("experiment", project.id, "experiment")
    assert found is not None and found.id == made.id


@OTHERS
def test_what_another_process_deleted_is_made_anew(store: Store, another: Callable[..., Store], cache: str) -> None:
    first = store.entity(new_run(store))
    assert store.named("run", first.parent, "first") == first._replace(updated_ms=first.updated_ms)
    another(store, cache).delete(first.id)
    assert store.named("run", first.parent, "first") is None
    second = store.create("run", first.parent, "first")
    assert (second.generation, second.id != first.id) == (1, True)


@OTHERS
def test_what_another_process_renamed_has_its_new_name_only(
    store: Store, another: Callable[..., Store], cache: str
) -> None:
    run = new_run(store)
    parent = store.entity(run).parent
    another(store, cache).put(run, "fields", {"name": "second"}, overwrite=True)
    assert store.named("run", parent, "first") is None
    found = store.named("run", parent, "second")
    assert found is not None and found.id == run


def test_what_this_process_renamed_or_deleted_is_known_at_once(store: Store) -> None:
    run = new_run(store)
    parent = store.create("experiment", store.create("project", None, "project").id, "experiment").id
    store.put(run, "fields", {"name": "second"}, overwrite=True)
    assert store.named("run", parent, "first") is None
    found = store.named("run", parent, "second")
    assert found is not None and found.id == run
    store.delete(run)
    assert store.named("run", parent, "second") is None
    again = store.create("run", parent, "first")
    assert again.id != run and again.generation == 1
    store.put_all(again.id, {"metrics": {"a": 1}, "fields": {"name": "third"}}, overwrite=True)
    assert store.named("run", parent, "first") is None


def test_a_name_that_could_not_be_written_is_free(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = store.create("project", None, "project").id

    def refuse(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(StoreWriteError):
        patch.setattr(os, "write", refuse)
        store.create("experiment", parent, "experiment")
    assert store.create("experiment", parent, "experiment").generation == 0


def test_many_names_take_in_nothing_that_this_process_has_logged(store: Store, another: Callable[..., Store]) -> None:
    parent = store.entity(new_run(another(store))).parent  # so that the store is not this process's alone
    store.create("run", parent, "run")
    ran = statements(store)
    for number in range(20):
        store.create("run", parent, f"run {number}")
    assert not [sql for sql in ran if sql.startswith(("BEGIN", "INSERT", "UPDATE"))]
    assert store.count(Query("run")) == 22


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_parent_and_child_of_a_fork_find_what_the_other_made(store: Store) -> None:
    parent = store.entity(new_run(store)).parent
    store.create("run", parent, "before")
    for_child, for_parent = os.pipe(), os.pipe()
    child = fork()
    if not child:
        try:
            assert store.named("run", parent, "before") is not None
            os.read(for_child[0], 1)
            found = store.create("run", parent, "by the parent")
            store.create("run", parent, "by the child")
            os.write(for_parent[1], found.id.encode())
            os._exit(0)
        finally:
            os._exit(1)
    made = store.create("run", parent, "by the parent")
    os.write(for_child[1], b"x")
    assert os.read(for_parent[0], 100).decode() == made.id
    assert os.waitpid(child, 0)[1] == 0
    for descriptor in (*for_child, *for_parent):
        os.close(descriptor)
    assert store.named("run", parent, "by the child") is not None
    assert store.count(Query("run")) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_of_a_fork_is_refused_the_keys_that_its_parent_logged_since(store: Store) -> None:
    run = new_run(store)
    store.put(run, "metrics", {"before": 1})
    store.add_points(run, "loss", [(0.5, 1, None)])
    for_child = os.pipe()
    child = fork()
    if not child:
        status = 1
        try:
            os.read(for_child[0], 1)
            store.add_points(run, "loss", [(0.25, 1, None)])
            for key in ("before", "since"):
                with pytest.raises(KeyTaken):
                    store.put(run, "metrics", {key: 2})
            store.close()
            status = 0
        finally:
            os._exit(status)
    store.put(run, "metrics", {"since": 1})
    store.add_points(run, "loss", [(0.4, 1, None)])
    os.write(for_child[1], b"x")
    assert os.waitpid(child, 0)[1] == 0
    for descriptor in for_child:
        os.close(descriptor)
    assert store.values(run, "metrics") == {"before": 1, "since": 1} and not store.conflicts()
    assert [(point.value, point.epoch) for point in store.points(run, "loss")] == [(0.5, 0), (0.4, 1), (0.25, 2)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_no_memory_of_the_parent_is_locked_in_a_child(store: Store) -> None:
    """SQLite's own locks are held for ever in a child that is forked while another thread is in it."""
    store.put_bytes(b"so that there are contents")
    locked = threading.Event()
    let_go = threading.Event()

    def hold() -> None:
        with store._contents.sources.lock:
            locked.set()
            let_go.wait(1.0)

    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait()
    begin = time.monotonic()
    child = fork()
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0 and time.monotonic() - begin > 0.5  # the fork has waited for the thread
    let_go.set()
    thread.join()


def test_a_name_is_found_though_the_index_was_deleted(store: Store, another: Callable[..., Store]) -> None:
    parent = store.entity(new_run(another(store))).parent
    made = store.create("run", parent, "mine")
    assert store.count(Query("run")) == 2  # so that the index has it, and this process need not remember it
    store.put(made.id, "fields", {"name": "renamed"}, overwrite=True)
    assert store.named("run", parent, "mine") is None
    store.forget_derived()
    found = store.named("run", parent, "renamed")
    assert found is not None and found.id == made.id


# -- keys ----------------------------------------------------------------------------------------------------------


@OTHERS
def test_a_key_that_another_process_logged_is_refused_after_a_look(
    store: Store, another: Callable[..., Store], run: str, cache: str
) -> None:
    store.put(run, "metrics", {"mine": 1})
    another(store, cache).put(run, "metrics", {"theirs": 2})
    with pytest.raises(KeyTaken):
        store.require_absent(run, "metrics", ["theirs"])
    with pytest.raises(KeyTaken):
        store.put(run, "metrics", {"theirs": 3})
    with pytest.raises(KeyTaken):
        store.put(run, "metrics", {"mine": 3})
    assert store.values(run, "metrics") == {"mine": 1, "theirs": 2}


@OTHERS
def test_epochs_go_on_behind_those_of_another_process(
    store: Store, another: Callable[..., Store], run: str, cache: str
) -> None:
    store.add_points(run, "loss", [(1.0, 0, None)])
    another(store, cache).add_points(run, "loss", [(2.0, 0, 7)])
    store.tags(run)  # a look of whatever kind
    store.add_points(run, "loss", [(3.0, 0, None)])
    assert store.point_columns(run, "loss").epochs[-1] == 8


def test_reading_its_own_records_makes_a_process_forget_nothing(store: Store, run: str) -> None:
    store.put(run, "metrics", {"a": 1})
    store.values(run, "metrics")  # the first look opens the index, which may hold anything
    store.put(run, "metrics", {"b": 1})
    store.add_points(run, "loss", [(1.0, 0, None)])
    assert store.values(run, "metrics") == {"a": 1, "b": 1}
    ran = statements(store)
    for number in range(20):
        store.put(run, "metrics", {f"b{number}": 1})
        store.add_points(run, "loss", [(1.0, 0, None)])
    assert ran == []
    with pytest.raises(KeyTaken):
        store.put(run, "metrics", {"a": 2})


def test_a_second_process_that_indexes_our_records_brings_no_news(
    store: Store, another: Callable[..., Store], run: str
) -> None:
    store.put(run, "metrics", {"a": 1})
    other = another(store, "cache")
    assert other.values(run, "metrics") == {"a": 1}
    store.values(run, "metrics")
    store.put(run, "metrics", {"b": 1})
    other.values(run, "metrics")  # the shared index is ahead of this process now
    store.values(run, "metrics")
    ran = statements(store)
    store.put(run, "metrics", {"c": 1})
    assert ran == []


def test_news_that_a_rebuild_of_the_index_brings_are_not_missed(
    store: Store, another: Callable[..., Store], run: str, tmp_path: Path
) -> None:
    store.put(run, "metrics", {"a": 1})
    store.values(run, "metrics")
    another(store).put(run, "metrics", {"theirs": 2})
    index_file(store, tmp_path).write_bytes(b"no database" * 1000)
    store._index.close()
    store.values(run, "metrics")
    with pytest.raises(KeyTaken):
        store.put(run, "metrics", {"theirs": 3})
