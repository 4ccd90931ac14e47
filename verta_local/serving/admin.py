"""The Flask application: health, metrics, and the pages; all but predictions and the admin routes (`orders`).

Where the server is open to the network, all but the health routes want a token: names of runs, counts and shapes are
nobody's business who may not predict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from verta_local.serving.endpoint import DEPLOYED
from verta_local.serving.guard import has_any_token, is_loopback
from verta_local.serving.protocol_pages import make_pages
from verta_local.serving.try_pages import make_try_pages

if TYPE_CHECKING:
    from verta_local.serving.supervisor import Supervisor

# What probes and load balancers ask, who have no token; and the files of the pages, which everybody has.
_OPEN_PATHS = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/ping", "/health"})
_OPEN_PREFIX = "/pages/"
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

    @app.errorhandler(Exception)
    def own_fault(error: Exception) -> tuple[Response, int]:
        app.logger.exception("a request failed")
        return jsonify(message=f"the server failed with {type(error).__name__}; its log says more"), 500

    def has_token() -> bool:
        tokens = [token for endpoint in table.all() for token in endpoint.tokens]
        return has_any_token(request.environ, [*tokens, *([supervisor.admin_token] if supervisor.admin_token else [])])

    @app.before_request
    def token_on_the_network() -> tuple[Response, int, dict[str, str]] | None:
        is_open = request.path in _OPEN_PATHS or request.path.startswith(_OPEN_PREFIX)
        if not wants_token or is_open or has_token():
            return None
        key = "error" if request.path.startswith("/v2") else "message"
        text = "this server is open to the network: send the token of one of its models as Access-Token"
        return jsonify({key: text}), 401, {"WWW-Authenticate": _CHALLENGE}

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

    return app
