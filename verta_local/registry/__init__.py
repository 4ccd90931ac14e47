"""The model registry: `VertaModelBase` and `verify_io`, and the words for stages, locks and tasks.

The entities are in `verta_local.registry.entities`. Names and behaviour are Verta's.
"""

from __future__ import annotations

from . import data_type, lock, stage_change, task_type
from .model_base import VertaModelBase, verify_io

__all__ = ["VertaModelBase", "data_type", "lock", "stage_change", "task_type", "verify_io"]
