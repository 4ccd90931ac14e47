"""The thin WSGI application in front: checks every request, answers the prediction routes, hands the rest to Flask.

Flask's routing alone would be more than half of what a small prediction costs, so the prediction routes go without.
The body stays bytes here: the model's process parses it.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

from verta_local.serving import frames
from verta_local.serving.accesslog import Access, AccessLog
from verta_local.serving.calls import Answer
from verta_local.serving.endpoint import Endpoint, gzip_flag
from verta_local.serving.guard import REASONS, SECURITY_HEADERS, Guard, token_refusal
from verta_local.serving.metrics import Metrics
from verta_local.serving.routes import Target, target_of
from verta_local.serving.table import EndpointTable

# A model that asks for the headers of a request does not get what opens doors.
_SECRET_HEADERS = frozenset({"HTTP_ACCESS_TOKEN", "HTTP_AUTHORIZATION", "HTTP_COOKIE", "HTTP_VERTA_LOCAL_ADMIN"})
_ids = random.Random()  # of requests, not for secrets: one from the system would hand over Python's lock
_REQUEST_ID = re.compile(r"[!-~]{1,200}")

Headers = list[tuple[str, str]]
StartResponse = Callable[..., Any]
Respond = Callable[[int, Headers, bytes], None]  # status, headers, body
WsgiApplication = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class Front:
    """The WSGI application that the server runs. `guard` is set once the port is known."""

    def __init__(self, table: EndpointTable, metrics: Metrics, access_log: AccessLog, rest: WsgiApplication) -> None:
        self._table = table
        self._metrics = metrics
        self._access_log = access_log
        self._rest = rest
        self.guard: Guard | None = None
        self.is_draining = False

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answers any request; one for a model waits for it."""
        told = _Told()
        asked = self._asked(environ, told)
        if asked is None:

            def start_with_headers(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
                return start_response(status, [*headers, *SECURITY_HEADERS], *more)

            return self._rest(environ, start_with_headers)
        if asked.endpoint is not None:
            try:
                answer = asked.endpoint.predict(asked.code, asked.request_id, environ["wsgi.input"].read(), asked.meta)
            except Exception as error:
                answer = _own_fault(error)
            asked.finish(answer)
        start_response(f"{told.status} {REASONS.get(told.status, 'Unknown')}", told.headers)
        return [told.body]

    def begin(self, environ: dict[str, Any], body: bytes, respond: Respond) -> bool:
        """Has a request for a model answered by `respond`, mostly later and in any thread; False: it is for none."""
        asked = self._asked(environ, respond)
        if asked is None:
            return False
        if asked.endpoint is not None:
            try:
                asked.endpoint.begin(asked.code, asked.request_id, body, asked.meta, asked.finish)
            except Exception as error:
                asked.finish(_own_fault(error))
        return True

    def _asked(self, environ: dict[str, Any], respond: Respond) -> _Asked | None:
        """What is asked; without an endpoint: it was refused, and that is answered. None: no model is asked."""
        asked = _Asked(self, environ, respond)
        refusal = self.guard.refusal(environ) if self.guard is not None else "the server is starting"
        if refusal is not None:
            asked.finish(Answer(403, message=refusal))
            return asked
        target = target_of(environ["PATH_INFO"])
        if target is None:
            return None
        asked.error_key = target.error_key
        try:
            asked.request_id = _request_id(environ)
            endpoint = self._table.only() if target.name is None else self._table.get(target.name)
            asked.route = endpoint.route if endpoint is not None else target.name or ""
            checked = self._checked(environ, target, endpoint)
            asked.code, asked.meta = _code_and_meta(environ, target, checked)
            asked.endpoint = checked
        except _Refused as refused:
            asked.finish(refused.answer)
        except Exception as error:
            asked.finish(_own_fault(error))
        return asked

    def _checked(self, environ: dict[str, Any], target: Target, endpoint: Endpoint | None) -> Endpoint:
        """The endpoint, when it may be asked this now. Raises: _Refused."""
        if endpoint is None:
            if target.name is None:
                text = (
                    "/invocations is for a server of one model: use /api/v1/predict/RUN_ID or /v2/models/RUN_ID/infer"
                )
                raise _Refused(404, text)
            if self._table.is_gone(target.name):
                raise _Refused(410, "this model was undeployed: run.deploy() serves it again")
            raise _Refused(404, "no model is deployed under this URL")
        refusal = token_refusal(environ, endpoint)
        if refusal is not None:
            raise _Refused(401, refusal)
        if target.version and not endpoint.is_version(target.version):
            raise _Refused(404, "no such version of this model is deployed")
        if environ["REQUEST_METHOD"] != "POST":
            raise _Refused(405, "a prediction is a POST with the input in the body")
        if self.is_draining:
            raise _Refused(503, "the server is shutting down", retry_after_s=1)
        return endpoint

    def note(self, asked: _Asked, answer: Answer, body: bytes, noted: dict[str, Any] | None) -> None:
        """Counts an answered request, and logs it."""
        environ = asked.environ
        seconds = 0.0
        if asked.request_id:
            seconds = time.perf_counter() - asked.begun_at
            self._metrics.count(asked.route, answer.run_id, answer.status, seconds)
        self._access_log.add(
            Access(
                asked.request_id,
                environ.get("REMOTE_ADDR", ""),
                environ["REQUEST_METHOD"],
                environ["PATH_INFO"],
                asked.route,
                answer.run_id,
                answer.status,
                seconds,
                answer.waited_s,
                int(environ.get("CONTENT_LENGTH") or 0) if asked.request_id else 0,
                len(body),
                body if answer.status >= 400 else b"",
                noted,
            )
        )


class _Told:
    """Keeps a response."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.body = b""

    def __call__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body


class _Refused(Exception):
    """A request gets no answer of a model."""

    def __init__(self, status: int, message: str, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.answer = Answer(status, message=message, retry_after_s=retry_after_s)


class _Asked:
    """One request, until it is answered."""

    def __init__(self, front: Front, environ: dict[str, Any], respond: Respond) -> None:
        self.environ = environ
        self.begun_at = time.perf_counter()
        self.request_id = ""
        self.route = ""
        self.error_key = "message"
        self.endpoint: Endpoint | None = None  # whose model is to answer
        self.code = 0
        self.meta = b""
        self._front = front
        self._respond = respond

    def finish(self, answer: Answer) -> None:
        """Responds, once."""
        body = answer.body or json.dumps({self.error_key: answer.message}).encode("ascii")
        meta = json.loads(answer.meta) if answer.meta else {}
        self._front.note(self, answer, body, meta.get("noted"))
        headers = [("Content-Length", str(len(body))), *SECURITY_HEADERS]
        asked = meta.get("headers", {})
        kind = asked.pop("Content-Type", "application/json")
        headers += asked.items()
        headers.append(("Content-Type", kind))
        if self.request_id:
            headers.append(("verta-request-id", self.request_id))
        if answer.retry_after_s:
            headers.append(("Retry-After", str(answer.retry_after_s)))
        if answer.status == 405:
            headers.append(("Allow", "POST"))
        self._respond(answer.status, headers, body)


def _request_id(environ: dict[str, Any]) -> str:
    """The one that the request has, else a new one. Raises: _Refused."""
    given = environ.get("HTTP_VERTA_REQUEST_ID")
    if not given:
        return f"{_ids.getrandbits(128):032x}"
    if not _REQUEST_ID.fullmatch(given):
        raise _Refused(400, "verta-request-id must be 1 to 200 printable ASCII characters without blanks")
    return str(given)


def _own_fault(error: Exception) -> Answer:
    """A fault of ours: it must not look like one that a client retries for minutes."""
    logging.getLogger(__name__).exception("prediction failed in the server", exc_info=error)
    return Answer(502, message=f"the server failed with {type(error).__name__}; its log says more")


def _code_and_meta(environ: dict[str, Any], target: Target, endpoint: Endpoint) -> tuple[int, bytes]:
    """The frame's code, and what the model's process needs to know besides the body. Raises: _Refused."""
    gzipped = gzip_flag(environ.get("HTTP_CONTENT_ENCODING", ""))
    if gzipped is None:
        raise _Refused(415, "the body may be gzipped or plain, no other Content-Encoding")
    if target.code == frames.PREDICT and not endpoint.wants_headers:
        return target.code | gzipped, b""
    try:
        return target.code | gzipped, _meta(environ, target, endpoint)
    except ValueError:
        raise _Refused(400, "Inference-Header-Content-Length is a number of bytes") from None


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
