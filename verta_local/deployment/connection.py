"""Keep-alive HTTP to a prediction server by the standard library: one connection per thread, one write a request."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from verta_local.errors import DeploymentError

_JOIN_BELOW_BYTES = 256 * 1024


class ModelUnreachable(DeploymentError, ConnectionError):
    """No server answers at the model's URL. As in Verta's first client: ConnectionError."""


class PredictionTimeout(DeploymentError, TimeoutError):
    """The server took a request and did not answer in time."""


@dataclass(frozen=True)
class Response:
    """An HTTP answer; header names are in lower case."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes


class _OneWrite(http.client.HTTPConnection):
    """Sends headers and a small body in one segment, so that the server wakes up once."""

    _held: list[bytes] | None = None

    def send(self, data: object) -> None:
        if self._held is None or not isinstance(data, bytes):
            super().send(data)  # type: ignore[arg-type]
        else:
            self._held.append(data)

    def request_in_one(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> None:
        if len(body) >= _JOIN_BELOW_BYTES:
            self.request(method, target, body, headers)
            return
        self._held = []
        try:
            self.request(method, target, body, headers)
            whole = b"".join(self._held)
        finally:
            self._held = None
        self.send(whole)


class KeepAlive:
    """Connections to one server, one for each thread that asks; a fork starts with new ones."""

    def __init__(self, scheme: str, host: str, port: int | None, connect_timeout_s: float, timeout_s: float) -> None:
        self._scheme = scheme
        self._host = host
        self._port = port
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._local = threading.local()

    def request(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """Sends one request and reads its whole answer.

        A connection that the server closed while it was idle is opened again, once; a request that may have been
        seen by the server is never sent twice. Raises: ModelUnreachable, PredictionTimeout.
        """
        connection, is_reused = self._connection()
        try:
            return self._exchange(connection, method, target, body, headers)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            self.close()
            if not is_reused:
                raise ModelUnreachable(
                    f"the server at {self._where} closed the connection without an answer"
                ) from error
        except TimeoutError:
            self.close()
            text = f"the model at {self._where} did not answer within {self._timeout_s:g} s"
            raise PredictionTimeout(text) from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise ModelUnreachable(f"the server at {self._where} gave no HTTP answer: {error}") from error
        return self.request(method, target, body, headers)

    def close(self) -> None:
        """Closes this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    @property
    def _where(self) -> str:
        return f"{self._scheme}://{self._host}" + (f":{self._port}" if self._port else "")

    def _connection(self) -> tuple[_OneWrite, bool]:
        connection: _OneWrite | None = getattr(self._local, "connection", None)
        if connection is not None and connection.sock is not None and self._local.pid == os.getpid():
            return connection, True
        connection = _https(self._host, self._port) if self._scheme == "https" else _OneWrite(self._host, self._port)
        connection.timeout = self._connect_timeout_s
        try:
            connection.connect()
        except OSError as error:
            raise ModelUnreachable(
                f"no server answers at {self._where} ({error.strerror or error}): it was stopped or this machine was "
                "restarted; call run.deploy(wait=True) and then run.get_deployed_model() again"
            ) from None
        connection.sock.settimeout(self._timeout_s)
        self._local.connection = connection
        self._local.pid = os.getpid()
        return connection, False

    def _exchange(
        self, connection: _OneWrite, method: str, target: str, body: bytes, headers: Mapping[str, str]
    ) -> Response:
        try:
            connection.request_in_one(method, target, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            if len(body) < _JOIN_BELOW_BYTES:
                raise
            # A refused upload: the server may have answered before it closed.
        answer = connection.getresponse()
        content = answer.read()
        found = {name.lower(): value for name, value in answer.getheaders()}
        if answer.will_close:
            self.close()
        return Response(answer.status, answer.reason, found, content)


def _https(host: str, port: int | None) -> _OneWrite:
    import ssl  # noqa: PLC0415 - start-up time, and deployments of this machine are plain HTTP

    class _OneWriteTls(_OneWrite):
        default_port = http.client.HTTPS_PORT

        def connect(self) -> None:
            super().connect()
            plain: socket.socket = self.sock
            self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host)

    return _OneWriteTls(host, port)
