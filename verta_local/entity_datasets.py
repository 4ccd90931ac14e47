"""An entity that says which dataset versions it was made from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from verta_store.records import ARTIFACTS

from . import artifacts as artifact_rules
from . import values
from .entity_artifacts import EntityWithArtifacts

if TYPE_CHECKING:
    from .dataset.entities import DatasetVersion

# key -> {"id": of the dataset version}
DATASETS_SECTION = "datasets"


class EntityWithDatasets(EntityWithArtifacts):
    """A run or a registered model version."""

    def log_dataset_version(self, key: str, dataset_version: DatasetVersion, overwrite: bool = False) -> None:
        """Logs which version of a dataset was used.

        Raises:
            TypeError: something else than a `DatasetVersion`.
            ValueError: a key that exists ("consider setting overwrite=True"), or a version of another store.
        """
        from .dataset.entities import DatasetVersion  # noqa: PLC0415 - start-up time

        if not isinstance(dataset_version, DatasetVersion):
            raise TypeError(f"dataset_version must be a DatasetVersion, not {type(dataset_version).__name__}")
        if dataset_version._store.id != self._store.id:
            raise ValueError(f"the dataset version {dataset_version.id} is in another store than this {self._noun}")
        self._put(DATASETS_SECTION, {values.check_key(key): {"id": dataset_version.id}}, overwrite)

    def get_dataset_version(self, key: str) -> DatasetVersion:
        """The dataset version that was logged under a key. Raises KeyError for an absent key."""
        from .creation import by_id  # noqa: PLC0415 - start-up time
        from .dataset.entities import DatasetVersion  # noqa: PLC0415

        return by_id(self._store, DatasetVersion, None, self._get(DATASETS_SECTION, key)["id"])

    def get_dataset_versions(self) -> dict[str, DatasetVersion]:
        """Key -> dataset version of all that were logged."""
        return {key: self.get_dataset_version(key) for key in self._values(DATASETS_SECTION)}

    def del_dataset_version(self, key: str) -> None:
        """Takes a dataset version out; the version itself stays. Raises KeyError for an absent key."""
        self._drop(DATASETS_SECTION, key)

    def log_dataset(self, key: str, dataset: Any, overwrite: bool = False) -> None:
        """Logs a dataset version, or a file, stream or object that holds data. As in Verta's first clients.

        Raises:
            ValueError: a `Dataset`, which has no content of its own; a key that exists.
        """
        from .dataset.entities import Dataset, DatasetVersion  # noqa: PLC0415 - start-up time

        if isinstance(dataset, Dataset):
            raise ValueError("a Dataset has no content of its own: create a version of it and log that one")
        if isinstance(dataset, DatasetVersion):
            self.log_dataset_version(key, dataset, overwrite)
            return
        artifact_rules.check_not_reserved(key)
        values.check_key(key)
        self._log_artifact(key, lambda: artifact_rules.store_artifact(self._store, key, dataset, "DATA"), overwrite)

    def log_dataset_path(self, key: str, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Logs only the text of a path to data. As in Verta's first clients."""
        values.check_key(key)
        artifact = artifact_rules.Artifact("path", os.fspath(path), type="DATA")
        self._put(ARTIFACTS, {key: artifact.to_record()}, overwrite)

    def get_dataset(self, key: str) -> Any:
        """The dataset version, or the object, of `log_dataset`. Raises KeyError for an absent key."""
        if key in self._values(DATASETS_SECTION):
            return self.get_dataset_version(key)
        return self.get_artifact(key)
