"""What a registered model works on. As in Verta."""

from __future__ import annotations

from .words import Word


class DataType(Word):
    """One of the classes below."""


class Unknown(DataType):
    """Nobody has said."""

    word = "unknown"


class Other(DataType):
    """None of the others."""

    word = "other"


class Audio(DataType):
    """Sound."""

    word = "audio"


class Image(DataType):
    """Pictures."""

    word = "image"


class Tabular(DataType):
    """Tables."""

    word = "tabular"


class Text(DataType):
    """Text."""

    word = "text"


class Video(DataType):
    """Moving pictures."""

    word = "video"
