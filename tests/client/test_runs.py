"""Lists of runs: predicates, sorting, the best k, laziness."""

from __future__ import annotations

import pytest

from verta_local import Client
from verta_local.runs import ExperimentRuns


@pytest.fixture
def runs(client: Client) -> ExperimentRuns:
    client.set_project("p")
    client.set_experiment("e")
    for number in range(12):
        run = client.set_experiment_run(f"run {number}")
        run.log_metric("score", number / 10)
        run.log_hyperparameters({"depth": number % 3, "kind": "even" if number % 2 == 0 else "odd one", "flag": True})
        run.log_attribute("note", f"about {number}")
    client.set_experiment_run("without").log_tags(["special", "a%b"])
    return client.expt.expt_runs  # type: ignore[union-attr]


def names(runs: ExperimentRuns) -> list[str]:
    return [run.name for run in runs]


@pytest.mark.parametrize(
    ("predicates", "count"),
    [
        (["metrics.score >= 1.0"], 2),
        (["metrics.score > 1"], 1),
        (["metrics.score < 0.1"], 1),
        (["metrics.score <= 0.1"], 2),
        (["metrics.score == 0.5"], 1),
        (["metrics.score != 0.5"], 11),
        (["metrics.score>=1.0"], 2),
        (["hyperparameters.kind == even"], 6),
        (["hyperparameters.kind == 'odd one'"], 6),
        (['hyperparameters.kind == "odd one"'], 6),
        (["hyperparameters.kind == odd one"], 6),
        (["hyperparameters.kind ~= one"], 6),
        (["hyperparameters.flag == true"], 12),
        (["hyperparameters.depth == 1", "metrics.score > 0.5"], 2),
        (["attributes.note == 'about 3'"], 1),
        (["name == 'run 3'"], 1),
        (["name ~= run"], 12),
        (["tags == special"], 1),
        (["tags ~= spec"], 1),
        (["tags ~= %"], 1),
        (["tags != special"], 12),
        (["date_created > 1500000000000"], 13),
        (["metrics.absent > 1"], 0),
        ([], 13),
    ],
)
def test_predicates_select(runs: ExperimentRuns, predicates: list[str], count: int) -> None:
    assert len(runs.find(predicates)) == count
    assert len(runs.find(*predicates)) == count
    assert len(list(runs.find(predicates))) == count


def test_ids_select(runs: ExperimentRuns, client: Client) -> None:
    run = runs[3]
    assert names(client.expt_runs.find(f"id == {run.id}")) == [run.name]
    assert len(client.expt_runs.find(f"experiment_id == {client.expt.id}")) == 13  # type: ignore[union-attr]
    assert len(client.expt_runs.find(f"project_id == '{client.proj.id}'")) == 13  # type: ignore[union-attr]


def test_chains_add_up(runs: ExperimentRuns) -> None:
    assert len(runs.find("metrics.score >= 0.3").find("metrics.score <= 0.5")) == 3
    assert len(runs) == 13


@pytest.mark.parametrize("predicate", ["nonsense == 1", "score > 1", "metrics.score", "metrics. == 1", "tags > x"])
def test_a_predicate_that_cannot_be_read_is_a_value_error(runs: ExperimentRuns, predicate: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        runs.find(predicate)


def test_a_predicate_that_is_no_text_is_a_type_error(runs: ExperimentRuns) -> None:
    with pytest.raises(TypeError):
        runs.find(1)  # type: ignore[arg-type]


def test_sorting_is_by_number_and_the_last_sort_counts(client: Client, runs: ExperimentRuns) -> None:
    client.set_experiment_run("big").log_metric("score", 100)
    found = names(runs.sort("name").sort("metrics.score", descending=True))
    assert found[:3] == ["big", "run 11", "run 10"] and found[-1] == "without"
    assert names(runs.sort("metrics.score"))[:2] == ["run 0", "run 1"]
    assert names(runs.sort("metrics.score"))[-1] == "without"


def test_the_best_k_come_best_first(runs: ExperimentRuns) -> None:
    assert names(runs.top_k("metrics.score", 3)) == ["run 11", "run 10", "run 9"]
    assert names(runs.bottom_k("metrics.score", 2)) == ["run 0", "run 1"]
    assert names(runs.find("hyperparameters.kind == even").top_k("metrics.score", 2)) == ["run 10", "run 8"]
    assert len(runs.top_k("metrics.score", 100)) == 12
    assert len(runs.top_k("metrics.score", 0)) == 0
    assert names(runs.top_k("metrics.score", 3).sort("metrics.score")) == ["run 9", "run 10", "run 11"]


def test_the_list_is_lazy_and_newest_first(runs: ExperimentRuns, client: Client) -> None:
    assert runs[0].name == "without"
    client.set_experiment_run("run 3").log_tag("touched")
    assert runs[0].name == "run 3"
    assert runs[-1].name == "run 0"


def test_places_outside_are_index_errors_and_slices_type_errors(runs: ExperimentRuns) -> None:
    for place in (13, -14):
        with pytest.raises(IndexError):
            runs[place]
    with pytest.raises(TypeError):
        runs[0:2]  # type: ignore[index]
    with pytest.raises(TypeError):
        runs["0"]  # type: ignore[index]


def test_every_run_is_seen_once_while_the_order_changes(runs: ExperimentRuns, client: Client) -> None:
    runs.set_page_limit(3)
    seen = []
    for place, run in enumerate(runs):
        seen.append(run.id)
        if place == 4:
            client.set_experiment_run("run 1").log_tag("moved to the front")
    assert len(seen) == len(set(seen))
    assert len(seen) >= 12


def test_the_repr_counts(runs: ExperimentRuns) -> None:
    assert repr(runs) == "<ExperimentRuns containing 13 runs>"


def test_without_pandas_one_sentence_says_so(runs: ExperimentRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        runs.as_dataframe()


def test_what_is_asked_of_the_best_k_is_asked_of_these(runs: ExperimentRuns, client: Client) -> None:
    best = runs.top_k("metrics.score", 4)  # runs 11 to 8
    assert names(best.find("hyperparameters.kind == even")) == ["run 10", "run 8"]
    assert names(best.bottom_k("metrics.score", 2)) == ["run 8", "run 9"]
    assert names(best.find("metrics.score <= 0.9").sort("name")) == ["run 8", "run 9"]
    assert len(best.find("metrics.score > 100")) == 0
    chosen = best.find("metrics.score > 0")
    client.set_experiment_run("better").log_metric("score", 100)
    assert names(chosen)[0] == "run 11" and names(best)[0] == "better"


def test_any_whole_number_is_a_place(runs: ExperimentRuns) -> None:
    import numpy as np

    assert runs.sort("name")[np.int64(0)] == runs.sort("name")[0]
    for place in (1.0, None, True):
        with pytest.raises(TypeError):
            runs[place]  # type: ignore[index]
