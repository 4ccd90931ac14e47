"""Verta's public import path `verta.utils.ModelAPI`; the class itself lives in `verta_local.model_api`."""

from __future__ import annotations

from .model_api import ModelAPI

__all__ = ["ModelAPI"]
