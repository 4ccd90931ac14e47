"""Files of a Hadoop file system, looked at by a Spark cluster, as the content of a dataset version."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .component import Component, hash_stream
from .content import Content, check_paths


class HDFS(Content):
    """Files below `hdfs://` paths. Made by `HDFS.with_spark(sc, paths)`: the files are hashed where they are.

    Their bytes cannot be kept in the store. As in Verta.
    """

    _type = "hdfs"

    @classmethod
    def with_spark(cls, sc: Any, paths: Any) -> HDFS:
        """The files at `paths` (one, or a list), read by a SparkContext's workers.

        Raises:
            TypeError: `paths` is neither text nor a list of it.
            ValueError: a path that does not begin with `hdfs://`.
        """
        wanted = check_paths(paths)
        for path in wanted:
            if not path.startswith("hdfs://"):
                raise ValueError(f"an HDFS path begins with hdfs://, not {path!r}")
        return cls(components_by_spark(sc, wanted))


def components_by_spark(sc: Any, paths: list[str]) -> Iterator[Component]:
    """One component a file, made by `sc.binaryFiles`. Spark does not tell when a file was modified."""
    for path in paths:
        for name, size, md5, sha256 in sc.binaryFiles(path).map(_describe).collect():
            yield Component(name, size, sha256=sha256, md5=md5)


def _describe(entry: tuple[str, bytes]) -> tuple[str, int, str, str]:
    name, data = entry
    left = [bytes(data)]
    return (name, len(data), *hash_stream(lambda _: left.pop() if left else b""))
