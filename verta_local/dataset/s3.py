"""Objects of an S3 bucket as the content of a dataset version. Needs boto3: the extra `s3`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra
from .component import Component
from .content import Content, Kept

if TYPE_CHECKING:
    from verta_store import Store

_SCHEME = "s3://"


@dataclass(frozen=True)
class S3Location:
    """A bucket, a prefix in it, or one object, maybe in one of its versions. Made by `S3.location`."""

    path: str
    version_id: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str):
            raise TypeError(f"an S3 path must be a str, not {type(self.path).__name__}")
        if not self.path.startswith(_SCHEME) or not self.bucket:
            raise ValueError(f"an S3 path is s3://<bucket> or s3://<bucket>/<key>, not {self.path!r}")
        if self.version_id is not None and not self.key:
            raise ValueError("a version id belongs to one object: give s3://<bucket>/<key>")

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self.path[len(_SCHEME) :].partition("/")[0]

    @property
    def key(self) -> str:
        """The object's key, or a prefix; '' for the whole bucket."""
        return self.path[len(_SCHEME) :].partition("/")[2]


class S3(Content):
    """Objects in S3, by their metadata; boto3 finds the credentials and the endpoint as it always does. As in Verta.

    Args:
        paths: `s3://<bucket>`, `s3://<bucket>/<key>`, `s3://<bucket>/<prefix>/`, an `S3.location(...)`, or a list.
        enable_mdb_versioning: keeps the objects' bytes in the store, so that `download_content` gives them back.

    Raises:
        ImportError: boto3 is not installed.
        TypeError, ValueError: paths of another form, or at which there is nothing.
    """

    _type = "s3"

    def __init__(self, paths: Any, enable_mdb_versioning: bool = False) -> None:
        super().__init__(enable_mdb_versioning=enable_mdb_versioning)
        self.add(paths)

    @staticmethod
    def location(path: str, version_id: str | None = None) -> S3Location:
        """A place in S3, with a version of the object."""
        return S3Location(path, version_id)

    def add(self, paths: Any) -> None:
        """Adds further objects. Arguments and errors as of the class."""
        given = paths if isinstance(paths, (list, tuple)) else [paths]
        locations = [each if isinstance(each, S3Location) else S3Location(each) for each in given]
        found = {}
        for location in locations:
            for component in _components_at(location):
                found[component.path] = component
        self._check_new(found)
        self._components.update(found)

    def _keep(self, store: Store) -> list[Kept]:
        client = _client()
        kept = []
        for component in self.list_components():
            version = {"VersionId": component.s3_version_id} if component.s3_version_id else {}
            answer = client.get_object(Bucket=component.s3_bucket, Key=component.s3_key, **version)
            if answer.get("ETag", "").strip('"') != component.md5:
                raise ValueError(f"{component.path} was changed since this S3 was made; make it again")
            ref = store.put_stream(answer["Body"].read) if component.size else store.put_bytes(b"")
            name = component.s3_key.rpartition("/")[2] or "object"
            kept.append(Kept("blob", ref.digest, ref.size_bytes, name, {component.path: ""}))
        return kept


def _components_at(location: S3Location) -> Iterator[Component]:
    client = _client()
    key = location.key
    if key and not key.endswith("/"):
        version = {"VersionId": location.version_id} if location.version_id else {}
        try:
            found = client.head_object(Bucket=location.bucket, Key=key, **version)
        except Exception as error:
            if getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode") != 404:
                raise
            raise ValueError(f"there is no object {location.path!r} in S3") from error
        yield _component(location.bucket, {**found, "Key": key, "Size": found["ContentLength"]})
        return
    count = 0
    # The versions' listing tells the version ids; in a bucket without versions each is "null".
    for page in client.get_paginator("list_object_versions").paginate(Bucket=location.bucket, Prefix=key):
        for found in page.get("Versions", ()):
            if found["IsLatest"] and not found["Key"].endswith("/"):  # a folder, as consoles make them
                count += 1
                yield _component(location.bucket, found)
    if not count:
        raise ValueError(f"there is nothing at {location.path!r} in S3")


def _component(bucket: str, found: dict[str, Any]) -> Component:
    version = found.get("VersionId") or ""
    return Component(
        f"{_SCHEME}{bucket}/{found['Key']}",
        found["Size"],
        round(found["LastModified"].timestamp() * 1000),
        md5=found["ETag"].strip('"'),
        s3_version_id="" if version == "null" else version,
    )


def _client() -> Any:
    try:
        import boto3  # noqa: PLC0415 - optional
    except ImportError as error:
        raise MissingExtra("dataset.S3 needs boto3; install it with: pip install verta_local[s3]") from error
    return boto3.client("s3")
