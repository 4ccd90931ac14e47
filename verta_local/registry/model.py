"""A registered model: a name under which versions of a model are kept. Names and behaviour are Verta's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from verta_store.query import Query
from verta_store.records import ARTIFACTS, ATTRIBUTES, FIELDS

from .. import creation
from ..creation import Given
from ..entity_datasets import DATASETS_SECTION
from ..entity_environment import ENVIRONMENT_SECTION
from ..entity_model import MODEL_SECTION
from ..entity_tags import EntityWithLabels
from ..errors import UnknownId
from ..lazy_list import LazyList
from ..run import ExperimentRun
from . import data_type as data_types
from . import task_type as task_types
from .lock import check_lock_level
from .model_base import VertaModelBase
from .version import RegisteredModelVersion, RegisteredModelVersions
from .words import from_word

if TYPE_CHECKING:
    from verta_store import Store

    from ..environment import Python
    from .docker_image import DockerImage

# As in Verta: how its web application tells kinds of versions apart.
_LANGUAGE_ATTRIBUTE = "__verta_reserved__model_language"
_TYPE_ATTRIBUTE = "__verta_reserved__model_type"
# What a version takes over from a run.
_COPIED_SECTIONS = (ARTIFACTS, MODEL_SECTION, ENVIRONMENT_SECTION, DATASETS_SECTION, ATTRIBUTES)


class RegisteredModel(EntityWithLabels):
    """A named model with versions. Made by `Client.set_registered_model`."""

    _kind = "registered_model"

    def _describe(self) -> str:
        lines = [f"name: {self.name}", f"id: {self._id}", f"url: {self.url}", f"labels: {self.get_labels()}"]
        return "\n".join([*lines, f"description: {self.get_description()}", f"versions: {len(self.versions)}"])

    # -- versions --------------------------------------------------------------------------------------------------

    @property
    def versions(self) -> RegisteredModelVersions:
        """The versions, a lazy list."""
        return RegisteredModelVersions(self._store, Query(RegisteredModelVersion._kind, parent=self._id))

    def get_or_create_version(
        self,
        name: str | None = None,
        desc: str | None = None,
        labels: Any = None,
        attrs: dict[str, Any] | None = None,
        lock_level: Any = None,
        time_created: int | None = None,
        id: str | None = None,
    ) -> RegisteredModelVersion:
        """Gets or creates a version.

        Args:
            name: any text; by default a generated one.
            desc, labels, attrs, lock_level: for a new version; with an existing one they are passed over with a
                UserWarning. `lock_level` is one of `verta_local.registry.lock`, `Open()` by default.
            time_created: milliseconds since 1970, for the import of old versions.
            id: of an existing version, instead of a name.

        Raises:
            ValueError: name and id together, or an unknown id. TypeError: labels, attrs, a lock of another type.
        """
        if id is not None:
            if name is not None:
                raise ValueError("give a name or an id, not both")
            return self.get_version(id=id)
        given = _given_version(desc, labels, attrs, lock_level, time_created)
        return creation.get_or_create(self._store, RegisteredModelVersion, self._id, name, "ModelVersion", given)

    set_version = get_or_create_version

    def create_version(
        self,
        name: str | None = None,
        desc: str | None = None,
        labels: Any = None,
        attrs: dict[str, Any] | None = None,
        lock_level: Any = None,
        time_created: int | None = None,
    ) -> RegisteredModelVersion:
        """A new version. Arguments as `get_or_create_version`. Raises ValueError, "already exists", for a used name."""
        given = _given_version(desc, labels, attrs, lock_level, time_created)
        return creation.create_new(self._store, RegisteredModelVersion, self._id, name, "ModelVersion", given)

    def get_version(self, name: str | None = None, id: str | None = None) -> RegisteredModelVersion:
        """A version of this model that is there. Raises ValueError: neither name nor id, both, or it is not there."""
        found = creation.get(self._store, RegisteredModelVersion, self._id, name, id)
        if found.registered_model_id != self._id:
            raise UnknownId(f"the version {id!r} is of another model than {self._name!r}")
        return found

    def create_version_from_run(
        self,
        run_id: str | ExperimentRun,
        name: str | None = None,
        desc: str | None = None,
        labels: Any = None,
        attrs: dict[str, Any] | None = None,
        lock_level: Any = None,
    ) -> RegisteredModelVersion:
        """A new version with the model, artifacts, environment, dataset versions and attributes of a run.

        Nothing is copied but the references; the run may be deleted later. `attrs` win over the run's.

        Raises:
            ValueError: an unknown run, or a name in use.
        """
        found_id = run_id.id if isinstance(run_id, ExperimentRun) else run_id
        run = creation.by_id(self._store, ExperimentRun, None, found_id)
        from ..trust import ORIGINS_SECTION, origins_of  # noqa: PLC0415 - start-up time

        sections = {section: self._store.values(run.id, section) for section in _COPIED_SECTIONS}
        sections[ORIGINS_SECTION] = origins_of(self._store, run.id, sections[ARTIFACTS])
        attributes = {**sections.pop(ATTRIBUTES), **(attrs or {})}
        given = _given_version(desc, labels, attributes, lock_level, None)
        fields = {**given.sections[FIELDS], "experiment_run_id": run.id}
        copied = {section: entries for section, entries in sections.items() if entries}
        given = Given(desc, labels, attributes, sections={**copied, FIELDS: fields}, tags_argument="labels")
        return creation.create_new(self._store, RegisteredModelVersion, self._id, name, "ModelVersion", given)

    def create_standard_model(
        self,
        model_cls: type[VertaModelBase],
        environment: Python,
        code_dependencies: list[str] | None = None,
        model_api: Any = None,
        artifacts: dict[str, Any] | None = None,
        name: str | None = None,
        desc: str | None = None,
        labels: Any = None,
        attrs: dict[str, Any] | None = None,
        lock_level: Any = None,
    ) -> RegisteredModelVersion:
        """A new version with a class model, its artifacts and its environment: ready to be deployed.

        Args:
            model_cls: a class below `verta_local.registry.VertaModelBase`.
            environment: a `verta_local.environment.Python`.
            code_dependencies: as `custom_modules` of `log_model`.
            artifacts: key -> file, folder, stream or object; `__init__` gets key -> path.

        Other arguments as `get_or_create_version`. A call that fails leaves no version behind.

        Raises:
            TypeError: a class of another kind, or another environment. Else as `log_artifact`, `log_model`.
        """
        if not (isinstance(model_cls, type) and issubclass(model_cls, VertaModelBase)):
            raise TypeError("model_cls must be a class below verta_local.registry.VertaModelBase")

        def log(version: RegisteredModelVersion) -> None:
            version.log_model(model_cls, code_dependencies, model_api, list(artifacts or ()) or None)

        return self._create_standard(log, environment, artifacts, name, desc, labels, attrs, lock_level)

    def create_standard_model_from_keras(
        self,
        obj: Any,
        environment: Python,
        model_api: Any = None,
        artifacts: dict[str, Any] | None = None,
        name: str | None = None,
        desc: str | None = None,
        labels: Any = None,
        attrs: dict[str, Any] | None = None,
        lock_level: Any = None,
    ) -> RegisteredModelVersion:
        """A new version with a Keras model. Arguments as `create_standard_model_from_sklearn`."""
        given = (model_api, artifacts, name, desc, labels, attrs, lock_level)
        return self._create_from_object("tensorflow", "a Keras model", obj, environment, *given)

    def create_standard_model_from_sklearn(
        self,
        obj: Any,
        environment: Python,
        model_api: Any = None,
        artifacts: dict[str, Any] | None = None,
        name: str | None = None,
        desc: str | None = None,
        labels: Any = None,
        attrs: dict[str, Any] | None = None,
        lock_level: Any = None,
    ) -> RegisteredModelVersion:
        """A new version with a scikit-learn model, its artifacts and its environment: ready to be deployed.

        Args:
            obj: the fitted model.
            environment: a `verta_local.environment.Python`.

        Other arguments as `create_standard_model`. A call that fails leaves no version behind.

        Raises:
            TypeError: a model of another library, or another environment. Else as `log_artifact`, `log_model`.
        """
        given = (model_api, artifacts, name, desc, labels, attrs, lock_level)
        return self._create_from_object("sklearn", "a scikit-learn model", obj, environment, *given)

    def create_standard_model_from_torch(
        self,
        obj: Any,
        environment: Python,
        model_api: Any = None,
        artifacts: dict[str, Any] | None = None,
        name: str | None = None,
        desc: str | None = None,
        labels: Any = None,
        attrs: dict[str, Any] | None = None,
        lock_level: Any = None,
    ) -> RegisteredModelVersion:
        """A new version with a PyTorch module. Arguments as `create_standard_model_from_sklearn`."""
        given = (model_api, artifacts, name, desc, labels, attrs, lock_level)
        return self._create_from_object("torch", "a PyTorch module", obj, environment, *given)

    def create_standard_model_from_xgboost(
        self,
        obj: Any,
        environment: Python,
        model_api: Any = None,
        artifacts: dict[str, Any] | None = None,
        name: str | None = None,
        desc: str | None = None,
        labels: Any = None,
        attrs: dict[str, Any] | None = None,
        lock_level: Any = None,
    ) -> RegisteredModelVersion:
        """A new version with an XGBoost model. Arguments as `create_standard_model_from_sklearn`."""
        given = (model_api, artifacts, name, desc, labels, attrs, lock_level)
        return self._create_from_object("xgboost", "an XGBoost model", obj, environment, *given)

    def create_external_model(
        self,
        name: str | None = None,
        desc: str | None = None,
        labels: Any = None,
        attrs: dict[str, Any] | None = None,
        lock_level: Any = None,
    ) -> RegisteredModelVersion:
        """A new version that only tells of a model which lives elsewhere."""
        attributes = {**(attrs or {}), _LANGUAGE_ATTRIBUTE: "Unknown", _TYPE_ATTRIBUTE: "External"}
        return self.create_version(name, desc, labels, attributes, lock_level)

    def create_containerized_model(
        self,
        docker_image: DockerImage,
        name: str | None = None,
        desc: str | None = None,
        labels: Any = None,
        attrs: dict[str, Any] | None = None,
        lock_level: Any = None,
    ) -> RegisteredModelVersion:
        """A new version with a container that serves the model; see `RegisteredModelVersion.log_docker`."""
        from .docker_image import DockerImage  # noqa: PLC0415 - start-up time

        if not isinstance(docker_image, DockerImage):
            raise TypeError(f"docker_image must be a DockerImage, not {type(docker_image).__name__}")
        attributes = {**(attrs or {}), _LANGUAGE_ATTRIBUTE: "Unknown", _TYPE_ATTRIBUTE: "Standard Verta Model"}
        level = check_lock_level(lock_level)
        version = self.create_version(name, desc, labels, attributes)
        version.log_docker(docker_image)
        version.set_lock_level(level)
        return version

    def _create_from_object(
        self,
        wanted: str,
        noun: str,
        obj: Any,
        environment: Python,
        model_api: Any,
        artifacts: dict[str, Any] | None,
        name: str | None,
        desc: str | None,
        labels: Any,
        attrs: dict[str, Any] | None,
        lock_level: Any,
    ) -> RegisteredModelVersion:
        from ..model import model_type  # noqa: PLC0415 - start-up time

        if isinstance(obj, type) or model_type(obj) != wanted:
            raise TypeError(f"obj must be {noun}, not {type(obj).__module__}.{type(obj).__name__}")

        def log(version: RegisteredModelVersion) -> None:
            version.log_model(obj, None, model_api)

        return self._create_standard(log, environment, artifacts, name, desc, labels, attrs, lock_level)

    def _create_standard(
        self,
        log_model: Callable[[RegisteredModelVersion], None],
        environment: Python,
        artifacts: dict[str, Any] | None,
        name: str | None,
        desc: str | None,
        labels: Any,
        attrs: dict[str, Any] | None,
        lock_level: Any,
    ) -> RegisteredModelVersion:
        from ..environment import Python  # noqa: PLC0415 - start-up time

        if not isinstance(environment, Python):
            raise TypeError(f"environment must be a verta_local.environment.Python, not {type(environment).__name__}")
        if artifacts is not None and not isinstance(artifacts, dict):
            raise TypeError(f"artifacts must be a dict of key -> artifact, not {type(artifacts).__name__}")
        level = check_lock_level(lock_level)
        attributes = {**(attrs or {}), _LANGUAGE_ATTRIBUTE: "Python", _TYPE_ATTRIBUTE: "Standard Verta Model"}
        version = self.create_version(name, desc, labels, attributes)
        try:
            for key, artifact in (artifacts or {}).items():
                version.log_artifact(key, artifact)
            log_model(version)
            version.log_environment(environment)
        except BaseException:
            version.delete()
            raise
        if level.word != "open":
            version.set_lock_level(level)
        return version

    # -- what it is ------------------------------------------------------------------------------------------------

    def set_task_type(self, task_type: task_types.TaskType) -> None:
        """Says what the model does: one of `verta_local.registry.task_type`. Raises TypeError for anything else."""
        self._put(FIELDS, {"task_type": _word(task_types.TaskType, "task_type", task_type)}, overwrite=True)

    def get_task_type(self) -> task_types.TaskType:
        """What the model does; `task_type.Unknown()` unless it was said."""
        return from_word(task_types.TaskType, self._field("task_type", "unknown"))

    def set_data_type(self, data_type: data_types.DataType) -> None:
        """Says what the model works on: one of `verta_local.registry.data_type`. Raises TypeError otherwise."""
        self._put(FIELDS, {"data_type": _word(data_types.DataType, "data_type", data_type)}, overwrite=True)

    def get_data_type(self) -> data_types.DataType:
        """What the model works on; `data_type.Unknown()` unless it was said."""
        return from_word(data_types.DataType, self._field("data_type", "unknown"))

    def set_pii(self, pii: bool) -> None:
        """Says whether the model has to do with data about persons. Raises TypeError for something else than a bool."""
        if not isinstance(pii, bool):
            raise TypeError(f"pii must be a bool, not {type(pii).__name__}")
        self._put(FIELDS, {"pii": pii}, overwrite=True)

    def get_pii(self) -> bool:
        """Whether the model has to do with data about persons."""
        return bool(self._field("pii", False))

    def _field(self, key: str, default: Any) -> Any:
        return self._values(FIELDS).get(key, default)


class RegisteredModels(LazyList[RegisteredModel]):
    """Registered models. `find` takes id, name, labels, attributes.*, description, time_created, time_updated."""

    _noun = "registered models"

    def __init__(self, store: Store, query: Query | None = None) -> None:
        super().__init__(store, query or Query(RegisteredModel._kind), RegisteredModel)


def fields_of_model(task_type: Any, data_type: Any, pii: Any) -> dict[str, Any]:
    """What a new model is, as values of the section `fields`. Raises TypeError for words of other classes."""
    if not isinstance(pii, bool):
        raise TypeError(f"pii must be a bool, not {type(pii).__name__}")
    fields: dict[str, Any] = {"pii": True} if pii else {}
    if task_type is not None:
        fields["task_type"] = _word(task_types.TaskType, "task_type", task_type)
    if data_type is not None:
        fields["data_type"] = _word(data_types.DataType, "data_type", data_type)
    return fields


def _word(base: type[Any], argument: str, value: Any) -> str:
    if not isinstance(value, base):
        raise TypeError(f"{argument} must be one of verta_local.registry.{argument}, not {type(value).__name__}")
    return str(value.word)


def _given_version(
    desc: str | None, labels: Any, attrs: dict[str, Any] | None, lock_level: Any, time_created: int | None
) -> Given:
    fields = {"lock_level": check_lock_level(lock_level).word, "stage": "unassigned"}
    return Given(desc, labels, attrs, time_created, {FIELDS: fields}, {"lock_level": lock_level}, "labels")
