"""Deploying in the background: joined, started, found again, ended; and predicting through `DeployedModel`."""

from __future__ import annotations

import base64
import http.server
import json
import os
import pickle
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from verta_local import config
from verta_local.deployment import DeployedModel, ModelUnreachable, PredictionHTTPError, PredictionTimeout, local
from verta_local.deployment.supervisor import StateFile, find


@pytest.fixture(autouse=True)
def undeployed(state_folder: Path) -> Iterator[None]:
    yield
    for found in local.list_deployments():
        local.undeploy(found["store_id"], found["run_id"], wait=True)


def _deploy(tools: Any, class_name: str, run_id: str = "run-1", **settings: Any) -> dict[str, Any]:
    more = settings.pop("spec", {})
    return local.deploy(tools.spec_of(class_name, run_id, **more), wait=True, _loader=tools.LOADER, **settings)


def test_deploy_predict_undeploy(tools: Any, state_folder: Path) -> None:
    before = local.status("store-1", "run-1")
    assert before["status"] == "not deployed"
    assert before["url"] is None and before["token"] is None
    status = _deploy(tools, "Echo")
    assert status["status"] == "deployed"
    assert status["url"].endswith("/api/v1/predict/run-1")
    assert len(status["token"]) >= 43  # 256 bits
    model = DeployedModel(status["url"], status["token"])
    assert model.predict({"a": [1, 2.0, None]}) == {"a": [1, 2.0, None]}
    assert local.status("store-1", "run-1") == status
    assert local.list_deployments() == [status]
    assert local.undeploy("store-1", "run-1", wait=True)["status"] == "not deployed"
    assert local.undeploy("store-1", "run-1")["status"] == "not deployed"
    assert tools.processes_of(state_folder) == []
    with pytest.raises(ConnectionError, match=r"call run.deploy\(wait=True\)"):
        model.predict(1)


def test_paths_and_tokens(tools: Any) -> None:
    at_path = _deploy(tools, "Echo", path="/search/best")
    assert at_path["url"].endswith("/api/v1/predict/project-1/search/best")
    given = _deploy(tools, "Echo", "run-2", token="my-own-token")
    assert given["token"] == "my-own-token"
    assert DeployedModel(given["url"], "my-own-token").predict(1) == 1
    with pytest.raises(PredictionHTTPError, match="401"):
        DeployedModel(given["url"], "another").predict(1)
    assert pickle.loads(pickle.dumps(DeployedModel(given["url"], "my-own-token"))).predict(2) == 2
    with pytest.raises(TypeError, match="path must be a str, not int"):
        _deploy(tools, "Echo", "run-4", path=5)
    without = _deploy(tools, "Echo", "run-3", no_token=True)
    assert without["token"] is None
    assert DeployedModel(without["url"]).predict(1) == 1
    for bad in ({"path": "../x"}, {"token": "a\r\nX: y"}, {"token": ""}, {"token": "t", "no_token": True}):
        with pytest.raises(ValueError):
            _deploy(tools, "Echo", "run-4", **bad)
    assert len(local.list_deployments()) == 3


def test_a_refused_prediction_is_the_http_error_of_requests_too(tools: Any) -> None:
    requests = pytest.importorskip("requests")
    status = _deploy(tools, "Echo")
    with pytest.raises(requests.HTTPError, match="401") as caught:
        DeployedModel(status["url"], "another").predict(1)
    assert caught.value.response.status_code == 401
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, requests.HTTPError) and isinstance(copy, RuntimeError)
    assert (str(copy), copy.status_code) == (str(caught.value), 401)


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "a\0", "schlüssel", "☃", "x" * 100_000, 7, b"bytes"])
def test_a_token_that_no_header_can_hold_is_refused_before_anything_is_started(
    tools: Any, state_folder: Path, token: Any
) -> None:
    with pytest.raises(ValueError, match=r"^a token m") as caught:
        _deploy(tools, "Echo", token=token)
    assert "x" * 100 not in str(caught.value)
    assert tools.processes_of(state_folder) == []


def test_a_token_of_the_longest_length_predicts(tools: Any) -> None:
    status = _deploy(tools, "Echo", token="~" * 4096)
    assert DeployedModel(status["url"], status["token"]).predict(1) == 1


@pytest.mark.parametrize(
    "settings",
    [{"threads": 0}, {"threads": 65}, {"threads": 1.5}, {"threads": True}]
    + [{"predict_timeout_s": wrong} for wrong in (0, -1, float("nan"), float("inf"), "1")],
)
def test_threads_and_time_limits_that_cannot_be_are_refused_before_anything_is_started(
    tools: Any, state_folder: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(settings))} must be"):
        _deploy(tools, "Echo", **settings)
    assert tools.processes_of(state_folder) == []


def test_state_that_cannot_be_written_is_one_sentence(
    tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VERTA_LOCAL_STATE", str(tmp_path / "file" / "state"))
    with pytest.raises(RuntimeError, match=r"^cannot write to .*VERTA_LOCAL_STATE to another folder$"):
        _deploy(tools, "Echo")
    assert local.status("store-1", "run-1")["status"] == "not deployed"
    assert local.list_deployments() == []


@pytest.mark.parametrize("name", ["work", "supervisor.json", "supervisor.log", "start.lock"])
def test_a_part_of_the_state_that_cannot_be_written_is_said(tools: Any, state_folder: Path, name: str) -> None:
    """A folder, or a file, in the place of the other: as an unwritable one, and root notices too."""
    place = config.serving_dir() / name
    place.parent.mkdir(parents=True)
    if name == "work":
        place.write_text("")
    else:
        (place / "x").mkdir(parents=True)
    with pytest.raises(RuntimeError, match=r"cannot write") as caught:
        _deploy(tools, "Echo")
    assert "Traceback" not in str(caught.value)
    tools.eventually(lambda: not tools.processes_of(state_folder))


def test_a_log_that_cannot_be_written_fails_the_deployment(tools: Any) -> None:
    _deploy(tools, "Echo", "run-2")
    logs = config.serving_dir() / "logs"
    (logs / "store-1-run-1.log").mkdir()
    with pytest.raises(RuntimeError, match="cannot start the model's process"):
        _deploy(tools, "Echo")
    (logs / "store-1-run-1.log").rmdir()
    assert _deploy(tools, "Echo")["status"] == "deployed"


def test_a_serving_process_that_does_not_answer_is_not_called_an_unwritable_folder(
    tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hangs:
        def call(self, *arguments: Any, **more: Any) -> Any:
            raise PredictionTimeout("the server did not answer within 60 s")

    with monkeypatch.context() as patch:
        patch.setattr(local, "find", Hangs)
        with pytest.raises(PredictionTimeout, match=r"^the server did not answer"):
            _deploy(tools, "Echo")


def test_two_deploys_join_one_supervisor_and_the_same_again_changes_nothing(tools: Any) -> None:
    first = _deploy(tools, "Echo")
    state = StateFile.read()
    assert _deploy(tools, "Echo") == first
    _deploy(tools, "Echo", "run-2")
    assert StateFile.read().pid == state.pid  # type: ignore[union-attr]
    changed = _deploy(tools, "Name", spec={"version": 2})
    assert (changed["url"], changed["token"]) == (first["url"], first["token"])
    assert DeployedModel(changed["url"], changed["token"]).predict(0) == 2


def test_many_programs_that_deploy_at_once_start_one_supervisor(tools: Any, state_folder: Path) -> None:
    program = (
        "import sys, json; from verta_local.deployment import local;"
        f"spec = json.loads(sys.argv[1]); local.deploy(spec, wait=True, _loader={tools.LOADER!r})"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program, json.dumps(tools.spec_of("Echo", f"run-{n}"))])
        for n in range(4)
    ]
    assert [process.wait(20) for process in started] == [0] * 4
    assert {found["run_id"] for found in local.list_deployments()} == {f"run-{n}" for n in range(4)}
    assert len(tools.processes_of(state_folder)) == 1 + 4


def test_a_captured_script_that_deploys_ends_and_the_model_lives_on(tools: Any, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, json; from verta_local.deployment import local\n"
        f"print(local.deploy(json.loads(sys.argv[1]), wait=True, _loader={tools.LOADER!r})['url'])\n"
    )
    (tmp_path / "json.py").write_text("")  # would shadow the standard library's if the folder were on the path
    arguments = [sys.executable, "-P"] if sys.version_info >= (3, 11) else [sys.executable, "-I"]
    if sys.version_info < (3, 11):
        pytest.skip("the script itself needs -P")
    start = time.perf_counter()
    done = subprocess.run(
        [*arguments, str(script), json.dumps(tools.spec_of("Where"))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=15,
    )
    assert time.perf_counter() - start < 10
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    status = local.status("store-1", "run-1")
    assert status["url"] == done.stdout.strip()
    seen = DeployedModel(status["url"], status["token"]).predict(None)
    assert str(tmp_path) not in seen["path"]


def test_a_broken_model_fails_deploy_with_its_own_traceback(tools: Any) -> None:
    """At once: it is told when the model breaks, before the time at which it would look, and there is no second try."""
    start = time.perf_counter()
    with pytest.raises(RuntimeError) as caught:
        _deploy(tools, "BreaksAtLoad")
    assert time.perf_counter() - start < local._POLL_S / 2
    (log,) = (config.serving_dir() / "logs").glob("*.log")
    assert log.read_text().count("Traceback (most recent") == 1
    assert str(caught.value).startswith("model deployment is failing;\nTraceback")
    assert "FileNotFoundError: index.ann is not what it was" in str(caught.value)
    assert "served_models.py" in str(caught.value)
    status = local.status("store-1", "run-1")
    assert status["status"] == "error"
    assert "index.ann" in status["message"]
    assert _deploy(tools, "Echo")["status"] == "deployed"


def test_the_state_file_is_private_and_tokens_are_in_no_log(tools: Any, state_folder: Path) -> None:
    status = _deploy(tools, "Prints")
    model = DeployedModel(status["url"], status["token"])
    model.predict("hello")
    with pytest.raises(RuntimeError):
        model.predict(3)
    folder = config.serving_dir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    state = folder / "supervisor.json"
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    admin_token = json.loads(state.read_text())["admin_token"]
    assert len(base64.urlsafe_b64decode(f"{admin_token}=")) * 8 == 256
    assert status["token"] not in state.read_text()
    for log in folder.rglob("*.log"):
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
        assert status["token"] not in log.read_text()
        assert admin_token not in log.read_text()


def test_a_stale_state_file_whose_port_and_process_belong_to_others_is_not_believed(tools: Any) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        seen: list[dict[str, str]] = []  # noqa: RUF012 - shared on purpose

        def do_GET(self) -> None:
            Other.seen.append(dict(self.headers))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"proof": "x", "instance": "i"}')

        def log_message(self, *arguments: Any) -> None:
            pass

    other = http.server.HTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        config.serving_dir().mkdir(parents=True)
        state = {
            "version": 1,
            "pid": os.getpid(),  # alive, and not a supervisor
            "pid_started": "1",
            "port": other.server_port,
            "instance": "i",
            "admin_token": "old-admin-token",
            "started_at": 0,
            "deployments": [{"run_id": "run-1", "store_id": "store-1", "route": "run-1"}],
        }
        (config.serving_dir() / "supervisor.json").write_text(json.dumps(state))
        status = local.status("store-1", "run-1")
        assert status["status"] == "not deployed"
        assert "restarted" in status["message"]
        assert "restarted" not in local.status("store-1", "run-2")["message"]
        assert local.undeploy("store-1", "run-1")["status"] == "not deployed"
        assert _deploy(tools, "Echo")["status"] == "deployed"
        assert Other.seen
        assert "old-admin-token" not in str(Other.seen)
    finally:
        other.shutdown()
        other.server_close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"port": "x"}', b"\xff"])
def test_a_damaged_state_file_is_as_none(content: bytes) -> None:
    config.serving_dir().mkdir(parents=True)
    (config.serving_dir() / "supervisor.json").write_bytes(content)
    assert find() is None
    assert local.list_deployments() == []


def test_a_supervisor_without_deployments_ends(tools: Any, state_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _deploy(tools, "Echo")
    local.undeploy("store-1", "run-1")  # without wait
    tools.eventually(lambda: not tools.processes_of(state_folder), within_s=5)
    assert not (config.serving_dir() / "supervisor.json").exists()


# ---- DeployedModel ----


def test_the_models_error_is_a_runtime_error_with_its_traceback(tools: Any) -> None:
    status = _deploy(tools, "Raises")
    with pytest.raises(RuntimeError, match=r"^deployed model encountered an error: Traceback") as caught:
        DeployedModel(status["url"], status["token"]).predict(1)
    assert "FileNotFoundError" in str(caught.value)


def test_predict_takes_numpy_compression_and_ids(tools: Any) -> None:
    numpy = pytest.importorskip("numpy")
    status = _deploy(tools, "Echo")
    model = DeployedModel.from_url(status["url"], status["token"])
    assert model.predict(numpy.arange(3)) == [0, 1, 2]
    assert model.predict({"x": numpy.float32(0.5)}, compress=True) == {"x": 0.5}
    assert model.predict_with_id(1, prediction_id="mine") == ("mine", 1)
    generated, answer = model.predict_with_id(1)
    assert (len(generated), answer) == (32, 1)
    assert repr(model.predict(float("nan"))) == "nan"
    large = list(range(200_000))
    assert model.predict(large) == large
    with pytest.raises(TypeError):
        model.predict(object())
    model.headers()["Access-Token"] = "x"  # a copy
    assert model.predict(1) == 1
    assert status["token"] not in repr(model)


def test_an_input_without_a_json_form_is_said_in_words_of_predict(scripted: Any) -> None:
    model = DeployedModel("http://127.0.0.1:1/api/v1/predict/x")
    loop: list[Any] = []
    loop.append(loop)
    for value, kind in (
        (b"\x00\xff", ValueError),
        ({"a": [b"\xff"]}, ValueError),
        (loop, ValueError),
        (object(), TypeError),
        ({(1, 2): 3}, TypeError),
    ):
        with pytest.raises(kind, match=r"^the input of predict\(\) has no JSON form: ") as caught:
            model.predict(value)
        assert "logged" not in str(caught.value)


@pytest.mark.parametrize("name", ["abc/☃", "é", "a b", "a\r\nX: y", "", "x" * 201])
def test_a_prediction_id_that_no_header_can_hold_is_a_value_error(scripted: Any, name: str) -> None:
    server = scripted(_answer(200, b"1"))
    with pytest.raises(ValueError, match=r"^a prediction id is "):
        DeployedModel(server.url).predict(1, prediction_id=name)
    assert server.requests == []


def test_headers_that_cannot_be_sent_are_value_errors_at_once() -> None:
    for more in ({"token": "☃"}, {"token": "a\r\nX: y"}, {"creds": {"X": "☃"}}):
        with pytest.raises(ValueError, match=r"^the header [A-Za-z-]+ cannot hold"):
            DeployedModel("http://127.0.0.1:1/api/v1/predict/x", **more)  # type: ignore[arg-type]


def test_the_curl_line_predicts(tools: Any) -> None:
    status = _deploy(tools, "Echo")
    line = DeployedModel(status["url"], status["token"]).get_curl()
    assert line.startswith(f"curl -X POST {status['url']} -d '' -H ")
    try:
        done = subprocess.run(["sh", "-c", line.replace("-d ''", "-s -d '[1, 2]'")], capture_output=True, timeout=10)
    except FileNotFoundError:
        pytest.skip("no shell")
    if done.returncode == 127:
        pytest.skip("curl is not installed")
    assert json.loads(done.stdout) == [1, 2]


def test_threads_share_one_model(tools: Any) -> None:
    status = _deploy(tools, "Echo")
    model = DeployedModel(status["url"], status["token"])
    answers: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append([model.predict(n + i) - i for i in range(50)]))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(tuple, answers)) == [(n,) * 50 for n in range(8)]


def test_the_first_eras_constructor_finds_the_run(tools: Any) -> None:
    status = _deploy(tools, "Echo")
    assert DeployedModel("app.verta.ai", "run-1").predict(1) == 1
    assert DeployedModel(host="localhost", run_id="run-1").headers()["Access-Token"] == status["token"]
    with pytest.raises(RuntimeError, match="not currently deployed"):
        DeployedModel("localhost", "run-2")


@pytest.mark.parametrize(
    "url", ["", "nonsense", "ftp://h/api/v1/predict/x", "http:///predict/x", "http://h:99999/predict/x"]
)
def test_a_bad_url_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError, match="prediction URL"):
        DeployedModel(url)


class _Scripted:
    """A server that gives prepared answers, to see what the client does with them."""

    def __init__(self, *answers: bytes | None) -> None:
        self._answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/api/v1/predict/x"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self._answers:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                while self._answers and (request := connection.recv(65536)):
                    self.requests.append(request)
                    answer = self._answers.pop(0)
                    if answer is None:
                        break
                    connection.sendall(answer)
                    if self._answers and self._answers[0] == b"close when idle":
                        self._answers.pop(0)
                        break

    def close(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
        except OSError:
            pass  # it is closed for new connections already
        self._thread.join(5)
        self._socket.close()


def _answer(status: int, body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d X" % status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.fixture
def scripted() -> Iterator[Any]:
    made: list[_Scripted] = []

    def make(*answers: bytes | None) -> _Scripted:
        made.append(_Scripted(*answers))
        return made[-1]

    yield make
    for server in made:
        server.close()


def test_what_is_said_to_be_temporary_is_asked_again(scripted: Any) -> None:
    server = scripted(_answer(503, b"{}", b"Retry-After: 0.1"), _answer(200, b"7"))
    assert DeployedModel(server.url).predict(1) == 7
    assert len(server.requests) == 2


def test_waiting_for_a_model_is_bounded(scripted: Any) -> None:
    busy = _answer(503, b'{"message": "loading"}', b"Retry-After: 0.2")
    server = scripted(*[busy] * 50)
    start = time.perf_counter()
    with pytest.raises(PredictionHTTPError, match="loading"):
        DeployedModel(server.url, retry_within_s=1).predict(1)
    assert time.perf_counter() - start < 3
    again = scripted(busy, busy)
    with pytest.raises(PredictionHTTPError):
        DeployedModel(again.url).predict(1, max_retries=0)
    assert len(again.requests) == 1
    thrice = scripted(*[_answer(503, b"{}", b"Retry-After: 0.1")] * 9)
    with pytest.raises(PredictionHTTPError):
        DeployedModel(thrice.url).predict(1, max_retries=2)
    assert len(thrice.requests) == 3


def test_a_server_that_does_not_answer_is_given_up_in_time(scripted: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api/v1/predict/x"
        start = time.perf_counter()
        with pytest.raises(TimeoutError, match=r"did not answer within 0\.3 s"):
            DeployedModel(url, timeout_s=0.3).predict(1)
        assert time.perf_counter() - start < 3


@pytest.mark.parametrize("status", [401, 403, 404, 409, 410, 422, 429, 500, 503, 504])
def test_lasting_errors_are_raised_at_once_with_their_message(scripted: Any, status: int) -> None:
    server = scripted(_answer(status, b'{"message": "what went wrong"}'))
    start = time.perf_counter()
    with pytest.raises(PredictionHTTPError, match="what went wrong") as caught:
        DeployedModel(server.url).predict(1)
    assert time.perf_counter() - start < 1
    assert caught.value.status_code == status
    assert isinstance(caught.value, RuntimeError)
    assert len(server.requests) == 1


def test_an_answer_that_is_not_json_is_a_value_error(scripted: Any) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        DeployedModel(scripted(_answer(200, b"<html>")).url).predict(1)


def test_an_idle_connection_that_was_closed_is_opened_again_once(scripted: Any) -> None:
    server = scripted(_answer(200, b"1"), b"close when idle", _answer(200, b"2"))
    model = DeployedModel(server.url)
    assert [model.predict(0), model.predict(0)] == [1, 2]
    assert server.connections == 2


def test_a_request_that_may_have_run_is_not_sent_twice(scripted: Any) -> None:
    server = scripted(None, _answer(200, b"1"))
    with pytest.raises(ModelUnreachable, match="without an answer"):
        DeployedModel(server.url).predict(0)
    assert len(server.requests) == 1


def test_a_request_goes_out_in_one_piece_without_content_type(scripted: Any) -> None:
    server = scripted(_answer(200, b"1"), _answer(200, b"1"))
    model = DeployedModel(server.url, "token")
    model.predict([1])
    model.predict([1], compress=True)
    assert server.connections == 1
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert body == b"[1]"
    assert b"content-type" not in head.lower()
    assert b"Access-Token: token" in head
    assert b"Content-Encoding: gzip" in server.requests[1]


def test_a_table_is_sent_in_slices(scripted: Any) -> None:
    pandas = pytest.importorskip("pandas")
    answer = _answer(200, b'{"data": [[1]], "index": [0], "columns": ["y"]}')
    server = scripted(answer, answer)
    found = DeployedModel(server.url).batch_predict(pandas.DataFrame({"a": [1, 2, 3]}), batch_size=2)
    assert list(found["y"]) == [1, 1]
    assert b"POST /api/v1/batch-predict/x " in server.requests[0]
