"""What can be seen of a server: metrics, the access log, slow requests, notes of the model, restarts with reasons."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from verta_local.serving.accesslog import Access, AccessLog
from verta_local.serving.metrics import Metrics


def _lines(server: Any, tools: Any, count: int) -> list[dict[str, Any]]:
    path = server.supervisor.access_log.path
    tools.eventually(lambda: path.exists() and path.read_text().count("\n") >= count)
    return [json.loads(line) for line in path.read_text().splitlines()]


def _metric(server: Any, name: str, *labels: str) -> float:
    text = server.request("GET", "/metrics").body.decode()
    for line in text.splitlines():
        if re.match(rf"{name}(\{{|\s)", line) and all(label in line for label in labels):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"no {name} with {labels} in:\n{text}")


def test_each_request_is_a_line_with_its_id_and_no_secret_and_no_body(server: Any, tools: Any) -> None:
    server.deploy("Echo", token="a-secret-token")
    server.predict("the body", Access_Token="a-secret-token", verta_request_id="id-1")
    server.predict("the body", Access_Token="a-wrong-token", verta_request_id="id-2")
    server.predict("the body", run_id="unknown")
    server.request("GET", "/health/live", headers={"Host": "evil.example"})
    found = {entry["request_id"] or "refused": entry for entry in _lines(server, tools, 4)}
    good, bad = found["id-1"], found["id-2"]
    assert (good["status"], good["route"], good["run_id"], good["client"]) == (200, "run-1", "run-1", "127.0.0.1")
    assert (good["method"], good["path"]) == ("POST", "/api/v1/predict/run-1")
    assert (good["bytes_in"], good["bytes_out"]) == (10, 10)
    assert 0 < good["seconds"] < 5 and abs(good["time"] - time.time()) < 60
    assert (bad["status"], bad["message"]) == (401, "the Access-Token is not the one of this model")
    assert {entry["status"] for entry in found.values()} == {200, 401, 404, 403}
    text = server.supervisor.access_log.path.read_text()
    assert "token" not in text.replace("Access-Token is not", "") and "the body" not in text
    assert server.supervisor.access_log.path.stat().st_mode & 0o777 == 0o600


def test_an_error_is_there_with_its_last_line(server: Any, tools: Any) -> None:
    server.deploy("Raises")
    server.predict(1)
    (entry,) = _lines(server, tools, 1)
    assert entry["message"].startswith("FileNotFoundError")


def test_slow_requests_and_the_time_in_the_queue(make_server: Any, tools: Any) -> None:
    server = make_server(slow_s=0.3)
    server.deploy("Sleeps", threads=1)
    asked = [tools.in_background(lambda: server.predict(0.35)) for _ in range(2)]
    for wait in asked:
        wait()
    server.predict(0)
    first, second, quick = sorted(_lines(server, tools, 3), key=lambda entry: -entry["seconds"])
    assert first["slow"] and second["slow"] and "slow" not in quick
    assert first["waited_seconds"] > 0.2 > second["waited_seconds"]
    assert _metric(server, "verta_slow_requests_total") == 2


def test_what_the_model_notes_is_in_the_access_log_and_in_its_own(server: Any, tools: Any) -> None:
    endpoint = server.deploy("Notes")
    reply = server.predict("seven")
    assert reply.json == "seven"
    assert "noted" not in str(reply.headers)
    (entry,) = _lines(server, tools, 1)
    assert entry["noted"] == {"length": 5, "kind": "word"}
    assert 'runtime.log {"length": 5, "kind": "word"}' in Path(endpoint.status()["log"]).read_text()


def test_a_disk_that_does_not_take_lines_stops_no_request(server: Any, tools: Any) -> None:
    server.deploy("Echo")
    server.supervisor.access_log.path.mkdir(parents=True)  # nothing can be written there
    assert [server.predict(n).status for n in range(5)] == [200] * 5
    tools.eventually(lambda: _metric(server, "verta_access_log_dropped_total") >= 5)


def test_the_access_log_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verta_local.serving.accesslog._LIMIT_BYTES", 1000)
    log = AccessLog(tmp_path / "access.jsonl", 1.0)
    for number in range(20):
        log.add(Access(f"id-{number}", "", "POST", "/", "r", "r", 200, 0.0, 0.0, 0, 0))
        if number % 5 == 4:
            log._flush()
    log.close()
    assert (tmp_path / "access.jsonl.1").exists()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 4000


def test_restarts_are_counted_by_reason(server: Any, tools: Any) -> None:
    endpoint = server.deploy("Dies", predict_timeout_s=1.0)
    server.predict("exit")
    tools.eventually(lambda: endpoint.state == "deployed")
    os.kill(endpoint.status()["pid"], signal.SIGKILL)
    tools.eventually(lambda: endpoint.status()["restart_reasons"] == {"exit": 1, "signal": 1})
    assert _metric(server, "verta_model_restarts_total", 'run="run-1"', 'reason="exit"') == 1
    assert _metric(server, "verta_model_restarts_total", 'reason="signal"') == 1


def test_the_metrics_are_complete_and_well_formed(server: Any, tools: Any) -> None:
    server.deploy("Sleeps", replicas=2)
    long = tools.in_background(lambda: server.predict(1.0))
    tools.eventually(lambda: _metric(server, "verta_in_flight", "run-1") == 1)
    server.predict(0)
    server.predict("x")  # raises
    assert _metric(server, "verta_requests_total", 'status="200"') == 1
    assert _metric(server, "verta_requests_total", 'status="502"') == 1
    assert _metric(server, "verta_model_replicas", 'run="run-1"') == 2
    assert _metric(server, "verta_model_up") == 1
    assert _metric(server, "verta_waiting") == 0
    long()
    assert _metric(server, "verta_request_seconds_count") == 3
    assert _metric(server, "verta_request_seconds_sum") > 1.0
    if Path("/proc").exists():
        assert _metric(server, "verta_model_resident_bytes") > 5e6
        assert _metric(server, "verta_supervisor_resident_bytes") > 5e6
    reply = server.request("GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    kinds = set()
    for line in reply.body.decode().splitlines():
        if line.startswith("# TYPE"):
            kinds.add(line.split()[2])
        elif not line.startswith("#"):
            assert re.fullmatch(r'[a-z_]+(\{([a-z]+="[^"\n]*",?)*\})? [0-9.e+-]+', line), line
            assert re.sub(r"_(bucket|sum|count)$", "", line.partition("{")[0].partition(" ")[0]) in kinds, line


def test_a_model_that_is_asked_keeps_its_counters_however_many_others_come_and_go() -> None:
    metrics = Metrics()
    for number in range(3000):
        metrics.count("steady", "run-1", 200, 0.001)
        metrics.count(f"another-{number}", f"run-{number}", 200, 0.001)
    text = metrics.text((), AccessLog(None, 1.0))
    assert 'verta_requests_total{route="steady",run="run-1",status="200"} 3000' in text
    assert text.count("verta_requests_total{") == 1000
    assert 'route="another-2999"' in text and 'route="another-0"' not in text
