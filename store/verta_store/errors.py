"""Everything that the engine raises.

StoreError
├── StoreNotFound       (FileNotFoundError)  no store at this path
├── StoreFormatError    (RuntimeError)       made by a newer version, or its store.json is not one
├── StoreWriteError     (OSError)            read-only, full, over quota, input/output error
├── StoreReadError      (OSError)            a journal that the drive does not give: input/output error, no right to
├── MissingObject       (FileNotFoundError)  a digest that the store does not hold
├── CorruptObject       (RuntimeError)       bytes that do not match their digest
├── BadContent          (ValueError)         something that cannot be stored: empty, a device, a link outwards
├── BadRecord           (ValueError)         a value that no record can hold
├── BadQuery            (ValueError)         a predicate or sort key that cannot be read
├── CollectionRefused   (RuntimeError)       garbage whose collection could lose something
├── KeyTaken            (ValueError)         a key that is logged already, without overwrite
├── NameTaken           (ValueError)         a name that was to be new
├── ClaimTaken          (ValueError)         a name that somebody else has claimed
└── UnknownEntity       (KeyError)           an id that no journal mentions
"""

from __future__ import annotations

import os


class StoreError(Exception):
    """Root of all errors of the engine. `path`, `digest` and `key` hold what the sentence speaks of, where known."""

    def __init__(
        self, message: str, *, path: str | None = None, digest: str | None = None, key: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.digest = digest
        self.key = key

    def __str__(self) -> str:  # KeyError and OSError would show a quoted or decorated text
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, dict(vars(self)), getattr(self, "errno", None)))


def _rebuild(cls: type[StoreError], message: str, data: dict[str, object], number: int | None) -> StoreError:
    made = cls(message)
    vars(made).update(data)
    if isinstance(made, OSError):
        made.errno = number
        made.strerror = os.strerror(number) if number else None
    return made


class StoreNotFound(StoreError, FileNotFoundError):
    """No store at this path."""


class StoreFormatError(StoreError, RuntimeError):
    """The store was made by a newer version, or its `store.json` cannot be read."""


class StoreWriteError(StoreError, OSError):
    """The file system refused a write; nothing that was acknowledged before is lost."""


class StoreReadError(StoreError, OSError):
    """The file system does not give a journal; without it, answers would lack what it holds."""


class MissingObject(StoreError, FileNotFoundError):
    """The store does not hold this digest."""


class CorruptObject(StoreError, RuntimeError):
    """Stored bytes do not match their digest."""


class CollectionRefused(StoreError, RuntimeError):
    """Garbage cannot be told from what is needed, or somebody else is at work; nothing was touched."""


class BadContent(StoreError, ValueError):
    """A file or folder that cannot be stored."""


class BadRecord(StoreError, ValueError):
    """A value that no record can hold."""


class BadQuery(StoreError, ValueError):
    """A predicate or sort key that cannot be read."""


class KeyTaken(StoreError, ValueError):
    """A key that is logged already, without overwrite. `key` names it."""


class NameTaken(StoreError, ValueError):
    """A name that was to be new and is not; `key` is the id of what has it."""


class ClaimTaken(StoreError, ValueError):
    """A name that somebody else has claimed; `claim` (a `verta_store.claims.Claim`) says who."""

    def __init__(self, message: str, claim: object = None) -> None:
        super().__init__(message)
        self.claim = claim


class UnknownEntity(StoreError, KeyError):
    """An id that no journal mentions."""
