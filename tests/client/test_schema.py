"""The schema of a model, and the decorators of `predict`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from verta_local import Client
from verta_local.deployment import prediction_input_unpack, prediction_io_cleanup


def test_a_schema_goes_through_a_run_and_is_replaced_by_the_next(client: Client) -> None:
    run = client.set_experiment_run("r")
    with pytest.raises(KeyError, match=r"no artifact 'model_schema\.json'"):
        run.get_schema()
    both = {"input": {"type": "number"}, "output": {"type": "array", "items": {"type": "string"}}}
    run.log_schema(both["input"], both["output"])
    assert client.set_experiment_run(id=run.id).get_schema() == both
    run.log_schema(input={"type": "object"})
    assert run.get_schema() == {"input": {"type": "object"}}


def test_pydantic_classes_give_their_schema(client: Client) -> None:
    """Of version 2 and version 1."""

    class Two:
        @classmethod
        def model_json_schema(cls) -> dict[str, Any]:
            return {"title": "Two"}

        schema = None

    class One:
        @classmethod
        def schema(cls) -> dict[str, Any]:
            return {"title": "One"}

    run = client.set_experiment_run()
    run.log_schema(Two, One)
    assert run.get_schema() == {"input": {"title": "Two"}, "output": {"title": "One"}}
    with pytest.raises(TypeError, match="found Two; give the class, not an instance"):
        run.log_schema(Two())
    with pytest.raises(TypeError, match="`output` must be a Pydantic model class"):
        run.log_schema(Two, int)
    assert run.get_schema()["output"] == {"title": "One"}


def test_the_real_pydantic_gives_its_schema(client: Client) -> None:
    """Where it is installed."""
    run = client.set_experiment_run()
    pydantic = pytest.importorskip("pydantic")
    made = pydantic.create_model("Sample", size=(int, ...))
    run.log_schema(made)
    assert run.get_schema()["input"]["properties"]["size"]["type"] == "integer"


class Model:
    """Both decorators."""

    @prediction_input_unpack
    def add(self, left: int, right: int = 1) -> int:
        """A sum."""
        return left + right

    @prediction_io_cleanup
    def double(self, rows: Any) -> Any:
        """Rows as lists in, an array out."""
        assert type(rows) is list
        return np.asarray(rows) * 2


def test_an_object_is_unpacked_into_arguments() -> None:
    assert Model().add({"left": 2, "right": 3}) == 5 and Model().add({"left": 2}) == 3  # type: ignore[call-arg, arg-type]
    with pytest.raises(TypeError, match=r"Model\.add\(\) takes a JSON object; the input is of type list"):
        Model().add([1, 2])  # type: ignore[call-arg, arg-type]
    assert Model.add.__doc__ == "A sum."


def test_arrays_become_lists_on_both_sides() -> None:
    answer = Model().double(np.array([[1, 2]]))
    assert answer == [[2, 4]] and type(answer[0][0]) is int
