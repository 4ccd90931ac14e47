"""A run: what is logged to it and read from it. Names and behaviour are Verta's `ExperimentRun`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from verta_store import ids
from verta_store.records import HYPERPARAMETERS, METRICS

from . import observations, values
from .entity_code import EntityWithCode
from .entity_notes import EntityWithNotes
from .errors import EntityMissing, UnknownId
from .run_artifacts import RunArtifacts
from .run_life import RunLife
from .run_model import RunModel

if TYPE_CHECKING:
    from array import array

    from verta_store.series import Columns


class History(NamedTuple):
    """A series as columns of one length."""

    values: array[float] | array[int] | list[Any]
    epochs: array[int]
    timestamps_ms: array[int]


class ExperimentRun(RunModel, RunArtifacts, RunLife, EntityWithCode, EntityWithNotes):
    """One run of an experiment. Made by `Client.set_experiment_run`; may be used from several threads."""

    _kind = "run"
    _may_overwrite_code = True

    def __repr__(self) -> str:
        """Everything that was logged, a line each; histories as their lengths. As in Verta."""
        try:
            lines = [f"{title}: {found}" for title, found in self._described()]
        except EntityMissing:
            return f"<ExperimentRun {self._name!r} {self._id}: deleted>"
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The run as a card, where a notebook shows it."""
        from . import display  # noqa: PLC0415 - start-up time

        try:
            row = self._row()
            keys = self._observation_keys()
            series = {key: self._store.point_columns(self._id, key).values for key in keys}
            facts = {
                "id": self._id,
                "status": self.status,
                "created": _local_time(row.created_ms)[:19],
                "updated": _local_time(row.updated_ms)[:19],
            }
            artifacts = [
                display.Artifact(key, each.name, each.size_bytes, each.file_count, each.kind == "tree")
                for key, each in self._artifacts().items()
            ]
            return display.run_card(self, facts, series, artifacts)
        except EntityMissing:
            return display.message(repr(self))

    def _described(self) -> list[tuple[str, Any]]:
        row, life = self._row(), self._life()
        return [
            ("name", row.name),
            ("url", self.url),
            ("date created", _local_time(row.created_ms)),
            ("date updated", _local_time(row.updated_ms)),
            ("status", life.status),
            ("start time", _local_time(life.start_ms)),
            ("end time", None if life.end_ms is None else _local_time(life.end_ms)),
            ("description", self.get_description()),
            ("tags", self.get_tags()),
            ("attributes", self.get_attributes()),
            ("id", self._id),
            ("experiment id", self._parent),
            ("project id", self._project_id()),
            ("hyperparameters", self.get_hyperparameters()),
            ("observations", {key: f"{self._point_count(key)} points" for key in self._observation_keys()}),
            ("metrics", self.get_metrics()),
            ("artifact keys", self.get_artifact_keys()),
        ]

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
        return self._values(HYPERPARAMETERS)

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
        return self._values(METRICS)

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
        stamp = ids.now_ms() if timestamp is None else observations.to_milliseconds(values.to_builtin(timestamp))
        if epoch_num is not None:
            epoch = observations.check_epoch(values.to_builtin(epoch_num))
        else:
            epoch = 0 if overwrite else self._store.newest_epoch(self._id, key) + 1
        self._store.add_points(self._id, key, [(value, stamp, epoch)], overwrite=overwrite)

    def get_observation(self, key: str) -> list[tuple[Any, str, int]]:
        """(value, local time as text, epoch) of each point, in the order of logging. As in later Verta clients.

        Raises:
            KeyError: nothing was logged under this key.
        """
        found = self._columns(key)
        return list(zip(found.values, observations.to_texts(found.timestamps_ms), found.epochs, strict=True))

    def get_observations(self) -> dict[str, list[tuple[Any, str, int]]]:
        """All series, each as from `get_observation`."""
        return {key: self.get_observation(key) for key in self._observation_keys()}

    def history(self, key: str) -> History:
        """The series of a key as columns: for plots and arithmetic, some hundred times faster than `get_observation`.

        Returns:
            `values`, `epochs` and `timestamps_ms` (since 1970 UTC), of one length, in the order of logging. Where all
            values are numbers of one type they are an `array.array`, which NumPy takes without a copy:
            `numpy.asarray(run.history("loss").values)`. Not in Verta.

        Raises:
            KeyError: nothing was logged under this key.
        """
        found = self._columns(key)
        return History(found.values, found.epochs, found.timestamps_ms)

    def _columns(self, key: str) -> Columns:
        found = self._store.point_columns(self._id, values.check_key(key))
        if not found.epochs:
            self._row()
            raise self._missing("observation", key, self._observation_keys())
        return found

    def _observation_keys(self) -> list[str]:
        found = self._store.point_keys(self._id)
        if not found:
            self._row()
        return found

    def log_model_for_deployment(
        self,
        model: Any,
        model_api: Any = None,
        requirements: Any = None,
        train_features: Any = None,
        train_targets: Any = None,
    ) -> None:
        """`log_model`, `log_requirements` and `log_training_data` in one call. As in Verta's first clients.

        Args:
            requirements: as of `log_requirements`; also an opened file with a name.
            train_features, train_targets: as of `log_training_data`; both or neither.

        Raises as those do, and the requirements are looked at before anything is logged.
        """
        if (train_features is None) != (train_targets is None):
            raise ValueError("give both `train_features` and `train_targets`, or neither")
        requirements = getattr(requirements, "name", requirements)
        if requirements is not None:
            from .requirements import pin_requirements  # noqa: PLC0415 - start-up time

            requirements = pin_requirements(requirements)
        if train_features is not None:
            self.log_training_data(train_features, train_targets)
        self.log_model(model, model_api=model_api)
        if requirements is not None:
            self.log_requirements(requirements)

    def clone(
        self,
        experiment_id: str | None = None,
        copy_artifacts: bool = True,
        copy_code_version: bool = True,
        copy_datasets: bool = True,
    ) -> ExperimentRun:
        """A new run with all that was logged to this one; artifacts are not stored twice.

        Args:
            experiment_id: of the experiment that it goes to; by default that of this run, under another name.
            copy_artifacts, copy_code_version, copy_datasets: whether these come with it.

        Raises:
            ValueError: no experiment has this id.
        """
        row = self._row()
        if experiment_id is not None:
            self._require_experiment(experiment_id)
        from .run_clone import clone_run  # noqa: PLC0415 - start-up time

        return clone_run(
            self,
            row,
            experiment_id or row.parent or "",
            copy_artifacts=copy_artifacts,
            copy_code_version=copy_code_version,
            copy_datasets=copy_datasets,
        )

    def _require_experiment(self, experiment_id: object) -> None:
        try:
            found = self._store.entity(experiment_id) if isinstance(experiment_id, str) else None
        except KeyError:
            found = None
        if found is None or found.kind != "experiment":
            raise UnknownId(f"Experiment not found: none has the id {experiment_id!r} in the store {self._store.root}")

    def _point_count(self, key: str) -> int:
        return len(self._store.point_columns(self._id, key).epochs)


def _local_time(at_ms: int) -> str:
    return observations.to_texts([at_ms])[0]


def _check_scalars(name: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(entries, Mapping):
        raise TypeError(f"{name} must be a dict, not {type(entries).__name__}")
    return {values.check_key(key): values.check_scalar(key, value) for key, value in entries.items()}
