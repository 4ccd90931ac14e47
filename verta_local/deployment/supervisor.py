"""Finds this user's serving process on this host, or starts one; speaks its admin routes.

The contract with the serving side is its state file, its port and its routes; no code is shared with it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verta_local import config
from verta_local.deployment.connection import KeepAlive, ModelUnreachable, PredictionTimeout, Response
from verta_local.errors import DeploymentError
from verta_local.interpreter import Interpreter

_STATE_FILE = "supervisor.json"
_FOREGROUND_FILES = "foreground-*.json"
_LOG_FILE = "supervisor.log"
_CONNECT_TIMEOUT_S = 2.0
_CHALLENGE_TIMEOUT_S = 10.0
_ADMIN_TIMEOUT_S = 60.0  # over the longest poll of the server


class SupervisorGone(Exception):
    """The serving process ended, or is ending, while it was asked."""


@dataclass(frozen=True)
class StateFile:
    """What a serving process wrote about itself; only a hint, see `find`."""

    pid: int
    port: int
    instance: str
    admin_token: str
    deployments: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path | None = None) -> StateFile | None:
        """The file at `path` (the background process's by default), or None when there is none that can be read."""
        try:
            found = json.loads((path or config.serving_dir() / _STATE_FILE).read_bytes())
            return cls(
                int(found["pid"]),
                int(found["port"]),
                str(found["instance"]),
                str(found["admin_token"]),
                list(found["deployments"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


class Admin:
    """The admin routes of a serving process that has proved who it is."""

    def __init__(self, state: StateFile) -> None:
        self.instance = state.instance
        self.pid = state.pid
        self._token = state.admin_token
        self._connection = KeepAlive("http", "127.0.0.1", state.port, _CONNECT_TIMEOUT_S, _ADMIN_TIMEOUT_S)

    def call(self, method: str, path: str, query: dict[str, str] | None = None, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of one admin request. Raises: SupervisorGone."""
        target = f"/admin/v1{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        content = b"" if body is None else json.dumps(body).encode("ascii")
        try:
            response = self._connection.request(method, target, content, {"Verta-Local-Admin": self._token})
        except ModelUnreachable:
            raise SupervisorGone from None
        if response.status == 503:
            raise SupervisorGone
        return response.status, _json(response)

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


def find_foreground() -> Iterator[Admin]:
    """The `verta-local serve` processes of this user on this host that run."""
    for path in sorted(config.serving_dir().glob(_FOREGROUND_FILES)):
        state = StateFile.read(path)
        if state is None:
            continue
        try:
            admin = find(state)
        except DeploymentError:
            continue  # it hangs: whoever started it sees it
        if admin is not None:
            yield admin
        elif not is_running(state.pid):
            try:
                path.unlink()  # killed: it could not take its file away
            except OSError:
                pass  # gone already, or not to be written: it is only untidy


def find(state: StateFile | None = None) -> Admin | None:
    """The serving process that `state` describes (by default the one in the background), or None.

    The state file is not believed: a process id may belong to another program by now, and another program may
    listen on the port. Whoever answers there has to prove that it knows the admin token before it is shown to it.
    Raises: DeploymentError when the process is there but does not answer.
    """
    state = state or StateFile.read()
    if state is None:
        return None
    nonce = secrets.token_hex(16)
    probe = KeepAlive("http", "127.0.0.1", state.port, _CONNECT_TIMEOUT_S, _CHALLENGE_TIMEOUT_S)
    try:
        response = probe.request("GET", f"/admin/v1/instance?nonce={nonce}", b"", {})
        proof = str(_json(response).get("proof", ""))
    except ModelUnreachable:
        return None
    except PredictionTimeout:
        raise DeploymentError(
            f"the serving process of this machine (process id {state.pid}) does not answer: "
            "end that process and deploy again"
        ) from None
    except (ValueError, AttributeError):
        return None  # something else listens there
    finally:
        probe.close()
    wanted = hmac.new(state.admin_token.encode(), nonce.encode(), hashlib.sha256).hexdigest()
    return Admin(state) if hmac.compare_digest(proof, wanted) else None


def start(order: dict[str, Any]) -> Admin:
    """Starts a serving process that outlives this program, with its first deployment. Hold the start lock.

    Raises: DeploymentError when it does not come up.
    """
    folder = config.serving_dir()
    log_path = folder / _LOG_FILE
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        process = subprocess.Popen(
            Interpreter.current().command("verta_local.serving.background", [str(folder)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=folder,
            **_detached(),
        )
    finally:
        os.close(log)
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        try:
            process.stdin.write(json.dumps(order).encode("ascii"))
            process.stdin.close()
        except BrokenPipeError:
            pass  # it ended at once; its log says why
        line = process.stdout.readline()
    # It is a child of this program until one of the two ends: someone has to collect it.
    threading.Thread(target=process.wait, name="collect-supervisor", daemon=True).start()
    admin = find() if line else None
    if admin is None:
        tail = "\n".join(log_path.read_text("utf-8", "replace").splitlines()[-20:])
        raise DeploymentError(f"the serving process did not start; its log {log_path} says:\n{tail}")
    return admin


def is_running(pid: int) -> bool:
    """Whether a process of this id is there; only right after it was heard of, since ids are used again."""
    if sys.platform == "win32":
        return False  # os.kill(pid, 0) would end it there
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    try:  # one that ended, and that its parent has not collected yet
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True  # no /proc here


def _detached() -> dict[str, Any]:
    if sys.platform == "win32":
        return {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}  # Ctrl-C in, or closing of, this terminal is not for it


def _json(response: Response) -> Any:
    return json.loads(response.body)
