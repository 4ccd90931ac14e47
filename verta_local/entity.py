"""What projects, experiments, runs, datasets, models and endpoints have in common: an id, a name, a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from verta_store import Store
from verta_store.errors import UnknownEntity
from verta_store.records import ATTRIBUTES, FIELDS

from . import values
from .errors import EntityMissing

if TYPE_CHECKING:
    from verta_store.authors import Author
    from verta_store.query import EntityRow


class _Noting(Protocol):
    _use_git: bool


Noted = TypeVar("Noted", bound=_Noting)

# As in Verta without its user service: the workspace of what was made without one.
WORKSPACE = "personal"
WORKSPACE_KIND = "workspace"


class Entity:
    """A project, experiment, run, dataset ... of a store. Two objects of the same id are equal."""

    _kind = ""
    # Whether `log_code` looks for a git repository; what the client was told.
    _use_git = True
    # Whether this object is of the call that made the entity.
    _is_new = False

    def __init__(self, store: Store, row: EntityRow) -> None:
        self._store = store
        self._id = row.id
        self._name = row.name
        self._parent = row.parent
        self._created_ms = row.created_ms

    @property
    def id(self) -> str:
        """The id: a UUID in text form, the same on every host for the same name."""
        return self._id

    @property
    def name(self) -> str:
        """The name as of now; any text."""
        return self._row().name

    @property
    def workspace(self) -> str:
        """The workspace that it was made in, "personal" by default: a name space, without users."""
        row = self._row()
        while row.parent:
            row = self._store.entity(row.parent)
        return row.name if row.kind == WORKSPACE_KIND else WORKSPACE

    @property
    def url(self) -> str:
        """Where this is: the store's folder and the id. As in Verta: a text for the eye."""
        return f"{self._store.root}#{self._id}"

    @property
    def _noun(self) -> str:
        """What this is, in a sentence."""
        return self._kind.replace("_", " ")

    def _noting(self, made: Noted) -> Noted:
        """Tells a list what this was told about git."""
        if not self._use_git:
            made._use_git = False
        return made

    def _row(self) -> EntityRow:
        """What the store knows of this as of now. Raises EntityMissing once it, or what it lies in, is deleted."""
        try:
            return self._store.entity(self._id)
        except UnknownEntity:
            raise EntityMissing(
                f"the {self._noun} {self._name!r} ({self._id}) was deleted, or is not in the store {self._store.root}; "
                "get another one, or make it anew"
            ) from None

    def _values(self, section: str) -> dict[str, Any]:
        """Key -> value of a section. Raises EntityMissing when this was deleted."""
        found = self._store.values(self._id, section)
        if not found:
            self._row()  # nothing is known of what was deleted
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entity) and (self._id, self._store.id) == (other._id, other._store.id)

    def __hash__(self) -> int:
        return hash((self._id, self._store.id))

    def delete(self) -> None:
        """Deletes this and all that lies below it; the bytes of artifacts stay until `gc`. Durable on return."""
        self._store.delete(self._id)

    def rename(self, name: str) -> None:
        """Gives it another name; the id stays.

        Raises:
            TypeError: not a text.
            ValueError: the name is taken by another one beside it.
        """
        if not isinstance(name, str):
            raise TypeError(f"a name must be a str, not {type(name).__name__}")
        check_text(name)
        taken = self._store.named(self._kind, self._parent, name)
        if taken is not None and taken.id != self._id:
            raise ValueError(f"there is already a {self._noun} named {name!r} ({taken.id}); choose another name")
        self._store.put(self._id, FIELDS, {"name": name}, overwrite=True)
        self._name = name

    @property
    def author(self) -> Author:
        """Who created this: `user` and `host`; the first, where several did. Not in Verta, which had one server."""
        return self._store.author_of(self._id)

    def get_tags(self) -> list[str]:
        """The tags, in the order of logging."""
        found = self._store.tags(self._id)
        if not found:
            self._row()
        return found

    def get_attributes(self) -> dict[str, Any]:
        """Attribute key -> value; one of `verta_local.data_types` comes as such."""
        return {key: typed_attribute(value) for key, value in self._values(ATTRIBUTES).items()}

    def get_description(self) -> str:
        """The description, or '' where none was given."""
        return str(self._values(FIELDS).get("description", ""))

    def set_description(self, desc: str) -> None:
        """Gives it another description. Raises TypeError for something else than text."""
        if not isinstance(desc, str):
            raise TypeError(f"desc must be a str, not {type(desc).__name__}")
        self._store.put(self._id, FIELDS, {"description": desc}, overwrite=True)

    def get_date_created(self) -> int:
        """When it was created: milliseconds since 1970 UTC."""
        return self._row().created_ms

    def get_date_updated(self) -> int:
        """When something was last logged to it: milliseconds since 1970 UTC."""
        return self._row().updated_ms

    def _log_at_creation(
        self,
        desc: str | None,
        tags: object,
        attrs: dict[str, Any] | None,
        sections: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Description, tags, attributes and other values of a new entity. Raises before anything is logged."""
        tag_list = check_tags(tags)
        logged = {section: dict(part) for section, part in (sections or {}).items()}
        if desc is not None:
            logged.setdefault(FIELDS, {})["description"] = desc
        if logged:
            self._store.put_all(self._id, logged, overwrite=True)
        self._store.add_tags(self._id, tag_list)
        self._store.put(self._id, ATTRIBUTES, check_attributes(attrs or {}))


def typed_attribute(value: Any) -> Any:
    """The value that was logged of one that the store holds: of a type of `verta_local.data_types`, or as it is."""
    if type(value) is dict and str(value.get("type")).startswith("verta."):
        from .data_types import from_record  # noqa: PLC0415 - start-up time

        return from_record(value)
    return value


def check_text(name: str) -> None:
    """Raises ValueError for half a character, which no other program could read."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"a name must be text that UTF-8 can hold; found half a character in {name!r:.200}") from None


def check_tags(tags: object) -> list[str]:
    """A list of tags. As in Verta: one str is one tag; a list, tuple or set of str is taken.

    Raises:
        TypeError: anything else.
    """
    if tags is None:
        return []
    if isinstance(tags, str):
        return [tags]
    if not isinstance(tags, (list, tuple, set, frozenset)):
        raise TypeError(f"tags must be a list of str, not {type(tags).__name__}")
    for tag in tags:
        if not isinstance(tag, str):
            raise TypeError(f"a tag must be a str, not {type(tag).__name__}")
    return list(dict.fromkeys(tags))


def check_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes with builtin values.

    Raises:
        TypeError, ValueError: a key or value that cannot be logged; the message names it.
    """
    if not isinstance(attributes, dict):
        raise TypeError(f"attributes must be a dict, not {type(attributes).__name__}")
    return {values.check_key(key): values.check_attribute(key, value) for key, value in attributes.items()}
