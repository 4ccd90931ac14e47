"""The entities of the model registry, at Verta's import path."""

from __future__ import annotations

from .model import RegisteredModel, RegisteredModels
from .version import RegisteredModelVersion, RegisteredModelVersions

__all__ = [
    "RegisteredModel",
    "RegisteredModelVersion",
    "RegisteredModelVersions",
    "RegisteredModels",
]
