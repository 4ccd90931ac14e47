"""Notes on an entity: Markdown texts of people, each with its time. Not in Verta."""

from __future__ import annotations

from typing import NamedTuple

from verta_store import ids

from .entity import Entity

NOTES_SECTION = "notes"


class Note(NamedTuple):
    """A note: Markdown, and when it was written (ms since 1970 UTC)."""

    text: str
    at_ms: int


class EntityWithNotes(Entity):
    """A project, experiment or run."""

    def log_note(self, text: str) -> None:
        """Adds a note in Markdown. Notes of several people stay beside each other. Raises TypeError: not a text."""
        if not isinstance(text, str):
            raise TypeError(f"a note must be a str, not {type(text).__name__}")
        at_ms = ids.now_ms()
        self._store.put(self._id, NOTES_SECTION, {f"{at_ms}-{ids.random_hex(8)}": {"text": text, "at": at_ms}})

    def get_notes(self) -> list[Note]:
        """The notes, oldest first."""
        return [Note(str(note["text"]), int(note["at"])) for note in self._values(NOTES_SECTION).values()]
