"""Datasets and their versions in a store. Names and behaviour are Verta's."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from verta_store import ids
from verta_store.query import Query as StoreQuery
from verta_store.records import ARTIFACTS, ATTRIBUTES, FIELDS

from .. import creation
from ..artifacts import Artifact, copy_writable
from ..entity import check_attributes, check_tags
from ..entity_tags import EntityWithTags
from ..errors import UnknownId
from ..lazy_list import LazyList
from .component import Component
from .content import ComponentMissing, Content, Kept
from .hdfs import HDFS
from .path import Path
from .query import Query
from .s3 import S3

if TYPE_CHECKING:
    from verta_store import Store

# Verta's words for what a dataset is about (its first clients); later ones have no types.
TYPES = ("local", "s3", "big query", "atlas hive", "postgres")
_CONTENTS: dict[str, type[Content]] = {each._type: each for each in (Path, S3, HDFS, Query)}
_CONTENT_KEY = "content"
_DOWNLOAD_FOLDER = "mdb-data-download"  # as in Verta


class Dataset(EntityWithTags):
    """A named dataset with numbered versions. Made by `Client.set_dataset`."""

    _kind = "dataset"

    def _describe(self) -> str:
        lines = [f"name: {self.name}", f"id: {self._id}", f"url: {self.url}", f"tags: {self.get_tags()}"]
        lines += [f"attributes: {self.get_attributes()}", f"description: {self.get_description()}"]
        return "\n".join([*lines, f"versions: {len(self.versions)}"])

    @property
    def type(self) -> str:
        """The type given to `set_dataset`; "local" without one."""
        return str(self._values(FIELDS).get("type", TYPES[0]))

    @property
    def versions(self) -> DatasetVersions:
        """The versions, a lazy list, the newest first."""
        query = StoreQuery(DatasetVersion._kind, parent=self._id)
        return DatasetVersions(self._store, query).sort("version", descending=True)

    def create_version(
        self,
        content: Content | None = None,
        desc: str | None = None,
        tags: Any = None,
        attrs: dict[str, Any] | None = None,
        date_created: int | None = None,
        *,
        path: Any = None,
        query: str | None = None,
        bucket_name: str | None = None,
        key: str | None = None,
        key_prefix: str | None = None,
    ) -> DatasetVersion:
        """A new version, with the next number; of many writers on any hosts each gets a number of its own.

        Args:
            content: a `verta_local.dataset.Path`, `S3`, `HDFS` or `Query`.
            desc, tags, attrs: of the version.
            date_created: milliseconds since 1970, for the import of old versions.
            path, query, bucket_name, key, key_prefix: instead of `content`, as in Verta's first clients.

        Content that is managed (`enable_mdb_versioning`) is in the store when this returns; all is durable.

        Raises:
            TypeError: another type of content, tags or attrs.
            ValueError: content that was changed since it was listed, or none at all.
        """
        if content is None:
            content = _content_of_first_clients(path, query, bucket_name, key, key_prefix)
        if not isinstance(content, Content):
            raise TypeError(
                f"content must be one of verta_local.dataset (Path, S3, HDFS, Query), not {type(content).__name__}"
            )
        tag_list, attributes = check_tags(tags), check_attributes({} if attrs is None else attrs)
        kept = content._keep(self._store) if content.is_managed else []
        records = {_CONTENT_KEY: _stored_content(self._store, content, kept)}
        records.update({f"files/{number}": _kept_record(each) for number, each in enumerate(kept)})
        latest = self._latest()
        number = self._store.claim_number(
            "dataset-version", self._id, first=1 if latest is None else latest.version + 1
        )
        fields = {"version": number, "previous": latest.id if latest else None}
        if desc is not None:
            fields["description"] = desc
        # The values first and the entity last: who dies in between has made no version without content.
        version_id = ids.entity_id(DatasetVersion._kind, self._id, str(number), 0)
        # Plainly, not as an overwrite: of two stores that were apart and are joined, the first keeps its content.
        self._store.put_all(version_id, {ARTIFACTS: records, FIELDS: fields, ATTRIBUTES: attributes})
        self._store.add_tags(version_id, tag_list)
        row = self._store.create(DatasetVersion._kind, self._id, str(number), is_fresh_name=True, at_ms=date_created)
        self._store.flush()
        return DatasetVersion(self._store, row)

    def get_version(self, id: str) -> DatasetVersion:
        """The version of this dataset with an id. Raises ValueError where there is none."""
        found = creation.by_id(self._store, DatasetVersion, None, id)
        if found.dataset_id != self._id:
            raise UnknownId(f"the dataset version {id!r} is of another dataset than {self._name!r}")
        return found

    def get_latest_version(self) -> DatasetVersion:
        """The version with the highest number. Raises ValueError where there is none."""
        found = self._latest()
        if found is None:
            raise UnknownId(f"the dataset {self._name!r} has no versions yet; call create_version")
        return found

    def _latest(self) -> DatasetVersion | None:
        return next(iter(self.versions), None)


class DatasetVersion(EntityWithTags):
    """One version of a dataset: its content never changes. Made by `Dataset.create_version`."""

    _kind = "dataset_version"

    def _describe(self) -> str:
        lines = [f"version: {self.version}", f"id: {self._id}", f"dataset id: {self.dataset_id}", f"url: {self.url}"]
        lines += [f"tags: {self.get_tags()}", f"attributes: {self.get_attributes()}"]
        return "\n".join([*lines, f"description: {self.get_description()}", f"content: {self.get_content()!r}"])

    @property
    def name(self) -> str:
        """The number, as a name."""
        return f"Version {self.version}"

    @property
    def version(self) -> int:
        """The number: 1 is the first."""
        return int(self._values(FIELDS)["version"])

    @property
    def dataset_id(self) -> str:
        """The id of the dataset."""
        return self._parent or ""

    @property
    def parent_id(self) -> str | None:
        """The id of the version that was the newest when this one was made; None for the first."""
        found: str | None = self._values(FIELDS).get("previous")
        return found

    @property
    def base_path(self) -> str:
        """The folder that the components' paths are relative to, where one was given; else ''."""
        return next((component.base_path for component in self.list_components()), "")

    def rename(self, name: str) -> None:
        """A version has its number for a name. Raises: ValueError."""
        raise ValueError("a dataset version has its number for a name; give it a tag or a description")

    def get_content(self) -> Content:
        """The content as it was given to `create_version`: equal, and of the same class. Raises CorruptObject."""
        record = self._record()
        kind = _CONTENTS.get(str(record.get("type")), Content)
        content = kind.__new__(kind)
        Content.__init__(content)
        if isinstance(content, Path):
            content._roots = []
        content._fill(record)
        return content

    def list_components(self) -> list[Component]:
        """The files or objects of this version, sorted by path. Raises CorruptObject."""
        return self.get_content().list_components()

    def download_content(
        self, component_path: str | None = None, download_to_path: str | os.PathLike[str] | None = None
    ) -> str:
        """Copies the content, or a part of it, out of the store; returns the absolute path.

        Args:
            component_path: a component's path, or that of a folder of components; all of them by default.
            download_to_path: the file or folder to write, made anew or written into. By default a new one in the
                current folder with the last part of the component's path, or `mdb-data-download`; nothing is
                overwritten then.

        Raises:
            KeyError: there is no component at or below `component_path`.
            ValueError: the bytes were not kept (`enable_mdb_versioning`), or two paths fall together.
            MissingObject, CorruptObject: nothing is written.
        """
        record = self._record()
        if not record.get("managed"):
            raise ValueError(
                "the bytes of this dataset version are not in the store; give its content enable_mdb_versioning=True"
            )
        places: dict[str, list[Any]] = record["places"]
        chosen = _choose(places, component_path)
        objects = {number: self._artifact_record(f"files/{number}") for number, _ in chosen.values()}
        for kept in objects.values():
            self._store.check(kept.kind, kept.digest)
        is_file = list(chosen) == [""]
        if download_to_path is None:
            name = os.path.basename((component_path or "").rstrip("/")) or _DOWNLOAD_FOLDER
            target = _unused(os.path.abspath(name))
        else:
            target = os.path.abspath(os.path.expanduser(download_to_path))
        if not is_file:
            os.makedirs(target, exist_ok=True)
        for below, (number, inside) in chosen.items():
            kept = objects[number]
            source = self._store.object_path(kept.digest)
            if kept.kind == "tree":
                source = os.path.join(self._store.tree_path(kept.digest), *inside.split("/"))
            goal = target if is_file else os.path.join(target, *below.split("/"))
            os.makedirs(os.path.dirname(goal), exist_ok=True)
            copy_writable(source, goal)
        return target

    def _record(self) -> dict[str, Any]:
        content = self._artifact_record(_CONTENT_KEY)
        found: dict[str, Any] = json.loads(self._store.read_verified(content.digest))
        return found

    def _artifact_record(self, key: str) -> Artifact:
        return Artifact.from_record(self._values(ARTIFACTS)[key])


class Datasets(LazyList[Dataset]):
    """The datasets of a store. `find` takes id, name, tags, attributes.*, description, date_created, date_updated."""

    _noun = "datasets"

    def __init__(self, store: Store, query: StoreQuery | None = None) -> None:
        super().__init__(store, query or StoreQuery(Dataset._kind), Dataset)


class DatasetVersions(LazyList[DatasetVersion]):
    """Versions of datasets. `find` takes id, dataset_id, version, tags, attributes.*, description, dates."""

    _noun = "dataset versions"

    def __init__(self, store: Store, query: StoreQuery | None = None) -> None:
        super().__init__(store, query or StoreQuery(DatasetVersion._kind), DatasetVersion)


def check_type(type: object) -> str:
    """One of Verta's words for a dataset's type. Raises: ValueError."""
    if type not in TYPES:
        raise ValueError(f"the type of a dataset is one of {', '.join(map(repr, TYPES))}, not {type!r}")
    return str(type)


def _content_of_first_clients(
    path: Any, query: str | None, bucket_name: str | None, key: str | None, key_prefix: str | None
) -> Content:
    if path is not None:
        return Path(path)
    if query is not None:
        return Query(query)
    if bucket_name is not None:
        prefix = f"{key_prefix.rstrip('/')}/" if key_prefix else ""
        return S3(f"s3://{bucket_name}/{key or prefix}")
    raise ValueError("a dataset version needs content: create_version(verta_local.dataset.Path('data/'))")


def _stored_content(store: Store, content: Content, kept: list[Kept]) -> dict[str, Any]:
    record = content.to_record()
    if content.is_managed:
        record["places"] = {
            path: [number, inside] for number, each in enumerate(kept) for path, inside in each.paths.items()
        }
    ref = store.put_bytes(json.dumps(record).encode("ascii"))
    return Artifact("blob", "content.json", ref.digest, ref.size_bytes, extension="json", type="DATA").to_record()


def _kept_record(kept: Kept) -> dict[str, Any]:
    return Artifact(kept.kind, kept.name, kept.digest, kept.size_bytes, len(kept.paths), type="DATA").to_record()


def _choose(places: dict[str, list[Any]], component_path: str | None) -> dict[str, list[Any]]:
    """Path below the target ('' for the target itself) -> place, of the components that are wanted."""
    if component_path in places:
        return {"": places[component_path]}
    prefix = "" if component_path is None else component_path.rstrip("/") + "/"
    chosen: dict[str, list[Any]] = {}
    for path, place in places.items():
        if not path.startswith(prefix):
            continue
        # Neither `..` nor a root leads out of the target.
        below = "/".join(
            part for part in path[len(prefix) :].removeprefix("s3://").split("/") if part not in ("", ".", "..")
        )
        if below in chosen:
            raise ValueError(f"two components would be written to {below!r}; download them one by one")
        chosen[below] = place
    if not chosen:
        raise ComponentMissing(
            f"no components found for path {component_path!r}; the version has: {', '.join(sorted(places)[:20])}"
        )
    return chosen


def _unused(path: str) -> str:
    """The path, or the path with a number, that nothing stands at: `a.csv`, `a 1.csv`."""
    stem, extension = os.path.splitext(path)
    candidate, number = path, 0
    while os.path.lexists(candidate):
        number += 1
        candidate = f"{stem} {number}{extension}"
    return candidate
