"""How far a registered model version may still be changed. As in Verta."""

from __future__ import annotations

from .words import Word


class LockLevel(Word):
    """One of `Open`, `Redact` and `Closed`."""


class Open(LockLevel):
    """Everything may be added, changed and taken out."""

    word = "open"


class Redact(LockLevel):
    """Things may be taken out, nothing may be added or changed."""

    word = "redact"


class Closed(LockLevel):
    """Nothing may be added, changed or taken out, nor the version be deleted. Its stage and its lock can change."""

    word = "closed"


def check_lock_level(lock_level: object) -> LockLevel:
    """The lock level, `Open` for None; a class stands for its value. Raises TypeError for anything else."""
    if lock_level is None:
        return Open()
    if isinstance(lock_level, type) and issubclass(lock_level, LockLevel) and lock_level.word:
        return lock_level()
    if not isinstance(lock_level, LockLevel):
        raise TypeError(
            f"lock_level must be one of verta_local.registry.lock (Open, Redact, Closed), "
            f"not {type(lock_level).__name__}"
        )
    return lock_level
