"""Keep-alive HTTP to a prediction server by the standard library: connections are kept, a request is one write."""

from __future__ import annotations

import http.client
import os
import socket
import weakref
from collections.abc import Mapping
from dataclasses import dataclass

from verta_local.errors import DeploymentError

_JOIN_BELOW_BYTES = 256 * 1024
# The server closed before the first byte of an answer.
_CLOSED = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)


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
    """Connections to one server, kept open; as many as requests at the same time. A fork starts with new ones."""

    def __init__(self, scheme: str, host: str, port: int | None, connect_timeout_s: float, timeout_s: float) -> None:
        self._scheme = scheme
        self._host = host
        self._port = port
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._idle: list[_OneWrite] = []  # the last one was used last; append and pop are atomic
        self._pid = os.getpid()
        # Not left to the sockets' own end of life: that warns about each one that is still open.
        weakref.finalize(self, _close_all, self._idle)

    def request(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """Sends one request and reads its whole answer.

        A connection that the server closed while it was idle is opened again, once; a request that may have been
        seen by the server is never sent twice. Raises: ModelUnreachable, PredictionTimeout.
        """
        connection = self._idle_connection()
        if connection is not None:
            try:
                return self._exchange(connection, method, target, body, headers)
            except _CLOSED:
                pass
        try:
            return self._exchange(self._new_connection(), method, target, body, headers)
        except _CLOSED as error:
            raise ModelUnreachable(
                f"the server at {self._where} closed the connection without an answer: if it was stopped, call "
                "run.deploy(wait=True) and then run.get_deployed_model() again"
            ) from error

    def close(self) -> None:
        """Closes the idle connections; the object stays usable."""
        _close_all(self._idle)

    def __reduce__(self) -> tuple[object, ...]:
        # Pickled, it is the same server and no connection yet.
        return KeepAlive, (self._scheme, self._host, self._port, self._connect_timeout_s, self._timeout_s)

    @property
    def _where(self) -> str:
        return f"{self._scheme}://{self._host}" + (f":{self._port}" if self._port else "")

    def _idle_connection(self) -> _OneWrite | None:
        if self._pid != os.getpid():
            self.close()  # the parent's: closing here leaves its own descriptors open
            self._pid = os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _new_connection(self) -> _OneWrite:
        connection = _https(self._host, self._port) if self._scheme == "https" else _OneWrite(self._host, self._port)
        connection.timeout = self._connect_timeout_s
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise ModelUnreachable(
                f"no server answers at {self._where} ({error.strerror or error}): it was stopped or this machine was "
                "restarted; call run.deploy(wait=True) and then run.get_deployed_model() again"
            ) from None
        connection.sock.settimeout(self._timeout_s)
        return connection

    def _exchange(
        self, connection: _OneWrite, method: str, target: str, body: bytes, headers: Mapping[str, str]
    ) -> Response:
        """One request and answer on one connection, which then goes back, or is closed. Raises: _CLOSED and own."""
        keep = False
        try:
            try:
                connection.request_in_one(method, target, body, headers)
            except (BrokenPipeError, ConnectionResetError):
                if len(body) < _JOIN_BELOW_BYTES:
                    raise
                # A refused upload: the server may have answered before it closed.
            answer = connection.getresponse()
            content = answer.read()
            keep = connection.sock is not None
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Response(answer.status, answer.reason, found, content)
        except _CLOSED:
            raise
        except TimeoutError:
            text = f"the model at {self._where} did not answer within {self._timeout_s:g} s"
            raise PredictionTimeout(text) from None
        except (OSError, http.client.HTTPException) as error:
            raise ModelUnreachable(f"the server at {self._where} gave no HTTP answer: {error}") from error
        finally:
            if keep:
                self._idle.append(connection)
            else:
                connection.close()


def _close_all(connections: list[_OneWrite]) -> None:
    while connections:
        connections.pop().close()


def _https(host: str, port: int | None) -> _OneWrite:
    import ssl  # noqa: PLC0415 - start-up time, and deployments of this machine are plain HTTP

    class _OneWriteTls(_OneWrite):
        default_port = http.client.HTTPS_PORT

        def connect(self) -> None:
            super().connect()
            plain: socket.socket = self.sock
            self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host)

    return _OneWriteTls(host, port)
