"""What a dataset version is made of: files and folders (`Path`), objects in S3 (`S3`), files in HDFS (`HDFS`), a query.

>>> from verta_local.dataset import Path  # doctest: +SKIP
>>> version = client.set_dataset("reviews").create_version(Path("data/", enable_mdb_versioning=True))  # doctest: +SKIP
"""

from __future__ import annotations

from .component import Component
from .hdfs import HDFS
from .path import Path
from .query import Query
from .s3 import S3, S3Location

HDFSPath = HDFS  # Verta's name for it


def __getattr__(name: str) -> object:
    # `verta.dataset.entities` after `import verta` alone; it imports this package.
    if name == "entities":
        from importlib import import_module  # noqa: PLC0415 - start-up time

        return import_module(f"{__name__}.entities")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["HDFS", "S3", "Component", "HDFSPath", "Path", "Query", "S3Location"]
