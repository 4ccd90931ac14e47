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
    pandas.testing.assert_frame_equal(runs.as_dataframe(), expected)
    assert runs.find("metrics.loss > 5").as_dataframe().shape == (0, 0)
