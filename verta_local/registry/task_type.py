"""What a registered model does. As in Verta."""

from __future__ import annotations

from .words import Word


class TaskType(Word):
    """One of the classes below."""


class Unknown(TaskType):
    """Nobody has said."""

    word = "unknown"


class Other(TaskType):
    """None of the others."""

    word = "other"


class Classification(TaskType):
    """It puts things into classes."""

    word = "classification"


class Clustering(TaskType):
    """It finds groups."""

    word = "clustering"


class Detection(TaskType):
    """It finds where something is."""

    word = "detection"


class Regression(TaskType):
    """It estimates numbers."""

    word = "regression"


class Transcription(TaskType):
    """It writes down what is said or shown."""

    word = "transcription"


class Translation(TaskType):
    """It translates."""

    word = "translation"
