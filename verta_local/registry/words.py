"""Words that are compared by what they say: the base of lock levels, stage changes, task and data types."""

from __future__ import annotations

from typing import ClassVar, TypeVar

Found = TypeVar("Found", bound="Word")


class Word:
    """A value without parts; two of one class are equal. `word` is what the store records."""

    word: ClassVar[str] = ""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def from_word(base: type[Found], word: str) -> Found:
    """The value of a class below `base` that the store recorded as `word`.

    Raises:
        ValueError: there is none; a later version wrote it.
    """
    for each in base.__subclasses__():
        if each.word == word:
            return each()
    raise ValueError(f"{word!r} is no {base.__name__} that this version knows; a newer verta_local may")
