"""One server with its endpoints: starts listening, runs until told to stop, drains, and leaves no process behind."""

from __future__ import annotations

import logging
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from verta_local.deployment_settings import ACCESS_LOG, DEFAULT_SLOW_S, check_slow_s
from verta_local.plain_text import plain
from verta_local.serving.accesslog import AccessLog
from verta_local.serving.endpoint import Endpoint
from verta_local.serving.front import Front, WsgiApplication
from verta_local.serving.guard import Guard, is_loopback
from verta_local.serving.heap import give_back_free_memory
from verta_local.serving.launch import Launcher
from verta_local.serving.listeners import make_server
from verta_local.serving.metrics import Metrics
from verta_local.serving.orders import ADMIN_PREFIX, Orders, program_of
from verta_local.serving.process import BODY_LIMIT_BYTES, Program
from verta_local.serving.routes import PREDICT_PREFIX
from verta_local.serving.table import EndpointTable
from verta_store.files import make_private_folder

if TYPE_CHECKING:
    from verta_local.serving.nursery import Nursery

_DRAIN_S = 30.0
_CHORES_EVERY_S = 2.0
_TRIM_EVERY_S = 30.0


class StateFolderError(Exception):
    """The folder for logs and state cannot be written; the message is one sentence."""


class Supervisor:
    """Serves models on `host` and `port` (0: any free one) from the moment it is made; `run()` blocks until the end.

    `admin_token` None leaves the admin routes out. `body_limit_bytes` bounds a request's body.
    The logs are in `log_folder` (by default in `state_folder`); a request that takes `slow_s` is marked as slow.
    `may_fork` False starts a fresh interpreter for every model (see `launch`); `nursery`: a warm parent made before.
    Raises: ValueError for what is no host or port; OSError when the address cannot be bound; StateFolderError.
    """

    def __init__(
        self,
        state_folder: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        admin_token: str | None = None,
        body_limit_bytes: int = BODY_LIMIT_BYTES,
        allowed_hosts: tuple[str, ...] = (),
        on_change: Callable[[], None] = lambda: None,
        may_fork: bool = True,
        log_folder: Path | None = None,
        slow_s: float = DEFAULT_SLOW_S,
        nursery: Nursery | None = None,
    ) -> None:
        self.host = host
        self.instance = secrets.token_hex(16)
        self.admin_token = admin_token
        self.metrics = Metrics()
        self.exit_code = 0
        self._stop_requests = 0
        self._latest: tuple[str, Endpoint] | None = None  # the id of the order that came last, and what it deployed
        self._ended = threading.Event()
        self._app: WsgiApplication | None = None
        self._app_lock = threading.Lock()
        work_folder = state_folder / "work"
        try:
            make_private_folder(work_folder)
        except OSError as error:
            raise StateFolderError(
                f"cannot write to {work_folder} ({error.strerror or error}): set VERTA_LOCAL_STATE to another folder"
            ) from None
        self._launcher = Launcher(work_folder, may_fork, nursery)
        self.log_folder = log_folder or state_folder / "logs"
        self.access_log = AccessLog(self.log_folder / ACCESS_LOG, check_slow_s(slow_s))
        self.table = EndpointTable(self.log_folder, self._launcher, on_change)
        self._front = Front(self.table, self.metrics, self.access_log, self._without_prediction)
        self._orders = Orders(self)
        self.server = make_server(self._front, host, port, body_limit_bytes)
        self.port = self.server.port
        self._front.guard = Guard(host, self.port, allowed_hosts)

    @property
    def base_url(self) -> str:
        """Where this machine reaches the server."""
        host = self.host if self.host not in ("0.0.0.0", "::", "*", "") else "127.0.0.1"
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def url_of(self, endpoint: Endpoint) -> str:
        """The prediction URL of an endpoint."""
        return f"{self.base_url}{PREDICT_PREFIX}{endpoint.route}"

    def shown(self, endpoint: Endpoint) -> dict[str, Any]:
        """The endpoint's status with its URL."""
        return {**endpoint.status(), "url": self.url_of(endpoint)}

    def deploy(self, order: dict[str, Any]) -> Endpoint:
        """Serves what an order of the admin API asks for. Raises: BadRequest, Stopping.

        The order that a server is started with comes once more, by the admin API: a model that has failed meanwhile
        is not tried again for that.
        """
        if self._latest is not None and order.get("id") == self._latest[0]:
            return self._latest[1]
        path, token = order.get("path"), order.get("token")
        endpoint = self.deploy_program(
            program_of(order),
            None if path is None else str(path),
            token,
            bool(order.get("no_token")),
            order.get("canary"),
        )
        self._latest = (order["id"], endpoint) if order.get("id") else None
        return endpoint

    def deploy_program(
        self,
        program: Program,
        path: str | None,
        token: str | None,
        no_token: bool,
        canary: float | str | None = None,
    ) -> Endpoint:
        """Serves a program. Raises: BadRequest, Stopping; ValueError for no token on an address of the network."""
        if no_token and not is_loopback(self.host):
            raise ValueError(f"serving on {self.host} needs a token: everyone on the network could predict")
        return self.table.deploy(program, path, token, no_token, canary)

    def stop(self) -> None:
        """Asks `run()` to drain and return; asked twice, not to wait. Safe in signal handlers."""
        self._stop_requests += 1
        self.server.wake()

    def abandon(self) -> None:
        """Stops listening and ends all children at once; in place of `run()`, when something else went wrong."""
        self.table.kill_all()
        self._launcher.close()
        self.server.drain(0.0, lambda: True)

    def handle_signals(self) -> None:
        """From now on SIGTERM, SIGINT and SIGHUP mean `stop()`. To be called in the main thread, before anybody is told
        that there is a server: what he sends next may be one of them."""
        for name in ("SIGTERM", "SIGINT", "SIGHUP"):  # SIGHUP: the terminal was closed
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def run(self) -> int:
        """Serves until `stop()`, then answers what is in flight and ends the children. Returns the exit code: 0."""
        threading.Thread(target=self._chores, name="chores", daemon=True).start()
        try:
            self.server.serve_until(lambda: self._stop_requests > 0)
            self._front.is_draining = True
            self.server.drain(_DRAIN_S, lambda: self._stop_requests > 1)
            if self._stop_requests > 1:
                self.table.kill_all()
            self.table.stop_all(drain_s=0.0)
        finally:
            self._ended.set()
            self.table.kill_all()
            self._launcher.close()
            self.access_log.close()
        return self.exit_code

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stop()

    def _without_prediction(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        is_order = environ["PATH_INFO"].startswith(ADMIN_PREFIX)
        return (self._orders if is_order else self._flask_app())(environ, start_response)

    def _flask_app(self) -> WsgiApplication:
        """Flask is imported for the first request that is none for a model: it takes as long as all of a start."""
        if self._app is None:
            with self._app_lock:
                if self._app is None:
                    from verta_local.serving.admin import make_app  # noqa: PLC0415 - start-up time

                    self._app = make_app(self)
        return self._app

    def _chores(self) -> None:
        trim_at = time.monotonic() + _TRIM_EVERY_S
        while not self._ended.wait(_CHORES_EVERY_S):
            if time.monotonic() >= trim_at:
                give_back_free_memory()
                trim_at = time.monotonic() + _TRIM_EVERY_S
            for endpoint in self.table.all():
                try:
                    endpoint.cut_logs()
                except OSError as error:
                    logging.getLogger(__name__).warning("cannot shorten a log: %s", error)


def fail(message: str) -> int:
    """Prints one sentence on stderr, names in it without what could steer the terminal; returns the exit code 1."""
    print(f"verta-local: {plain(message, keep_lines=True)}", file=sys.stderr)
    return 1
