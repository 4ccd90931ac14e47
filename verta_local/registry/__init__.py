"""Verta's registry: the base class of class models, and the check of what goes in and out of them."""

from __future__ import annotations

from .model_base import VertaModelBase, verify_io

__all__ = ["VertaModelBase", "verify_io"]
