"""Verta's public import path `verta.tracking`."""

from __future__ import annotations
