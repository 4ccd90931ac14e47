"""Hyperparameters of a search: values, ranges and sets. As `verta.configuration`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from . import values


class Hyperparameters:
    """Values, ranges and sets of hyperparameters, checked.

    Args:
        hyperparameters: name -> value.
        hyperparameter_ranges: name -> (begin, end, step), numbers.
        hyperparameter_sets: name -> the values to choose from.

    Raises:
        ValueError: none of them is given. TypeError: one is of another form.

    Example:
        >>> Hyperparameters({"depth": 3}).hyperparameters
        {'depth': 3}
    """

    def __init__(
        self,
        hyperparameters: Mapping[str, Any] | None = None,
        hyperparameter_ranges: Mapping[str, Iterable[float]] | None = None,
        hyperparameter_sets: Mapping[str, Iterable[Any]] | None = None,
    ) -> None:
        for given in (hyperparameters, hyperparameter_ranges, hyperparameter_sets):
            if given is not None and not isinstance(given, Mapping):
                raise TypeError(f"hyperparameters must be a dict of names and values, not {type(given).__name__}")
        if not (hyperparameters or hyperparameter_ranges or hyperparameter_sets):
            raise ValueError("give hyperparameters, hyperparameter_ranges or hyperparameter_sets")
        self.hyperparameters = {name: values.check_scalar(name, v) for name, v in (hyperparameters or {}).items()}
        self.hyperparameter_ranges = {name: _range(name, v) for name, v in (hyperparameter_ranges or {}).items()}
        self.hyperparameter_sets = {
            name: [values.check_scalar(name, value) for value in chosen]
            for name, chosen in (hyperparameter_sets or {}).items()
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hyperparameters) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # it holds dicts

    def __repr__(self) -> str:
        return f"Hyperparameters({', '.join(f'{name}={value!r}' for name, value in vars(self).items() if value)})"


def _range(name: str, given: Iterable[float]) -> tuple[float, float, float]:
    found = tuple(values.to_builtin(given)) if isinstance(given, Iterable) and not isinstance(given, str) else ()
    if len(found) != 3 or any(isinstance(item, bool) or not isinstance(item, (int, float)) for item in found):
        raise TypeError(f"the range of {name!r} must be three numbers (begin, end, step), not {given!r}")
    return found
