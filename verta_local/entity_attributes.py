"""An entity with attributes and tags; and the one path that the verbs of every section take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from verta_store.records import ARTIFACTS, ATTRIBUTES, HYPERPARAMETERS, METRICS

from . import values
from .entity import Entity, check_attributes, check_tags, typed_attribute
from .errors import EntityMissing, KeyMissing

_SINGULAR = {HYPERPARAMETERS: "hyperparameter", METRICS: "metric", ATTRIBUTES: "attribute", ARTIFACTS: "artifact"}


class EntityWithAttributes(Entity):
    """A run, a dataset, a model version ...: what has attributes of its own."""

    def log_attribute(self, key: str, value: Any, overwrite: bool = False) -> None:
        """Logs one attribute.

        Args:
            value: None, bool, number, str, lists and dicts of them, nested, or a value of `verta_local.data_types`.

        Raises:
            TypeError: a value of another type. ValueError: a key with other characters than letters, digits, `_`,
                `-`, `/`, or one that exists already ("consider setting overwrite=True").
        """
        self._put(ATTRIBUTES, {values.check_key(key): values.check_attribute(key, value)}, overwrite)

    def log_attributes(self, attributes: dict[str, Any], overwrite: bool = False) -> None:
        """Logs a dict of attributes: all of them or, with one bad key or value, none."""
        self._put(ATTRIBUTES, check_attributes(attributes), overwrite)

    def get_attribute(self, key: str) -> Any:
        """The value, equal to the one logged. Raises KeyError for an absent key."""
        return typed_attribute(self._get(ATTRIBUTES, key))

    def del_attribute(self, key: str) -> None:
        """Takes an attribute out. Raises KeyError for an absent key."""
        self._drop(ATTRIBUTES, key)

    add_attribute = log_attribute
    add_attributes = log_attributes

    def log_tag(self, tag: str) -> None:
        """Adds a tag: any text; one that is there already is no error. Raises TypeError for another type."""
        if not isinstance(tag, str):
            raise TypeError(f"a tag must be a str, not {type(tag).__name__}")
        self._store.add_tags(self._id, [tag])

    def log_tags(self, tags: Iterable[str]) -> None:
        """Adds tags: a list, tuple or set of str. As in later Verta clients one str is one tag. Raises TypeError."""
        if tags is None:
            raise TypeError("tags must be a list of str, not NoneType")
        self._store.add_tags(self._id, check_tags(tags))

    def del_tag(self, tag: str) -> None:
        """Takes a tag off; one that is not there is no error. Not in Verta's tracking."""
        if not isinstance(tag, str):
            raise TypeError(f"a tag must be a str, not {type(tag).__name__}")
        self._store.remove_tags(self._id, [tag])

    def __repr__(self) -> str:
        """What it holds, a line each; that it was deleted, where it was."""
        try:
            return self._describe()
        except EntityMissing:
            return f"<{type(self).__name__} {self._name!r} {self._id}: deleted>"

    def _describe(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.url}>"

    # -- the one path of all verbs ---------------------------------------------------------------------------------

    def _put(self, section: str, entries: Mapping[str, Any], overwrite: bool) -> None:
        self._store.put(self._id, section, entries, overwrite=overwrite)

    def _get(self, section: str, key: str) -> Any:
        found = self._values(section)
        if values.check_key(key) not in found:
            raise self._missing(_SINGULAR.get(section, section), key, found)
        return found[key]

    def _drop(self, section: str, key: str) -> None:
        """Takes a key out of a section. Raises KeyError for an absent one."""
        self._get(section, key)
        self._store.drop(self._id, section, [key])

    def _missing(self, what: str, key: str, present: Iterable[str]) -> KeyMissing:
        names = ", ".join(present) or "none"
        return KeyMissing(f"no {what} {key!r} in {self._noun} {self._name!r}; it has: {names}")
