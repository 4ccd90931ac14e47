"""A version of a registered model: a model with what it needs, a stage and a lock. Names and behaviour are Verta's."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from verta_store import ids
from verta_store.query import Query
from verta_store.records import ARTIFACTS, ATTRIBUTES, FIELDS

from .. import artifacts as artifact_rules
from ..entity_datasets import EntityWithDatasets
from ..entity_environment import ENVIRONMENT_SECTION
from ..entity_model import API_KEY, ARTIFACTS_ATTRIBUTE, MODEL_KEY, MODEL_SECTION, MODULES_KEY, EntityWithModel
from ..entity_tags import EntityWithLabels
from ..errors import KeyExists, KeyMissing, VersionLocked, as_http_error
from ..lazy_list import LazyList
from ..run_artifacts import RunArtifacts
from .code_versions import EntityWithCodeVersions
from .lock import Closed, LockLevel, Open, check_lock_level
from .stage_change import UNASSIGNED, Archived, StageChange
from .words import from_word

if TYPE_CHECKING:
    from verta_store import Store

    from .docker_image import DockerImage

# As in Verta: the model's own key, which the verbs of artifacts refuse.
_RESERVED_KEY = "model"
# Where the changes of stage are kept: <time>-<random> -> {"stage", "comment", "at"}.
_STAGES_SECTION = "stages"
_DOCKER_SECTION = "docker"
_INTERNAL_PREFIX = "__"


class RegisteredModelVersion(
    EntityWithModel, EntityWithDatasets, EntityWithLabels, EntityWithCodeVersions, RunArtifacts
):
    """One version of a registered model. Made by `RegisteredModel.create_version` and its like."""

    _kind = "registered_model_version"

    def _describe(self) -> str:
        shown = {key: value for key, value in self.get_attributes().items() if not key.startswith(_INTERNAL_PREFIX)}
        lines = [f"version: {self.name}", f"id: {self._id}", f"registered model id: {self.registered_model_id}"]
        lines += [f"url: {self.url}", f"stage: {self.stage}", f"lock level: {self.lock_level}"]
        lines += [f"description: {self.get_description()}", f"labels: {self.get_labels()}", f"attributes: {shown}"]
        return "\n".join([*lines, f"model: {self.has_model}", f"artifact keys: {self.get_artifact_keys()}"])

    @property
    def registered_model_id(self) -> str:
        """The id of the registered model."""
        return self._parent or ""

    @property
    def experiment_run_id(self) -> str | None:
        """The id of the run that this version was made from, or None."""
        found: str | None = self._fields().get("experiment_run_id")
        return found

    # -- model and artifacts ---------------------------------------------------------------------------------------

    @property
    def has_model(self) -> bool:
        """Whether `log_model` was called."""
        return MODEL_KEY in self._artifacts()

    def log_model(
        self,
        model: Any,
        custom_modules: list[str] | None = None,
        model_api: Any = None,
        artifacts: list[str] | None = None,
        overwrite: bool = False,
    ) -> None:
        """As `ExperimentRun.log_model`. Raises ValueError, "model already exists", without `overwrite`."""
        if not overwrite and self.has_model:
            raise KeyExists(f"model already exists in {self._noun} {self._name!r}; consider setting overwrite=True")
        super().log_model(model, custom_modules, model_api, artifacts, overwrite)

    def log_docker(self, docker_image: DockerImage, model_api: Any = None, overwrite: bool = False) -> None:
        """Logs a container that serves the model, a `verta_local.registry.DockerImage`, as its environment too.

        Differs from Verta: a container is recorded and not run, so such a version cannot be deployed.

        Raises:
            TypeError: another type. ValueError: a container or environment is logged already.
        """
        from ..model_api import ModelAPI  # noqa: PLC0415 - start-up time
        from .docker_image import DockerImage  # noqa: PLC0415

        if not isinstance(docker_image, DockerImage):
            raise TypeError(f"docker_image must be a DockerImage, not {type(docker_image).__name__}")
        if model_api is not None and not isinstance(model_api, ModelAPI):
            raise ValueError(f"model_api must be a ModelAPI, not {type(model_api).__name__}")
        EntityWithModel.log_environment(self, docker_image.environment, overwrite)
        record = {**docker_image.to_record(), "model_api": model_api.to_dict() if model_api else None}
        self._put(_DOCKER_SECTION, {"image": record}, overwrite)

    def get_docker(self) -> DockerImage:
        """The container that was logged. Raises KeyError where there is none."""
        from .docker_image import DockerImage  # noqa: PLC0415 - start-up time

        found = self._values(_DOCKER_SECTION).get("image")
        if found is None:
            raise KeyMissing(f"no container in {self._noun} {self._name!r}; log one with log_docker(DockerImage(...))")
        return DockerImage.from_record({name: value for name, value in found.items() if name != "model_api"})

    def del_model(self) -> None:
        """Takes the model out. Raises KeyError where there is none."""
        self._artifact(MODEL_KEY)
        self._store.drop(self._id, ARTIFACTS, [MODEL_KEY, API_KEY, MODULES_KEY])
        self._store.drop(self._id, MODEL_SECTION, ["model"])
        self._store.drop(self._id, ATTRIBUTES, [ARTIFACTS_ATTRIBUTE])

    def download_model(self, download_to_path: str | os.PathLike[str]) -> str:
        """Copies the model's file, as it was stored, to a path; returns the absolute path. Raises KeyError."""
        return artifact_rules.copy_out(self._store, self._artifact(MODEL_KEY), os.fspath(download_to_path))

    def log_artifact(self, key: str, artifact: Any, overwrite: bool = False) -> None:
        """As `ExperimentRun.log_artifact`; also the key "model" is refused, by a ValueError."""
        _check_not_model(key, "log_model")
        super().log_artifact(key, artifact, overwrite)

    def get_artifact(self, key: str) -> Any:
        """As `ExperimentRun.get_artifact`; the key "model" is refused, by a ValueError."""
        _check_not_model(key, "get_model")
        return super().get_artifact(key)

    def download_artifact(self, key: str, download_to_path: str) -> str:
        """As `ExperimentRun.download_artifact`; the key "model" is refused, by a ValueError."""
        _check_not_model(key, "download_model")
        return super().download_artifact(key, download_to_path)

    def del_artifact(self, key: str) -> None:
        """Takes an artifact out. Raises KeyError for an absent key, ValueError for "model"."""
        _check_not_model(key, "del_model")
        self._artifact(key)
        self._store.drop(self._id, ARTIFACTS, [key])

    def get_artifact_keys(self) -> list[str]:
        """The keys of the artifacts, in the order of logging; the model is not among them."""
        return [key for key in super().get_artifact_keys() if key != MODEL_KEY]

    def del_environment(self) -> None:
        """Takes the environment out. Raises RuntimeError where there is none."""
        self.get_environment()
        self._store.drop(self._id, ENVIRONMENT_SECTION, list(self._values(ENVIRONMENT_SECTION)))

    # -- stage and lock --------------------------------------------------------------------------------------------

    @property
    def stage(self) -> str:
        """ "unassigned", "development", "staging", "production" or "archived"."""
        return str(self._fields().get("stage", UNASSIGNED))

    def change_stage(self, stage_change: StageChange) -> str:
        """Gives it another stage, with a comment; returns the stage. Durable.

        Args:
            stage_change: one of `verta_local.registry.stage_change`.

        Raises:
            TypeError: anything else.
        """
        if not isinstance(stage_change, StageChange) or not stage_change.word:
            found = type(stage_change).__name__
            raise TypeError(f"stage_change must be one of verta_local.registry.stage_change, not {found}")
        at_ms = ids.now_ms()
        change = {"stage": stage_change.word, "comment": stage_change.comment, "at": at_ms}
        sections: dict[str, dict[str, Any]] = {FIELDS: {"stage": stage_change.word}}
        sections[_STAGES_SECTION] = {f"{at_ms}-{ids.random_hex(8)}": change}
        self._store.put_all(self._id, sections, overwrite=True)
        self._store.flush()
        return stage_change.word

    def get_stage_history(self) -> list[dict[str, Any]]:
        """{"stage", "comment", "at" (ms since 1970)} of each change of stage, oldest first. Not in Verta."""
        found = self._values(_STAGES_SECTION)
        return sorted(found.values(), key=lambda change: int(change["at"]))

    @property
    def is_archived(self) -> bool:
        """Whether the stage is "archived"."""
        return self.stage == Archived.word

    def archive(self) -> None:
        """Gives it the stage "archived". Raises RuntimeError where it has it already."""
        if self.is_archived:
            raise RuntimeError(f"the version {self._name!r} has already been archived")
        self.change_stage(Archived())

    @property
    def lock_level(self) -> LockLevel:
        """How far it may be changed: one of `verta_local.registry.lock`."""
        return from_word(LockLevel, str(self._fields().get("lock_level", Open.word)))

    def get_lock_level(self) -> LockLevel:
        """As `lock_level`."""
        return self.lock_level

    def set_lock_level(self, lock_level: LockLevel) -> None:
        """Locks or unlocks it; kept by every client of this kind, which is no protection against others.

        Raises:
            TypeError: something else than one of `verta_local.registry.lock`.
        """
        if lock_level is None:
            raise TypeError("lock_level must be one of verta_local.registry.lock (Open, Redact, Closed), not None")
        self._store.put(self._id, FIELDS, {"lock_level": check_lock_level(lock_level).word}, overwrite=True)
        self._store.flush()

    # -- what goes in and out, for the eye -------------------------------------------------------------------------

    def set_input_description(self, desc: str) -> None:
        """Describes the input of the model."""
        self._put(FIELDS, {"input_description": _text("desc", desc)}, overwrite=True)

    def get_input_description(self) -> str:
        """The description of the input, or ''."""
        return str(self._fields().get("input_description", ""))

    def set_output_description(self, desc: str) -> None:
        """Describes the answers of the model."""
        self._put(FIELDS, {"output_description": _text("desc", desc)}, overwrite=True)

    def get_output_description(self) -> str:
        """The description of the answers, or ''."""
        return str(self._fields().get("output_description", ""))

    def _fields(self) -> dict[str, Any]:
        return self._values(FIELDS)

    def _project_id(self) -> str:
        return self.registered_model_id


def _text(argument: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a str, not {type(value).__name__}")
    return value


def _check_not_model(key: str, verb: str) -> None:
    if key == _RESERVED_KEY:
        raise ValueError(f'the key "{_RESERVED_KEY}" is reserved for the model; use {verb}() instead')


# What the locks forbid: by the verbs' first words, so that a verb of a run that is new here is not forgotten.
_ADDING = ("add_", "log_", "rename", "set_")
_REMOVING = ("del_", "delete")
_FREE = ("set_lock_level",)


def _guarded(verb: Callable[..., Any], *, is_removing: bool) -> Callable[..., Any]:
    @functools.wraps(verb)
    def checked(self: RegisteredModelVersion, *arguments: Any, **named: Any) -> Any:
        level = self.lock_level
        if level != Open() and not (is_removing and level != Closed()):
            text = f"403: the version {self._name!r} is locked ({level}), which forbids {verb.__name__}()"
            raise as_http_error(VersionLocked(f"{text}; call set_lock_level(lock.Open()) first"), 403, "Forbidden")
        return verb(self, *arguments, **named)

    return checked


for _name in dir(RegisteredModelVersion):
    if _name.startswith((*_ADDING, *_REMOVING)) and _name not in _FREE:
        _verb = getattr(RegisteredModelVersion, _name)
        setattr(RegisteredModelVersion, _name, _guarded(_verb, is_removing=_name.startswith(_REMOVING)))


class RegisteredModelVersions(LazyList[RegisteredModelVersion]):
    """Versions of registered models.

    `find` takes id, name, version (its name), registered_model_id, experiment_run_id, labels, stage, lock_level,
    description, attributes.*, time_created, time_updated.
    """

    _noun = "registered model versions"

    def __init__(self, store: Store, query: Query | None = None) -> None:
        super().__init__(store, query or Query(RegisteredModelVersion._kind), RegisteredModelVersion)
