"""The echo model behind LitServe: PORT."""

from __future__ import annotations

import sys

import litserve
from model import Echo


class EchoApi(litserve.LitAPI):
    """LitServe's base class around the same model."""

    def setup(self, device: str) -> None:
        """In the worker's process."""
        self.model = Echo()

    def decode_request(self, request):
        """The body is the bare input."""
        return request

    def predict(self, x):
        """One input, one answer."""
        return self.model.predict(x)

    def encode_response(self, output):
        """The answer is the bare output."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(EchoApi(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False)
