"""One file, or object, of a dataset version: where it is and how its bytes are known again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Component:
    """Metadata of a file. Texts are '' and numbers None where a source does not tell.

    Attributes:
        path: as the user gave it, below `base_path`; of an object its `s3://` URL.
        size: bytes.
        last_modified: milliseconds since 1970 UTC.
        md5, sha256: hexadecimal digits. Of an S3 object `md5` is its ETag, which S3 makes by the MD5 of small objects.
        s3_version_id: the object's version, in a bucket that keeps versions.
    """

    path: str
    size: int | None = None
    last_modified: int | None = None
    sha256: str = ""
    md5: str = ""
    base_path: str = ""
    s3_version_id: str = ""

    @property
    def s3_bucket(self) -> str:
        """The bucket of an S3 object; '' for another file."""
        return self.path[len("s3://") :].partition("/")[0] if self.path.startswith("s3://") else ""

    @property
    def s3_key(self) -> str:
        """The key of an S3 object; '' for another file."""
        return self.path[len("s3://") :].partition("/")[2] if self.path.startswith("s3://") else ""

    def __str__(self) -> str:
        lines = [self.path]
        for label, value in (
            ("size", None if self.size is None else f"{self.size} bytes"),
            ("last modified", self.last_modified),
            ("MD5", self.md5),
            ("SHA-256", self.sha256),
            ("S3 version", self.s3_version_id),
            ("base path", self.base_path),
        ):
            if value not in (None, ""):
                lines.append(f"    {label}: {value}")
        return "\n".join(lines)

    def to_record(self) -> dict[str, Any]:
        """The fields that are known, as JSON values."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}

    @staticmethod
    def from_record(record: dict[str, Any]) -> Component:
        """The component of a record; fields of later versions are passed over."""
        return Component(**{name: value for name, value in record.items() if name in Component.__dataclass_fields__})


def component_of_file(path: str, shown_as: str, base_path: str) -> Component:
    """The component of a file on disk; its bytes are read once. Raises OSError."""
    with open(path, "rb") as file:
        md5, sha256 = hash_stream(file.read)
        found = os.fstat(file.fileno())
    return Component(shown_as, found.st_size, found.st_mtime_ns // 1_000_000, sha256, md5, base_path)


def hash_stream(read: Callable[[int], bytes]) -> tuple[str, str]:
    """(MD5, SHA-256) of what `read(size in bytes)` returns until it returns nothing."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    while data := read(_READ_BYTES):
        md5.update(data)
        sha256.update(data)
    return md5.hexdigest(), sha256.hexdigest()
