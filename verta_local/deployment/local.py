"""Deploying on this machine: one background serving process per user and host, joined if it runs, else started.

All functions return status dicts: {"status": "not deployed" | "deploying" | "deployed" | "error", "url": str or None,
"token": str or None, "message": str}, for a deployed model also run_id, run_name, store_id, store, route, pid (of the
model's first process), pids, replicas, threads, restarts, restart_reasons, created_at (seconds), log (path of what the
model prints), is_replacing (whether a successor loads), canary (None, or run_id, run_name, share, status, message,
pids).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from verta_local import config
from verta_local.deployment.supervisor import Admin, StateFile, SupervisorGone, find, find_foreground, is_running, start
from verta_local.deployment.tokens import keep_token, kept_token
from verta_local.deployment_settings import (
    DEFAULT_PREDICT_TIMEOUT_S,
    DEFAULT_QUEUE_LIMIT,
    DEFAULT_REPLICAS,
    DEFAULT_THREADS,
    check_canary,
    check_predict_timeout_s,
    check_queue_limit,
    check_replicas,
    check_threads,
    check_token,
)
from verta_local.errors import DeploymentError
from verta_local.interpreter import Interpreter
from verta_store.files import make_private_folder

_LOCK_TIMEOUT_S = 60.0
_TRIES = 20
_POLL_S = 20.0
_END_TIMEOUT_S = 15.0


def deploy(
    spec: dict[str, Any],
    *,
    path: str | None = None,
    token: str | None = None,
    no_token: bool = False,
    wait: bool = False,
    threads: int = DEFAULT_THREADS,
    predict_timeout_s: float = DEFAULT_PREDICT_TIMEOUT_S,
    replicas: int = DEFAULT_REPLICAS,
    queue_limit: int = DEFAULT_QUEUE_LIMIT,
    canary: float | str | None = None,
    _loader: str | None = None,
) -> dict[str, Any]:
    """Serves a model spec in the background at .../predict/<run id>, or .../predict/<project id>/<path>.

    Where another store's run has that URL (run ids derive from names), a part of the store's id comes before the
    run id. What is deployed already stays as it is; a changed model, or another run at the same path, takes over
    without a lost request. `token` None: the one that it had last, else a random one of 256 bits. `wait` returns
    when the model answers. `replicas` processes run `threads` requests each at a time; one that takes longer than
    `predict_timeout_s` fails; more than `queue_limit` that wait are refused. `canary` ("10%", 0.1) gives the run
    that share of the requests of the run that is deployed at `path`.

    Raises:
        DeploymentError: "model deployment is failing;" and the model's own traceback (with `wait`); or the serving
            process does not start, or its state cannot be written.
        ValueError: a path, token, number of threads or time limit that cannot be used; a path where another store's
            run is deployed. TypeError: a path that is no text.
    """
    if path is not None and not isinstance(path, str):
        raise TypeError(f"path must be a str, not {type(path).__name__}")
    order = {
        "id": os.urandom(16).hex(),
        "spec": spec,
        "path": path,
        "token": check_token(token, no_token) or (None if no_token else kept_token(spec, path)),
        "no_token": no_token,
        "threads": check_threads(threads),
        "predict_timeout_s": check_predict_timeout_s(predict_timeout_s),
        "replicas": check_replicas(replicas),
        "queue_limit": check_queue_limit(queue_limit),
        "canary": check_canary(canary),
        "interpreter": _this_interpreter(),
        "loader": _loader,
    }
    admin, status = _order(order)
    try:
        if wait:
            status = _wait_until_settled(admin, status)
    finally:
        admin.close()
    return _public(status)


def set_token(spec: dict[str, Any], path: str | None, token: str, run_id: str | None, *, grace_s: float = 0.0) -> None:
    """Sets the token of what is, or will be, deployed at a path (None: at its run's id).

    `run_id` is what is served there now, if anything; the token before is taken as well for `grace_s`.

    Raises:
        ValueError: a token that no header can carry. DeploymentError: it cannot be kept.
    """
    checked = check_token(token)
    with _start_lock():
        admin = find() if run_id is not None else None
        if admin is not None:
            try:
                query = {"store_id": spec["store_id"], "grace_s": f"{max(0.0, grace_s)}"}
                admin.call("PUT", f"/deployments/{run_id}/token", query, checked)
            except SupervisorGone:
                pass  # what is deployed next has it
            finally:
                admin.close()
        keep_token(spec, path, checked)


def undeploy(store_id: str, run_id: str, wait: bool = False) -> dict[str, Any]:
    """Takes a run's model down; no error when it is not deployed. `wait` returns when its process is gone.

    Requests that run are answered first. The last one to go takes the background process with it.
    """
    admin = find()
    if admin is None:
        return status(store_id, run_id)
    try:
        query = {"store_id": store_id, "wait": "1" if wait else "0"}
        admin.call("DELETE", f"/deployments/{run_id}", query)
        if wait and not admin.call("GET", "/deployments")[1]:
            _wait_for_end(admin)
    except SupervisorGone:
        pass  # it went on its own: then nothing is deployed
    finally:
        admin.close()
    return _not_deployed("the model was undeployed: run.deploy() serves it again")


def status(store_id: str, run_id: str) -> dict[str, Any]:
    """What a run's deployment is doing now, asked from the serving process itself.

    A model that `verta-local serve` serves in the foreground counts, unless the run is deployed in the background too.
    """
    admin = find()
    if admin is not None:
        found = _ask(admin, store_id, run_id)
        if found is not None:
            return found
    for foreground in find_foreground():
        found = _ask(foreground, store_id, run_id)
        if found is not None:
            message = f"{found['message']} by `verta-local serve` (process id {foreground.pid})"
            return {**found, "message": message, "is_foreground": True}
    if admin is not None:
        return _not_deployed("the model is not deployed: run.deploy() serves it")
    left = StateFile.read()
    for entry in left.deployments if left is not None else []:
        if entry.get("run_id") == run_id and entry.get("store_id") == store_id:
            return _not_deployed(
                "the model was deployed, but its serving process is gone (killed, or this machine was restarted): "
                "run.deploy() serves it again"
            )
    return _not_deployed("the model is not deployed: run.deploy() serves it")


def _ask(admin: Admin, store_id: str, run_id: str) -> dict[str, Any] | None:
    """What one serving process says of a run; None when it does not serve it, or has ended."""
    try:
        code, found = admin.call("GET", f"/deployments/{run_id}", {"store_id": store_id})
        return _public(found) if code == 200 else None
    except SupervisorGone:
        return None
    finally:
        admin.close()


def list_deployments() -> list[dict[str, Any]]:
    """The status dicts of all that this user has deployed on this host, oldest first.

    What `verta-local serve` serves comes last, with `is_foreground`.
    """
    background = find()
    deployments = []
    for admin in (*([background] if background else []), *find_foreground()):
        try:
            served = admin.call("GET", "/deployments")[1]
            more = {} if admin is background else {"is_foreground": True}
            deployments += [{**_public(found), **more} for found in served]
        except SupervisorGone:
            continue
        finally:
            admin.close()
    return deployments


def _order(order: dict[str, Any]) -> tuple[Admin, dict[str, Any]]:
    """Hands the order to the serving process, which is started if there is none."""
    with _start_lock():
        for _ in range(_TRIES):
            admin = find() or start(order)
            try:
                code, found = admin.call("POST", "/deployments", body=order)
            except SupervisorGone:
                admin.close()
                time.sleep(0.25)  # it is on its way out: another one is needed
                continue
            if code == 200:
                keep_token(order["spec"], order["path"], found["token"])
                return admin, found
            admin.close()
            text = found.get("message", f"status {code}") if isinstance(found, dict) else f"status {code}"
            raise ValueError(text) if code == 400 else DeploymentError(text)
    raise DeploymentError(f"the serving process keeps ending: its log is in {config.serving_dir() / 'supervisor.log'}")


@contextmanager
def _start_lock() -> Iterator[None]:
    """Held by whoever starts the serving process, or writes beside its state. Raises: DeploymentError."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - start-up time

    folder = config.serving_dir()
    try:
        make_private_folder(folder)
        with FileLock(folder / "start.lock", timeout=_LOCK_TIMEOUT_S):
            yield
    except Timeout:  # an OSError too
        raise DeploymentError(
            f"another program has been deploying for {_LOCK_TIMEOUT_S:g} s: "
            f"if none does, delete {folder / 'start.lock'} and try again"
        ) from None
    except DeploymentError:
        raise  # one that is a TimeoutError is an OSError too
    except OSError as error:
        raise DeploymentError(
            f"cannot write to {folder} ({error.strerror or error}), where deployments keep their state: make room or "
            "make it writable, or set VERTA_LOCAL_STATE to another folder"
        ) from None


def _wait_until_settled(admin: Admin, status: dict[str, Any]) -> dict[str, Any]:
    generation = status["generation"]
    query = {"generation": str(generation), "wait_s": str(_POLL_S), "store_id": status["store_id"]}
    while True:
        if status["status"] == "error":
            raise DeploymentError(f"model deployment is failing;\n{status['message']}")
        failure = status["failure"]
        if failure is not None and failure["generation"] >= generation:
            raise DeploymentError(f"model deployment is failing;\n{failure['message']}")
        if status["settled_generation"] >= generation and status["status"] == "deployed":
            return status
        try:
            code, found = admin.call("GET", f"/deployments/{status['run_id']}", query)
        except SupervisorGone:
            raise DeploymentError("model deployment is failing;\nthe serving process ended while it loaded") from None
        if code != 200:
            raise DeploymentError("model deployment is failing;\nthe model was undeployed while it was loading")
        if found["settled_generation"] >= generation and found["status"] == "deploying":
            time.sleep(0.05)  # it was ready and died since: it is being started again
        status = found


def _wait_for_end(admin: Admin) -> None:
    deadline = time.monotonic() + _END_TIMEOUT_S
    while time.monotonic() < deadline and (is_running(admin.pid) or _is_announced(admin)):
        time.sleep(0.02)


def _is_announced(admin: Admin) -> bool:
    left = StateFile.read()
    return left is not None and left.instance == admin.instance


def _this_interpreter() -> dict[str, Any]:
    try:
        current = Interpreter.current()
    except RuntimeError as error:
        raise DeploymentError(f"cannot deploy from this program: {error}") from None
    return {
        "executable": current.executable,
        "folders": current.folders,
        "environment": current.environment,
    }


def _public(found: dict[str, Any]) -> dict[str, Any]:
    hidden = ("generation", "settled_generation", "failure")
    first = {key: found[key] for key in ("status", "url", "token", "message")}
    rest = {key: value for key, value in found.items() if key not in first and key not in hidden}
    return {**first, **rest, "is_replacing": found["settled_generation"] < found["generation"]}


def _not_deployed(message: str) -> dict[str, Any]:
    return {"status": "not deployed", "url": None, "token": None, "message": message}
