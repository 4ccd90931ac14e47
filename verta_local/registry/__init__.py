"""The model registry: `VertaModelBase` and `verify_io`, and the words for stages, locks and tasks.

The entities are in `verta_local.registry.entities`. Names and behaviour are Verta's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import data_type, lock, stage_change, task_type
from .model_base import VertaModelBase, verify_io

if TYPE_CHECKING:
    from .docker_image import DockerImage

__all__ = ["DockerImage", "VertaModelBase", "data_type", "lock", "stage_change", "task_type", "verify_io"]


def __getattr__(name: str) -> object:
    # A model's own process imports this package: what environments need is not for it.
    if name == "DockerImage":
        from .docker_image import DockerImage  # noqa: PLC0415 - start-up time

        return DockerImage
    if name == "entities":
        from importlib import import_module  # noqa: PLC0415 - start-up time

        return import_module(f"{__name__}.entities")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
