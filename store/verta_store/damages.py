"""What a verification reports: each piece of damage, with what it affects and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, field

ADVICE = "bring the file back from a copy of the store, or log the artifact again with overwrite=True"
ACCEPT = "verta-local verify --repair --accept-loss"
LOST_ADVICE = f"bring the file back from a copy of the store; if there is none, accept what is lost, with: {ACCEPT}"

# Said of a file that a record refers to.
FILE_GONE = "the file is gone"


@dataclass(frozen=True)
class Problem:
    """One piece of damage. `affects` names what refers to it, as `run 'name' (id) key 'key'`."""

    kind: str  # "missing", "changed", "journal", "claim", "description"
    path: str
    what: str
    affects: tuple[str, ...] = ()
    advice: str = ""
    is_loss: bool = False  # of a journal or pack: nothing brings it back but a copy, and somebody may accept that

    def __str__(self) -> str:
        affected = f"; affects {', '.join(self.affects)}" if self.affects else ""
        advice = f". {self.advice[:1].upper()}{self.advice[1:]}" if self.advice else ""
        return f"{self.kind}: {self.path}: {self.what}{affected}{advice}"


@dataclass
class Report:
    """What a verification read and found."""

    is_deep: bool
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # garbage and torn tails: harmless, and no reason to worry
    journal_count: int = 0
    record_count: int = 0
    blob_count: int = 0
    tree_count: int = 0
    file_count: int = 0
    bytes_read: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing is damaged."""
        return not self.problems


def other_size(found_bytes: int, expected_bytes: int) -> str:
    """What is said of a file that is too short or too long."""
    return f"it has {found_bytes} bytes instead of {expected_bytes}"
