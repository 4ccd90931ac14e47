"""Attributes with a shape: they come back equal, are plain dicts in the store, and are checked when they are made."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from verta_local import Client
from verta_local.data_types import (
    ConfusionMatrix,
    DataType,
    DiscreteHistogram,
    FloatHistogram,
    Line,
    Matrix,
    NumericValue,
    StringValue,
    Table,
)

FORMS: list[tuple[Any, dict[str, Any]]] = [
    (
        ConfusionMatrix([[1, 2], [3, 4]], ["a", "b"]),
        {"type": "verta.confusionMatrix.v1", "confusionMatrix": {"value": [[1, 2], [3, 4]], "labels": ["a", "b"]}},
    ),
    (
        DiscreteHistogram(["yes", "no"], [10, 20]),
        {"type": "verta.discreteHistogram.v1", "discreteHistogram": {"buckets": ["yes", "no"], "data": [10, 20]}},
    ),
    (
        FloatHistogram([1, 2.5, 4], [5, 6]),
        {"type": "verta.floatHistogram.v1", "floatHistogram": {"bucketLimits": [1, 2.5, 4], "data": [5, 6]}},
    ),
    (Line([1, 2], [3, 4]), {"type": "verta.line.v1", "line": {"x": [1, 2], "y": [3, 4]}}),
    (Matrix([[1, 2, 3], [4, 5, 6]]), {"type": "verta.matrix.v1", "matrix": {"value": [[1, 2, 3], [4, 5, 6]]}}),
    (NumericValue(42, "kg"), {"type": "verta.numericValue.v1", "numericValue": {"value": 42, "unit": "kg"}}),
    (NumericValue(0.5), {"type": "verta.numericValue.v1", "numericValue": {"value": 0.5, "unit": None}}),
    (StringValue("x"), {"type": "verta.stringValue.v1", "stringValue": {"value": "x"}}),
    (
        Table([[1, "a"], [2, "b"]], ["number", "letter"]),
        {"type": "verta.table.v1", "table": {"header": ["number", "letter"], "rows": [[1, "a"], [2, "b"]]}},
    ),
]


@pytest.mark.parametrize(("value", "form"), FORMS)
def test_each_has_its_form_and_comes_back_equal(client: Client, value: Any, form: dict[str, Any]) -> None:
    assert value._as_dict() == form
    assert DataType._from_dict(form) == value
    assert pickle.loads(pickle.dumps(value)) == value and repr(value).startswith(type(value).__name__)
    for entity in (client.set_project(), client.set_experiment(), client.set_experiment_run()):
        entity.log_attribute("key", value)
        assert entity.get_attribute("key") == value
        assert entity.get_attributes() == {"key": value}


def test_different_ones_are_not_equal() -> None:
    values = [value for value, _ in FORMS]
    for place, value in enumerate(values):
        assert [other == value for other in values].index(True) == place


def test_arrays_and_frames_are_taken() -> None:
    assert Matrix(np.eye(2)) == Matrix([[1.0, 0.0], [0.0, 1.0]])
    assert Line(np.arange(3), np.arange(3) / 2) == Line.from_tuples([(0, 0.0), (1, 0.5), (2, 1.0)])
    assert NumericValue(np.float64(1.5))._as_dict()["numericValue"]["value"] == 1.5
    pandas = pytest.importorskip("pandas")
    assert Table.from_pandas(pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]})) == Table(
        [[1, "x"], [2, "y"]], ["a", "b"]
    )


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: ConfusionMatrix([[1, 2], [3, 4]], ["a"]), ValueError),
        (lambda: ConfusionMatrix([[1, 2]], ["a"]), ValueError),
        (lambda: DiscreteHistogram(["a"], [1, 2]), ValueError),
        (lambda: DiscreteHistogram(["a"], [1.5]), TypeError),  # type: ignore[list-item]
        (lambda: FloatHistogram([1, 2], [1, 2]), ValueError),
        (lambda: FloatHistogram([2, 1, 3], [1, 2]), ValueError),
        (lambda: FloatHistogram(["a", "b"], [1]), TypeError),  # type: ignore[list-item]
        (lambda: Line([1], [1, 2]), ValueError),
        (lambda: Line(["a"], [1]), TypeError),  # type: ignore[list-item]
        (lambda: Matrix([[1], [1, 2]]), ValueError),
        (lambda: Matrix(1), TypeError),
        (lambda: NumericValue("1"), TypeError),  # type: ignore[arg-type]
        (lambda: NumericValue(1, 2), TypeError),  # type: ignore[arg-type]
        (lambda: StringValue(1), TypeError),  # type: ignore[arg-type]
        (lambda: Table([[1, 2]], ["a"]), ValueError),
        (lambda: DataType._from_dict({"type": "other"}), ValueError),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


@pytest.mark.parametrize(
    "own",
    [
        {"type": "verta.line.v1"},
        {"type": "verta.line.v1", "line": {"x": [1], "y": []}},
        {"type": "verta.x"},
        {"type": 1},
    ],
)
def test_a_users_own_dict_stays_one(client: Client, own: dict[str, Any]) -> None:
    run = client.set_experiment_run()
    run.log_attribute("key", own)
    assert run.get_attribute("key") == own
