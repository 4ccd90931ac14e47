"""To which stage of its life a registered model version goes, and why. As in Verta."""

from __future__ import annotations

from .words import Word

UNASSIGNED = "unassigned"


class StageChange(Word):
    """One of `Development`, `Staging`, `Production` and `Archived`.

    Args:
        comment: why; kept in the version's history.
    """

    def __init__(self, comment: str | None = None) -> None:
        if comment is not None and not isinstance(comment, str):
            raise TypeError(f"comment must be a str, not {type(comment).__name__}")
        self.comment = comment

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.comment!r})"


class Development(StageChange):
    """It is being worked on."""

    word = "development"


class Staging(StageChange):
    """It is being tried."""

    word = "staging"


class Production(StageChange):
    """It is in use."""

    word = "production"


class Archived(StageChange):
    """It is no longer in use."""

    word = "archived"
