"""`as_dataframe` gives the frame that pandas would make of the values, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest

from verta_local import Client

pandas = pytest.importorskip("pandas")


def test_a_frame_is_the_one_of_the_values(tmp_path: Path) -> None:
    client = Client(tmp_path / "store")
    client.set_project("project")
    client.set_experiment("experiment")
    rows = {}
    for number in range(8):
        run = client.set_experiment_run(f"run {number}")
        parameters = {"layers": number, "rate": number / 3, "name": "x" * number, "flag": number > 3}
        metrics = {"loss": 1 / (number + 1), "mixed": number if number % 2 else 0.5}
        if number % 3 == 0:
            metrics["some"] = number
        run.log_hyperparameters(parameters)
        run.log_metrics(metrics)
        rows[run.id] = {f"hpp.{k}": v for k, v in parameters.items()} | {f"metric.{k}": v for k, v in metrics.items()}
    runs = client.expt_runs.sort("metrics.loss")
    expected = pandas.DataFrame.from_dict(rows, orient="index")
    expected = expected.reindex(index=[run.id for run in runs], columns=sorted(expected.columns))
    expected.index.name = "id"
    frame = runs.as_dataframe()
    others = ["end_time", "start_time", "status", "tags"]
    assert sorted([*expected.columns, *others]) == list(frame.columns)
    pandas.testing.assert_frame_equal(frame.drop(columns=others), expected)
    empty = runs.find("metrics.loss > 5").as_dataframe()
    assert (len(empty), list(empty.columns)) == (0, others)


def test_a_frame_has_attributes_tags_status_and_times(tmp_path: Path) -> None:
    client = Client(tmp_path / "store")
    with client.set_experiment_run("done", tags=["b", "a"], attrs={"shape": [2, 3]}) as done:
        pass
    running = client.set_experiment_run("running")
    frame = client.expt_runs.as_dataframe()
    assert list(frame.columns) == ["attribute.shape", "end_time", "start_time", "status", "tags"]
    assert frame.loc[done.id, "attribute.shape"] == [2, 3]
    assert (frame.loc[done.id, "tags"], frame.loc[running.id, "tags"]) == (["b", "a"], [])
    assert (frame.loc[done.id, "status"], frame.loc[running.id, "status"]) == ("finished", "running")
    assert frame.loc[done.id, "start_time"] == pandas.Timestamp(done.get_date_created(), unit="ms", tz="UTC")
    assert frame.loc[done.id, "end_time"] == pandas.Timestamp(done.end_time, unit="ms", tz="UTC")
    assert pandas.isna(frame.loc[running.id, "end_time"])
