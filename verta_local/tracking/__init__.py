"""Verta's public import path `verta.tracking`."""

from __future__ import annotations

from ..client import Client
from . import entities

__all__ = ["Client", "entities"]
