"""A run: what is logged to it and read from it. Names and behaviour are Verta's `ExperimentRun`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from verta_store import ids
from verta_store.materialize import safe_name
from verta_store.records import ARTIFACTS, ATTRIBUTES, HYPERPARAMETERS, METRICS

from . import artifacts as artifact_rules
from . import observations, values
from .artifacts import Artifact
from .entity import Entity, check_attributes, check_tags
from .errors import KeyMissing
from .run_model import RunModel

if TYPE_CHECKING:
    from verta_store import Store
    from verta_store.index import EntityRow

_SINGULAR = {HYPERPARAMETERS: "hyperparameter", METRICS: "metric", ATTRIBUTES: "attribute", ARTIFACTS: "artifact"}


class ExperimentRun(RunModel, Entity):
    """One run of an experiment. Made by `Client.set_experiment_run`; may be used from several threads."""

    _kind = "run"

    def __init__(self, store: Store, row: EntityRow) -> None:
        Entity.__init__(self, store, row)

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

    def log_attribute(self, key: str, value: Any, overwrite: bool = False) -> None:
        """Logs one attribute: also lists and dicts, nested. Raises TypeError, ValueError as `log_hyperparameter`."""
        self._put(ATTRIBUTES, {values.check_key(key): values.check_attribute(key, value)}, overwrite)

    def log_attributes(self, attributes: dict[str, Any], overwrite: bool = False) -> None:
        """Logs a dict of attributes: all of them or, with one bad key or value, none."""
        self._put(ATTRIBUTES, check_attributes(attributes), overwrite)

    def get_attribute(self, key: str) -> Any:
        """The value, equal to the one logged. Raises KeyError for an absent key."""
        return self._get(ATTRIBUTES, key)

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

    # -- artifacts -------------------------------------------------------------------------------------------------

    def log_artifact(self, key: str, artifact: Any, overwrite: bool = False) -> None:
        """Logs a file or folder by its path, a file-like object's bytes, or any object, pickled.

        The bytes are copied into the store, hashed and durable before the key is recorded: an interrupted call
        leaves no key (differs from Verta, which records the key first). A folder keeps its empty sub-folders.

        Raises:
            FileNotFoundError: the path does not exist.
            ValueError: "object contains no data"; a key that exists ("consider setting overwrite=True") or is
                reserved ("please use a different key"); a folder that holds a device or a link out of it.
        """
        artifact_rules.check_not_reserved(key)
        values.check_key(key)
        self._log_artifact(key, lambda: artifact_rules.store_artifact(self._store, key, artifact), overwrite)

    def log_artifact_path(self, key: str, artifact_path: str, overwrite: bool = False) -> None:
        """Logs only the text of a path; `get_artifact` returns it. As in Verta's first clients."""
        artifact_rules.check_not_reserved(key)
        values.check_key(key)
        if not isinstance(artifact_path, (str, os.PathLike)):
            raise TypeError(f"artifact_path must be a str, not {type(artifact_path).__name__}")
        self._log_artifact(key, lambda: Artifact("path", os.fspath(artifact_path)), overwrite)

    def get_artifact(self, key: str) -> Any:
        """The object that was logged; a file's bytes as BytesIO; a folder as the BytesIO of a zip; a path's text.

        Raises:
            KeyError: no such artifact.
            MissingObject, CorruptObject: its bytes are gone or damaged; a damaged pickle is never unpickled.
        """
        from .loading import load_object  # noqa: PLC0415 - start-up time

        return artifact_rules.read_artifact(self._store, self._artifact(key), load_object)

    def download_artifact(self, key: str, download_to_path: str) -> str:
        """Copies an artifact to a path, checked, and returns the absolute path. Parent folders are made.

        Raises:
            KeyError, MissingObject, CorruptObject: nothing is written.
        """
        return artifact_rules.copy_out(self._store, self._artifact(key), os.fspath(download_to_path))

    def artifact_file_name(self, key: str) -> str:
        """The base name of the file or folder that was logged, made safe. Raises KeyError."""
        return safe_name(self._artifact(key).name)

    def get_artifact_keys(self) -> list[str]:
        """The keys of all artifacts, in the order of logging."""
        return list(self._store.values(self._id, ARTIFACTS))

    def fetch_artifacts(self, keys: list[str]) -> dict[str, str]:
        """Artifact key -> path of a file or folder, as the deployed class model gets them: no copy, read-only.

        The path of a file ends with the user's own file name, that of a folder is the stored folder itself. As in Verta
        an archive file (zip, tar, tgz, tar.gz) comes as the folder that it holds. Differs: the path lies in the store,
        not in a writable cache, so what one reader does to it can never reach another. The bytes of files are checked;
        those of a folder's files when the model is deployed or loaded, and by `verta-local verify`.

        Raises:
            TypeError: not a list of str.
            ValueError: a key that was not logged.
            MissingObject, CorruptObject: the bytes are gone or damaged.
        """
        found = self._artifacts()
        if keys is None:
            raise TypeError("`keys` must be a list of str, not None")
        checked = artifact_rules.check_artifact_keys(keys, found)
        paths = {}
        for key in checked or []:
            if found[key].kind == "blob":
                self._store.check("blob", found[key].digest)
            paths[key] = artifact_rules.path_for_model(self._store, found[key])
        return paths

    # -- the one path of all verbs ---------------------------------------------------------------------------------

    def _put(self, section: str, entries: Mapping[str, Any], overwrite: bool) -> None:
        self._store.put(self._id, section, entries, overwrite=overwrite)

    def _log_artifact(self, key: str, make: Callable[[], Artifact], overwrite: bool) -> None:
        if not overwrite:
            self._store.require_absent(self._id, ARTIFACTS, [key])  # before gigabytes are copied
        self._put(ARTIFACTS, {key: make().to_record()}, overwrite)
        self._store.flush()

    def _artifacts(self) -> dict[str, Artifact]:
        found = self._store.values(self._id, ARTIFACTS)
        return {key: Artifact.from_record(record) for key, record in found.items()}

    def _artifact(self, key: str) -> Artifact:
        found = self._artifacts()
        if key not in found:
            raise self._missing("artifact", key, found)
        return found[key]

    def _get(self, section: str, key: str) -> Any:
        found = self._store.values(self._id, section)
        if values.check_key(key) not in found:
            raise self._missing(_SINGULAR[section], key, found)
        return found[key]

    def _missing(self, what: str, key: str, present: Iterable[str]) -> KeyMissing:
        names = ", ".join(present) or "none"
        return KeyMissing(f"no {what} {key!r} in run {self._name!r}; it has: {names}")


def _check_scalars(name: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(entries, Mapping):
        raise TypeError(f"{name} must be a dict, not {type(entries).__name__}")
    return {values.check_key(key): values.check_scalar(key, value) for key, value in entries.items()}
