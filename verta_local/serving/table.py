"""All endpoints of one supervisor, by route."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from verta_local.deployment_settings import check_canary, check_token, new_token
from verta_local.serving.endpoint import ERROR, STOPPED, Endpoint
from verta_local.serving.launch import Launcher
from verta_local.serving.process import Program

_ROUTE = re.compile(r"[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*")
_OUTSIDE_ROUTE = re.compile(r"[^A-Za-z0-9_-]")
_ROUTE_LIMIT_CHARACTERS = 512
_GONE_LIMIT = 1000
_STORE_PART_CHARACTERS = 8


class BadRequest(ValueError):
    """What was asked of the admin API cannot be done; the message says why."""


class Stopping(Exception):
    """The supervisor is shutting down: start another one."""


class EndpointTable:
    """route -> endpoint. A run of a store is served at one route at most; another route moves it there.

    Another store's run never takes a route over, not even a default one that has become free: whoever holds the URL
    would get another model's answers.
    """

    def __init__(self, log_folder: Path, launcher: Launcher, on_change: Callable[[], None]) -> None:
        self._log_folder = log_folder
        self._launcher = launcher
        self._on_change = on_change
        self._lock = threading.Lock()
        self._order_lock = threading.Lock()  # held through a whole deploy; no endpoint goes in the middle of it
        self._endpoints: dict[str, Endpoint] = {}
        self._gone: dict[str, str] = {}  # route that was served once -> id of the store; a dict keeps them in order
        self._is_closed = False
        self.empty_since = time.monotonic()

    def get(self, route: str) -> Endpoint | None:
        """The endpoint of a route."""
        return self._endpoints.get(route)

    def only(self) -> Endpoint | None:
        """The endpoint of a server that has one; None with several or none."""
        try:
            (endpoint,) = self._endpoints.values()
        except (ValueError, RuntimeError):  # RuntimeError: one came in that very moment
            return None
        return endpoint

    def is_gone(self, route: str) -> bool:
        """Whether a model was served here before."""
        return route in self._gone

    def all(self) -> list[Endpoint]:
        """A copy of the present endpoints, oldest first."""
        with self._lock:
            return list(self._endpoints.values())

    def find(self, store_id: str, run_id: str) -> Endpoint | None:
        """The endpoint that serves a run of a store."""
        for endpoint in self.all():
            if endpoint.serves((store_id, run_id)):
                return endpoint
        return None

    def deploy(
        self,
        program: Program,
        path: str | None,
        token: str | None,
        no_token: bool,
        canary: float | str | None = None,
    ) -> Endpoint:
        """Serves the program at its route: a new endpoint, or in place of what is there. Does not wait for it.

        `token` None keeps the present token, or makes one of 256 random bits. `canary` is the share of requests
        that the program is to get beside the one that is served at that path. Raises: BadRequest, Stopping.
        """
        try:
            token = check_token(token, no_token)
            share = check_canary(canary)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        with self._order_lock:
            before = self.find(*program.identity)
            with self._lock:
                if self._is_closed:
                    raise Stopping
                route = self._route_for(program, path, before)
                endpoint = self._endpoints.get(route)
                if share is not None:
                    self._check_canary_place(program, path, endpoint, before)
                if endpoint is None and before is not None and before.program.identity == program.identity:
                    # The same model at another address: nothing to start.
                    del self._endpoints[before.route]
                    self._remember_gone(before)
                    before.route = route
                    endpoint = self._endpoints[route] = before
                if endpoint is None:
                    endpoint = Endpoint(route, program, new_token(), self._log_folder, self._launcher)
                    self._endpoints[route] = endpoint
                moved = before if before is not None and before is not endpoint else None
                moved_canary = moved is not None and moved.program.identity != program.identity
                if token is not None or no_token:
                    endpoint.token = token
                self._gone.pop(route, None)
            endpoint.deploy(program, share)
        self._on_change()
        if moved is not None and moved_canary:
            moved.end_canary()
        elif moved is not None:
            self.undeploy(moved)
        return endpoint

    def undeploy_run(self, store_id: str, run_id: str) -> bool:
        """Takes a run down: its endpoint, or only its part in one where it is the canary. False: it is not served."""
        endpoint = self.find(store_id, run_id)
        if endpoint is None:
            return False
        if endpoint.program.identity == (store_id, run_id):
            self.undeploy(endpoint)
        else:
            endpoint.end_canary()
        return True

    def _check_canary_place(
        self, program: Program, path: str | None, endpoint: Endpoint | None, before: Endpoint | None
    ) -> None:
        """Raises: BadRequest where there is nothing that the program could be the canary of."""
        if path is None or endpoint is None or endpoint.state in (ERROR, STOPPED):
            raise BadRequest(
                "a canary gets a share of the requests of another run: "
                "give the path at which that one is deployed, and deploy it first"
            )
        if endpoint.program.identity == program.identity:
            raise BadRequest(f"run {program.identity[1]} is served at that path already: it cannot be its own canary")

    def undeploy(self, endpoint: Endpoint) -> None:
        """Takes an endpoint down; returns when its processes are gone."""
        with self._order_lock, self._lock:
            if self._endpoints.get(endpoint.route) is endpoint:
                del self._endpoints[endpoint.route]
                self._remember_gone(endpoint)
            if not self._endpoints:
                self.empty_since = time.monotonic()
        endpoint.stop()
        self._on_change()

    def _route_for(self, program: Program, path: str | None, before: Endpoint | None) -> str:
        """Where the program is to be served. Call with the lock held. Raises: BadRequest."""
        store_id, run_id = program.identity
        route = route_of(program.spec, path)
        if path is not None:
            present = self._endpoints.get(route)
            if present is not None and present.program.identity[0] != store_id:
                raise BadRequest(
                    f"the path {path!r} is taken by run {present.program.identity[1]} of another store "
                    f"({present.program.spec.get('store') or present.program.identity[0]}): "
                    "undeploy that one first, or choose another path"
                )
            return route
        choices = [route]
        store_part = _OUTSIDE_ROUTE.sub("_", store_id)
        choices += [f"{part}/{run_id}" for part in (store_part[:_STORE_PART_CHARACTERS], store_part) if part]
        if before is not None and before.route in choices:
            return before.route  # its URL stays, also when a shorter one has become free
        for choice in choices:
            present = self._endpoints.get(choice)
            owner = present.program.identity[0] if present is not None else self._gone.get(choice, store_id)
            if owner == store_id:
                return choice
        raise BadRequest(f"the URL of run {run_id} is taken by another store: give a path")

    def _remember_gone(self, endpoint: Endpoint) -> None:
        self._gone[endpoint.route] = endpoint.program.identity[0]
        if len(self._gone) > _GONE_LIMIT:
            del self._gone[next(iter(self._gone))]

    def close_if_empty(self, idle_s: float) -> bool:
        """Refuses further deploys if nothing was served for `idle_s`; returns whether it did."""
        with self._lock:
            if not self._endpoints and time.monotonic() - self.empty_since >= idle_s:
                self._is_closed = True
            return self._is_closed

    def stop_all(self, drain_s: float) -> None:
        """Takes everything down, all at the same time."""
        with self._lock:
            self._is_closed = True
            endpoints = list(self._endpoints.values())
        threads = [threading.Thread(target=endpoint.stop, args=(drain_s,), daemon=True) for endpoint in endpoints]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def kill_all(self) -> None:
        """Ends all children at once."""
        for endpoint in self.all():
            endpoint.kill()


def route_of(spec: dict[str, Any], path: str | None) -> str:
    """What follows `/api/v1/predict/`: the run id, or the project id and the path. Raises: BadRequest."""
    run_id = spec.get("run_id")
    if not isinstance(spec.get("store_id"), str) or not spec["store_id"]:
        raise BadRequest("the model spec has no store_id")
    if not isinstance(run_id, str) or not _ROUTE.fullmatch(run_id):
        raise BadRequest("the model spec has no usable run_id")
    if path is None:
        return run_id
    plain = path.strip("/")
    is_known = _ROUTE.fullmatch(plain) and not {".", ".."} & set(plain.split("/"))
    if not is_known or len(plain) > _ROUTE_LIMIT_CHARACTERS:
        raise BadRequest("a path is made of letters, digits, '.', '_', '~' and '-', parts separated by '/'")
    # An endpoint's spec has '' for its project: its path is the whole of the URL's end.
    return plain if spec.get("project_id") == "" else f"{spec.get('project_id') or 'project'}/{plain}"
