"""Logs what a library reports to a run, in the words that a run takes, and never ends a training for it.

A library's names may hold characters that a key may not, and its settings values that are no scalars. A training of
hours is worth more than one of its observations: a store that cannot be written is said once, and the training goes on.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from verta_local import values

if TYPE_CHECKING:
    from verta_local.run import ExperimentRun

_OUTSIDE_ALPHABET = re.compile(r"[^A-Za-z0-9_\-/]+")
_LONGEST_TEXT = 1000  # characters of a setting that is no scalar: its repr is for the eye


class Recorder:
    """A run that a callback writes to.

    Raises:
        TypeError: what was given is no run.
    """

    def __init__(self, run: ExperimentRun) -> None:
        if not callable(getattr(run, "log_observation", None)):
            raise TypeError(f"`run` must be an experiment run, not {type(run).__name__}: client.set_experiment_run()")
        self._run = run
        self._has_failed = False

    def hyperparameters(self, settings: Mapping[str, Any]) -> None:
        """Logs settings; those of an earlier training of this run are replaced."""
        wanted = {key_of(name): _scalar(value) for name, value in settings.items()}
        if wanted:
            self._try(lambda: self._run.log_hyperparameters(wanted, overwrite=True))

    def metrics(self, found: Mapping[str, Any]) -> None:
        """Logs final values as metrics; those of an earlier training of this run are replaced."""
        wanted = {key_of(name): _scalar(value) for name, value in found.items()}
        if wanted:
            self._try(lambda: self._run.log_metrics(wanted, overwrite=True))

    def observations(self, found: Mapping[str, Any], epoch: int | None = None, timestamp: float | None = None) -> None:
        """Appends a value to the series of each name; what is no number is left out.

        Args:
            epoch: of the point; one more than the last by default.
            timestamp: seconds since 1970; now by default.
        """
        for name, value in found.items():
            number = _number(value)
            if number is not None:
                self._try(lambda: self._run.log_observation(key_of(name), number, timestamp, epoch))  # noqa: B023

    def _try(self, log: Callable[[], None]) -> None:
        try:
            log()
        except Exception as error:
            if not self._has_failed:
                self._has_failed = True
                warnings.warn(
                    f"logging to the run failed ({error}); the training goes on, and this is said once", stacklevel=4
                )


def key_of(name: str) -> str:
    """A library's name as a key: what a key may not hold becomes `_`."""
    return _OUTSIDE_ALPHABET.sub("_", str(name)) or "_"


def _scalar(value: Any) -> Any:
    try:
        return values.check_scalar("", value)
    except (TypeError, ValueError):
        if isinstance(value, type) or callable(value):
            return getattr(value, "__name__", None) or type(value).__name__
        return repr(value)[:_LONGEST_TEXT]


def _number(value: Any) -> Any:
    try:
        found = values.check_scalar("", value)
    except (TypeError, ValueError):
        return None
    return found if isinstance(found, (int, float)) else None
