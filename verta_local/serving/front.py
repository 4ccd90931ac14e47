"""The thin WSGI application in front: checks every request, answers the prediction routes, hands the rest to Flask.

Flask's routing alone would be more than half of what a small prediction costs, so the prediction routes go without.
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
from verta_local.serving.accesslog import Access, AccessLog
from verta_local.serving.endpoint import Answer, Endpoint, gzip_flag
from verta_local.serving.guard import SECURITY_HEADERS, Guard, token_refusal
from verta_local.serving.metrics import Metrics
from verta_local.serving.routes import Target, target_of
from verta_local.serving.table import EndpointTable

# A model that asks for the headers of a request does not get what opens doors.
_SECRET_HEADERS = frozenset({"HTTP_ACCESS_TOKEN", "HTTP_AUTHORIZATION", "HTTP_COOKIE", "HTTP_VERTA_LOCAL_ADMIN"})
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

    def __init__(
        self, table: EndpointTable, metrics: Metrics, access_log: AccessLog, rest: Callable[[], WsgiApplication]
    ) -> None:
        self._table = table
        self._metrics = metrics
        self._access_log = access_log
        self._rest = rest
        self.guard: Guard | None = None
        self.is_draining = False

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        refusal = self.guard.refusal(environ) if self.guard is not None else "the server is starting"
        if refusal is not None:
            answer = Answer(403, message=refusal)
            body = _respond(start_response, answer)
            self._note(environ, "", "", answer, 0.0, 0, body)
            return body
        target = target_of(environ["PATH_INFO"])
        if target is not None:
            return self._predict(environ, start_response, target)

        def start_with_headers(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, [*headers, *SECURITY_HEADERS], *more)

        return self._rest()(environ, start_with_headers)

    def _predict(self, environ: dict[str, Any], start_response: StartResponse, target: Target) -> Iterable[bytes]:
        request_id = environ.get("HTTP_VERTA_REQUEST_ID") or uuid.uuid4().hex
        if not _REQUEST_ID.fullmatch(request_id):
            answer = Answer(400, message="verta-request-id must be 1 to 200 printable ASCII characters without blanks")
            body = _respond(start_response, answer, error_key=target.error_key)
            self._note(environ, "", "", answer, 0.0, 0, body)
            return body
        endpoint = self._table.only() if target.name is None else self._table.get(target.name)
        route = endpoint.route if endpoint is not None else target.name or ""
        with self._metrics.timed(route) as timed:
            try:
                answer = self._answer(environ, target, endpoint, request_id)
            except Exception as error:  # a fault of ours: it must not look like one that a client retries for minutes
                logging.getLogger(__name__).exception("prediction failed in the server")
                answer = Answer(502, message=f"the server failed with {type(error).__name__}; its log says more")
            timed.status, timed.run_id = answer.status, answer.run_id
        body = _respond(start_response, answer, request_id, target.error_key)
        bytes_in = int(environ.get("CONTENT_LENGTH") or 0)
        self._note(environ, request_id, route, answer, timed.seconds, bytes_in, body)
        return body

    def _note(
        self,
        environ: dict[str, Any],
        request_id: str,
        route: str,
        answer: Answer,
        seconds: float,
        bytes_in: int,
        body: list[bytes],
    ) -> None:
        self._access_log.add(
            Access(
                request_id,
                environ.get("REMOTE_ADDR", ""),
                environ["REQUEST_METHOD"],
                environ["PATH_INFO"],
                route,
                answer.run_id,
                answer.status,
                seconds,
                answer.waited_s,
                bytes_in,
                len(body[0]),
                body[0] if answer.status >= 400 else b"",
                json.loads(answer.meta).get("noted") if answer.meta else None,
            )
        )

    def _answer(self, environ: dict[str, Any], target: Target, endpoint: Endpoint | None, request_id: str) -> Answer:
        if endpoint is None:
            if target.name is None:
                text = (
                    "/invocations is for a server of one model: use /api/v1/predict/RUN_ID or /v2/models/RUN_ID/infer"
                )
                return Answer(404, message=text)
            if self._table.is_gone(target.name):
                return Answer(410, message="this model was undeployed: run.deploy() serves it again")
            return Answer(404, message="no model is deployed under this URL")
        refusal = token_refusal(environ, endpoint)
        if refusal is not None:
            return Answer(401, message=refusal)
        if target.version and not endpoint.is_version(target.version):
            return Answer(404, message="no such version of this model is deployed")
        if environ["REQUEST_METHOD"] != "POST":
            return Answer(405, message="a prediction is a POST with the input in the body")
        if self.is_draining:
            return Answer(503, message="the server is shutting down", retry_after_s=1)
        gzipped = gzip_flag(environ.get("HTTP_CONTENT_ENCODING", ""))
        if gzipped is None:
            return Answer(415, message="the body may be gzipped or plain, no other Content-Encoding")
        is_plain = target.code == frames.PREDICT and not endpoint.wants_headers
        try:
            meta = b"" if is_plain else _meta(environ, target, endpoint)
        except ValueError:
            return Answer(400, message="Inference-Header-Content-Length is a number of bytes")
        return endpoint.predict(target.code | gzipped, request_id, environ["wsgi.input"].read(), meta)


def _meta(environ: dict[str, Any], target: Target, endpoint: Endpoint) -> bytes:
    """What the model's process needs to know of a request besides its body. Raises: ValueError."""
    meta: dict[str, Any] = {}
    if target.code == frames.INVOCATIONS:
        meta["content_type"] = environ.get("CONTENT_TYPE", "")
    if target.code == frames.INFER:
        meta["model"] = target.name
        length = environ.get("HTTP_INFERENCE_HEADER_CONTENT_LENGTH")
        meta["json_bytes"] = None if length is None else int(length)
    if endpoint.wants_headers:
        meta["headers"] = {
            name[5:].replace("_", "-").lower(): value
            for name, value in environ.items()
            if name.startswith("HTTP_") and name not in _SECRET_HEADERS
        }
    return json.dumps(meta).encode("ascii")


def _respond(
    start_response: StartResponse, answer: Answer, request_id: str | None = None, error_key: str = "message"
) -> list[bytes]:
    body = answer.body or json.dumps({error_key: answer.message}).encode("ascii")
    kind = "application/json"
    headers = [("Content-Length", str(len(body))), *SECURITY_HEADERS]
    if answer.meta:
        asked = json.loads(answer.meta).get("headers", {})
        kind = asked.pop("Content-Type", kind)
        headers += asked.items()
    headers.append(("Content-Type", kind))
    if request_id is not None:
        headers.append(("verta-request-id", request_id))
    if answer.retry_after_s:
        headers.append(("Retry-After", str(answer.retry_after_s)))
    if answer.status == 405:
        headers.append(("Allow", "POST"))
    start_response(f"{answer.status} {_REASONS.get(answer.status, 'Unknown')}", headers)
    return [body]
