"""What the client raises; each class is also the built-in that Verta raised in its place.

VertaLocalError
├── KeyExists       (ValueError)    a key that is logged already, without `overwrite=True`
├── KeyMissing      (KeyError)      a key that was never logged
├── LoadError       (RuntimeError)  a logged model that does not load
├── EnvironmentMissing (RuntimeError) an environment that was never logged
├── DeploymentError (RuntimeError)  a model that cannot be deployed or does not answer
└── MissingExtra    (ImportError)   an optional library, with the extra that brings it

UserWarning
└── ConflictWarning                 a value of this process lost against somebody else's

The engine's own errors are in `verta_store.errors`.
"""

from __future__ import annotations


class VertaLocalError(Exception):
    """Root of the client's own errors."""

    def __str__(self) -> str:  # KeyError would show the repr of its message
        return str(self.args[0]) if self.args else ""


class KeyExists(VertaLocalError, ValueError):
    """A key that is logged already. As in Verta: ValueError."""


class KeyMissing(VertaLocalError, KeyError):
    """A key that was never logged. As in Verta: KeyError."""


class EnvironmentMissing(VertaLocalError, RuntimeError):
    """No environment was logged. As in Verta: RuntimeError."""


class ConflictWarning(UserWarning):
    """A value that this process logged lost against another writer's; the message names both. Once a conflict."""


class LoadError(VertaLocalError, RuntimeError):
    """A logged model does not load. `traceback` is the text of the model's own traceback, or ''."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message, traceback)
        self.traceback = traceback


class DeploymentError(VertaLocalError, RuntimeError):
    """A model cannot be deployed, or a deployed model does not answer. As in Verta: RuntimeError."""


class MissingExtra(VertaLocalError, ImportError):
    """An optional library is not installed; the message names the extra that brings it."""
