"""Getting and making what a store holds, by name or id: the rules that all kinds of entities share. As in Verta."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from verta_store import Store, ids
from verta_store.errors import NameTaken

from .entity import Entity, check_attributes, check_tags, check_text
from .errors import UnknownId, entity_exists

Made = TypeVar("Made", bound=Entity)


class Given(NamedTuple):
    """What a caller says of a new entity. `sections` are further values, checked by whoever gives them."""

    desc: str | None = None
    tags: Any = None
    attrs: dict[str, Any] | None = None
    at_ms: int | None = None
    sections: Mapping[str, Mapping[str, Any]] = {}
    # Name -> value of the arguments that are passed over with a warning where the entity is there already.
    others: Mapping[str, Any] = {}
    tags_argument: str = "tags"

    def check(self) -> None:
        """Raises before anything is made: a bad tag leaves no half-made project. TypeError, ValueError."""
        check_tags(self.tags)
        check_attributes({} if self.attrs is None else self.attrs)
        if self.desc is not None and not isinstance(self.desc, str):
            raise TypeError(f"desc must be a str, not {type(self.desc).__name__}")

    def names(self) -> list[str]:
        """The arguments that say something."""
        given = {"desc": self.desc, self.tags_argument: self.tags, "attrs": self.attrs, **self.others}
        return [argument for argument, value in given.items() if value is not None]


def get_or_create(
    store: Store,
    make: type[Made],
    parent: str | None,
    name: str | None,
    prefix: str,
    given: Given,
    *,
    stacklevel: int = 3,
) -> Made:
    """The entity of this name below `parent`, or a new one; without a name a new one with a generated name.

    Raises:
        TypeError: a name, tags or attrs of another type.
    """
    given.check()
    kind = make._kind
    if name is None:
        row = store.create(kind, parent, generated_name(prefix), is_fresh_name=True, at_ms=given.at_ms)
    else:
        found = store.named(kind, parent, _checked(name))
        if found is not None:
            entity = make(store, found)
            _warn_of_ignored(entity, given, stacklevel + 1)
            return entity
        row = store.create(kind, parent, name, at_ms=given.at_ms)
    entity = make(store, row)
    entity._is_new = True
    entity._log_at_creation(given.desc, given.tags, given.attrs, given.sections)
    return entity


def create_new(store: Store, make: type[Made], parent: str | None, name: str | None, prefix: str, given: Given) -> Made:
    """A new entity; of many callers of one name, on any hosts, one gets it.

    Raises:
        EntityExists: a ValueError whose text has "409" and "already exists".
        TypeError: a name, tags or attrs of another type.
    """
    if name is None:
        return get_or_create(store, make, parent, None, prefix, given)
    given.check()
    try:
        row = store.create_new(make._kind, parent, _checked(name), at_ms=given.at_ms)
    except NameTaken as error:
        noun = make._kind.replace("_", " ")
        raise entity_exists(
            f"409: the {noun} {name!r} already exists ({error.key}); get it, or choose another name"
        ) from None
    entity = make(store, row)
    entity._is_new = True
    entity._log_at_creation(given.desc, given.tags, given.attrs, given.sections)
    return entity


def get(store: Store, make: type[Made], parent: str | None, name: str | None, entity_id: str | None) -> Made:
    """What is there, by name or by id.

    Raises:
        ValueError: neither or both; or it is not there.
    """
    noun = make._kind.replace("_", " ")
    if name is None and entity_id is None:
        raise ValueError(f"give a name or an id of the {noun}")
    if entity_id is not None:
        return by_id(store, make, name, entity_id)
    found = store.named(make._kind, parent, _checked(name))
    if found is None:
        raise UnknownId(f"{noun.capitalize()} not found: none is named {name!r} in the store {store.root}")
    return make(store, found)


def by_id(
    store: Store,
    make: type[Made],
    name: str | None,
    entity_id: str,
    given: Given | None = None,
    *,
    stacklevel: int = 3,
) -> Made:
    """The entity with an id; what else is `given` is passed over with a UserWarning.

    Raises:
        ValueError: a name too; or it is not there, or of another kind.
    """
    noun = make._kind.replace("_", " ")
    if name is not None:
        raise ValueError("give a name or an id, not both")
    try:
        row = store.entity(entity_id) if isinstance(entity_id, str) else None
    except KeyError:
        row = None
    if row is None or row.kind != make._kind:
        raise UnknownId(f"{noun.capitalize()} not found: no {noun} with the id {entity_id!r} in the store {store.root}")
    entity = make(store, row)
    if given is not None:
        _warn_of_ignored(entity, given, stacklevel + 1)
    return entity


def _warn_of_ignored(entity: Entity, given: Given, stacklevel: int) -> None:
    ignored = given.names()
    if ignored:
        warnings.warn(
            f"{entity._noun} {entity._name!r} already exists; cannot set {', '.join(ignored)}",
            UserWarning,
            stacklevel=stacklevel,
        )


def generated_name(prefix: str) -> str:
    """A name with the time and enough randomness that no two are ever the same."""
    made = ids.utc_stamp(ids.now_ms())
    return f"{prefix} {made[:8]}-{made[9:]}-{ids.random_hex(16)}"


def _checked(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a name must be a str, not {type(name).__name__}")
    check_text(name)
    return name
