"""The thin WSGI application in front: checks every request, answers the prediction routes, hands the rest to Flask.

Flask's routing alone would be more than half of what a small prediction costs, so these two routes go without.
The body stays bytes here: the model's process parses it.
"""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from verta_local.serving import frames
from verta_local.serving.endpoint import Answer, gzip_flag
from verta_local.serving.guard import SECURITY_HEADERS, Guard, token_matches
from verta_local.serving.metrics import Metrics
from verta_local.serving.table import EndpointTable

PREDICT_PREFIX = "/api/v1/predict/"
BATCH_PREDICT_PREFIX = "/api/v1/batch-predict/"
_REQUEST_ID = re.compile(r"[!-~]{1,200}")

_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    410: "Gone",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    502: "Bad Gateway",
    503: "Service Unavailable",
}

StartResponse = Callable[..., Any]
WsgiApplication = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class Front:
    """The WSGI application that the server runs. `guard` is set once the port is known."""

    def __init__(self, table: EndpointTable, metrics: Metrics, rest: Callable[[], WsgiApplication]) -> None:
        self._table = table
        self._metrics = metrics
        self._rest = rest
        self.guard: Guard | None = None
        self.is_draining = False

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        refusal = self.guard.refusal(environ) if self.guard is not None else "the server is starting"
        if refusal is not None:
            return _respond(start_response, Answer(403, message=refusal))
        path: str = environ["PATH_INFO"]
        if path.startswith(PREDICT_PREFIX):
            return self._predict(environ, start_response, frames.PREDICT, path[len(PREDICT_PREFIX) :])
        if path.startswith(BATCH_PREDICT_PREFIX):
            return self._predict(environ, start_response, frames.BATCH_PREDICT, path[len(BATCH_PREDICT_PREFIX) :])

        def start_with_headers(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, [*headers, *SECURITY_HEADERS], *more)

        return self._rest()(environ, start_with_headers)

    def _predict(
        self, environ: dict[str, Any], start_response: StartResponse, code: int, route: str
    ) -> Iterable[bytes]:
        request_id = environ.get("HTTP_VERTA_REQUEST_ID") or uuid.uuid4().hex
        if not _REQUEST_ID.fullmatch(request_id):
            answer = Answer(400, message="verta-request-id must be 1 to 200 printable ASCII characters without blanks")
            return _respond(start_response, answer)
        with self._metrics.timed(route) as timed:
            try:
                answer = self._answer(environ, code, route, request_id)
            except Exception as error:  # a fault of ours: it must not look like one that a client retries for minutes
                logging.getLogger(__name__).exception("prediction failed in the server")
                answer = Answer(502, message=f"the server failed with {type(error).__name__}; its log says more")
            timed.status, timed.run_id = answer.status, answer.run_id
        return _respond(start_response, answer, request_id)

    def _answer(self, environ: dict[str, Any], code: int, route: str, request_id: str) -> Answer:
        endpoint = self._table.get(route)
        if endpoint is None:
            if self._table.is_gone(route):
                return Answer(410, message="this model was undeployed: run.deploy() serves it again")
            return Answer(404, message="no model is deployed under this URL")
        if endpoint.token is not None:
            given = environ.get("HTTP_ACCESS_TOKEN", "")
            if not given:
                return Answer(401, message="the header Access-Token is missing")
            if not token_matches(given, endpoint.token):
                return Answer(401, message="the Access-Token is not the one of this model")
        if environ["REQUEST_METHOD"] != "POST":
            return Answer(405, message="a prediction is a POST with the input as JSON in the body")
        if self.is_draining:
            return Answer(503, message="the server is shutting down", retry_after_s=1)
        gzipped = gzip_flag(environ.get("HTTP_CONTENT_ENCODING", ""))
        if gzipped is None:
            return Answer(415, message="the body may be gzipped or plain, no other Content-Encoding")
        body = environ["wsgi.input"].read()
        return endpoint.predict(code | gzipped, request_id, body)


def _respond(start_response: StartResponse, answer: Answer, request_id: str | None = None) -> Iterable[bytes]:
    body = answer.body or json.dumps({"message": answer.message}).encode("ascii")
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *SECURITY_HEADERS]
    if request_id is not None:
        headers.append(("verta-request-id", request_id))
    if answer.retry_after_s:
        headers.append(("Retry-After", str(answer.retry_after_s)))
    if answer.status == 405:
        headers.append(("Allow", "POST"))
    start_response(f"{answer.status} {_REASONS.get(answer.status, 'Unknown')}", headers)
    return [body]
