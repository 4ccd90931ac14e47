"""Files and folders of this machine as the content of a dataset version."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .component import Component, component_of_file
from .content import Content, Kept, check_paths

if TYPE_CHECKING:
    from verta_store import Store


class Path(Content):
    """Files and folders by their paths; what a folder holds is listed file by file. As in Verta.

    Args:
        paths: a path or a list of paths.
        base_path: a folder that the paths begin with, and that is left out of the components' paths.
        enable_mdb_versioning: keeps the bytes in the store, so that `download_content` gives them back.

    The files are read here, for their hashes, and once more by `create_version` where their bytes are kept.

    Raises:
        TypeError: `paths` is neither text nor a list of it.
        FileNotFoundError: a path that does not exist.
        ValueError: a path that does not begin with `base_path`, or that is given twice.
    """

    _type = "path"

    def __init__(self, paths: Any, base_path: str | None = None, enable_mdb_versioning: bool = False) -> None:
        super().__init__(enable_mdb_versioning=enable_mdb_versioning)
        self._roots: list[_Root] = []
        self._take(paths, base_path)

    @classmethod
    def with_spark(cls, sc: Any, paths: Any) -> Path:
        """The files that a SparkContext reads at `paths`; their bytes cannot be kept."""
        from .hdfs import components_by_spark  # noqa: PLC0415 - only with Spark

        found = cls([])
        found._components = {each.path: each for each in components_by_spark(sc, check_paths(paths))}
        return found

    def add(self, paths: Any, base_path: str | None = None) -> None:
        """Adds further files and folders. Arguments and errors as of the class."""
        self._take(paths, base_path)

    def __iadd__(self, other: Content) -> Path:
        super().__iadd__(other)
        if isinstance(other, Path):
            self._roots += other._roots
        return self

    def _take(self, paths: Any, base_path: str | None) -> None:
        base = "" if base_path is None else os.path.expanduser(os.fspath(base_path))
        roots = [_Root.of(path, base) for path in check_paths(paths)]
        found: dict[str, Component] = {}
        for root in roots:
            for inside in root.files:
                shown = root.shown(inside)
                if shown in found:
                    raise ValueError(f"the path {shown!r} is given twice")
                found[shown] = component_of_file(root.on_disk(inside), shown, base)
        self._check_new(found)
        self._components.update(found)
        self._roots += roots

    def _keep(self, store: Store) -> list[Kept]:
        return [root.keep(store, self._components) for root in self._roots]


class _Root:
    """One path that the user gave: a file, or a folder with its files' paths inside it ('' for a file itself)."""

    def __init__(self, path: str, base_path: str, files: list[str]) -> None:
        self.path = path
        self.base_path = base_path
        self.files = files

    @classmethod
    def of(cls, path: str, base_path: str) -> _Root:
        path = os.path.expanduser(path)
        if not os.path.exists(path):
            raise FileNotFoundError(f"no file or folder {path!r} (looked in {os.getcwd()})")
        if base_path and not (path + os.sep).startswith(base_path.rstrip("/" + os.sep) + os.sep):
            raise ValueError(f"the path {path!r} does not begin with base_path {base_path!r}")
        return cls(path, base_path, sorted(_files_in(path)) if os.path.isdir(path) else [""])

    def on_disk(self, inside: str) -> str:
        """Where a file is."""
        return os.path.join(self.path, inside) if inside else self.path

    def shown(self, inside: str) -> str:
        """The component's path: as the user wrote it, with `/`, without the base path."""
        whole = os.path.normpath(self.on_disk(inside))
        if self.base_path:
            whole = os.path.relpath(whole, self.base_path)
        return whole.replace(os.sep, "/")

    def keep(self, store: Store, components: Mapping[str, Component]) -> Kept:
        ref = store.put_tree(self.path) if os.path.isdir(self.path) else store.put_file(self.path)
        if ref.kind == "tree":
            stored = {entry.path: entry.digest for entry in store.tree_entries(ref.digest)}
        else:
            stored = {"": ref.digest}
        paths = {}
        for inside in self.files:
            shown, key = self.shown(inside), inside.replace(os.sep, "/")
            if stored.get(key, "").rpartition(":")[2] != components[shown].sha256:
                raise ValueError(f"the file {shown!r} was changed since this Path was made; make it again")
            paths[shown] = key
        name = os.path.basename(os.path.abspath(self.path))
        return Kept(ref.kind, ref.digest, ref.size_bytes, name, paths)


def _files_in(folder: str) -> Iterator[str]:
    """Paths of the files below a folder, relative to it. Links to files count, as their targets' bytes."""
    for parent, _, names in os.walk(folder, followlinks=False, onerror=_refuse):
        for name in names:
            path = os.path.join(parent, name)
            if os.path.isfile(path):
                yield os.path.relpath(path, folder)


def _refuse(error: OSError) -> None:
    raise error
