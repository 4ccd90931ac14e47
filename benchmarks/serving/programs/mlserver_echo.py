"""The echo model for MLServer, which imports this file by its name."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from model import Echo


class EchoForMlserver(MLModel):
    """MLServer's base class around the same model."""

    async def load(self) -> bool:
        """In the worker's process."""
        self.echo = Echo()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One tensor in, one out."""
        answer = self.echo.predict(list(payload.inputs[0].data))
        output = ResponseOutput(name="y", shape=[len(answer)], datatype="FP64", data=answer)
        return InferenceResponse(model_name=self.name, outputs=[output])
