"""The echo model behind BentoML, which imports this file by its name."""

from __future__ import annotations

import bentoml
from model import Echo


@bentoml.service(workers=1)
class EchoService:
    """BentoML's service around the same model."""

    def __init__(self) -> None:
        self.model = Echo()

    @bentoml.api
    def predict(self, data: list[float]) -> list[float]:
        """One input, one answer."""
        return self.model.predict(data)
