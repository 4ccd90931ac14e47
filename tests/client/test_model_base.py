"""The base class of class models, and the check of their input and output."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from verta_local import Client
from verta_local.registry import VertaModelBase, verify_io


class Doubling(VertaModelBase):
    """A class model with all that may be in one."""

    def __init__(self, artifacts: dict[str, str] | None = None) -> None:
        with open((artifacts or {})["factor"]) as file:
            self.factor = float(file.read())

    @verify_io
    def predict(self, input: Any) -> Any:
        """The input, times what the artifact says."""
        return {"answer": np.float64(input * self.factor) if input < 100 else np.array([input])}

    def model_test(self) -> None:
        """Fails for a factor below zero."""
        assert self.factor >= 0, "the factor is below zero"


def test_a_class_without_predict_cannot_be_made() -> None:
    """It is said here, and not when it is deployed."""

    class Unfinished(VertaModelBase):
        def __init__(self, artifacts: dict[str, str] | None = None) -> None:
            pass

    with pytest.raises(TypeError, match="predict"):
        Unfinished()  # type: ignore[abstract]


def test_such_a_model_is_deployed_after_its_own_test(client: Client, tmp_path: Any) -> None:
    """A model that fails its test is not served."""
    run = client.set_experiment_run()
    (tmp_path / "factor.txt").write_text("2")
    run.log_artifact("factor", str(tmp_path / "factor.txt"))
    run.log_model(Doubling, custom_modules=[__file__], artifacts=["factor"])
    run.log_requirements(["numpy==" + np.__version__])
    try:
        run.deploy(wait=True)
        assert run.get_deployed_model().predict(4) == {"answer": 8.0}
        with pytest.raises(RuntimeError, match=r"the output of predict\(\) at \['answer'\] is not JSON serializable"):
            run.get_deployed_model().predict(200)
        (tmp_path / "factor.txt").write_text("-1")
        run.log_artifact("factor", str(tmp_path / "factor.txt"), overwrite=True)
        with pytest.raises(RuntimeError, match="the factor is below zero"):
            run.deploy(wait=True)
    finally:
        run.undeploy(wait=True)


def returning(value: object) -> Any:
    """A model whose answer is `value`."""

    class Model:
        @verify_io
        def predict(self, input: Any) -> Any:
            return value

    return Model()


@pytest.mark.parametrize("value", [None, True, 1, 0.5, float("nan"), "x", [1, (2, "y")], {"a": [{"b": None}]}])
def test_what_json_can_hold_passes(value: object) -> None:
    """NaN too: the server sends it as it is."""
    assert returning(value).predict(value) is value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(2), r"is not JSON serializable: numpy\.ndarray; \.tolist\(\) makes"),
        ([1, {"a": np.int64(1)}], r"at \[1\]\['a'\] is not JSON serializable: numpy\.int64"),
        ({1: "a"}, "at a key of the dict is not JSON serializable: int"),
        ([{"a": {"b"}}], r"at \[0\]\['a'\] is not JSON serializable: set"),
        (b"bytes", "is not JSON serializable: bytes"),
    ],
)
def test_what_json_cannot_hold_is_named_with_its_place(value: object, message: str) -> None:
    """Going in and coming out."""
    with pytest.raises(TypeError, match=r"^the input of predict\(\).*" + message):
        returning(None).predict(value)
    with pytest.raises(TypeError, match=r"^the output of predict\(\).*" + message):
        returning(value).predict(1)
