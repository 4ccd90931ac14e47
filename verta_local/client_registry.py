"""The client's verbs for the model registry. Names and behaviour are Verta's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verta_store import Store

    from .creation import Given
    from .registry.entities import (
        RegisteredModel,
        RegisteredModels,
        RegisteredModelVersion,
        RegisteredModelVersions,
    )


class ClientRegistry:
    """The part of `Client` that is about registered models; what it needs is imported with the first use."""

    _store: Store

    if TYPE_CHECKING:

        def _name_of(self, kind: str, name: str | None) -> str | None: ...
        def _workspace_id(self, workspace: str | None, *, make: bool) -> str | None: ...

    @property
    def registered_models(self) -> RegisteredModels:
        """All registered models of the store, a lazy list."""
        from .registry.entities import RegisteredModels  # noqa: PLC0415 - start-up time

        return RegisteredModels(self._store)

    @property
    def registered_model_versions(self) -> RegisteredModelVersions:
        """The versions of all registered models of the store, a lazy list."""
        from .registry.entities import RegisteredModelVersions  # noqa: PLC0415 - start-up time

        return RegisteredModelVersions(self._store)

    def get_or_create_registered_model(
        self,
        name: str | None = None,
        desc: str | None = None,
        labels: Any = None,
        workspace: str | None = None,
        public_within_org: bool | None = None,
        visibility: Any = None,
        id: str | None = None,
        task_type: Any = None,
        data_type: Any = None,
        pii: bool = False,
    ) -> RegisteredModel:
        """Gets or creates a registered model.

        Args:
            name: any text; by default that of a config file, else a generated one.
            desc, labels, task_type, data_type, pii: for a new model; with an existing one they are passed over with
                a UserWarning. The types are of `verta_local.registry.task_type` and `data_type`.
            id: of an existing model, instead of a name.

        Raises:
            ValueError: name and id together, or an unknown id. TypeError: labels or types of another type.
        """
        from . import creation  # noqa: PLC0415 - start-up time
        from .registry.entities import RegisteredModel  # noqa: PLC0415

        if id is not None:
            return creation.by_id(self._store, RegisteredModel, name, id)
        given = _given(desc, labels, task_type, data_type, pii)
        name, place = self._name_of("registered_model", name), self._workspace_id(workspace, make=True)
        return creation.get_or_create(self._store, RegisteredModel, place, name, "Model", given)

    set_registered_model = get_or_create_registered_model

    def create_registered_model(
        self,
        name: str | None = None,
        desc: str | None = None,
        labels: Any = None,
        workspace: str | None = None,
        public_within_org: bool | None = None,
        visibility: Any = None,
        task_type: Any = None,
        data_type: Any = None,
        pii: bool = False,
    ) -> RegisteredModel:
        """A new registered model. Raises ValueError, with "already exists", for a name in use."""
        from . import creation  # noqa: PLC0415 - start-up time
        from .registry.entities import RegisteredModel  # noqa: PLC0415

        given = _given(desc, labels, task_type, data_type, pii)
        name, place = self._name_of("registered_model", name), self._workspace_id(workspace, make=True)
        return creation.create_new(self._store, RegisteredModel, place, name, "Model", given)

    def get_registered_model(
        self, name: str | None = None, workspace: str | None = None, id: str | None = None
    ) -> RegisteredModel:
        """A registered model that is there. Raises ValueError: neither name nor id, both, or it is not there."""
        from . import creation  # noqa: PLC0415 - start-up time
        from .registry.entities import RegisteredModel  # noqa: PLC0415

        name = self._name_of("registered_model", name) if id is None else name
        return creation.get(self._store, RegisteredModel, self._workspace_id(workspace, make=False), name, id)

    def get_registered_model_version(self, id: str) -> RegisteredModelVersion:
        """The version of any registered model with an id. Raises ValueError where there is none."""
        from . import creation  # noqa: PLC0415 - start-up time
        from .registry.entities import RegisteredModelVersion  # noqa: PLC0415

        return creation.by_id(self._store, RegisteredModelVersion, None, id)


def _given(desc: str | None, labels: Any, task_type: Any, data_type: Any, pii: bool) -> Given:
    from .creation import Given  # noqa: PLC0415 - start-up time
    from .registry.model import fields_of_model  # noqa: PLC0415

    fields = fields_of_model(task_type, data_type, pii)
    others = {"task_type": task_type, "data_type": data_type, "pii": pii or None}
    return Given(desc, labels, None, None, {"fields": fields} if fields else {}, others, "labels")
