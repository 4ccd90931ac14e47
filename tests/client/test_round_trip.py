"""What is logged comes back to the last bit and type: any key, any value, also from an index that was made anew."""

from __future__ import annotations

import io
import os
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verta_local import Client
from verta_store import Store
from verta_store.description import read_description

KEY = st.text(string.ascii_letters + string.digits + "_-/", min_size=1, max_size=40)
NUMBER = (
    st.integers()
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.sampled_from([2**60 + 1, -(2**63), 2**63, 2**64 + 1, 10**400, -0.0, 1e308, 5e-324, 0.1 + 0.2])
    | st.sampled_from([float("nan"), float("inf"), float("-inf")])
)
# What Python calls text but UTF-8 cannot hold (half a surrogate pair) is text too.
TEXT = st.text(st.characters(), max_size=30) | st.sampled_from(["", "1.0", "nan", "true", "None", "\0", "a\nb", "$f"])
SCALAR = st.none() | st.booleans() | NUMBER | TEXT
NESTED = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)
FLOAT32 = st.floats(width=32, allow_nan=True, allow_infinity=True)
NUMPY = (
    st.integers(-(2**63), 2**63 - 1).map(lambda value: (np.int64(value), value))
    | st.integers(0, 2**64 - 1).map(lambda value: (np.uint64(value), value))
    | st.integers(0, 255).map(lambda value: (np.uint8(value), value))
    | st.booleans().map(lambda value: (np.bool_(value), value))
    | st.floats().map(lambda value: (np.float64(value), value))
    | FLOAT32.map(lambda value: (np.float32(value), value))
    | st.floats().map(lambda value: (np.array(value), value))
)


def is_same(left: Any, right: Any) -> bool:
    """Equal to the last bit and type; NaN is itself and -0.0 is not 0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return left.hex() == right.hex()
    if isinstance(left, list):
        return len(left) == len(right) and all(map(is_same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(is_same(left[key], right[key]) for key in left)
    return bool(left == right)


class Place:
    """A client, and the same store as a host sees it that has never seen it before."""

    def __init__(self, tmp_path: Path) -> None:
        self._tmp_path = tmp_path
        self.client = Client(str(tmp_path / "store"))
        self.client.set_project("project")
        self.client.set_experiment("experiment")

    def fresh(self) -> Store:
        """A store with an index of its own, which is made from the journals now."""
        root = self.client.store_path
        return Store(root, read_description(root), str(self._tmp_path / f"cache-{os.urandom(4).hex()}"), "normal")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


ONE_PLACE = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ONE_PLACE
@given(
    st.dictionaries(KEY, SCALAR, min_size=1, max_size=6),
    st.dictionaries(KEY, NESTED, min_size=1, max_size=4),
    st.lists(SCALAR, max_size=6),
)
def test_values_of_every_kind_come_back(
    place: Place, scalars: dict[str, Any], nested: dict[str, Any], history: list[Any]
) -> None:
    run = place.client.set_experiment_run()
    run.log_hyperparameters(scalars)
    for key, value in scalars.items():
        run.log_metric(key, value)
    run.log_attributes(nested)
    for value in history:
        run.log_observation("history", value)
    fresh = place.fresh()
    try:
        for found in (run.get_hyperparameters(), run.get_metrics(), fresh.values(run.id, "metrics")):
            assert is_same(found, scalars)
        for found in (run.get_attributes(), fresh.values(run.id, "attributes")):
            assert is_same(found, nested)
        if history:
            assert is_same([value for value, *_ in run.get_observation("history")], history)
        assert is_same([point.value for point in fresh.points(run.id, "history")], history)
    finally:
        fresh.close()


@ONE_PLACE
@given(st.lists(NUMPY, min_size=1, max_size=6))
def test_scalars_of_numpy_come_back_as_the_number_that_they_are(place: Place, pairs: list[tuple[Any, Any]]) -> None:
    run = place.client.set_experiment_run()
    expected = {f"k{number}": value for number, (_, value) in enumerate(pairs)}
    run.log_metrics({f"k{number}": scalar for number, (scalar, _) in enumerate(pairs)})
    run.log_attribute("all", [scalar for scalar, _ in pairs])
    for scalar, _ in pairs:
        run.log_observation("history", scalar)
    assert is_same(run.get_metrics(), expected)
    assert is_same(run.get_attribute("all"), list(expected.values()))
    assert is_same([value for value, *_ in run.get_observation("history")], list(expected.values()))


@ONE_PLACE
@given(KEY.map(lambda key: f"a{key}"), st.binary(min_size=1, max_size=2000))
def test_bytes_come_back_as_artifacts(place: Place, key: str, data: bytes) -> None:
    run = place.client.set_experiment_run()
    run.log_artifact(key, io.BytesIO(data))
    found = run.get_artifact(key)
    assert (found if isinstance(found, bytes) else found.read()) == data
    with open(run.fetch_artifacts([key])[key], "rb") as file:
        assert file.read() == data


@ONE_PLACE
@given(st.text(st.characters(), max_size=60), st.lists(st.text(max_size=20).filter(str.strip), max_size=4))
def test_texts_that_are_names_and_tags_come_back(place: Place, description: str, tags: list[str]) -> None:
    run = place.client.set_experiment_run()
    run.log_attribute("text", description)
    for tag in tags:
        run.log_tag(tag)
    fresh = place.fresh()
    try:
        assert run.get_attribute("text") == fresh.values(run.id, "attributes")["text"] == description
        assert run.get_tags() == fresh.tags(run.id) == list(dict.fromkeys(tags))
    finally:
        fresh.close()
