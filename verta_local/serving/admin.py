"""The Flask application: health, metrics, and the admin routes by which this user's programs deploy and look.

Where the server is open to the network, all but the health routes want a token: names of runs, counts and shapes are
nobody's business who may not predict. The admin routes need the token of the supervisor's private state file in the
header `Verta-Local-Admin`, and refuse whatever a browser sends: they can start programs as this user.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from verta_local.deployment_settings import PROGRAM_SETTINGS, check_token
from verta_local.interpreter import Interpreter
from verta_local.serving.endpoint import DEPLOYED, STOPPED
from verta_local.serving.guard import has_any_token, is_loopback, token_matches
from verta_local.serving.process import DEFAULT_LOADER, Program
from verta_local.serving.protocol_pages import make_pages
from verta_local.serving.table import BadRequest, Stopping
from verta_local.serving.try_pages import make_try_pages

if TYPE_CHECKING:
    from verta_local.serving.supervisor import Supervisor

ADMIN_PREFIX = "/admin/v1"
ADMIN_HEADER = "Verta-Local-Admin"
_LONGEST_WAIT_S = 30.0
# What probes and load balancers ask, who have no token; and the files of the pages, which everybody has.
_OPEN_PATHS = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/ping", "/health"})
_OPEN_PREFIXES = (ADMIN_PREFIX, "/pages/")
_CHALLENGE = 'Basic realm="the token of a model as the password", charset="UTF-8"'


def make_app(supervisor: Supervisor) -> Flask:
    """The application of one supervisor."""
    app = Flask("verta_local.serving", static_folder=None)
    app.url_map.merge_slashes = False  # a path with an empty part is unknown, and no reason to send anyone elsewhere
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.register_blueprint(make_pages(supervisor))
    app.register_blueprint(make_try_pages(supervisor))
    table = supervisor.table
    wants_token = not is_loopback(supervisor.host)

    @app.errorhandler(HTTPException)
    def as_json(error: HTTPException) -> tuple[Response, int]:
        key = "error" if request.path.startswith("/v2") else "message"
        return jsonify({key: error.description}), error.code or 500

    @app.errorhandler(BadRequest)
    def bad_request(error: BadRequest) -> tuple[Response, int]:
        return jsonify(message=str(error)), 400

    @app.errorhandler(Exception)
    def own_fault(error: Exception) -> tuple[Response, int]:
        app.logger.exception("a request failed")
        return jsonify(message=f"the server failed with {type(error).__name__}; its log says more"), 500

    def has_token() -> bool:
        tokens = [token for endpoint in table.all() for token in endpoint.tokens]
        return has_any_token(request.environ, [*tokens, *([supervisor.admin_token] if supervisor.admin_token else [])])

    @app.before_request
    def token_on_the_network() -> tuple[Response, int, dict[str, str]] | None:
        is_open = request.path in _OPEN_PATHS or request.path.startswith(_OPEN_PREFIXES)
        if not wants_token or is_open or has_token():
            return None
        key = "error" if request.path.startswith("/v2") else "message"
        text = "this server is open to the network: send the token of one of its models as Access-Token"
        return jsonify({key: text}), 401, {"WWW-Authenticate": _CHALLENGE}

    @app.before_request
    def admin_only() -> tuple[Response, int] | None:
        if not request.path.startswith(ADMIN_PREFIX) or request.path == f"{ADMIN_PREFIX}/instance":
            return None
        if supervisor.admin_token is None:
            return jsonify(message="this server has no admin routes"), 404
        if "Origin" in request.headers or "Sec-Fetch-Site" in request.headers:
            return jsonify(message="the admin routes are not for browsers"), 403
        if not token_matches(request.headers.get(ADMIN_HEADER, ""), supervisor.admin_token):
            return jsonify(message="the admin token is missing or wrong"), 401
        return None

    @app.get("/health/live")
    def live() -> Response:
        return jsonify(status="live")

    @app.get("/health/ready")
    def ready() -> tuple[Response, int]:
        states = {endpoint.route: endpoint.state for endpoint in table.all()}
        is_ready = all(state == DEPLOYED for state in states.values())
        found: dict[str, Any] = {"status": "ready" if is_ready else "not ready"}
        if not wants_token or has_token():
            found["models"] = states
        return jsonify(found), 200 if is_ready else 503

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(
            supervisor.metrics.text(table.all(), supervisor.access_log),
            content_type="text/plain; version=0.0.4; charset=utf-8",
        )

    @app.get(f"{ADMIN_PREFIX}/instance")
    def instance() -> Response:
        """Proves to a caller that knows the admin token that this is the supervisor of the state file.

        The caller must not send the token before: after a reboot another program may own the port.
        """
        nonce = request.args.get("nonce", "").encode()
        key = (supervisor.admin_token or "").encode()
        proof = hmac.new(key, nonce, hashlib.sha256).hexdigest() if key else ""
        return jsonify(instance=supervisor.instance, proof=proof)

    @app.get(f"{ADMIN_PREFIX}/deployments")
    def deployments() -> Response:
        return jsonify([supervisor.shown(endpoint) for endpoint in table.all()])

    @app.post(f"{ADMIN_PREFIX}/deployments")
    def deploy() -> tuple[Response, int]:
        order = request.get_json(force=True)
        if not isinstance(order, dict):
            raise BadRequest("a deployment is a JSON object")
        try:
            endpoint = supervisor.deploy(order)
        except Stopping:
            return jsonify(message="the supervisor is shutting down"), 503
        return jsonify(supervisor.shown(endpoint)), 200

    @app.get(f"{ADMIN_PREFIX}/deployments/<run_id>")
    def one(run_id: str) -> tuple[Response, int]:
        endpoint = table.find(request.args.get("store_id", ""), run_id)
        if endpoint is None:
            return jsonify(status=STOPPED), 404
        generation = request.args.get("generation", type=int)
        if generation is not None:
            wait_s = min(request.args.get("wait_s", default=0.0, type=float), _LONGEST_WAIT_S)
            endpoint.wait_settled(generation, wait_s)
        return jsonify(supervisor.shown(endpoint)), 200

    @app.put(f"{ADMIN_PREFIX}/deployments/<run_id>/token")
    def set_token(run_id: str) -> tuple[Response, int]:
        endpoint = table.find(request.args.get("store_id", ""), run_id)
        if endpoint is None:
            return jsonify(status=STOPPED), 404
        token = request.get_json(force=True)
        if not isinstance(token, str):
            raise BadRequest("a token is a text")
        try:
            endpoint.change_token(check_token(token) or "", request.args.get("grace_s", default=0.0, type=float))
        except ValueError as error:
            raise BadRequest(str(error)) from None
        return jsonify(supervisor.shown(endpoint)), 200

    @app.delete(f"{ADMIN_PREFIX}/deployments/<run_id>")
    def undeploy(run_id: str) -> tuple[Response, int]:
        store_id = request.args.get("store_id", "")
        if table.find(store_id, run_id) is None:
            return jsonify(status=STOPPED), 404
        if request.args.get("wait") == "1":
            table.undeploy_run(store_id, run_id)
        else:
            threading.Thread(target=table.undeploy_run, args=(store_id, run_id), name="undeploy").start()
        return jsonify(status=STOPPED), 200

    return app


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
