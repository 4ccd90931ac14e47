"""Endpoints: a URL of one's own under which now this, now that model is served. Names and behaviour are Verta's."""

from __future__ import annotations

from .entities import Endpoint, Endpoints

__all__ = ["Endpoint", "Endpoints"]
