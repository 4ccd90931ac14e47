"""Conflicts in words: whose value of a key lost against whose, for a warning and for the command line."""

from __future__ import annotations

import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

from .errors import ConflictWarning

if TYPE_CHECKING:
    from verta_store.authors import Conflict

# Longer values are cut in a message.
_SHOWN_CHARACTERS = 60

_SINGULAR = {
    "hyperparameters": "hyperparameter",
    "metrics": "metric",
    "attributes": "attribute",
    "artifacts": "artifact",
    "fields": "field",
    "model": "model",
    "deployments": "deployment",
}


def warn_of_lost(conflict: Conflict) -> None:
    """Warns the process whose value lost, at the line of the user's that looked at the store."""
    # The user's own frame is the first one outside of this project; how far away depends on the verb.
    level = 1
    frame = sys._getframe()
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
        level += 1
    warnings.warn(describe(conflict), ConflictWarning, stacklevel=level)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in ("verta_local", "verta_store")


def describe(conflict: Conflict) -> str:
    """One sentence: what lost, against what and whom, by which rule, and what to do."""
    if conflict.winner_is_overwrite:
        rule = "the last overwrite counts"
    else:
        rule = "of plain values the first counts; log yours with overwrite=True to replace it"
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(conflict.winner_time_ms / 1000))
    return (
        f"{_SINGULAR.get(conflict.section, conflict.section)} {conflict.key!r} of {conflict.kind} {conflict.name!r}: "
        f"your value {show(conflict.value)} lost to {show(conflict.winner_value)}, "
        f"which {conflict.winner} logged at {at} ({rule})"
    )


def show(value: Any) -> str:
    """A logged value for a message; of an artifact its name and the head of its digest."""
    if isinstance(value, dict) and "digest" in value and "kind" in value:
        return f"{value.get('name', '')!r} ({str(value['digest'])[:15]})"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
