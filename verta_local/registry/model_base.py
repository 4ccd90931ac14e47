"""The base class of class models, and a check of their input and output, as Verta's later clients have them."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from typing import Any, TypeVar

_Predict = TypeVar("_Predict", bound=Callable[..., Any])


class VertaModelBase(abc.ABC):
    """A class model: log the class itself, with the keys of its artifacts.

    It need not be a subclass of this: any class with these methods is a class model. What a subclass gains is that a
    missing method is said when it is made, here, and not when it is deployed.

    A model may have more:

    - ``batch_predict(self, df)`` answers `DeployedModel.batch_predict` with a pandas DataFrame;
    - ``model_test(self)`` is called when it is deployed, before it gets requests: an exception there fails the
      deployment, with its traceback;
    - ``predict(self, input, headers)`` and ``batch_predict(self, df, headers)`` get the request's headers too, as a
      dict with names in lower case, without the token.
    """

    @abc.abstractmethod
    def __init__(self, artifacts: dict[str, str] | None = None) -> None:
        """Makes the model, once for each serving process.

        Args:
            artifacts: artifact key -> path of a file or folder, for the keys given to `log_model`. Read-only.
        """

    @abc.abstractmethod
    def predict(self, input: Any) -> Any:
        """Answers one request: JSON values in, JSON values out."""


def verify_io(f: _Predict) -> _Predict:
    """Decorates `predict`: raises where a value could not travel as JSON, so that a local test finds it.

    A served model gets what JSON can hold (None, bool, numbers, text, lists, dicts with str keys), and its answer has
    to be made of the same. As in Verta; differs: the message says where in the value the fault is, and a tuple may
    go out, as it becomes a list.

    Raises:
        TypeError: by the decorated method, for its input or its output.
    """

    @functools.wraps(f)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            _check(value, "the input of", f.__name__)
        answer = f(self, *args, **kwargs)
        _check(answer, "the output of", f.__name__)
        return answer

    return checked  # type: ignore[return-value]  # same parameters and result


def _check(value: object, which: str, method: str) -> None:
    found = _foreign(value, "")
    if found is not None:
        place, culprit = found
        kind = type(culprit)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        hint = "; .tolist() makes lists and numbers of it" if hasattr(culprit, "tolist") else ""
        raise TypeError(f"{which} {method}(){f' at {place}' if place else ''} is not JSON serializable: {name}{hint}")


def _foreign(value: object, place: str) -> tuple[str, object] | None:
    """(place, value) of the first part that JSON cannot hold."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return None
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"a key of {place or 'the dict'}", key
            if (found := _foreign(item, f"{place}[{key!r}]")) is not None:
                return found
        return None
    if isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            if (found := _foreign(item, f"{place}[{position}]")) is not None:
                return found
        return None
    return place, value
