"""Merging does not depend on the order of arrival: any way of taking journals in gives the index of a rebuild."""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verta_store import Store, ids, index, ingest, records
from verta_store.journal import OPEN_SUFFIX

STORE = "11111111-2222-4333-8444-555555555555"
BASE = (ids.now_ms() - 60_000) << ids.CLOCK_BITS
ENTITIES = {
    f"00000000-0000-8000-8000-00000000000{number}": fields
    for number, fields in enumerate(
        [
            {"type": "project", "parent": None, "name": "project"},
            {"type": "experiment", "parent": "00000000-0000-8000-8000-000000000000", "name": "experiment"},
            {"type": "run", "parent": "00000000-0000-8000-8000-000000000001", "name": "one"},
            {"type": "run", "parent": "00000000-0000-8000-8000-000000000001", "name": "two"},
        ]
    )
}
IDS = list(ENTITIES)
COUNT = itertools.count()


OPENED: list[index.Index] = []


def new_index(root: str, store_id: str, path: str) -> index.Index:
    OPENED.append(index.Index(root, store_id, path))
    return OPENED[-1]


@pytest.fixture(autouse=True)
def close_indexes() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


class Journals:
    """Journals of several writers on the disk, which grow line by line as a test says."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._checks: dict[str, int] = {}

    def append(self, writer: int, record: dict[str, Any]) -> None:
        stem = f"host-0000000{writer}/20260101t000000-1-0000000{writer}"
        path = self._root / "journals" / (stem + OPEN_SUFFIX)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            if stem not in self._checks:
                header = {"k": "journal", "format": 1, "store": STORE, "name": stem, "host": f"h{writer}", "user": "u"}
                file.write(self._line(stem, header))
            file.write(self._line(stem, record))

    def _line(self, stem: str, record: dict[str, Any]) -> bytes:
        body = records.encode(record)[1:].encode() + b"\n"
        self._checks[stem] = zlib.crc32(body, self._checks.get(stem, 0))
        return b'{"c":"%08x",' % self._checks[stem] + body


def content(of: index.Index) -> dict[str, Any]:
    """All that the index answers with, in an order of its own where the engine promises none."""
    of.refresh()
    found: dict[str, Any] = {"conflicts": sorted(repr(conflict) for conflict in of.conflicts())}
    for entity, *rest in of.run(
        "SELECT id, kind, parent, name, generation, created_ms, updated, deleted IS NOT NULL, is_known,"
        " (SELECT stem FROM journals WHERE id = writer) FROM entities"
    ):
        found[entity] = {"row": rest, "tags": of.tags(entity)}
        for section in ("metrics", "attributes", "fields"):
            found[entity][section] = {
                key: (records.encode_value(value), of.key_times(entity, section)[key])
                for key, value in of.values(entity, section).items()
            }
        for key in of.point_keys(entity):
            found[entity]["points", key] = of.points(entity, key)
    searched = "SELECT e.id, k.key, v.num, v.text FROM vals v, entities e, keys k WHERE e.num = entity AND k.id = v.key"
    found["searched"] = sorted(map(repr, of.run(searched)))
    return found


VALUE = st.sampled_from([1, 2, 1.0, "x", "y", None, {"a": 1, "b": 2}, {"b": 2, "a": 1}, math.inf])
KEY = st.sampled_from(["a", "b"])
SECTION = st.sampled_from(["metrics", "attributes"])
SEEN = st.none() | st.integers(0, 30)


def operation() -> st.SearchStrategy[dict[str, Any]]:
    values = st.dictionaries(KEY, VALUE, min_size=1, max_size=2)
    return st.one_of(
        st.builds(lambda s, v, o: {"k": "put", "s": s, "v": v, "o": o}, SECTION, values, SEEN),
        st.builds(lambda v, w, o: {"k": "put", "s": "metrics", "v": v, "and": {"attributes": w}, "o": o},
                  values, values, SEEN),
        st.builds(lambda v, d, o: {"k": "put", "s": "metrics", "v": v, "drop": {"metrics": d, "attributes": d}, "o": o},
                  values, st.lists(KEY, max_size=2), SEEN),
        st.builds(lambda v, o: {"k": "put", "s": "fields", "v": {"name": v}, "o": o}, st.sampled_from("mno"), SEEN),
        st.builds(lambda s, v: {"k": "drop", "s": s, "v": v}, SECTION, st.lists(KEY, min_size=1, max_size=2)),
        st.builds(lambda k, v: {"k": k, "v": v}, st.sampled_from(["tag", "untag"]),
                  st.lists(st.sampled_from(["t", "u"]), min_size=1, max_size=2, unique=True)),
        st.builds(lambda k, v, o: {"k": "points", "key": k, "v": v, "o": o}, KEY,
                  st.lists(st.tuples(st.integers(0, 3) | st.floats(0, 1), st.integers(0, 9), st.integers(0, 3)),
                           min_size=1, max_size=3),
                  st.none() | st.just(0)),
        st.just({"k": "delete"}),
        st.builds(lambda at: {"k": "entity", "at": at}, st.integers(0, 5)),
        st.just({"k": "a kind of a later version", "v": 7}),
    )  # fmt: skip


# (writer, entity, time, operation): times are small, so that two writers often have the same one.
HISTORY = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(IDS), operation()), min_size=1, max_size=14)


def with_times(history: list[tuple[int, str, dict[str, Any]]], steps: list[int]) -> list[tuple[int, dict[str, Any]]]:
    """Records with rising times a writer; times of two writers may be equal."""
    clocks = [0, 0, 0]
    made = []
    for (writer, entity, fields), step in zip(history, steps, strict=True):
        clocks[writer] += step
        record = {"h": BASE + clocks[writer], "e": entity, **{k: v for k, v in fields.items() if v is not None}}
        if record.get("o") is not None and record["k"] == "put":
            record["o"] = BASE + record["o"] if record["o"] else 0
        if record["k"] == "entity":
            record |= ENTITIES[entity]
        made.append((writer, record))
    return made


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_order_and_splitting_of_arrival_gives_the_index_of_a_rebuild(tmp_path: Path, data: st.DataObject) -> None:
    history = data.draw(HISTORY)
    lines = with_times(history, data.draw(st.lists(st.integers(1, 3), min_size=len(history), max_size=len(history))))
    check_orders(tmp_path, lines, data.draw(st.randoms(use_true_random=False)))


def check_orders(tmp_path: Path, lines: list[tuple[int, dict[str, Any]]], random: Any) -> None:
    whole = tmp_path / f"whole{next(COUNT)}"
    together = Journals(whole)
    for writer, record in lines:
        together.append(writer, record)
    rebuilt = new_index(str(whole), STORE, ":memory:")
    expected = content(rebuilt)
    rebuilt.close()
    for turn in range(2):
        root = tmp_path / f"split{next(COUNT)}"
        growing = new_index(str(root), STORE, ":memory:")
        parts = Journals(root)
        queues = [[record for by, record in lines if by == writer] for writer in range(3)]
        while any(queues):
            writer = random.choice([number for number in range(3) if queues[number]])
            for _ in range(random.randint(1, 3)):
                if queues[writer]:
                    parts.append(writer, queues[writer].pop(0))
            if turn == 0 or random.random() < 0.5:
                growing.refresh()
        assert content(growing) == expected
        growing.close()


def put(time: int, value: Any, seen: int | None = None) -> dict[str, Any]:
    made = {"h": BASE + time, "k": "put", "e": IDS[2], "s": "metrics", "v": {"a": value}}
    return made if seen is None else made | {"o": BASE + seen if seen else 0}


def merged(tmp_path: Path, *lines: tuple[int, dict[str, Any]]) -> index.Index:
    """The index of these lines, taken in one by one."""
    journals = Journals(tmp_path)
    made = new_index(str(tmp_path), STORE, ":memory:")
    for writer, record in lines:
        journals.append(writer, record)
        made.refresh()
    return made


def a_of(of: index.Index) -> Any:
    return of.values(IDS[2], "metrics").get("a")


def losers_of(of: index.Index) -> list[Any]:
    return [conflict.value for conflict in of.conflicts()]


def test_of_plain_values_the_first_wins_and_the_other_is_shown(tmp_path: Path) -> None:
    found = merged(tmp_path, (0, put(5, "late")), (1, put(3, "early")))
    assert a_of(found) == "early" and losers_of(found) == ["late"]
    (conflict,) = found.conflicts()
    assert (conflict.entity, conflict.section, conflict.key, conflict.host) == (IDS[2], "metrics", "a", "h0")


def test_of_overwrites_the_last_wins_and_one_that_knew_the_other_is_no_conflict(tmp_path: Path) -> None:
    found = merged(tmp_path, (0, put(1, "plain")), (0, put(2, "known", seen=1)), (1, put(9, "other", seen=0)))
    assert a_of(found) == "other" and losers_of(found) == ["known"], "the first was replaced by its own writer"
    found = merged(tmp_path / "b", (0, put(1, "plain")), (1, put(5, "over", seen=1)))
    assert a_of(found) == "over" and losers_of(found) == []


def test_an_overwrite_beats_a_later_plain_value(tmp_path: Path) -> None:
    found = merged(tmp_path, (0, put(1, "over", seen=0)), (1, put(9, "plain")))
    assert a_of(found) == "over" and losers_of(found) == ["plain"]


@pytest.mark.parametrize(
    "values", [(1.5, 1.5), ("x", "x"), ({"a": 1, "b": [2]}, {"b": [2], "a": 1}), (math.nan, math.nan)]
)
def test_equal_values_never_conflict(tmp_path: Path, values: tuple[Any, Any]) -> None:
    assert losers_of(merged(tmp_path, (0, put(1, values[0])), (1, put(2, values[1])))) == []


def test_an_equal_value_survives_the_drop_of_an_earlier_one(tmp_path: Path) -> None:
    drop = {"h": BASE + 5, "k": "drop", "e": IDS[2], "s": "metrics", "v": ["a"]}
    found = merged(tmp_path, (0, put(1, "x")), (1, put(9, "x")), (2, drop))
    assert a_of(found) == "x"


def test_a_tag_that_was_removed_and_added_again_is_there_whatever_came_first(tmp_path: Path) -> None:
    def tag(kind: str, time: int) -> dict[str, Any]:
        return {"h": BASE + time, "k": kind, "e": IDS[2], "v": ["t"]}

    for number, order in enumerate([(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0), (2, 0, 1), (1, 0, 2)]):
        events = [tag("tag", 1), tag("untag", 2), tag("tag", 3)]
        found = merged(tmp_path / str(number), *((at, events[at]) for at in order))
        assert found.tags(IDS[2]) == ["t"], order


def test_points_of_two_writers_at_one_moment_come_in_one_order(tmp_path: Path) -> None:
    def points(time: int, *values: float) -> dict[str, Any]:
        return {"h": BASE + time, "k": "points", "e": IDS[2], "key": "loss", "v": [[v, 0, 0] for v in values]}

    one = merged(tmp_path / "one", (0, points(1, 3.0, 1.0)), (1, points(1, 2.0, 0.0)))
    two = merged(tmp_path / "two", (1, points(1, 2.0, 0.0)), (0, points(1, 3.0, 1.0)))
    assert [p.value for p in one.points(IDS[2], "loss")] == [3.0, 1.0, 2.0, 0.0]
    assert one.points(IDS[2], "loss") == two.points(IDS[2], "loss")


def test_a_series_starts_anew_for_points_that_arrive_later_too(tmp_path: Path) -> None:
    def points(time: int, value: int, *, anew: bool = False) -> dict[str, Any]:
        made = {"h": BASE + time, "k": "points", "e": IDS[2], "key": "loss", "v": [[value, 0, 0]]}
        return made | {"o": 0} if anew else made

    found = merged(tmp_path, (0, points(1, 1)), (1, points(5, 5, anew=True)), (2, points(3, 3)), (2, points(7, 7)))
    assert [point.value for point in found.points(IDS[2], "loss")] == [5, 7]


@pytest.mark.parametrize("value", [1.5, 7, 2**70, "text", True, None, math.nan, -0.0])
def test_long_histories_come_back_in_chunks_of_any_kind(tmp_path: Path, value: Any) -> None:
    many = [[value, number, number % 7] for number in range(9_000)]
    journals = Journals(tmp_path)
    found = new_index(str(tmp_path), STORE, ":memory:")
    for begin in range(0, 9_000, 1_500):
        part = many[begin : begin + 1_500]
        journals.append(0, {"h": BASE + begin + 1, "k": "points", "e": IDS[2], "key": "loss", "v": part})
        found.refresh()
    points = found.points(IDS[2], "loss")
    assert [point.timestamp_ms for point in points] == list(range(9_000))
    assert {records.encode_value(point.value) for point in points} == {records.encode_value(value)}


def test_what_lies_below_a_deleted_entity_is_deleted_also_when_it_comes_later(tmp_path: Path) -> None:
    lines = [(0, {"h": BASE + n, "k": "entity", "e": e, "at": 1, **f}) for n, (e, f) in enumerate(ENTITIES.items())]
    delete = (1, {"h": BASE + 50, "k": "delete", "e": IDS[0]})
    for number, order in enumerate([[*lines, delete], [delete, *lines], [*lines[:2], delete, *lines[2:]]]):
        found = merged(tmp_path / str(number), *order)
        assert [found.entity(entity) for entity in IDS] == [None] * 4


def test_records_from_the_far_future_wait_and_count_when_their_time_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = (ids.now_ms() + 30 * 3_600_000) << ids.CLOCK_BITS
    early = put(1, "now")
    late = put(0, "future", seen=0) | {"h": future}
    found = merged(tmp_path, (0, early), (1, late))
    assert a_of(found) == "now" and found.newest_time < future
    real = ids.now_ms
    monkeypatch.setattr(ids, "now_ms", lambda: real() + 10 * 3_600_000)
    found.refresh()
    assert a_of(found) == "future"
    rebuilt = new_index(str(tmp_path), STORE, ":memory:")
    assert content(rebuilt) == content(found)


BROKEN = [
    {"k": "put"},
    {"k": "put", "h": 1},
    {"k": "put", "h": "x", "e": IDS[2], "s": "metrics", "v": {}},
    {"k": "put", "h": 1, "e": 7, "s": "metrics", "v": {}},
    {"k": "put", "h": 1, "e": IDS[2], "s": "metrics", "v": 3},
    {"k": "put", "h": 1, "e": IDS[2], "s": ["metrics"], "v": {"a": 1}},
    {"k": "put", "h": 1, "e": IDS[2], "s": "metrics", "v": {"b": 1}, "and": 7},
    {"k": "put", "h": 1, "e": IDS[2], "s": "metrics", "v": {"b": 1}, "o": "x"},
    {"k": "put", "h": 1, "e": IDS[2], "s": "metrics", "v": {"b": 1}, "drop": ["a"]},
    {"k": "put", "h": 1, "e": IDS[2], "s": "metrics", "v": {"b": 1}, "drop": {"metrics": [7]}},
    {"k": "put", "h": 10**30, "e": IDS[2], "s": "metrics", "v": {"a": 1}},
    {"k": "put", "h": -(10**30), "e": IDS[2], "s": "metrics", "v": {"a": 1}},
    {"k": "points", "h": 1, "e": IDS[2], "key": "loss", "v": [[1, 10**30, 0]]},
    {"k": "points", "h": 1, "e": IDS[2], "key": "loss", "v": [[1, 1.5, 0]]},
    {"k": "points", "h": 1, "e": IDS[2], "key": "loss", "v": [[1, 1]]},
    {"k": "points", "h": 1, "e": IDS[2], "key": None, "v": []},
    {"k": "tag", "h": 1, "e": IDS[2], "v": [{}]},
    {"k": "tag", "h": 1, "e": IDS[2], "v": 5},
    {"k": "entity", "h": 1, "e": IDS[2]},
    {"k": "entity", "h": 1, "e": IDS[2], "type": "run", "name": 7},
    {"k": "entity", "h": 1, "e": IDS[2], "type": {}, "name": "x", "at": 10**30, "gen": "x"},
    {"k": "drop", "h": 1, "e": IDS[2], "s": "metrics", "v": [7]},
    {"k": "delete", "h": True, "e": None},
    {"k": "put", "h": 1, "e": IDS[2], "s": "fields", "v": {"name": 5}, "o": 0},
]


@pytest.mark.parametrize("record", BROKEN, ids=json.dumps)
def test_a_record_that_makes_no_sense_is_passed_over_and_all_others_count(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    """One line of a broken or hostile writer must not close the store for everybody."""
    lines = [(0, {"h": BASE, "k": "entity", "e": IDS[2], "at": 1, **ENTITIES[IDS[2]]}), (0, put(1, "before")),
             (0, record), (1, put(0, "after") | {"s": "attributes"})]  # fmt: skip
    found = merged(tmp_path, *lines)
    assert a_of(found) == "before" and found.values(IDS[2], "attributes") == {"a": "after"}
    entity = found.entity(IDS[2])
    assert entity is not None and entity.name in ("one", "5")
    rebuilt = new_index(str(tmp_path), STORE, ":memory:")
    assert content(rebuilt) == content(found)


def test_a_value_is_searched_as_a_number_or_a_text() -> None:
    assert ingest.searchable(1.5) == (1.5, None)
    assert ingest.searchable(2**60 + 1) == (2**60 + 1, None)
    assert ingest.searchable(10**400) == (math.inf, None)
    assert ingest.searchable(-(10**400)) == (-math.inf, None)
    assert ingest.searchable(math.nan) == (None, "nan")
    assert ingest.searchable(True) == (None, "True")
    assert ingest.searchable("a") == (None, "a")
    assert ingest.searchable([1]) == (None, None)
    assert ingest.searchable("\udcff") == (None, "\\udcff")


def test_two_stores_with_one_history_answer_alike(store: Store, another: Callable[..., Store]) -> None:
    run = store.create("run", None, "x").id
    for number in range(20):
        store.put(run, "metrics", {f"m{number}": number}, overwrite=bool(number % 2))
        store.add_points(run, "loss", [(number / 7, number, number)])
    second = another(store)
    assert content(second._index) == content(store._index)
