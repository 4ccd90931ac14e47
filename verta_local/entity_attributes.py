"""An entity with attributes: logged, read and taken out; and the one path that the verbs of every section take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from verta_store.records import ARTIFACTS, ATTRIBUTES, HYPERPARAMETERS, METRICS

from . import values
from .entity import Entity, check_attributes
from .errors import KeyMissing

_SINGULAR = {HYPERPARAMETERS: "hyperparameter", METRICS: "metric", ATTRIBUTES: "attribute", ARTIFACTS: "artifact"}


class EntityWithAttributes(Entity):
    """A run, a dataset, a model version ...: what has attributes of its own."""

    def log_attribute(self, key: str, value: Any, overwrite: bool = False) -> None:
        """Logs one attribute: None, bool, number, str, or lists and dicts of them, nested.

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
        return self._get(ATTRIBUTES, key)

    def del_attribute(self, key: str) -> None:
        """Takes an attribute out. Raises KeyError for an absent key."""
        self._drop(ATTRIBUTES, key)

    add_attribute = log_attribute
    add_attributes = log_attributes

    # -- the one path of all verbs ---------------------------------------------------------------------------------

    def _put(self, section: str, entries: Mapping[str, Any], overwrite: bool) -> None:
        self._store.put(self._id, section, entries, overwrite=overwrite)

    def _get(self, section: str, key: str) -> Any:
        found = self._store.values(self._id, section)
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
