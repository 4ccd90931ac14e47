"""What the journals name: living runs, and what lost a conflict; decided from the records, in any order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from new_entities import new_run

from verta_store import Store, ids, journal, open_store, records
from verta_store.description import read_description
from verta_store.digest import digests_in
from verta_store.errors import UnknownEntity
from verta_store.roots import DELETED, DROPPED, OVERWRITTEN, RootReader, Roots

NOW_MS = 1_800_000_000_000
DAY_MS = 24 * 3600 * 1000


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def artifact(number: int) -> dict[str, Any]:
    return {"kind": "blob", "digest": digest(number), "name": "n", "size_bytes": 1}


def at(ms: int) -> int:
    return ms << ids.CLOCK_BITS


def put(number: int, time_ms: int = NOW_MS, *, key: str = "key", run: str = "run", seen: int | None = None) -> dict:
    record = {"k": records.PUT, "e": run, "h": at(time_ms), "s": records.ARTIFACTS, "v": {key: artifact(number)}}
    return record if seen is None else {**record, "o": at(seen)}


def entity(name: str, parent: str | None, kind: str = "run") -> dict:
    return {"k": records.ENTITY, "e": name, "h": at(NOW_MS), "type": kind, "parent": parent, "name": name}


def why(*journals: list[dict]) -> dict[int, str]:
    """Number of each digest that is named -> why it no longer counts, '' if it does (somewhere)."""
    roots = Roots()
    for number, lines in enumerate(journals):
        roots.add(f"writer-{number}", lines)
    found: dict[int, str] = {}
    for naming in roots.namings(NOW_MS):
        number = int(naming.digest[7:], 16)
        found[number] = naming.reason if found.get(number, "x") else ""
    assert roots.living(NOW_MS) == {digest(number) for number, reason in found.items() if not reason}
    return found


def test_an_artifact_of_a_run_is_named() -> None:
    assert why([entity("run", None), put(1)]) == {1: ""}


def test_an_artifact_of_a_run_that_no_journal_creates_is_named() -> None:
    assert why([put(1)]) == {1: ""}


@pytest.mark.parametrize("deleted", ["run", "experiment", "project"])
def test_deletion_reaches_everything_below(deleted: str) -> None:
    lines = [entity("project", None), entity("experiment", "project"), entity("run", "experiment"), put(1)]
    assert why(lines, [{"k": records.DELETE, "e": deleted, "h": at(NOW_MS)}]) == {1: DELETED}


def test_what_arrives_at_a_deleted_run_later_is_dead_too() -> None:
    assert why([{"k": records.DELETE, "e": "run", "h": at(NOW_MS - 5)}], [put(1)]) == {1: DELETED}


def test_an_object_that_a_living_run_names_too_is_kept() -> None:
    delete = {"k": records.DELETE, "e": "run", "h": at(NOW_MS)}
    assert why([put(1), delete, put(1, run="other")]) == {1: ""}


def test_an_overwritten_value_is_dead_and_the_new_one_lives() -> None:
    assert why([put(1, NOW_MS), put(2, NOW_MS + 2, seen=NOW_MS)]) == {1: OVERWRITTEN, 2: ""}


def test_of_many_overwrites_only_the_last_lives() -> None:
    lines = [put(n, NOW_MS + n, seen=NOW_MS + n - 1) for n in range(1, 6)]
    assert why(lines) == {1: OVERWRITTEN, 2: OVERWRITTEN, 3: OVERWRITTEN, 4: OVERWRITTEN, 5: ""}


def test_what_lost_a_conflict_stays() -> None:
    # Two writers that did not know of each other: plain against plain, an overwrite against both.
    assert why([put(1, NOW_MS)], [put(2, NOW_MS + 1)]) == {1: "", 2: ""}
    assert why([put(1, NOW_MS)], [put(2, NOW_MS + 1)], [put(3, NOW_MS + 2, seen=0)]) == {1: "", 2: "", 3: ""}


def test_a_value_that_was_replaced_stays_dead_when_the_one_that_replaced_it_loses() -> None:
    known = [put(1, NOW_MS), put(2, NOW_MS + 5, seen=NOW_MS)]
    assert why(known) == {1: OVERWRITTEN, 2: ""}
    assert why(known, [put(3, NOW_MS + 9, seen=0)]) == {1: OVERWRITTEN, 2: "", 3: ""}


def test_a_dropped_value_is_dead_and_one_that_is_logged_after_it_lives() -> None:
    drop = {"k": records.DROP, "e": "run", "h": at(NOW_MS + 1), "s": records.ARTIFACTS, "v": ["key"]}
    assert why([put(1), drop, put(2, NOW_MS + 2)]) == {1: DROPPED, 2: ""}


def test_a_value_that_goes_with_the_record_of_another_is_dead() -> None:
    other = {**put(2, NOW_MS + 1, key="other"), "drop": {records.ARTIFACTS: ["key"], records.METRICS: ["other"]}}
    assert why([put(1), other]) == {1: DROPPED, 2: ""}


def test_a_drop_of_another_key_or_section_is_none() -> None:
    drop = {"k": records.DROP, "e": "run", "h": at(NOW_MS + 1), "s": records.METRICS, "v": ["key"]}
    other = {**drop, "s": records.ARTIFACTS, "v": ["other"]}
    assert why([put(1), drop, other]) == {1: ""}


@pytest.mark.parametrize(
    "future",
    [
        {"k": records.DELETE, "e": "run"},
        {"k": records.DROP, "e": "run", "s": records.ARTIFACTS, "v": ["key"]},
        {"k": records.PUT, "e": "run", "s": records.ARTIFACTS, "v": {"key": artifact(2)}, "o": at(NOW_MS)},
    ],
)
def test_in_quarantine_a_record_takes_nothing_away_yet(future: dict) -> None:
    late = {**future, "h": at(NOW_MS + DAY_MS + 1)}
    assert why([put(1)], [late])[1] == ""
    assert why([put(1)], [{**future, "h": at(NOW_MS + DAY_MS - 1)}])[1] != ""


def test_in_quarantine_a_record_names_what_it_names() -> None:
    assert why([put(1, NOW_MS + 5 * DAY_MS)]) == {1: ""}


def test_a_digest_in_any_other_section_is_named_while_the_run_lives() -> None:
    section = {"k": records.PUT, "e": "run", "h": at(NOW_MS), "s": "model", "v": {"model": {"parts": [digest(7)]}}}
    both = {**section, "s": records.METRICS, "v": {"a": 1.0}, "and": {"later": {"b": f"see {digest(8)}!"}}}
    assert why([section, both]) == {7: "", 8: ""}
    assert why([section, both, {"k": records.DELETE, "e": "run", "h": at(NOW_MS)}]) == {7: DELETED, 8: DELETED}


def test_a_record_of_a_later_version_keeps_what_it_names() -> None:
    assert why([{"k": "dataset", "e": "run", "h": at(NOW_MS), "of": {"x": [{"y": digest(3)}]}}]) == {3: ""}


def test_parents_in_a_circle_end() -> None:
    lines = [entity("a", "b"), entity("b", "a"), put(1, run="a")]
    assert why(lines) == {1: ""}
    assert why([*lines, {"k": records.DELETE, "e": "b", "h": at(NOW_MS)}]) == {1: DELETED}


def test_digests_are_found_however_deep() -> None:
    value = {"a": [1, None, {"b": f"x{digest(1)} {digest(2)}"}], digest(3): "sha256:short", "c": ("sha256:", digest(4))}
    assert [int(found[7:], 16) for found in digests_in(value)] == [1, 2, 3, 4]


OPERATIONS = st.lists(
    st.tuples(
        st.integers(0, 2),  # writer
        st.sampled_from(["put", "put", "overwrite", "overwrite", "drop", "drop too", "delete"]),
        st.integers(0, 1),  # run
        st.integers(0, 1),  # key
        st.booleans(),  # whether the writer looks first
    ),
    max_size=12,
)


@settings(max_examples=40)  # an example opens five stores
@given(OPERATIONS)
def test_the_records_say_the_same_as_the_index(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[int, str, int, int, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("property")
    first = open_store(folder / "store", folder / "cache", create=True)
    description = read_description(first.root)
    writers = [Store(first.root, description, str(folder / f"cache-{n}"), "normal") for n in range(3)]
    runs = [new_run(first, f"run-{n}") for n in range(2)]
    for number, (writer, what, run, key, looks_first) in enumerate(operations):
        store, entity_id, name = writers[writer], runs[run], f"key-{key}"
        if looks_first:
            store.refresh()
        try:
            if what == "delete":
                store.delete(entity_id)
            elif what == "drop":
                store.drop(entity_id, records.ARTIFACTS, [name])
            elif what == "drop too":
                both = {records.ARTIFACTS: {name: artifact(number)}}
                store.put_all(entity_id, both, overwrite=True, drop={records.ARTIFACTS: [f"key-{1 - key}"]})
            else:
                store.put(entity_id, records.ARTIFACTS, {name: artifact(number)}, overwrite=what == "overwrite")
        except (ValueError, UnknownEntity):
            pass  # logged before, or deleted as this writer knows
    reader = RootReader(first.root)
    assert reader.catch_up() == []
    living = reader.roots.living(ids.now_ms())
    fresh = Store(first.root, description, str(folder / "cache-fresh"), "normal")
    shown = {v["digest"] for run in runs if _lives(fresh, run) for v in fresh.values(run, records.ARTIFACTS).values()}
    lost = {conflict.value["digest"] for conflict in fresh.conflicts() if _lives(fresh, conflict.entity)}
    assert shown | lost == living
    for store in (*writers, fresh, first):
        store.close()


def _lives(store: Store, run: str) -> bool:
    return bool(store.select("SELECT 1 FROM entities WHERE id = ? AND deleted IS NULL", (run,)))


# -- reading


def paths(store: Store) -> list[Path]:
    return sorted(Path(store.root, "journals").glob("*/*.jsonl"))


def test_only_what_is_new_is_read(store: Store, run: str, another: Callable[..., Store]) -> None:
    reader = RootReader(store.root)
    store.put(run, records.ARTIFACTS, {"a": artifact(1)})
    assert reader.catch_up() == []
    store.put(run, records.ARTIFACTS, {"b": artifact(2)})
    other = another(store)
    other.put(run, records.ARTIFACTS, {"c": artifact(3)})
    other.close()
    assert reader.catch_up() == []
    store.close()
    assert reader.catch_up() == []
    assert reader.roots.living(ids.now_ms()) == {digest(1), digest(2), digest(3)}
    assert reader.open_paths == set()


def test_a_torn_tail_is_no_damage_and_what_it_begins_to_name_stays(store: Store, run: str) -> None:
    store.put(run, records.ARTIFACTS, {"a": artifact(1)})
    with open(paths(store)[0], "ab") as file:
        file.write(f'{{"c":"00000000","h":1,"v":{{"k":"{digest(9)}","'.encode())
    reader = RootReader(store.root)
    assert reader.catch_up() == []
    assert digest(9) in reader.roots.living(ids.now_ms())


def damage_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_last_record(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def rename(path: Path) -> None:
    path.rename(path.with_name("20200101t000000-1-" + path.name[-len("12345678.jsonl") :]))


@pytest.mark.parametrize("harm", [damage_middle, damage_last_record])
def test_damage_in_an_open_journal_is_told(store: Store, run: str, harm: Callable[[Path], None]) -> None:
    for key in "abc":
        store.put(run, records.ARTIFACTS, {key: artifact(1)})
    harm(paths(store)[0])
    (problem,) = RootReader(store.root).catch_up()
    assert paths(store)[0].name in problem


@pytest.mark.parametrize("harm", [damage_middle, damage_last_record, cut_in_half, rename])
def test_damage_in_a_sealed_journal_is_told(store: Store, run: str, harm: Callable[[Path], None]) -> None:
    store.put(run, records.ARTIFACTS, {"a": artifact(1)})
    store.close()
    harm(paths(store)[0])
    assert RootReader(store.root).catch_up()


def test_a_journal_that_cannot_be_read_is_told(store: Store, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(journal, "read_journal", refuse)
    (problem,) = RootReader(store.root).catch_up()
    assert problem.endswith("cannot be read: Permission denied")


def test_a_journal_that_vanishes_between_two_looks_is_told(store: Store, run: str) -> None:
    reader = RootReader(store.root)
    reader.catch_up()
    time.sleep(0.01)
    os.unlink(paths(store)[0])
    (problem,) = reader.catch_up()
    assert "is gone" in problem
