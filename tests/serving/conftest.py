"""Real servers with real child processes for the serving tests; none of them may outlive its test."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from verta_local.deployment_settings import PROGRAM_SETTINGS
from verta_local.interpreter import Interpreter
from verta_local.serving.endpoint import Endpoint
from verta_local.serving.process import Program
from verta_local.serving.supervisor import Supervisor

LOADER = "served_models:load"


def spec_of(class_name: str, run_id: str = "run-1", **more: Any) -> dict[str, Any]:
    return {"run_id": run_id, "run_name": "a run", "store_id": "store-1", "project_id": "project-1"} | {
        "class": class_name,
        **more,
    }


def processes_of(state_folder: Path) -> list[int]:
    """Supervisors and models that use this state folder; the warm parent of forks is not counted."""
    return [pid for pid in _all_processes_of(state_folder) if not _is_nursery(pid)]


def _is_nursery(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "verta nursery"
    except OSError:
        return False


def _all_processes_of(state_folder: Path) -> list[int]:
    """By their environment; zombies are not counted."""
    found = []
    wanted = f"VERTA_LOCAL_STATE={state_folder}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int(entry.name) != os.getpid() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def eventually(condition: Callable[[], Any], within_s: float = 10.0) -> Any:
    """Waits for a condition to hold; returns its value."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            assert value, f"did not come true within {within_s} s"
            return value
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "state"
    monkeypatch.setenv("VERTA_LOCAL_STATE", str(folder))
    monkeypatch.setenv("VERTA_LOCAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VERTA_LOCAL_HTTP_SERVER", os.environ.get("TEST_HTTP_SERVER", "waitress"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "models"))
    yield folder
    deadline = time.monotonic() + 5
    while (left := _all_processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "processes were left behind"


class Reply:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json["message"])


class Server:
    """A supervisor in this process, its children real processes."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.supervisor = Supervisor(folder, admin_token="the admin token", **settings)
        self.exit_code: int | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.exit_code = self.supervisor.run()

    @property
    def port(self) -> int:
        return self.supervisor.port

    def deploy(
        self, class_name: str, *, wait: bool = True, token: str | None = None, path: str | None = None, **more: Any
    ) -> Endpoint:
        settings = {key: more.pop(key) for key in PROGRAM_SETTINGS if key in more}
        no_token = more.pop("no_token", token is None)
        canary = more.pop("canary", None)
        program = Program(spec_of(class_name, **more), Interpreter.current(), loader=LOADER, **settings)
        endpoint = self.supervisor.deploy_program(program, path, token, no_token, canary)
        if wait:
            status = endpoint.status()
            endpoint.wait_settled(status["generation"], 15)
        return endpoint

    def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def predict(self, data: Any, run_id: str = "run-1", **headers: str) -> Reply:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", f"/api/v1/predict/{run_id}", json.dumps(data).encode(), sent)

    def stop(self) -> None:
        self.supervisor.stop()
        self._thread.join(15)
        assert not self._thread.is_alive(), "the server did not stop"


class Load:
    """Clients that ask without a pause until they are told to stop; each keeps its connection, or takes new ones."""

    def __init__(
        self, server: Server, count: int, route: str = "run-1", data: Any = None, *, keep_alive: bool = True
    ) -> None:
        self._keep_alive = keep_alive
        self._stop = threading.Event()
        self._port, self._route, self._data = server.port, route, json.dumps(data)
        self._lock = threading.Lock()
        self.seen: Counter[tuple[int, str]] = Counter()
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=15)
        while not self._stop.is_set():
            try:
                connection.request("POST", f"/api/v1/predict/{self._route}", self._data)
                answer = connection.getresponse()
                found = answer.status, answer.read().decode()
            except Exception as error:
                self.failures.append(repr(error))
                return
            with self._lock:
                self.seen[found] += 1
            if not self._keep_alive:
                connection.close()  # and opens again with the next request
        connection.close()

    def stop(self) -> Counter[tuple[int, str]]:
        """(status, body) -> how often; every request was answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join(15)
        assert self.failures == []
        return self.seen


@pytest.fixture
def server(state_folder: Path) -> Iterator[Server]:
    server = Server(state_folder / "server")
    yield server
    server.stop()


@pytest.fixture
def make_server(state_folder: Path) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(**settings: Any) -> Server:
        made.append(Server(state_folder / f"server-{len(made)}", **settings))
        return made[-1]

    yield make
    for server in made:
        server.stop()


def in_background(function: Callable[[], Any]) -> Callable[[], Any]:
    """Runs the function in a thread; the returned callable waits for its result."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append((True, function()))
        except BaseException as error:
            result.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def wait() -> Any:
        thread.join(20)
        assert result, "no result within 20 s"
        is_value, value = result[0]
        if not is_value:
            raise value
        return value

    return wait


@pytest.fixture
def tools() -> Any:
    """The functions above, for tests: test files do not import each other."""

    class Tools:
        pass

    for function in (spec_of, processes_of, eventually, in_background):
        setattr(Tools, function.__name__, staticmethod(function))
    Tools.LOADER = LOADER  # type: ignore[attr-defined]
    Tools.Load = Load  # type: ignore[attr-defined]
    return Tools
