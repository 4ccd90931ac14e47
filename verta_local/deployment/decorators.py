"""Decorators for `predict`, as Verta's first clients had them in `verta.deployment`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from verta_local.values import to_builtin

_Predict = TypeVar("_Predict", bound=Callable[..., Any])


def prediction_input_unpack(func: _Predict) -> _Predict:
    """Calls `predict` with the input's items as keyword arguments: for an input that is a JSON object.

    Raises:
        TypeError: by the decorated method, for an input that is no dict.
    """

    @functools.wraps(func)
    def unpacking(self: Any, x: Any) -> Any:
        if not isinstance(x, dict):
            raise TypeError(f"{func.__qualname__}() takes a JSON object; the input is of type {type(x).__name__}")
        return func(self, **x)

    return unpacking  # type: ignore[return-value]  # as in Verta: called with one argument from now on


def prediction_io_cleanup(func: _Predict) -> _Predict:
    """Makes builtins of what goes into `predict` and comes out: arrays and tensors become lists, bytes text."""

    @functools.wraps(func)
    def cleaning(self: Any, x: Any) -> Any:
        return to_builtin(func(self, to_builtin(x)))

    return cleaning  # type: ignore[return-value]  # same parameters and result
