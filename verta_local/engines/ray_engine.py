"""The engine `ray`: the unchanged class on Ray Serve, behind the same routes, tokens and pages as the local engine.

A deployment is two things: an application of Ray Serve, whose replicas load the model from the store on their nodes,
and an entry in this machine's serving process, whose process for that model (`ray_lane`) passes requests on to Ray.
Ray's own HTTP proxy does not get the application, so nothing goes past the tokens.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from verta_local.deployment import local
from verta_local.deployment_settings import (
    DEFAULT_PREDICT_TIMEOUT_S,
    DEFAULT_REPLICAS,
    DEFAULT_THREADS,
    check_predict_timeout_s,
    check_replicas,
    check_threads,
)
from verta_local.engines.ray_replica import FAULT_BEGINS, FAULT_ENDS, ModelReplica
from verta_local.errors import DeploymentError
from verta_local.serving.process import BODY_LIMIT_BYTES
from verta_store import ids

_THREADS_LIMIT = 64
_KNOCK_S = 5.0
_LOADER = "verta_local.engines.ray_lane:connect"
_TERMINAL = re.compile(r"\x1b\[[0-9;]*m")


class RayEngine:
    """See `engines.ServingEngine`. Raises: DeploymentError where Ray is not installed."""

    def __init__(self) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
            self._serve: Any = importlib.import_module("ray.serve")
        except ImportError:
            raise DeploymentError(
                "the engine 'ray' needs Ray Serve: install it with: python -m pip install 'verta-local[ray]'"
            ) from None

    def deploy(
        self,
        spec: dict[str, Any],
        *,
        path: str | None = None,
        token: str | None = None,
        no_token: bool = False,
        wait: bool = False,
        canary: float | str | None = None,
        replicas: int = DEFAULT_REPLICAS,
        threads: int = DEFAULT_THREADS,
        predict_timeout_s: float = DEFAULT_PREDICT_TIMEOUT_S,
        address: str | None = None,
        actor_options: dict[str, Any] | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """Starts the replicas, waits until they have loaded the model, and puts the routes in front.

        Args:
            replicas: of the model on the cluster, each with `threads` predictions at a time.
            address: of the Ray cluster; by default `RAY_ADDRESS`, else the one that runs on this machine.
            actor_options: what each replica asks of its node, as Ray names it: {"num_cpus": 2, "num_gpus": 1}.
        """
        if canary is not None:
            raise ValueError("the engine 'ray' has no canary: deploy it to a path of its own")
        timeout_s = check_predict_timeout_s(predict_timeout_s)
        name = _application(str(spec["store_id"]), str(spec["run_id"]))
        with self._cluster(address) as cluster:
            deployment = self._serve.deployment(ModelReplica).options(
                num_replicas=check_replicas(replicas),
                max_ongoing_requests=check_threads(threads),
                ray_actor_options={"num_cpus": 1, **(actor_options or {})},
            )
            self._serve.start(proxy_location="Disabled")
            try:
                self._serve.run(
                    deployment.bind(spec, threads, BODY_LIMIT_BYTES),
                    name=name,
                    route_prefix=None,  # not by Ray's own HTTP proxy, which knows no tokens
                    logging_config={"log_level": "WARNING"},
                )
            except RuntimeError as error:
                said = self._fault_of(name) or str(error)
                self._serve.delete(name)
                raise DeploymentError(f"model deployment is failing;\n{said}") from None
            where = {"address": cluster, "application": name, "timeout_s": timeout_s}
            status = local.deploy(
                {**spec, "ray": where},
                path=path,
                token=token,
                no_token=no_token,
                wait=wait,
                threads=min(_THREADS_LIMIT, replicas * threads),
                predict_timeout_s=timeout_s,
                _loader=_LOADER,
                **settings,
            )
            self._delete_left_over(str(spec["store_id"]), keep=name)
            return self._with_cluster(status, name)

    def undeploy(self, store_id: str, run_id: str, wait: bool = False) -> dict[str, Any]:
        """Takes the routes away first, then the replicas."""
        status = local.undeploy(store_id, run_id, wait=wait)
        with self._cluster(None):
            name = _application(store_id, run_id)
            if name in self._serve.status().applications:
                self._serve.delete(name, _blocking=wait)
        return status

    def status(self, store_id: str, run_id: str) -> dict[str, Any]:
        """The status of the routes, with `ray`: {"application", "status", "replicas" (that run), "message"}."""
        found = local.status(store_id, run_id)
        if found["status"] == "not deployed":
            return found
        try:
            with self._cluster(None):
                return self._with_cluster(found, _application(store_id, run_id))
        except DeploymentError as error:
            return {**found, "status": "error", "message": str(error)}

    @contextmanager
    def _cluster(self, address: str | None) -> Iterator[str]:
        """Connects to the cluster, gives its address, and lets go of it unless this program was connected before."""
        was_connected = self._ray.is_initialized()
        if not was_connected:
            logging.getLogger("ray.serve").setLevel(logging.WARNING)
            wanted = address or os.environ.get("RAY_ADDRESS") or "auto"
            try:
                _knock(wanted)
                self._ray.init(address=wanted, log_to_driver=False, logging_level=logging.ERROR, namespace="serve")
            except (OSError, RuntimeError, ValueError) as error:
                where = "on this machine" if wanted == "auto" else f"at {wanted}"
                said = (str(error).strip().splitlines() or [""])[0]
                raise DeploymentError(
                    f"no Ray cluster answers {where} ({said}): start one with: ray start --head; or set RAY_ADDRESS"
                ) from None
        try:
            yield str(self._ray.get_runtime_context().gcs_address)
        finally:
            if not was_connected:
                self._ray.shutdown()

    def _with_cluster(self, status: dict[str, Any], name: str) -> dict[str, Any]:
        found = self._serve.status().applications.get(name)
        if found is None:
            text = "its replicas are gone from the Ray cluster: deploy it again"
            return {**status, "engine": "ray", "status": "error", "message": text}
        counts = [each.replica_states.get("RUNNING", 0) for each in found.deployments.values()]
        state = {"application": name, "status": found.status.value, "replicas": sum(counts), "message": found.message}
        more: dict[str, Any] = {"engine": "ray", "ray": state}
        if found.status.value == "UNHEALTHY":
            more |= {"status": "error", "message": f"Ray says: {found.message}"}
        return {**status, **more}

    def _fault_of(self, name: str) -> str:
        """What the model itself said in a replica that did not start; '' when it said nothing."""
        application = self._serve.status().applications.get(name)
        for each in application.deployments.values() if application is not None else ():
            text = _TERMINAL.sub("", each.message)
            begin, _, rest = text.rpartition(FAULT_BEGINS)
            if begin:
                return rest.partition(FAULT_ENDS)[0].strip()
        return ""

    def _delete_left_over(self, store_id: str, keep: str) -> None:
        """Takes the replicas down whose run is not deployed any more: another one took its path over."""
        beginning = _application(store_id, "")
        for name in list(self._serve.status().applications):
            if not name.startswith(beginning) or name == keep:
                continue
            if local.status(store_id, name.removeprefix(beginning))["status"] == "not deployed":
                self._serve.delete(name, _blocking=False)


def _knock(address: str) -> None:
    """Ray tries for minutes where nothing listens; this says so at once. Raises: OSError."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def _application(store_id: str, run_id: str) -> str:
    """The name of a run's application; of this host, since its routes are here."""
    return f"verta-{ids.host_id()[:8]}-{store_id[:8]}-{run_id}"
