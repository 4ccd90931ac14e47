"""A run: what is logged to it and read from it. Names and behaviour are Verta's `ExperimentRun`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from verta_store import ids
from verta_store.records import HYPERPARAMETERS, METRICS

from . import observations, values
from .entity import check_tags
from .run_model import RunModel


class ExperimentRun(RunModel):
    """One run of an experiment. Made by `Client.set_experiment_run`; may be used from several threads."""

    _kind = "run"

    def __repr__(self) -> str:
        lines = [f"name: {self._name}", f"id: {self._id}", f"store: {self._store.root}"]
        for title, found in (
            ("tags", self.get_tags()),
            ("attributes", self.get_attributes()),
            ("hyperparameters", self.get_hyperparameters()),
            ("observations", {key: f"{len(self.get_observation(key))} points" for key in self._observation_keys()}),
            ("metrics", self.get_metrics()),
            ("artifact keys", self.get_artifact_keys()),
        ):
            lines.append(f"{title}: {found}")
        return "\n".join(lines)

    # -- values ----------------------------------------------------------------------------------------------------

    def log_hyperparameter(self, key: str, value: Any, overwrite: bool = False) -> None:
        """Logs one hyperparameter: None, bool, number or str.

        In the kernel when this returns, on the device at most a second later.

        Raises:
            TypeError: a list or dict ("consider using log_attribute()"), or another type. As in Verta.
            ValueError: a key with other characters than letters, digits, `_`, `-`, `/`, or one that exists already.
        """
        self._put(HYPERPARAMETERS, {values.check_key(key): values.check_scalar(key, value)}, overwrite)

    def log_hyperparameters(self, hyperparams: Mapping[str, Any], overwrite: bool = False) -> None:
        """Logs a dict of hyperparameters: all of them or, with one bad key or value, none."""
        self._put(HYPERPARAMETERS, _check_scalars("hyperparams", hyperparams), overwrite)

    def get_hyperparameter(self, key: str) -> Any:
        """The value, equal to the one logged, of the same type. Raises KeyError for an absent key."""
        return self._get(HYPERPARAMETERS, key)

    def get_hyperparameters(self) -> dict[str, Any]:
        """All hyperparameters, in the order of logging."""
        return self._store.values(self._id, HYPERPARAMETERS)

    def log_metric(self, key: str, value: Any, overwrite: bool = False) -> None:
        """Logs one metric: None, bool, number or str. As `log_hyperparameter`."""
        self._put(METRICS, {values.check_key(key): values.check_scalar(key, value)}, overwrite)

    def log_metrics(self, metrics: Mapping[str, Any], overwrite: bool = False) -> None:
        """Logs a dict of metrics: all of them or, with one bad key or value, none."""
        self._put(METRICS, _check_scalars("metrics", metrics), overwrite)

    def get_metric(self, key: str) -> Any:
        """The value, equal to the one logged, of the same type. Raises KeyError for an absent key."""
        return self._get(METRICS, key)

    def get_metrics(self) -> dict[str, Any]:
        """All metrics, in the order of logging."""
        return self._store.values(self._id, METRICS)

    # -- tags ------------------------------------------------------------------------------------------------------

    def log_tag(self, tag: str) -> None:
        """Adds a tag: any text; one that is there already is no error. Raises TypeError for another type."""
        if not isinstance(tag, str):
            raise TypeError(f"a tag must be a str, not {type(tag).__name__}")
        self._store.add_tags(self._id, [tag])

    def log_tags(self, tags: Iterable[str]) -> None:
        """Adds tags. As in later Verta clients one str is one tag."""
        self._store.add_tags(self._id, check_tags(tags))

    # -- observations ----------------------------------------------------------------------------------------------

    def log_observation(
        self, key: str, value: Any, timestamp: Any = None, epoch_num: Any = None, overwrite: bool = False
    ) -> None:
        """Appends a value to a series.

        Args:
            timestamp: a number of seconds, milli-, micro- or nanoseconds, an ISO text, or a datetime (naive: UTC);
                now by default.
            epoch_num: a whole number >= 0; by default one more than the highest of the series, 0 for the first.
            overwrite: starts the series anew, in the same record.

        Raises:
            TypeError, ValueError: a key, value, time or epoch of another form. As in Verta.
        """
        key = values.check_key(key)
        value = values.check_scalar(key, value)
        stamp = ids.now_ms() if timestamp is None else observations.to_milliseconds(timestamp)
        if epoch_num is not None:
            epoch = observations.check_epoch(epoch_num)
        else:
            epoch = 0 if overwrite else self._store.newest_epoch(self._id, key) + 1
        self._store.add_points(self._id, key, [(value, stamp, epoch)], overwrite=overwrite)

    def get_observation(self, key: str) -> list[tuple[Any, str, int]]:
        """(value, local time as text, epoch) of each point, in the order of logging. As in later Verta clients.

        Raises:
            KeyError: nothing was logged under this key.
        """
        found = self._store.point_columns(self._id, values.check_key(key))
        if not found.epochs:
            raise self._missing("observation", key, self._observation_keys())
        return list(zip(found.values, observations.to_texts(found.timestamps_ms), found.epochs, strict=True))

    def get_observations(self) -> dict[str, list[tuple[Any, str, int]]]:
        """All series, each as from `get_observation`."""
        return {key: self.get_observation(key) for key in self._observation_keys()}

    def _observation_keys(self) -> list[str]:
        return self._store.point_keys(self._id)


def _check_scalars(name: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(entries, Mapping):
        raise TypeError(f"{name} must be a dict, not {type(entries).__name__}")
    return {values.check_key(key): values.check_scalar(key, value) for key, value in entries.items()}
