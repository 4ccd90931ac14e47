"""What all kinds of dataset content have in common: components, adding up, being kept in the store, coming back."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import VertaLocalError
from .component import Component

if TYPE_CHECKING:
    from typing_extensions import Self

    from verta_store import Store


@dataclass(frozen=True)
class Kept:
    """An object of the store that holds the bytes of components.

    `paths` is component path -> path inside a tree, or '' for a blob.
    """

    kind: str
    digest: str
    size_bytes: int
    name: str
    paths: Mapping[str, str]


class Content:
    """The content of a dataset version, before and after it is logged."""

    _type: ClassVar[str] = ""

    def __init__(self, components: Iterable[Component] = (), *, enable_mdb_versioning: bool = False) -> None:
        self._components = {component.path: component for component in components}
        self._is_managed = enable_mdb_versioning

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} of {len(self._components)} files"]
        lines += [str(component) for component in self.list_components()]
        return "\n".join(lines)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Content) and self.to_record() == other.to_record()

    __hash__ = None  # type: ignore[assignment]  # `add` changes it

    def __add__(self, other: Content) -> Self:
        """Both contents in one. Raises TypeError for another kind, ValueError where only one keeps its bytes."""
        return copy.deepcopy(self).__iadd__(other)

    def __iadd__(self, other: Content) -> Self:
        if not isinstance(other, type(self)):
            raise TypeError(f"cannot add {type(other).__name__} to {type(self).__name__}: contents of one kind add up")
        if self._is_managed != other._is_managed:
            raise ValueError("cannot add contents of which only one has enable_mdb_versioning=True")
        self._check_new(other._components)
        self._components.update(other._components)
        return self

    @property
    def is_managed(self) -> bool:
        """Whether the bytes are, or will be, kept in the store."""
        return self._is_managed

    def list_paths(self) -> list[str]:
        """The paths of all components, sorted."""
        return sorted(self._components)

    def list_components(self) -> list[Component]:
        """The components, sorted by path."""
        return [self._components[path] for path in self.list_paths()]

    def to_record(self) -> dict[str, Any]:
        """The content as JSON values, without bytes."""
        return {
            "type": self._type,
            "managed": self._is_managed,
            "components": [component.to_record() for component in self.list_components()],
        }

    def _fill(self, record: Mapping[str, Any]) -> None:
        """Takes over a record that `to_record` made."""
        self._is_managed = bool(record.get("managed"))
        components = [Component.from_record(each) for each in record.get("components", ())]
        self._components = {component.path: component for component in components}

    def _keep(self, store: Store) -> list[Kept]:
        """Puts the bytes into the store. Called where `enable_mdb_versioning` is on."""
        raise ValueError(f"the bytes of {type(self).__name__} cannot be kept: leave enable_mdb_versioning out")

    def _check_new(self, added: Iterable[str]) -> None:
        known = sorted(set(added) & set(self._components))
        if known:
            raise ValueError(f"the content has {', '.join(map(repr, known[:5]))} already; a path can be in it once")


class ComponentMissing(VertaLocalError, KeyError, ValueError):
    """A path that a dataset version has no component at or below."""


def check_paths(paths: object, noun: str = "paths") -> list[str]:
    """A list of paths of one path or a list of them. Raises: TypeError."""
    if isinstance(paths, (str, os.PathLike)):
        return [os.fspath(paths)]
    if not isinstance(paths, (list, tuple)) or not all(isinstance(each, (str, os.PathLike)) for each in paths):
        raise TypeError(f"{noun} must be a str or a list of str, not {type(paths).__name__}")
    return [os.fspath(each) for each in paths]
