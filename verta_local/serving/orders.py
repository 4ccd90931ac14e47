"""The admin routes, by which this user's programs deploy and look: plain WSGI, since a deployment waits for them.

They need the token of the supervisor's private state file in the header `Verta-Local-Admin`, and refuse whatever a
browser sends: they can start programs as this user.

    GET    /admin/v1/instance?nonce=TEXT                    proves who the server is; the only one without the token
    GET    /admin/v1/deployments                            what is served
    POST   /admin/v1/deployments                            serve what the body says
    GET    /admin/v1/deployments/RUN?store_id=&generation=&wait_s=
    PUT    /admin/v1/deployments/RUN/token?store_id=&grace_s=
    DELETE /admin/v1/deployments/RUN?store_id=&wait=
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from verta_local.deployment_settings import PROGRAM_SETTINGS, check_token
from verta_local.interpreter import Interpreter
from verta_local.serving.endpoint import STOPPED
from verta_local.serving.guard import REASONS, token_matches
from verta_local.serving.process import DEFAULT_LOADER, Program
from verta_local.serving.table import BadRequest, Stopping

if TYPE_CHECKING:
    from verta_local.serving.supervisor import Supervisor

ADMIN_PREFIX = "/admin/v1"
_HEADER_KEY = "HTTP_VERTA_LOCAL_ADMIN"
_LONGEST_WAIT_S = 30.0

Reply = tuple[int, Any]  # the status, and what the body is the JSON of


class Orders:
    """The WSGI application of the admin routes of one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._table = supervisor.table

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            status, found = self._reply(environ)
        except BadRequest as error:
            status, found = 400, {"message": str(error)}
        except Exception as error:
            logging.getLogger(__name__).exception("a request failed")
            text = f"the server failed with {type(error).__name__}; its log says more"
            status, found = 500, {"message": text}
        body = json.dumps(found, separators=(",", ":")).encode("ascii") + b"\n"
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        if status == 405:
            headers.append(("Allow", ", ".join(found["allowed"])))
        start_response(f"{status} {REASONS[status]}", headers)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    def _reply(self, environ: dict[str, Any]) -> Reply:
        path = environ["PATH_INFO"].removeprefix(ADMIN_PREFIX)
        query = {name: values[0] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
        refusal = None if path == "/instance" else self._refusal(environ)
        if refusal is not None:
            return refusal
        # A name with a "/" in it is none; the others are compared with the ids of runs, and mean nothing else.
        first, *names = path.removeprefix("/").split("/")
        word = "/".join([first, *("RUN" if number == 0 else name for number, name in enumerate(names))])
        run_id = names[0].encode("latin-1").decode("utf-8", "replace") if names else ""
        methods: dict[str, Callable[[], Reply]] | None = {
            "instance": {"GET": lambda: (200, self._instance(query.get("nonce", "")))},
            "deployments": {"GET": self._all, "POST": lambda: self._deploy(_json_of(environ))},
            "deployments/RUN": {
                "GET": lambda: self._one(run_id, query),
                "DELETE": lambda: self._undeploy(run_id, query),
            },
            "deployments/RUN/token": {"PUT": lambda: self._set_token(run_id, query, _json_of(environ))},
        }.get(word)
        if methods is None or names[:1] == [""]:
            return 404, {"message": "there is no such admin route"}
        method = environ["REQUEST_METHOD"]
        answer = methods.get("GET" if method == "HEAD" else method)
        if answer is None:
            return 405, {"message": "this route is asked in other ways", "allowed": sorted(methods)}
        return answer()

    def _refusal(self, environ: dict[str, Any]) -> Reply | None:
        token = self._supervisor.admin_token
        if token is None:
            return 404, {"message": "this server has no admin routes"}
        if "HTTP_ORIGIN" in environ or "HTTP_SEC_FETCH_SITE" in environ:
            return 403, {"message": "the admin routes are not for browsers"}
        if not token_matches(environ.get(_HEADER_KEY, ""), token):
            return 401, {"message": "the admin token is missing or wrong"}
        return None

    def _instance(self, nonce: str) -> dict[str, str]:
        """Proves to a caller that knows the admin token that this is the supervisor of the state file.

        The caller must not send the token before: after a reboot another program may own the port.
        """
        key = (self._supervisor.admin_token or "").encode()
        proof = hmac.new(key, nonce.encode(), hashlib.sha256).hexdigest() if key else ""
        return {"instance": self._supervisor.instance, "proof": proof}

    def _all(self) -> Reply:
        return 200, [self._supervisor.shown(endpoint) for endpoint in self._table.all()]

    def _deploy(self, order: Any) -> Reply:
        if not isinstance(order, dict):
            raise BadRequest("a deployment is a JSON object")
        try:
            endpoint = self._supervisor.deploy(order)
        except Stopping:
            return 503, {"message": "the supervisor is shutting down"}
        return 200, self._supervisor.shown(endpoint)

    def _one(self, run_id: str, query: dict[str, str]) -> Reply:
        endpoint = self._table.find(query.get("store_id", ""), run_id)
        if endpoint is None:
            return 404, {"status": STOPPED}
        if query.get("generation", "").isdecimal():
            endpoint.wait_settled(int(query["generation"]), min(_seconds(query, "wait_s"), _LONGEST_WAIT_S))
        return 200, self._supervisor.shown(endpoint)

    def _set_token(self, run_id: str, query: dict[str, str], token: Any) -> Reply:
        endpoint = self._table.find(query.get("store_id", ""), run_id)
        if endpoint is None:
            return 404, {"status": STOPPED}
        if not isinstance(token, str):
            raise BadRequest("a token is a text")
        try:
            endpoint.change_token(check_token(token) or "", _seconds(query, "grace_s"))
        except ValueError as error:
            raise BadRequest(str(error)) from None
        return 200, self._supervisor.shown(endpoint)

    def _undeploy(self, run_id: str, query: dict[str, str]) -> Reply:
        store_id = query.get("store_id", "")
        if self._table.find(store_id, run_id) is None:
            return 404, {"status": STOPPED}
        if query.get("wait") == "1":
            self._table.undeploy_run(store_id, run_id)
        else:
            threading.Thread(target=self._table.undeploy_run, args=(store_id, run_id), name="undeploy").start()
        return 200, {"status": STOPPED}


def program_of(order: dict[str, Any]) -> Program:
    """The program that a deployment order asks for. Raises: BadRequest."""
    spec, interpreter = order.get("spec"), order.get("interpreter")
    if not isinstance(spec, dict) or not isinstance(interpreter, dict):
        raise BadRequest("a deployment needs a spec and an interpreter")
    try:
        runs_in = Interpreter(
            str(interpreter["executable"]), dict(interpreter["folders"]), dict(interpreter["environment"])
        )
    except (KeyError, TypeError, ValueError):
        raise BadRequest("an interpreter has an executable, folders and an environment") from None
    settings = {name: order[name] for name in PROGRAM_SETTINGS if name in order}
    try:
        return Program(spec, runs_in, loader=str(order.get("loader") or DEFAULT_LOADER), **settings)
    except ValueError as error:
        raise BadRequest(str(error)) from None


def _json_of(environ: dict[str, Any]) -> Any:
    try:
        return json.loads(environ["wsgi.input"].read())
    except ValueError as error:  # of JSON, or of UTF-8
        raise BadRequest(f"the body is not JSON: {error}") from None


def _seconds(query: dict[str, str], name: str) -> float:
    """A number of seconds of the query; 0 where there is none that can be waited for."""
    try:
        seconds = float(query.get(name, "0"))
    except ValueError:
        return 0.0
    return seconds if 0 <= seconds < threading.TIMEOUT_MAX else 0.0
