"""`verta-local serve`: the same supervisor in this process, until Ctrl-C."""

from __future__ import annotations

import codecs
import errno
import json
import os
import secrets
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from verta_local import config
from verta_local.deployment_settings import DEFAULT_SLOW_S, check_token, log_name
from verta_local.interpreter import Interpreter
from verta_local.plain_text import plain
from verta_local.private_file import write_private
from verta_local.serving.background import state_of
from verta_local.serving.endpoint import DEPLOYED, ERROR, Endpoint
from verta_local.serving.logfile import LogFile
from verta_local.serving.process import DEFAULT_LOADER, Program
from verta_local.serving.routes import TRY_PREFIX
from verta_local.serving.supervisor import StateFolderError, Supervisor, fail
from verta_store.files import make_private_folder

if TYPE_CHECKING:
    from verta_local.serving.nursery import Nursery

_FOLLOW_EVERY_S = 0.2


class ServedModel(NamedTuple):
    """What a user needs to reach one served model; `curl` is for a shell, `page` the URL to try it in a browser."""

    run_id: str
    run_name: str
    url: str
    token: str | None
    curl: str
    page: str


class ModelToServe(NamedTuple):
    """A model spec, at which path (the run's id by default), with which token and settings of its own."""

    spec: dict[str, Any]
    path: str | None = None
    token: str | None = None
    settings: Mapping[str, Any] = MappingProxyType({})

    def __repr__(self) -> str:
        # Without the token: a secret is in no traceback and no log.
        return f"ModelToServe(spec={self.spec!r}, path={self.path!r}, settings={dict(self.settings)!r})"


def serve_foreground(
    models: Sequence[ModelToServe | dict[str, Any]],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    no_token: bool = False,
    on_ready: Callable[[list[ServedModel]], None] | None = None,
    allowed_hosts: tuple[str, ...] = (),
    show_output: bool = True,
    slow_s: float = DEFAULT_SLOW_S,
    _loader: str = DEFAULT_LOADER,
    _nursery: Nursery | None = None,
    **settings: Any,
) -> int:
    """Serves models (or their spec dicts) in this process until SIGINT or SIGTERM; returns the exit code.

    `token` None makes a random one for each model, `no_token` leaves it out (on a loopback address only).
    `settings` (`replicas`, `threads`, `predict_timeout_s`, `queue_limit`) go before a model's own. `on_ready` is
    called once, from another thread, when every model answers. What the models print goes to stderr when
    `show_output`. A setting that cannot be: one sentence on stderr, exit code 1. A model that does not load: its
    traceback on stderr, exit code 1. The first Ctrl-C answers what is in flight, the second ends at once.
    """
    try:
        interpreter = Interpreter.current() if _nursery is None else _nursery.interpreter
        wanted = [model if isinstance(model, ModelToServe) else ModelToServe(model) for model in models]
        programs = [
            Program(model.spec, interpreter, loader=_loader, **{**model.settings, **settings}) for model in wanted
        ]
        check_token(token, no_token)
    except (ValueError, TypeError, RuntimeError) as error:
        return fail(str(error))
    folder = config.state_dir() / "foreground" / str(os.getpid())
    _remove_leftovers(folder.parent)
    try:
        supervisor = Supervisor(
            folder,
            host=host,
            port=port,
            allowed_hosts=allowed_hosts,
            admin_token=secrets.token_urlsafe(32),
            log_folder=config.serving_dir() / "logs",  # they outlive this process, and `verta-local logs` finds them
            slow_s=slow_s,
            nursery=_nursery,
        )
    except (ValueError, StateFolderError) as error:
        _remove(folder)
        return fail(str(error))
    except OSError as error:
        _remove(folder)
        other = "host" if error.errno == errno.EADDRNOTAVAIL else "port"
        reason = (error.strerror or str(error)).partition(" (while ")[0]  # Python adds where it tried
        return fail(f"cannot listen on {host}:{port} ({reason}): choose another {other}")
    # So that `get_deployment_status()` and `verta-local predict` in another terminal find it.
    state_file = config.serving_dir() / f"foreground-{os.getpid()}.json"
    endpoints: list[Endpoint] = []
    logs = dict.fromkeys(supervisor.log_folder / log_name(*program.identity) for program in programs)
    seen_bytes = {log: LogFile(log.parent, log.name).size_bytes() for log in logs}
    try:
        for model, program in zip(wanted, programs, strict=True):
            its_token = model.token if token is None and not no_token else token
            endpoints.append(supervisor.deploy_program(program, model.path, its_token, no_token))
        make_private_folder(state_file.parent)
        write_private(state_file, json.dumps(state_of(supervisor)).encode("ascii"))
    except (ValueError, OSError) as error:
        supervisor.abandon()
        _remove(folder)
        if isinstance(error, OSError):
            why = error.strerror or error
            return fail(f"cannot write {state_file} ({why}): set VERTA_LOCAL_STATE to another folder")
        return fail(str(error))
    shown = [_Shown(log, at_byte) for log, at_byte in seen_bytes.items()] if show_output else []
    for each in shown:
        threading.Thread(target=each.follow, name="follow-log", daemon=True).start()
    if threading.current_thread() is threading.main_thread():
        supervisor.handle_signals()
    watch = threading.Thread(
        target=_announce, args=(supervisor, endpoints, on_ready, not show_output), name="announce", daemon=True
    )
    watch.start()
    try:
        return supervisor.run()
    finally:
        for each in shown:
            each.show()  # the last words
        state_file.unlink(missing_ok=True)
        _remove(folder)


def _announce(
    supervisor: Supervisor,
    endpoints: list[Endpoint],
    on_ready: Callable[[list[ServedModel]], None] | None,
    show_traceback: bool,
) -> None:
    for endpoint in endpoints:
        endpoint.wait_settled(1, timeout_s=threading.TIMEOUT_MAX)
        status = endpoint.status()
        if status["status"] == ERROR:
            time.sleep(2 * _FOLLOW_EVERY_S)  # lets the model's own output, its traceback too, come first
            if show_traceback or "Traceback" not in status["message"]:
                print(plain(status["message"], keep_lines=True), file=sys.stderr)
            name = status["run_name"] or status["run_id"]
            supervisor.exit_code = fail(f"the model of run {name} does not load: see its traceback above")
            supervisor.stop()
            return
        if status["status"] != DEPLOYED:
            return  # stopped in the meantime
    if on_ready is not None:
        on_ready([_served(supervisor, endpoint) for endpoint in endpoints])


def _served(supervisor: Supervisor, endpoint: Endpoint) -> ServedModel:
    spec = endpoint.program.spec
    url = supervisor.url_of(endpoint)
    words = ["curl", "-X", "POST", url, "-d", "[1, 2, 3]"]
    if endpoint.token is not None:
        words += ["-H", f"Access-Token: {endpoint.token}"]
    page = f"{supervisor.base_url}{TRY_PREFIX}{endpoint.route}"
    return ServedModel(spec["run_id"], spec.get("run_name") or "", url, endpoint.token, shlex.join(words), page)


class _Shown:
    """A log whose new lines are shown on stderr; strangers' requests are in it too, so nothing steers the terminal."""

    def __init__(self, path: Path, at_byte: int) -> None:
        self._path = path
        self._at_byte = at_byte
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a letter may be half written
        self._lock = threading.Lock()

    def follow(self) -> None:
        """Shows what is written, for as long as this process lives."""
        while True:
            self.show()
            time.sleep(_FOLLOW_EVERY_S)

    def show(self) -> None:
        """Shows what was written since the last look."""
        with self._lock:
            try:
                with self._path.open("rb") as log:
                    if log.seek(0, os.SEEK_END) < self._at_byte:
                        self._at_byte = 0  # the log was cut
                    log.seek(self._at_byte)
                    text = log.read()
                    self._at_byte += len(text)
            except OSError:
                return
            if text:
                lines = self._decoder.decode(text).replace("\r\n", "\n").replace("\r", "\n")
                sys.stderr.write(plain(lines, keep_lines=True))
                sys.stderr.flush()


def _remove_leftovers(parent: Path) -> None:
    """Folders of servers that were killed: nobody reads their logs any more."""
    if sys.platform == "win32" or not parent.is_dir():
        return
    for folder in parent.iterdir():
        try:
            os.kill(int(folder.name), 0)
        except ProcessLookupError:
            _remove(folder)
        except (ValueError, OSError):
            continue  # not one of ours


def _remove(folder: Path) -> None:
    import shutil  # noqa: PLC0415 - start-up time

    shutil.rmtree(folder, ignore_errors=True)
