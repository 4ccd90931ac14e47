"""Columns hold exactly what the entities' values say, whatever was logged, changed or taken out in between."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from new_entities import new_run

from verta_store import Store, index, ingest
from verta_store.query import Query, SortKey
from verta_store.records import same_value

COUNT = itertools.count()
SECTIONS = ("metrics", "hyperparameters")
bounded = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
values = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(0, 3),
    st.floats(),
    st.text(max_size=3),
    st.booleans(),
    st.none(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.floats(), max_size=2),
)
entries = st.dictionaries(st.sampled_from(["a", "b", "ü"]), values, max_size=3)


@pytest.fixture(autouse=True, params=[1, 10**9], ids=["packed at once", "packed when asked for"])
def packed_from(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "_PACKED_FROM", request.param)


def as_dicts(store: Store, query: Query) -> list[dict[tuple[str, str], Any]]:
    """The columns, turned back into what each entity has."""
    table = store.columns(query, SECTIONS)
    found: list[dict[tuple[str, str], Any]] = [{} for _ in table.ids]
    for name, column in table.columns.items():
        positions = range(len(table.ids)) if column.positions is None else column.positions
        for position, value in zip(positions, column.values, strict=True):
            found[position][name] = value
    assert table.ids == [row.id for row in store.find(query)]
    return found


def expected(store: Store, query: Query) -> list[dict[tuple[str, str], Any]]:
    return [
        {(section, key): value for section in SECTIONS for key, value in store.values(row.id, section).items()}
        for row in store.find(query)
    ]


def check(store: Store, query: Query) -> None:
    for found, wanted in zip(as_dicts(store, query), expected(store, query), strict=True):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert type(found[name]) is type(value) and same_value(found[name], value), name


@bounded
@given(runs=st.lists(st.tuples(entries, entries), max_size=6), changes=st.lists(st.tuples(st.integers(0, 5), entries)))
def test_columns_hold_what_the_runs_hold_also_after_changes(
    store: Store, runs: list[tuple[dict[str, Any], dict[str, Any]]], changes: list[tuple[int, dict[str, Any]]]
) -> None:
    project = store.create("project", None, f"project {next(COUNT)}").id
    experiment = store.create("experiment", project, "experiment").id
    made = []
    for number, (metrics, parameters) in enumerate(runs):
        made.append(store.create("run", experiment, f"run {number}").id)
        store.put_all(made[-1], {"metrics": metrics, "hyperparameters": parameters, "attributes": {"a": 1}})
    query = Query("run", experiment)
    check(store, query)
    for place, metrics in changes:
        if place < len(made):
            store.put(made[place], "metrics", metrics, overwrite=True)
            check(store, query)
    for place in range(0, len(made), 2):
        store.drop(made[place], "metrics", ["a"])
    check(store, query._replace(sort=SortKey("metrics", "b")))
    store._index.delete()  # so that all of it arrives at once
    check(store, query)


def test_a_store_that_is_read_for_the_first_time_has_its_columns_before_they_are_asked_for(
    store: Store, another: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # as it comes
    for number in range(ingest._PACKED_FROM):
        store.put(new_run(store, f"run {number}"), "metrics", {"a": number / 3, "b": number, "c": "x"})
    other = another(store)
    assert other.select("SELECT count(*) FROM packed") == [(ingest._PACKED_FROM + 2,)]  # and what is above them
    check(other, Query("run"))
    store.put(new_run(store, "run 0"), "metrics", {"a": 7}, overwrite=True)
    assert other.select("SELECT count(*) FROM packed") == [(ingest._PACKED_FROM + 1,)]
    check(other, Query("run"))


def test_thousands_of_runs_of_several_kinds_have_their_columns(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "PARAMETERS", 7)
    for number in range(60):
        run = new_run(store, f"run {number}")
        found = {"number": number, "half": number / 2, "either": number if number % 2 else number / 4}
        store.put(run, "metrics", found if number % 3 else {"number": float(number), "word": "x", "nan": math.nan})
    check(store, Query("run"))
    table = store.columns(Query("run"), ("metrics",))
    assert table.columns["metrics", "half"].positions is not None
    assert table.columns["metrics", "number"].positions is None
    store.delete(new_run(store, "run 5"))
    check(store, Query("run"))


def test_columns_after_a_rebuild_and_from_another_process_are_the_same(
    store: Store, another: Callable[..., Store]
) -> None:
    runs = [new_run(store, f"run {number}") for number in range(5)]
    for number, run in enumerate(runs):
        store.put(run, "metrics", {"a": number / 3})
    sharing, other = another(store, cache="cache"), another(store)
    for one in (store, sharing, other):
        check(one, Query("run"))
    sharing.put(runs[0], "metrics", {"b": 1})
    store.put(runs[1], "metrics", {"b": 2.5})
    for one in (store, sharing, other):
        check(one, Query("run"))
    assert as_dicts(store, Query("run")) == as_dicts(other, Query("run"))


def test_a_damaged_row_means_a_rebuild(store: Store) -> None:
    run = new_run(store)
    store.put(run, "metrics", {"a": 0.5})
    check(store, Query("run"))
    store._index._open().execute("UPDATE packed SET data = x'00'")
    check(store, Query("run"))
