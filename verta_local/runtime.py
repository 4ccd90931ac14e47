"""What a model notes about a prediction while it makes it: `runtime.log(key, value)` in `predict`. As in Verta.

A served model has a context around every request; where a model is tried by hand, `context()` makes one:

>>> class Model:
...     def predict(self, data):
...         log("words", len(data.split()))
...         return data.upper()
>>> with context() as noted:
...     answer = Model().predict("two words")
>>> noted.logs()
{'words': 2}

A model's own process imports this module: it brings nothing but the standard library.
"""

from __future__ import annotations

import json
from contextvars import ContextVar, Token
from typing import Any

__all__ = ["context", "log"]


class context:
    """A request, as a model's code sees one: `with context() as noted: model.predict(x)`, then `noted.logs()`.

    Args:
        validate: as in Verta, where it asked for the checks that `log` always makes here.

    A thread that `predict` starts is not in it.
    """

    def __init__(self, validate: bool = True) -> None:
        self._logs: dict[str, Any] = {}
        self._tokens: list[Token[context | None]] = []

    def __enter__(self) -> context:
        self._tokens.append(_current.set(self))
        return self

    def __exit__(self, *exception: object) -> None:
        _current.reset(self._tokens.pop())

    def logs(self) -> dict[str, Any]:
        """Key -> value of what was noted, in the order of noting; a copy."""
        return dict(self._logs)


_current: ContextVar[context | None] = ContextVar("verta_local.runtime", default=None)


def log(key: str, value: Any) -> None:
    """Notes something about the prediction that is being made.

    Args:
        key: any text, once a prediction.
        value: anything with a JSON form.

    Raises:
        TypeError: a key that is no text, or a value without a JSON form.
        ValueError: a key that was noted already, or an empty one; a value that holds itself.
        RuntimeError: no prediction is being made; `with context():` makes one.
    """
    if not isinstance(key, str):
        raise TypeError(f"key must be a str, not {type(key).__name__}")
    if not key:
        raise ValueError("key must not be empty")
    try:
        json.dumps(value)
    except TypeError as error:
        raise TypeError(f"the value of {key!r} must have a JSON form; found {type(value).__name__} ({error})") from None
    present = _current.get()
    if present is None:
        raise RuntimeError(
            "runtime.log() is for the code of predict(), while a request is answered; to try a model by hand, call it "
            "in `with verta_local.runtime.context():`"
        )
    if key in present._logs:
        raise ValueError(f"{key!r} was noted already for this prediction; choose another key")
    present._logs[key] = value
