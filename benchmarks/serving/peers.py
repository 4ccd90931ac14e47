"""The other servers: how each is installed, given the model, started and asked. All with their own defaults.

Each runs in a virtual environment of its own: one that is named, else one that is made with pip in the scratch folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .ours import free_port
from .watched import Target

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
_INSTALL_LIMIT_S = 900


@dataclass(frozen=True)
class Peer:
    """`prepare(python, folder, environment)` makes what `command(python, folder, port)` serves."""

    name: str
    packages: tuple[str, ...]
    module: str
    path: str
    body_of: Callable[[list[float]], bytes]
    command: Callable[[Path, Path, int], Sequence[str]]
    prepare: Callable[[Path, Path, Mapping[str, str]], None] = lambda python, folder, environment: None
    at_least: float = 1.0  # so many times its requests a second are ours to reach, at 8 clients

    def target(self, port: int) -> Target:
        """How it is asked."""
        return Target(port, self.path, self.body_of)


class NotInstalled(Exception):
    """The peer cannot be had here; the message is one sentence."""


def python_of(peer: Peer, named: Mapping[str, Path], scratch: Path, *, may_install: bool) -> Path:
    """The Python of an environment that has the peer. Raises: NotInstalled."""
    if peer.name in named:
        python = named[peer.name] / "bin" / "python"
        done = subprocess.run([python, "-c", f"import {peer.module}"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotInstalled(f"{peer.name} is not in {named[peer.name]}: {done.stderr.strip().splitlines()[-1]}")
        return python
    if not may_install:
        raise NotInstalled(f"{peer.name} is left out: name its environment with --peer-venv {peer.name}=FOLDER")
    folder = scratch / f"venv-{peer.name}"
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *peer.packages]
    for command in ([sys.executable, "-m", "venv", str(folder)], install):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise NotInstalled(f"{peer.name} was not installed within {_INSTALL_LIMIT_S} s") from None
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["no reason was given"]
            raise NotInstalled(f"{peer.name} does not install here: {said[-1]}")
    return python


def environment_of(environment: Mapping[str, str], python: Path) -> dict[str, str]:
    """The variables for a peer: its own environment first, the model and the programs importable, nothing of ours."""
    path = os.pathsep.join([str(python.parent), environment.get("PATH", "")])
    more = {
        "PYTHONPATH": os.pathsep.join([str(HERE), str(PROGRAMS)]),
        "PATH": path,
        "VIRTUAL_ENV": str(python.parents[1]),
    }
    quiet = {"BENTOML_DO_NOT_TRACK": "True", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    return {**environment, **more, **quiet, "PYTHONUNBUFFERED": "1"}


def save_for_mlflow(python: Path, folder: Path, environment: Mapping[str, str], *artifact: str) -> float:
    """Saves the model in MLflow's form; returns the seconds of saving alone."""
    command = [str(python), str(PROGRAMS / "mlflow_save.py"), str(folder / "saved"), *artifact]
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"MLflow did not save the model: {done.stderr[-1000:]}")
    return float(done.stdout.split()[-1])


def _save(python: Path, folder: Path, environment: Mapping[str, str]) -> None:
    save_for_mlflow(python, folder, environment)


def _mlserver_settings(python: Path, folder: Path, environment: Mapping[str, str]) -> None:
    settings = {"name": "echo", "implementation": "mlserver_echo.EchoForMlserver"}
    (folder / "model-settings.json").write_text(json.dumps(settings))


def _mlserver_command(python: Path, folder: Path, port: int) -> list[str]:
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port(), "host": "127.0.0.1"}
    (folder / "settings.json").write_text(json.dumps(ports))
    return [str(python.parent / "mlserver"), "start", str(folder)]


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _tensor(values: list[float]) -> bytes:
    return _json({"inputs": [{"name": "x", "shape": [len(values)], "datatype": "FP64", "data": values}]})


def mlflow_command(python: Path, folder: Path, port: int) -> list[str]:
    """`mlflow models serve` of what was saved in the folder."""
    options = ["-m", str(folder / "saved"), "-h", "127.0.0.1", "-p", str(port), "--env-manager", "local"]
    return [str(python.parent / "mlflow"), "models", "serve", *options]


MLFLOW = Peer(
    "mlflow",
    ("mlflow",),
    "mlflow.pyfunc",
    "/invocations",
    lambda values: _json({"inputs": values}),
    mlflow_command,
    _save,
    at_least=8.0,
)
PEERS = (
    MLFLOW,
    Peer(
        "litserve",
        ("litserve",),
        "litserve",
        "/predict",
        _json,
        lambda python, folder, port: [str(python), str(PROGRAMS / "litserve_echo.py"), str(port)],
        at_least=8.0,
    ),
    Peer(
        "mlserver",
        ("mlserver", "uvloop<0.22"),  # with a later one its worker does not start
        "mlserver",
        "/v2/models/echo/infer",
        _tensor,
        _mlserver_command,
        _mlserver_settings,
        at_least=3.0,
    ),
    Peer(
        "bentoml",
        ("bentoml",),
        "bentoml",
        "/predict",
        lambda values: _json({"data": values}),
        lambda python, folder, port: [
            *(str(python.parent / "bentoml"), "serve", "bentoml_echo:EchoService"),
            *("--host", "127.0.0.1", "--port", str(port), "--working-dir", str(PROGRAMS)),
        ],
        at_least=14.0,
    ),
)
