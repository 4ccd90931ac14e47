"""An entity with artifacts: files, folders, streams and objects under keys, logged and read back."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from verta_store.names import safe_name
from verta_store.records import ARTIFACTS

from . import artifacts as artifact_rules
from . import values
from .artifacts import Artifact
from .entity_attributes import EntityWithAttributes

if TYPE_CHECKING:
    from verta_store import Store


class EntityWithArtifacts(EntityWithAttributes):
    """A run or a registered model version."""

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
        self._log_path(key, artifact_path, overwrite, "artifact_path", "BLOB")

    def get_artifact(self, key: str) -> Any:
        """The object that was logged; a file's bytes as BytesIO; a folder as the BytesIO of a zip; a path's text.

        Raises:
            KeyError: no such artifact.
            MissingObject, CorruptObject: its bytes are gone or damaged; a damaged pickle is never unpickled.
            LoadError: an object that somebody else logged and that was not approved; or that does not load.
        """
        from .loading import load_object  # noqa: PLC0415 - start-up time
        from .trust import author_of_code  # noqa: PLC0415 - start-up time

        def unpickle(store: Store, digest: str) -> Any:
            return load_object(store, digest, author_of_code(store, self._id, key, digest))

        return artifact_rules.read_artifact(self._store, self._artifact(key), unpickle)

    def download_artifact(self, key: str, download_to_path: str) -> str:
        """Copies an artifact to a path, checked, and returns the absolute path. Parent folders are made.

        Raises:
            TypeError: a path that is none. ValueError: an empty one.
            KeyError, MissingObject, CorruptObject, IsADirectoryError, FileExistsError: nothing is written.
        """
        if not isinstance(download_to_path, (str, os.PathLike)):
            raise TypeError(f"download_to_path must be a path, not {type(download_to_path).__name__}")
        if not os.fspath(download_to_path):
            raise ValueError("download_to_path is empty; give the path of the file or folder to write")
        return artifact_rules.copy_out(self._store, self._artifact(key), os.fspath(download_to_path))

    def artifact_file_name(self, key: str) -> str:
        """The base name of the file or folder that was logged, made safe. Raises KeyError."""
        return safe_name(self._artifact(key).name)

    def get_artifact_keys(self) -> list[str]:
        """The keys of all artifacts, in the order of logging."""
        return list(self._values(ARTIFACTS))

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
            raise TypeError("`keys` must be a list of str, the keys of logged artifacts; found None")
        checked = artifact_rules.check_artifact_keys(keys, found, "keys")
        paths = {}
        for key in checked or []:
            if found[key].kind == "blob":
                self._store.check("blob", found[key].digest)
            paths[key] = artifact_rules.path_for_model(self._store, found[key])
        return paths

    def _log_path(self, key: str, path: object, overwrite: bool, argument: str, type: str) -> None:
        artifact_rules.check_not_reserved(key)
        values.check_key(key)
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"{argument} must be a str, not {path.__class__.__name__}")
        text = os.fspath(path)
        self._log_artifact(key, lambda: Artifact("path", text, type=type), overwrite)

    def _log_artifact(self, key: str, make: Callable[[], Artifact], overwrite: bool) -> None:
        if not overwrite:
            self._store.require_absent(self._id, ARTIFACTS, [key])  # before gigabytes are copied
        self._put(ARTIFACTS, {key: make().to_record()}, overwrite)
        self._store.flush()

    def _artifacts(self) -> dict[str, Artifact]:
        found = self._values(ARTIFACTS)
        return {key: Artifact.from_record(record) for key, record in found.items()}

    def _artifact(self, key: str) -> Artifact:
        found = self._artifacts()
        if key not in found:
            raise self._missing("artifact", key, found)
        return found[key]
