"""The client's verbs for datasets. Names and behaviour are Verta's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verta_store import Store

    from .creation import Given
    from .dataset.entities import Dataset, Datasets, DatasetVersion


class ClientDatasets:
    """The part of `Client` that is about datasets; what it needs is imported with the first use."""

    _store: Store

    if TYPE_CHECKING:

        def _name_of(self, kind: str, name: str | None) -> str | None: ...
        def _workspace_id(self, workspace: str | None, *, make: bool) -> str | None: ...

    @property
    def datasets(self) -> Datasets:
        """All datasets of the store, a lazy list."""
        from .dataset.entities import Datasets  # noqa: PLC0415 - start-up time

        return Datasets(self._store)

    def get_or_create_dataset(
        self,
        name: str | None = None,
        desc: str | None = None,
        tags: Any = None,
        attrs: dict[str, Any] | None = None,
        workspace: str | None = None,
        time_created: int | None = None,
        public_within_org: bool | None = None,
        visibility: Any = None,
        id: str | None = None,
        *,
        type: str | None = None,
    ) -> Dataset:
        """Gets or creates a dataset.

        Args:
            name: any text; by default that of a config file, else a generated one.
            desc, tags, attrs: for a new dataset; with an existing one they are passed over with a UserWarning.
            time_created: milliseconds since 1970, for the import of old datasets.
            id: of an existing dataset, instead of a name.
            type: "local", "s3", "big query", "atlas hive" or "postgres", as in Verta's first clients: a word only.

        Raises:
            ValueError: name and id together, an unknown id, another type. TypeError: tags or attrs of another type.
        """
        from . import creation  # noqa: PLC0415 - start-up time
        from .dataset.entities import Dataset  # noqa: PLC0415

        if id is not None:
            return creation.by_id(self._store, Dataset, name, id)
        given = _given(desc, tags, attrs, time_created, type)
        name, place = self._name_of("dataset", name), self._workspace_id(workspace, make=True)
        return creation.get_or_create(self._store, Dataset, place, name, "Dataset", given)

    set_dataset = get_or_create_dataset

    def create_dataset(
        self,
        name: str | None = None,
        desc: str | None = None,
        tags: Any = None,
        attrs: dict[str, Any] | None = None,
        workspace: str | None = None,
        time_created: int | None = None,
        public_within_org: bool | None = None,
        visibility: Any = None,
        *,
        type: str | None = None,
    ) -> Dataset:
        """A new dataset. Arguments as `set_dataset`. Raises ValueError, with "already exists", for a name in use."""
        from . import creation  # noqa: PLC0415 - start-up time
        from .dataset.entities import Dataset  # noqa: PLC0415

        given = _given(desc, tags, attrs, time_created, type)
        name, place = self._name_of("dataset", name), self._workspace_id(workspace, make=True)
        return creation.create_new(self._store, Dataset, place, name, "Dataset", given)

    def get_dataset(self, name: str | None = None, workspace: str | None = None, id: str | None = None) -> Dataset:
        """A dataset that is there, by name or id. Raises ValueError: neither, both, or it is not there."""
        from . import creation  # noqa: PLC0415 - start-up time
        from .dataset.entities import Dataset  # noqa: PLC0415

        name = self._name_of("dataset", name) if id is None else name
        return creation.get(self._store, Dataset, self._workspace_id(workspace, make=False), name, id)

    def get_dataset_version(self, id: str) -> DatasetVersion:
        """The version of any dataset with an id. Raises ValueError where there is none."""
        from . import creation  # noqa: PLC0415 - start-up time
        from .dataset.entities import DatasetVersion  # noqa: PLC0415

        return creation.by_id(self._store, DatasetVersion, None, id)

    def find_datasets(
        self,
        dataset_ids: list[str] | None = None,
        name: str | None = None,
        tags: Any = None,
        sort_key: str | None = None,
        ascending: bool = False,
        workspace: str | None = None,
    ) -> list[Dataset]:
        """Datasets by ids, name and tags (they have them all), sorted. As in Verta's first clients."""
        from .entity import check_tags  # noqa: PLC0415 - start-up time

        found = self.datasets
        for tag in check_tags(tags):
            found = found.find(f"tags == {_quoted(tag)}")
        if name is not None:
            found = found.find(f"name == {_quoted(name)}")
        if sort_key is not None:
            found = found.sort(sort_key, descending=not ascending)
        return [each for each in found if dataset_ids is None or each.id in dataset_ids]


def _given(
    desc: str | None, tags: Any, attrs: dict[str, Any] | None, time_created: int | None, type: str | None
) -> Given:
    from .creation import Given  # noqa: PLC0415 - start-up time
    from .dataset.entities import check_type  # noqa: PLC0415

    sections = {} if type is None else {"fields": {"type": check_type(type)}}
    return Given(desc, tags, attrs, time_created, sections)


def _quoted(text: str) -> str:
    """Text as a predicate takes it, whatever quotes are in it."""
    return f"'{text}'"
