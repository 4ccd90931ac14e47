"""An entity with a model: logging it with its artifacts and requirements, and what a process needs to load it."""

from __future__ import annotations

import json
from typing import Any

from verta_store.records import ARTIFACTS, ATTRIBUTES

from .artifacts import SETUP_SCRIPT_KEY, Artifact, check_artifact_keys, store_artifact
from .entity_environment import REQUIREMENTS_KEY
from .entity_schema import EntityWithSchema

MODEL_KEY = "model.pkl"
API_KEY = "model_api.json"
MODULES_KEY = "custom_modules"
# As in Verta: the attribute that holds the list of the model's artifact keys, in the order given.
ARTIFACTS_ATTRIBUTE = "verta_model_artifacts"
# How the model is to be loaded: ours, in a section of its own.
MODEL_SECTION = "model"


class EntityWithModel(EntityWithSchema):
    """A run or a registered model version."""

    def log_model(
        self,
        model: Any,
        custom_modules: list[str] | None = None,
        model_api: Any = None,
        artifacts: list[str] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Logs a model: a class with `__init__(self, artifacts)` and `predict(self, data)`, an object, or a file.

        Args:
            model: the class itself, not an instance, when `artifacts` is given. Else a function, an object with
                `predict`, or a model of scikit-learn, XGBoost, LightGBM, PyTorch, Keras or TensorFlow: what is served
                then is its prediction, with lists in and out. Or any object, the path of a file or folder, or an
                opened file: kept and given back by `get_model`, and served where it is a model file of Keras
                (.keras, HDF5), PyTorch or TorchScript, or the folder of a SavedModel.
            custom_modules: files, folders or module names that the model needs. By default the local modules that it
                really imports (differs from Verta, which took everything on `sys.path`); [] for none.
            model_api: a `verta_local.utils.ModelAPI`.
            artifacts: keys of artifacts logged before, which `__init__` gets as a dict of key -> path.
            overwrite: replaces the model, its API, its modules and its artifact keys, in one record.

        All is durable when this returns; a call that fails, or dies, has logged nothing.

        Raises:
            TypeError: `artifacts` is not a list of str; a model that cannot be pickled.
            FileNotFoundError: there is no such file or folder.
            ValueError: keys that have not been logged; an instance with `artifacts=`; another type of `model_api`;
                a model that is logged already ("consider setting overwrite=True").
        """
        import tempfile  # noqa: PLC0415 - start-up time
        from pathlib import Path  # noqa: PLC0415 - start-up time

        from . import model as packing  # noqa: PLC0415 - start-up time
        from . import modules  # noqa: PLC0415 - start-up time

        keys = check_artifact_keys(artifacts, self._artifacts())
        logged = (MODEL_KEY, API_KEY, MODULES_KEY)
        if not overwrite:
            self._store.require_absent(self._id, ARTIFACTS, logged)
        packed = packing.pack_model(model, custom_modules, model_api, has_artifacts=bool(keys))
        if packed.data is None:
            model_record = store_artifact(self._store, "model", model, "MODEL").to_record()
        else:
            model_record = self._stored_bytes(packed.data, MODEL_KEY, packed.method, "MODEL")
        records = {
            MODEL_KEY: model_record,
            API_KEY: self._stored_bytes(json.dumps(packed.api).encode(), API_KEY),
        }
        with tempfile.TemporaryDirectory(prefix="verta_local-modules-") as folder:
            modules.stage_modules(Path(folder), packed.modules)
            modules.stage_entry_files(folder)
            ref = self._store.put_tree(folder)
        records[MODULES_KEY] = Artifact(
            "tree", MODULES_KEY, ref.digest, ref.size_bytes, ref.file_count, type="CODE"
        ).to_record()
        description = {**packed.description(), "artifacts": keys or []}
        sections: dict[str, dict[str, Any]] = {ARTIFACTS: records, MODEL_SECTION: {"model": description}}
        if keys:
            sections[ATTRIBUTES] = {ARTIFACTS_ATTRIBUTE: keys}
        drop = {ATTRIBUTES: [ARTIFACTS_ATTRIBUTE]} if overwrite and not keys else None
        self._store.put_all(self._id, sections, overwrite=overwrite, drop=drop)
        self._store.flush()

    def get_model(self) -> Any:
        """The logged model as it was given to `log_model`: a class comes back as the class.

        A model file of Keras, PyTorch, TorchScript or pickle, and the folder of a SavedModel, come back as the object
        in them; any other file, and one that cannot be read here (with a UserWarning), as a BytesIO; any other folder
        as the BytesIO of a zip. As in Verta.

        Raises:
            KeyError: no model was logged. MissingObject, CorruptObject, LoadError: it cannot be loaded.
        """
        from .errors import KeyMissing  # noqa: PLC0415
        from .loading import load_logged_model  # noqa: PLC0415 - start-up time

        if MODEL_KEY not in self._artifacts():
            raise KeyMissing(f"no model in {self._noun} {self._name!r}; log one with log_model(Model)")
        return load_logged_model(self.model_spec())

    def trust(self) -> None:
        """Approves, for this user, the code that others logged here.

        That is the model, its modules, what it has installed, and pickled artifacts.
        Not in Verta. What you logged yourself needs no approval. Look at who it is first: `author`.
        """
        from .trust import approve, author_of_code, is_own  # noqa: PLC0415 - start-up time

        digests: dict[str, set[str]] = {}
        for key, artifact in self._artifacts().items():
            author = author_of_code(self._store, self._id, key, artifact.digest)
            is_code = artifact.method or artifact.type in ("MODEL", "CODE") or artifact.kind == "blob"
            if author is not None and not is_own(author) and is_code and artifact.digest:
                digests.setdefault(author, set()).add(artifact.digest)
        environment = self._environment_code()
        if environment and environment["author"] is not None and not is_own(environment["author"]):
            digests.setdefault(environment["author"], set()).add(str(environment["digest"]))
        for author, found in digests.items():
            approve(found, author)

    def model_spec(self, *, for_deployment: bool = False) -> dict[str, Any]:
        """All that a process needs to load the model without asking the store's index.

        Raises:
            RuntimeError: "unable to deploy due to missing artifact <key>" (with `for_deployment`).
        """
        from .errors import DeploymentError  # noqa: PLC0415

        found = self._artifacts()
        if for_deployment:
            for key in (MODEL_KEY, API_KEY, REQUIREMENTS_KEY):
                if key not in found and not (key == REQUIREMENTS_KEY and self.has_environment):
                    raise DeploymentError(f"unable to deploy due to missing artifact {key}")
        description = dict(self._store.values(self._id, MODEL_SECTION).get("model", {}))
        keys = description.pop("artifacts", [])
        model = found[MODEL_KEY]
        environment = self._environment_code()
        return {
            "store": self._store.root,
            "cache_dir": self._store.cache_dir,
            "store_id": self._store.id,
            "run_id": self._id,
            "run_name": self._name,
            "noun": self._noun,
            "project_id": self._project_id(),
            "model": {
                "kind": model.kind,
                "name": model.name,
                "digest": model.digest,
                "size_bytes": model.size_bytes,
                **description,
            },
            "custom_modules": {"kind": "tree", **self._code(found, MODULES_KEY)} if MODULES_KEY in found else None,
            "artifacts": {
                key: {
                    "kind": found[key].kind,
                    "digest": found[key].digest,
                    "size_bytes": found[key].size_bytes,
                    "file_count": found[key].file_count,
                    "name": found[key].name,
                    "unpack": found[key].is_unpacked_for_models,
                }
                for key in keys
            },
            "setup_script": self._code(found, SETUP_SCRIPT_KEY) if SETUP_SCRIPT_KEY in found else None,
            "requirements": self.get_requirements(),
            "installs": [
                *([self._code(found, REQUIREMENTS_KEY)] if REQUIREMENTS_KEY in found else []),
                *([environment] if environment else []),
            ],
            **self._environment_spec(),
            "author": self._code(found, MODEL_KEY)["author"],
            "python": description.get("python", ""),
            "api": json.loads(self._store.read_verified(found[API_KEY].digest)) if API_KEY in found else None,
        }

    def _code(self, found: dict[str, Artifact], key: str) -> dict[str, str | None]:
        """Digest and author of an artifact that is run: each its own, because another may have replaced just one."""
        from .trust import author_of_code  # noqa: PLC0415 - start-up time

        digest = found[key].digest
        return {"digest": digest, "author": author_of_code(self._store, self._id, key, digest)}

    def _project_id(self) -> str:
        """The project that a deployment's URL begins with."""
        return self._store.entity(self._parent).parent or "" if self._parent else ""

    def _stored_bytes(self, data: bytes, name: str, method: str = "", type: str = "BLOB") -> dict[str, Any]:
        ref = self._store.put_bytes(data)
        extension = name.partition(".")[2]
        return Artifact(
            "blob", name, ref.digest, ref.size_bytes, extension=extension, method=method, type=type
        ).to_record()
