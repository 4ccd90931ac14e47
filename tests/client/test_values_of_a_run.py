"""Hyperparameters, metrics, attributes, tags and observations: what goes in comes out; errors are Verta's."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from verta_local import Client
from verta_local.run import ExperimentRun

EXACT = [
    1,
    1.0,
    -0.0,
    1e308,
    2**60 + 1,
    True,
    False,
    None,
    "",
    "ünï ☃ \ud83d\ude00",
    "1.0",
    "line\nbreak",
    float("inf"),
]


@pytest.fixture
def run(client: Client) -> ExperimentRun:
    return client.set_experiment_run()


@pytest.mark.parametrize("value", [v for v in EXACT if v != "ünï ☃ \ud83d\ude00"] + ["ünï ☃ 😀"])
def test_a_value_comes_back_equal_and_of_the_same_type(run: ExperimentRun, value: Any) -> None:
    run.log_hyperparameter("h", value)
    run.log_metric("m", value)
    run.log_attribute("a", [value, {"nested": value}])
    assert run.get_hyperparameter("h") == value
    assert type(run.get_metric("m")) is type(value)
    assert run.get_attribute("a") == [value, {"nested": value}]
    if value == 0 and isinstance(value, float):
        assert math.copysign(1, run.get_metric("m")) == -1


def test_nan_stays_a_number(run: ExperimentRun) -> None:
    run.log_metric("loss", float("nan"))
    assert math.isnan(run.get_metric("loss"))


def test_numpy_scalars_become_builtins(run: ExperimentRun) -> None:
    run.log_metrics({"f": np.float32(0.5), "i": np.int64(7), "b": np.bool_(True)})
    assert run.get_metrics() == {"f": 0.5, "i": 7, "b": True}
    assert [type(value) for value in run.get_metrics().values()] == [float, int, bool]


LOGGERS = [
    ("log_metric", "get_metric", "get_metrics", "log_metrics"),
    ("log_hyperparameter", "get_hyperparameter", "get_hyperparameters", "log_hyperparameters"),
    ("log_attribute", "get_attribute", "get_attributes", "log_attributes"),
]


@pytest.mark.parametrize(("log", "get", "get_all", "log_all"), LOGGERS)
def test_the_same_key_again_is_a_value_error_unless_overwritten(
    run: ExperimentRun, log: str, get: str, get_all: str, log_all: str
) -> None:
    getattr(run, log)("key", 1)
    with pytest.raises(ValueError, match="already exists"):
        getattr(run, log)("key", 2)
    assert getattr(run, get)("key") == 1
    getattr(run, log)("key", 3, overwrite=True)
    assert getattr(run, get)("key") == 3
    assert getattr(run, get_all)() == {"key": 3}


@pytest.mark.parametrize(("log", "get", "get_all", "log_all"), LOGGERS)
def test_a_batch_is_logged_whole_or_not_at_all(
    run: ExperimentRun, log: str, get: str, get_all: str, log_all: str
) -> None:
    getattr(run, log)("there", 1)
    with pytest.raises(ValueError, match="there"):
        getattr(run, log_all)({"new": 1, "there": 2})
    with pytest.raises(TypeError):
        getattr(run, log_all)({"new": 1, "bad": object()})
    with pytest.raises(ValueError, match="key"):
        getattr(run, log_all)({"new": 1, "not allowed": 2})
    assert getattr(run, get_all)() == {"there": 1}


@pytest.mark.parametrize(("log", "get", "get_all", "log_all"), LOGGERS)
def test_an_absent_key_is_a_key_error_that_names_those_present(
    run: ExperimentRun, log: str, get: str, get_all: str, log_all: str
) -> None:
    getattr(run, log)("present", 1)
    with pytest.raises(KeyError, match="absent") as caught:
        getattr(run, get)("absent")
    assert "present" in str(caught.value)


@pytest.mark.parametrize("value", [[1], {"a": 1}])
def test_a_list_or_dict_is_no_metric(run: ExperimentRun, value: Any) -> None:
    with pytest.raises(TypeError, match=r"consider using log_attribute\(\)"):
        run.log_metric("key", value)


@pytest.mark.parametrize("key", ["a b", "a.b", "é", "a\0", "../x y", "a:b", "tab\t"])
def test_a_key_outside_the_alphabet_is_a_value_error(run: ExperimentRun, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        run.log_metric(key, 1)
    with pytest.raises(ValueError, match="key"):
        run.log_artifact(key, b"x")


def test_a_key_that_is_no_text_is_a_type_error(run: ExperimentRun) -> None:
    with pytest.raises(TypeError):
        run.log_metric(1, 1)  # type: ignore[arg-type]


def test_tags_keep_their_order_and_repeat_without_an_error(run: ExperimentRun) -> None:
    run.log_tags(["b", "a"])
    run.log_tag("b")
    run.log_tags("one tag")
    assert run.get_tags() == ["b", "a", "one tag"]
    with pytest.raises(TypeError):
        run.log_tag(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        run.log_tags([1])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        run.log_tags(None)  # type: ignore[arg-type]


def test_epochs_count_up_for_each_key(run: ExperimentRun) -> None:
    for value in (0.5, 0.25):
        run.log_observation("loss", value)
    run.log_observation("loss", 0.1, epoch_num=np.int64(7))  # type: ignore[arg-type]
    run.log_observation("loss", 0.05)
    run.log_observation("other", "text")
    assert [(value, epoch) for value, _, epoch in run.get_observation("loss")] == [
        (0.5, 0),
        (0.25, 1),
        (0.1, 7),
        (0.05, 8),
    ]
    assert [epoch for _, _, epoch in run.get_observation("other")] == [0]


def test_epochs_go_on_in_another_process(run: ExperimentRun, client: Client, python: Callable[..., Any]) -> None:
    run.log_observation("loss", 1.0)
    code = f"""
from verta_local import Client
Client({client.store_path!r}).set_experiment_run(id={run.id!r}).log_observation("loss", 2.0)
"""
    python(code)
    assert [(value, epoch) for value, _, epoch in run.get_observation("loss")] == [(1.0, 0), (2.0, 1)]


@pytest.mark.parametrize(("epoch", "error"), [(-1, ValueError), (1.5, TypeError), ("1", TypeError), (True, TypeError)])
def test_a_bad_epoch_is_refused(run: ExperimentRun, epoch: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="epoch_num"):
        run.log_observation("loss", 1, epoch_num=epoch)
    assert "loss" not in run.get_observations()


@pytest.mark.parametrize(
    "timestamp",
    [
        1_584_057_600,
        1_584_057_600_000,
        1_584_057_600_000_000,
        1_584_057_600.0,
        "2020-03-13T00:00:00",
        "2020-03-13T00:00:00Z",
        "2020-03-13 01:00:00+01:00",
        datetime(2020, 3, 13),
        np.int64(1_584_057_600),
        np.datetime64("2020-03-13"),
        datetime(2020, 3, 13, 1, tzinfo=timezone(timedelta(hours=1))),
    ],
)
def test_a_time_stamp_is_understood_in_every_form(run: ExperimentRun, timestamp: Any) -> None:
    run.log_observation("loss", 1, timestamp=timestamp)
    assert run.get_observation("loss")[0][1] == str(datetime.fromtimestamp(1_584_057_600))


@pytest.mark.parametrize(
    ("timestamp", "error"), [("yesterday-ish", ValueError), ([1], TypeError), (math.nan, ValueError), (-5, ValueError)]
)
def test_a_time_stamp_that_is_none_is_refused(run: ExperimentRun, timestamp: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        run.log_observation("loss", 1, timestamp=timestamp)


def test_overwriting_an_observation_starts_the_series_anew(run: ExperimentRun) -> None:
    for value in range(3):
        run.log_observation("loss", value)
    run.get_observation("loss")  # so that the index holds the first ones
    run.log_observation("loss", 9, overwrite=True)
    run.log_observation("loss", 10)
    assert [(value, epoch) for value, _, epoch in run.get_observation("loss")] == [(9, 0), (10, 1)]


def test_a_long_history_of_mixed_values_comes_back_in_order(run: ExperimentRun) -> None:
    values = [float(n) if n % 3 else n for n in range(10_000)] + ["end", None, math.inf]
    for value in values:
        run.log_observation("mixed", value)
    found = run.get_observation("mixed")
    assert [value for value, _, _ in found] == values
    assert [epoch for _, _, epoch in found] == list(range(len(values)))


def test_the_repr_lists_everything(run: ExperimentRun) -> None:
    run.log_metric("recall", 0.93)
    run.log_tag("first")
    assert "recall" in repr(run) and run.id in repr(run) and "first" in repr(run)
