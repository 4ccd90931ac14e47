"""A user's text becomes a condition, never a piece of SQL; what matches is what Python would say."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from new_entities import new_run

from verta_store import Store, query, selection
from verta_store.errors import BadQuery, BadRecord, UnknownEntity
from verta_store.query import Query, SortKey, parse_predicate, parse_sort_key

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
COUNT = itertools.count()
bounded = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def names(store: Store, *predicates: str, **more: Any) -> list[str]:
    return [row.name for row in store.find(Query("run", **more).where(*predicates))]


def test_what_no_index_could_answer_is_told_and_leaves_the_index_alone(store: Store) -> None:
    run = new_run(store)
    store.put(run, "metrics", {"a": 1})
    assert store.find(Query("run"), 1, 2**63) == [] and len(store.find(Query("run"), 2**70)) == 1
    with pytest.raises(UnknownEntity, match="nothing with the id"):
        store.entity("\udcff")
    with pytest.raises(BadQuery, match="at most 500 predicates, not 501"):
        Query("run").where(*["metrics.a == 1"] * 500).where("metrics.a == 1")
    assert names(store, *["metrics.a == 1"] * 500) == ["first"]
    assert store.index_state().path != ":memory:"
    store.add_points(run, "k", [(1.0, 5, 2**63 - 1)])
    with pytest.raises(BadRecord, match="at most 64 bits"):
        store.add_points(run, "k", [(2.0, 6, None)])
    assert len(store.points(run, "k")) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("metrics.accuracy >= 0.9", ("metrics", "accuracy", ">=", 0.9)),
        ("metrics.accuracy>=0.9", ("metrics", "accuracy", ">=", 0.9)),
        ("hyperparameters.layers == 3", ("hyperparameters", "layers", "==", 3)),
        ("attributes.note == 'a == b'", ("attributes", "note", "==", "a == b")),
        ('attributes.note ~= "it\'s"', ("attributes", "note", "~=", "it's")),
        ("attributes.a.b != x", ("attributes", "a.b", "!=", "x")),
        ("attributes.empty == ''", ("attributes", "empty", "==", "")),
        ("attributes.number == '3'", ("attributes", "number", "==", "3")),
        ("name == 3", ("", "name", "==", "3")),
        ("name == 'first run'", ("", "name", "==", "first run")),
        ("tags == base", ("", "tags", "==", "base")),
        ("date_created > 1700000000000", ("", "date_created", ">", 1_700_000_000_000)),
        ("metrics.loss < 1e-3", ("metrics", "loss", "<", 1e-3)),
        ("metrics.loss == inf", ("metrics", "loss", "==", math.inf)),
        ("metrics.big == 1152921504606846977", ("metrics", "big", "==", 2**60 + 1)),
    ],
)
def test_a_predicate_is_read_as_verta_reads_it(text: str, expected: tuple[str, str, str, Any]) -> None:
    found = parse_predicate(text)
    assert (found.section, found.key, found.operator, found.value) == expected
    assert type(found.value) is type(expected[3])


@pytest.mark.parametrize(
    "text",
    ["", "metrics.a", "metrics == 3", ".a == 3", "metrics. == 3", "model.x == 3", "owner == 3", "date_created > soon",
     "tags > a", "== 3", "vals.json == 1", "e.id == 1", "metrics.a = 3", "metrics.a => 3",
      "name == '\udcff'", "metrics.\udcff == 1"],
)  # fmt: skip
def test_a_predicate_that_cannot_be_read_is_refused_in_one_sentence(store: Store, text: str) -> None:
    with pytest.raises(BadQuery) as caught:
        store.find(Query("run").where(text))
    assert "\n" not in str(caught.value)


def test_other_types_than_text_are_type_errors() -> None:
    for wrong in (None, 3, ["metrics.a == 3"], b"metrics.a == 3"):
        with pytest.raises(TypeError, match="a predicate is a text"):
            parse_predicate(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a sort key is a text"):
            parse_sort_key(wrong)  # type: ignore[arg-type]


INJECTIONS = [
    "x' OR '1'='1", "x; DROP TABLE entities; --", "x\" OR 1=1 --", "') OR 1=1; --", "?", ":a", "@a", "$a", "%", "_", "x\0y",
    "' UNION SELECT * FROM vals --", "*", "[a-z]", "\\", "'", '"', "''", "\n", "NULL",
]  # fmt: skip


@pytest.mark.parametrize("attack", INJECTIONS)
def test_nothing_of_a_users_text_becomes_sql(store: Store, attack: str) -> None:
    run = new_run(store, "plain")
    store.put(run, "metrics", {"a": 1})
    hit = new_run(store, f"name {attack} name")
    store.put(hit, "attributes", {f"k {attack} k": f"v {attack} v"})
    store.add_tags(hit, [f"t {attack} t"])
    quoted = [
        f"name == 'name {attack} name'",
        f"name ~= ' {attack} '",
        f"attributes.k {attack} k == 'v {attack} v'",
        f"attributes.k {attack} k ~= ' {attack} '",
        f"tags == 't {attack} t'",
        f"tags ~= ' {attack} '",
    ]
    for text in quoted:
        assert names(store, text) == [f"name {attack} name"], text
    for column in ("id", "experiment_id", "project_id"):
        assert names(store, f"{column} == '{attack}'") == []
    if not attack.isspace():
        assert names(store, f"metrics.{attack} == 1") == []
    assert store.count(Query("run")) == 2


NUMBER = st.integers(-3, 3) | st.sampled_from(
    [0.5, -0.0, 1e308, -1e308, 5e-324, 2**53, 2**53 + 1, 2**60, 2**60 + 1, 2**63, -(2**63), 10**30, math.inf, -math.inf]
)


@bounded
@given(st.lists(NUMBER, min_size=1, max_size=5), NUMBER, st.sampled_from(sorted(COMPARE)))
def test_numbers_compare_as_in_python(store: Store, values: list[Any], asked: Any, sign: str) -> None:
    """Also where a double cannot tell them apart, up to 64 bits; larger integers are compared as doubles."""
    experiment = store.create("experiment", None, f"{next(COUNT)}").id
    for number, value in enumerate(values):
        store.put(store.create("run", experiment, str(number)).id, "metrics", {"a": value})

    def compared(value: Any) -> Any:
        return value if isinstance(value, float) or -(2**63) <= value < 2**63 else float(value)

    expected = [str(n) for n, value in enumerate(values) if COMPARE[sign](compared(value), compared(asked))]
    assert sorted(names(store, f"metrics.a {sign} {asked!r}", parent=experiment)) == expected


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["true", "True", "false", "3", "nan"]
)


@bounded
@given(st.lists(TEXT, min_size=1, max_size=5), TEXT, st.sampled_from(sorted(COMPARE)))
def test_texts_compare_by_code_point(store: Store, values: list[str], asked: str, sign: str) -> None:
    experiment = store.create("experiment", None, f"{next(COUNT)}").id
    for number, value in enumerate(values):
        store.put(store.create("run", experiment, str(number)).id, "attributes", {"a": value})
    expected = [str(n) for n, value in enumerate(values) if COMPARE[sign](value.encode(), asked.encode())]
    if asked.lower() in ("true", "false") and sign in ("==", "!="):
        same = {asked, asked.lower(), asked.capitalize()}
        expected = [str(n) for n, value in enumerate(values) if (value in same) == (sign == "==")]
    assert sorted(names(store, f"attributes.a {sign} '{asked}'", parent=experiment)) == expected


def test_numbers_texts_truths_and_containers_do_not_mix(store: Store) -> None:
    values = {
        "three": 3,
        "text": "3",
        "truth": True,
        "lie": False,
        "word": "true",
        "nan": math.nan,
        "list": [3],
        "no": None,
    }
    for name, value in values.items():
        store.put(new_run(store, name), "attributes", {"a": value})
    new_run(store, "without")

    def found(text: str) -> set[str]:
        return set(names(store, text))

    everything = set(values)
    assert found("attributes.a == 3") == {"three"}
    assert found("attributes.a == '3'") == {"text"}
    assert found("attributes.a != 3") == everything - {"three"}
    assert found("attributes.a != '3'") == everything - {"text"}
    assert found("attributes.a == true") == {"truth", "word"}
    assert found("attributes.a == True") == {"truth", "word"}
    assert found("attributes.a == 'false'") == {"lie"}
    assert found("attributes.a != true") == everything - {"truth", "word"}
    assert found("attributes.a == nan") == {"nan"}
    assert found("attributes.a != nan") == everything - {"nan"}
    assert found("attributes.a > 2") == {"three"}


def test_several_predicates_are_all_asked_for(store: Store) -> None:
    for number in range(10):
        run = new_run(store, str(number))
        store.put(run, "metrics", {"a": number})
        store.put(run, "hyperparameters", {"even": number % 2 == 0})
        store.add_tags(run, ["low" if number < 5 else "high"])
    assert set(names(store, "metrics.a > 2", "hyperparameters.even == true", "tags == low")) == {"4"}
    assert set(names(store, "tags != low", "metrics.a < 7")) == {"5", "6"}
    assert set(names(store, "tags ~= ig", "name != 9")) == {"5", "6", "7", "8"}
    store.remove_tags(store.find(Query("run").where("name == 9"))[0].id, ["high"])
    assert "9" not in names(store, "tags == high") and "9" in names(store, "tags != high")


def test_a_query_keeps_to_its_project_and_experiment(store: Store) -> None:
    for project in ("p", "q"):
        for experiment in ("e", "f"):
            new_run(store, f"{project}{experiment}", project=project, experiment=experiment)
    project = store.named("project", None, "p")
    assert project is not None
    experiment = store.named("experiment", project.id, "e")
    assert experiment is not None
    assert set(names(store, grandparent=project.id)) == {"pe", "pf"}
    assert names(store, parent=experiment.id) == ["pe"]
    assert names(store, f"experiment_id == {experiment.id}") == ["pe"]
    assert set(names(store, f"project_id == {project.id}")) == {"pe", "pf"}
    assert names(store, f"id == {store.find(Query('run', parent=experiment.id))[0].id}") == ["pe"]


def test_sorting_puts_numbers_before_text_and_what_has_no_value_last(store: Store) -> None:
    values = {"two": 2, "ten": 10, "minus": -1.5, "huge": 2**62, "text": "abc", "list": [1]}
    for name, value in values.items():
        store.put(new_run(store, name), "metrics", {"a": value})
    new_run(store, "without")
    rising = [row.name for row in store.find(Query("run", sort=SortKey("metrics", "a")))]
    assert rising == ["minus", "two", "ten", "huge", "list", "text", "without"]
    falling = [row.name for row in store.find(Query("run", sort=SortKey("metrics", "a", True)))]
    assert falling[:4] == ["huge", "ten", "two", "minus"] and falling[-1] == "without"
    assert [row.name for row in store.find(Query("run", sort=parse_sort_key("name")))] == sorted([*values, "without"])


def test_the_best_k_are_taken_before_anything_is_sorted(store: Store) -> None:
    for number in range(20):
        store.put(new_run(store, f"{number:02}"), "metrics", {"a": number, "b": -number % 7})
    new_run(store, "without")
    best = Query("run", top=(SortKey("metrics", "a", True), 3))
    assert [row.name for row in store.find(best)] == ["19", "18", "17"]
    assert store.count(best) == 3
    assert [row.name for row in store.find(best, limit=1, offset=1)] == ["18"]
    both = Query("run", top=(SortKey("metrics", "a", True), 3), sort=SortKey("metrics", "b")).where("metrics.a < 19")
    assert [row.name for row in store.find(both)] == sorted(["18", "17", "16"], key=lambda name: -int(name) % 7)
    assert store.count(both) == 3


def test_a_very_long_and_a_very_wide_query_are_answered(store: Store) -> None:
    run = new_run(store)
    store.put(run, "metrics", {"a": 1})
    assert len(names(store, *["metrics.a == 1"] * 200)) == 1
    assert names(store, "name == '" + "x" * 100_000 + "'") == []
    assert query.OPERATORS[0] == "=="


def test_a_list_of_another_kind_knows_that_kinds_words_and_runs_do_not() -> None:
    found = parse_predicate("stage == PRODUCTION", "registered_model_version")
    assert (found.section, found.key, found.value) == ("fields", "stage", "PRODUCTION")
    assert parse_predicate("labels == a", "registered_model") == parse_predicate("tags == a")
    with pytest.raises(BadQuery):
        parse_predicate("stage == PRODUCTION")
    with pytest.raises(BadQuery):
        parse_sort_key("labels", "registered_model")


def expected_order(values: dict[str, Any], sort: SortKey) -> list[tuple[Any, ...]]:
    """What the sorted list of these values looks like: numbers, then texts."""
    found = [rank_of(value) for value in values.values()]
    numbers = sorted((one for one in found if one[1] == 0), reverse=sort.is_descending)
    return numbers + sorted((one for one in found if one[1] == 1), reverse=sort.is_descending)


def rank_of(value: Any) -> tuple[Any, ...]:
    return (0, 0, value) if type(value) in (int, float) else (0, 1, str(value))


@pytest.mark.parametrize("rare", [0, 1, 10**6])
@bounded
@given(
    runs=st.lists(
        st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from([0, 1, 2, 2.5, -1, "x", "y"])), max_size=12
    ),
    predicates=st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["==", "!=", ">", "<="]), st.sampled_from([0, 1, 2.5])),
        max_size=3,
    ),
    key=st.sampled_from(["a", "b"]),
    is_descending=st.booleans(),
    best=st.none() | st.integers(0, 5),
    limit=st.none() | st.integers(1, 5),
)
def test_wherever_a_search_begins_it_finds_the_same(
    store: Store,
    rare: int,
    runs: list[dict[str, Any]],
    predicates: list[tuple[str, str, float]],
    key: str,
    is_descending: bool,
    best: int | None,
    limit: int | None,
) -> None:
    project = store.create("project", None, f"project {next(COUNT)}").id
    experiment = store.create("experiment", project, "experiment").id
    for number, values in enumerate(runs):
        store.put(store.create("run", experiment, f"run {number}").id, "metrics", values)
    sort = SortKey("metrics", key, is_descending)
    query = Query("run", experiment).where(*(f"metrics.{k} {o} {v}" for k, o, v in predicates))

    def is_fulfilled(values: dict[str, Any]) -> bool:
        # A text is other than any number, and neither smaller nor larger.
        return all(
            k in values and (o == "!=" if isinstance(values[k], str) else COMPARE[o](values[k], v))
            for k, o, v in predicates
        )

    matching = [values for values in runs if is_fulfilled(values)]
    expected = expected_order({str(n): values[key] for n, values in enumerate(matching) if key in values}, sort)
    query = query._replace(sort=sort)
    if best is not None:
        expected = [one for one in expected if one[1] == 0][:best]
        query = query._replace(top=(sort, best), sort=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_RARE", rare)
        found = store.find(query, limit)
        count = store.count(query)
    assert count == (len(expected) if best is not None else len(matching))
    ranks = [rank_of(values[key]) for row in found if key in (values := store.values(row.id, "metrics"))]
    assert ranks == expected[:limit]
    assert len(found) == min(count, count if limit is None else limit)
    assert len({row.id for row in found}) == len(found)
