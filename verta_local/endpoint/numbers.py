"""Checks of the numbers that an update is given."""

from __future__ import annotations


def check_number(name: str, value: object, *, most: float | None = None) -> float:
    """A number over 0, and at most `most`. Raises: TypeError for another type, ValueError for another number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not value > 0 or (most is not None and value > most):
        limit = f" and at most {most:g}" if most is not None else ""
        raise ValueError(f"{name} must be over 0{limit}, not {value}")
    return value


def check_count(name: str, value: object) -> int:
    """A whole number of 1 or more. Raises: TypeError for another type, ValueError for another number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value}")
    return value
