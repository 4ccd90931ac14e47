"""The HTTP side by granian (extra `verta-local[fast]`): HTTP in native code, the same application behind it.

Same shape as `listener.HttpServer`. granian has no public way to run a WSGI application in threads of a process that
it does not own, so this uses what its own servers use, of the versions that are known to fit.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from verta_local.serving.addresses import check_address
from verta_local.serving.front import Front
from verta_local.serving.guard import SECURITY_HEADERS

_KNOWN_MAJOR = "2."
_BACKLOG = 1024
_NATIVE_THREADS = 512  # granian's own, made when needed: they read requests, for as long as one arrives
_NATIVE_THREAD_IDLE_S = 30
_BUFFER_BYTES = 64 * 1024  # bounds the head of a request too
_HEAD_TIMEOUT_MS = 20_000
_REFUSED_READ_S = 3.0
_READING_AWAY_LIMIT = 16
_PIECE_BYTES = 1 << 20
_WAKE_S = 1.0
_STATUS_DIGITS = 3


class Unfit(Exception):
    """This granian cannot be used; the message says why."""


class _TooLarge(Exception):
    """A body is over the limit."""


class _CutShort(Exception):
    """A body is not what its length says."""


class GranianServer:
    """Listens on `host` and `port` (0: any free one). Raises: Unfit, ValueError, OSError."""

    def __init__(self, application: Front, host: str, port: int, body_limit_bytes: int) -> None:
        native, futures, http = _granian()
        check_address(host, port)
        self._ended = threading.Event()
        self._body_limit_bytes = body_limit_bytes
        self._application = application
        # Such a read has no time limit: clients that send nothing more must not take all threads.
        self._reading_away = threading.BoundedSemaphore(_READING_AWAY_LIMIT)
        # Our own socket: granian's would share the port with any other server of this user (SO_REUSEPORT).
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server(("" if host == "*" else host, port), family=family, backlog=_BACKLOG)
        self.port = int(listening.getsockname()[1])
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)
        try:
            holder = native.SocketHolder(listening.fileno(), False, _BACKLOG)
            settings = http.HTTP1Settings(header_read_timeout=_HEAD_TIMEOUT_MS, max_buffer_size=_BUFFER_BYTES)
            no_tls: tuple[Any, ...] = (False, None, None, None, "tls1.3", None, [], False)
            pools = (1, 512, _NATIVE_THREADS, _NATIVE_THREAD_IDLE_S, _BACKLOG)
            worker = native.WSGIWorker(
                1, (None, holder), None, *pools, "1", settings, None, None, *no_tls, (None, None)
            )
            self._loop = importlib.import_module("asyncio").new_event_loop()  # never runs: its scheduler wants one
            self._signal = native.WorkerSignal()
            self._signal.add_cb(self._ended.set)
            scheduler = futures._new_cbscheduler(self._loop, self._take, impl_asyncio=True)
            worker.serve_mtr(scheduler, self._loop, self._signal)
            listening.detach()  # it is granian's now, which closes it
        except (AttributeError, TypeError) as error:
            for opened in (listening, self._wake_read, self._wake_write):
                opened.close()
            raise Unfit(f"its version {native.__version__} is not one that this one knows ({error})") from None

    def serve_until(self, is_stopping: Callable[[], bool]) -> None:
        """Waits; the requests are answered by granian's threads."""
        while not is_stopping():
            if select.select([self._wake_read], [], [], _WAKE_S)[0]:
                self._wake_read.recv(1024)

    def wake(self) -> None:
        """Has `serve_until` look at its condition."""
        try:
            self._wake_write.send(b"!")
        except OSError:
            pass  # many wishes to wake are waiting, or it is over

    def drain(self, limit_s: float, is_hurried: Callable[[], bool]) -> None:
        """Stops listening, answers what is in flight."""
        self._signal.set()
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline and not is_hurried() and not self._ended.wait(0.05):
            pass
        self._loop.close()
        self._wake_read.close()
        self._wake_write.close()

    def _take(self, protocol: Any, scope: dict[str, Any]) -> None:
        """Reads a request, in one of granian's threads; what a model is to answer is answered later."""
        try:
            body = self._body(scope)
        except _CutShort as error:
            self._refuse(protocol, 400, str(error))
            return
        except _TooLarge:
            self._refuse(protocol, 413, f"the body is larger than the limit of {self._body_limit_bytes} bytes")
            if self._reading_away.acquire(blocking=False):
                try:
                    _read_away(scope["wsgi.input"])
                finally:
                    self._reading_away.release()
            return
        self._answer(protocol, scope, body)

    def _refuse(self, protocol: Any, status: int, message: str) -> None:
        headers = [("Content-Type", "application/json"), *SECURITY_HEADERS]
        protocol.response_bytes(status, headers, json.dumps({"message": message}).encode("ascii"))

    def _answer(self, protocol: Any, scope: dict[str, Any], body: bytes) -> None:
        status = 500
        headers: list[tuple[str, str]] = []

        def start_response(line: str, found: list[tuple[str, str]], *more: object) -> None:
            nonlocal status, headers
            status, headers = int(line[:_STATUS_DIGITS]), found

        try:
            if self._application.begin(scope, body, protocol.response_bytes):
                return
            scope["wsgi.input"] = io.BytesIO(body)
            pieces = self._application(scope, start_response)
            try:
                answer = b"".join(pieces)
            finally:
                if hasattr(pieces, "close"):
                    pieces.close()
        except Exception:
            logging.getLogger(__name__).exception("a request failed in the server")
            status, headers = 500, [("Content-Type", "application/json"), *SECURITY_HEADERS]
            answer = b'{"message": "the server failed; its log says more"}'
        protocol.response_bytes(status, headers, answer)

    def _body(self, scope: dict[str, Any]) -> bytes:
        """The whole body of a request. Raises: _TooLarge, _CutShort."""
        limit, stream = self._body_limit_bytes, scope["wsgi.input"]
        length = scope.get("CONTENT_LENGTH")
        if length is not None:
            if int(length) > limit:
                raise _TooLarge
            body = bytes(stream.read())  # which does not say that the client is gone
            if len(body) < int(length):
                raise _CutShort(f"the request ended before all {length} bytes of its body")
            return body
        if "HTTP_TRANSFER_ENCODING" not in scope:
            return b""
        pieces, size = [], 0
        while piece := stream.read(_PIECE_BYTES):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise _TooLarge
        return b"".join(pieces)


def _read_away(stream: Any) -> None:
    """Throws away what still comes, for a moment: a client that is cut off would see a reset and no answer."""
    deadline = time.monotonic() + _REFUSED_READ_S
    while time.monotonic() < deadline and stream.read(_PIECE_BYTES):
        pass


def _granian() -> tuple[Any, Any, Any]:
    """granian's modules. Raises: Unfit."""
    try:
        native, futures, http = (
            importlib.import_module(f"granian.{name}") for name in ("_granian", "_futures", "http")
        )
    except ImportError:
        raise Unfit("it is not installed; it comes with: python -m pip install 'verta-local[fast]'") from None
    if not str(native.__version__).startswith(_KNOWN_MAJOR):
        raise Unfit(f"its version is {native.__version__}, and only {_KNOWN_MAJOR}x is known here")
    return native, futures, http
