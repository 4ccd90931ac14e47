"""What the client raises; each class is also the built-in that Verta raised in its place.

VertaLocalError
├── KeyExists       (ValueError)    a key that is logged already, without `overwrite=True`
├── KeyMissing      (KeyError)      a key that was never logged
├── LoadError       (RuntimeError)  a logged model that does not load
│   └── EnvironmentUnmet            it needs other packages, or another Python
├── EntityMissing   (KeyError, AttributeError)  a project, experiment or run that was deleted
├── EntityExists    (ValueError, OSError)       a name that was to be new; also a requests.HTTPError, see below
├── VersionLocked   (PermissionError)           a registered model version whose lock forbids it; as EntityExists
├── UnknownId       (ValueError)    a name or id of nothing in this store
├── RunEnded        (RuntimeError)  a value for a run that has ended
├── CodeNotFound    (OSError)       a repository or notebook that cannot be found
├── CodeMissing     (RuntimeError)  a code version that was never logged
├── EnvironmentMissing (RuntimeError) an environment that was never logged
├── DeploymentError (RuntimeError)  a model that cannot be deployed or does not answer
└── MissingExtra    (ImportError)   an optional library, with the extra that brings it

UserWarning
└── ConflictWarning                 a value of this process lost against somebody else's

The engine's own errors are in `verta_store.errors`.
"""

from __future__ import annotations

import sys


class VertaLocalError(Exception):
    """Root of the client's own errors."""

    def __str__(self) -> str:  # KeyError would show the repr of its message
        return str(self.args[0]) if self.args else ""


class KeyExists(VertaLocalError, ValueError):
    """A key that is logged already. As in Verta: ValueError."""


class KeyMissing(VertaLocalError, KeyError):
    """A key that was never logged. As in Verta: KeyError."""


class EntityMissing(VertaLocalError, KeyError, AttributeError):
    """A project, experiment or run that was deleted. As in Verta: AttributeError (there by accident), and KeyError."""


class UnknownId(VertaLocalError, ValueError):
    """A name or an id of nothing in this store. As in Verta: ValueError."""


class EntityExists(VertaLocalError, ValueError, OSError):
    """A name that was to be new. Its text has "409" and "already exists", as the `requests.HTTPError` of Verta had.

    `requests` is not needed here. Where the process has imported it, which it must have in order to write
    `except requests.HTTPError`, `entity_exists` makes an error that is one, with `.response.status_code` 409.
    """


class VersionLocked(VertaLocalError, PermissionError):
    """The lock of a registered model version forbids it. Its text has "403"; made as EntityExists is."""


def entity_exists(message: str) -> VertaLocalError:
    """An EntityExists that Verta code catches too."""
    return as_http_error(EntityExists(message), 409, "Conflict")


def as_http_error(error: VertaLocalError, status: int, reason: str) -> VertaLocalError:
    """An error of ours; where the process has imported `requests`, it is also the `HTTPError` of that status."""
    requests = sys.modules.get("requests")
    http_error = getattr(requests, "HTTPError", None)
    if requests is None or not isinstance(http_error, type):
        return error
    kind = type(error)
    rebuild = (_rebuilt, (kind, error.args, status, reason))
    both = type(kind.__name__, (kind, http_error), {"__reduce__": lambda error: rebuild})
    made: VertaLocalError = both(*error.args)
    response = requests.Response()
    response.status_code, response.reason = status, reason
    vars(made).update(response=response, request=None)
    return made


def _rebuilt(kind: type[VertaLocalError], arguments: tuple[object, ...], status: int, reason: str) -> VertaLocalError:
    return as_http_error(kind(*arguments), status, reason)


class CodeMissing(VertaLocalError, RuntimeError):
    """No code version was logged. As in Verta: RuntimeError."""


class RunEnded(VertaLocalError, RuntimeError):
    """A value was logged to a run that has ended."""


class CodeNotFound(VertaLocalError, OSError):
    """A git repository, or the notebook that runs, cannot be found. As in Verta: OSError."""


class EnvironmentMissing(VertaLocalError, RuntimeError):
    """No environment was logged. As in Verta: RuntimeError."""


class ConflictWarning(UserWarning):
    """A value that this process logged lost against another writer's; the message names both. Once a conflict."""


class LoadError(VertaLocalError, RuntimeError):
    """A logged model does not load. `traceback` is the text of the model's own traceback, or ''."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message, traceback)
        self.traceback = traceback


class EnvironmentUnmet(LoadError):
    """A model needs what this environment is not.

    `missing` are the pins that are not met, each with what is there instead; `python` is the minor version ("3.11")
    that its bytecode needs, '' where this one does.
    """

    def __init__(self, message: str, missing: list[str], python: str = "") -> None:
        super().__init__(message)
        self.missing = missing
        self.python = python


class DeploymentError(VertaLocalError, RuntimeError):
    """A model cannot be deployed, or a deployed model does not answer. As in Verta: RuntimeError."""


class MissingExtra(VertaLocalError, ImportError):
    """An optional library is not installed; the message names the extra that brings it."""
