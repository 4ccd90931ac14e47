"""Our own side of the comparison: a store with runs of the model, and the commands and calls that serve them."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verta_local import Client
from verta_local.run import ExperimentRun

from .model import Echo
from .watched import Target

TOKEN = "benchmark-token"


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def body_of(values: list[float]) -> bytes:
    """Verta's wire: the bare input."""
    return json.dumps(values, separators=(",", ":")).encode()


class OurStore:
    """A store with the echo model in it, as often as asked for."""

    def __init__(self, client: Client, folder: Path) -> None:
        self._client = client
        self._folder = folder
        client.set_project("serving")
        client.set_experiment("echo")

    def run(self, name: str, artifact: Path | None = None) -> ExperimentRun:
        """A new run with the model, and with a file or folder that it is to be given."""
        run: ExperimentRun = self._client.set_experiment_run(name)
        keys = []
        if artifact is not None:
            run.log_artifact("data", str(artifact))
            keys = ["data"]
        run.log_model(Echo, artifacts=keys)
        run.log_requirements([])
        return run

    def command(self, runs: Sequence[ExperimentRun], port: int, *more: str) -> list[str]:
        """`verta-local serve`."""
        words = [sys.executable, "-m", "verta_local", "--store", str(self._client_store()), "serve"]
        return [*words, *(run.id for run in runs), "--port", str(port), "--token", TOKEN, *more]

    def _client_store(self) -> str:
        return str(self._client._store.root)


def target(run_id: str, port: int) -> Target:
    """How a served run is asked."""
    return Target(port, f"/api/v1/predict/{run_id}", body_of, {"Access-Token": TOKEN})


def target_of_status(status: dict[str, Any]) -> Target:
    """How a deployed run is asked."""
    host, _, path = str(status["url"]).removeprefix("http://").partition("/")
    return Target(int(host.rpartition(":")[2]), f"/{path}", body_of, {"Access-Token": status["token"]})


def write_folder(folder: Path, files: int) -> Path:
    """A folder of small files, 100 a sub-folder."""
    for number in range(files):
        place = folder / f"part-{number // 100}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.txt").write_text(f"file {number}\n")
    return folder


def write_file(path: Path, size_bytes: int) -> Path:
    """A file that is not made of holes."""
    block = os.urandom(1 << 20)
    with path.open("wb") as stream:
        left = size_bytes
        while left > 0:
            stream.write(block[: min(left, len(block))])
            left -= len(block)
    return path


def has_fast() -> list[str]:
    """What of the extra `verta-local[fast]` is installed."""
    return [name for name in ("granian", "orjson") if importlib.util.find_spec(name) is not None]
