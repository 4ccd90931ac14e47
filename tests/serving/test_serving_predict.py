"""The prediction route: what goes in, what comes out, how errors read."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from verta_local.serving.frames import LaneEnds


def test_a_request_without_content_type_is_answered(server: Any) -> None:
    server.deploy("Echo")
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    body = b'{"text": "hi", "n": [1, 2.5]}'
    head = f"POST /api/v1/predict/run-1 HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: {len(body)}"
    connection.sendall(head.encode() + b"\r\n\r\n" + body)
    answer = connection.recv(65536)
    connection.close()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"text": "hi", "n": [1, 2.5]}


def test_an_answer_is_one_segment_and_keep_alive_does_not_stall(server: Any) -> None:
    server.deploy("Echo")
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    body = json.dumps([0.123 * i for i in range(64)]).encode()
    head = f"POST /api/v1/predict/run-1 HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: {len(body)}"
    request = head.encode() + b"\r\n\r\n" + body
    seconds = []
    for _ in range(60):
        start = time.perf_counter()
        connection.sendall(request)
        answer = connection.recv(65536)
        seconds.append(time.perf_counter() - start)
        length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        assert len(answer.partition(b"\r\n\r\n")[2]) == length  # whole in the first read
    connection.close()
    assert statistics.median(seconds) < 0.02  # Nagle with delayed acknowledgements: 0.044


def test_gzip_request_ids_and_their_errors(server: Any) -> None:
    server.deploy("Echo")
    path = "/api/v1/predict/run-1"
    reply = server.request("POST", path, gzip.compress(b"[1, 2]"), {"Content-Encoding": "gzip"})
    assert (reply.status, reply.json) == (200, [1, 2])
    assert len(reply.headers["verta-request-id"]) == 32
    assert server.predict(1, verta_request_id="my-id").headers["verta-request-id"] == "my-id"
    assert server.predict(1, verta_request_id="a b").status == 400
    assert server.request("POST", path, b"[1]", {"Content-Encoding": "gzip"}).status == 400
    assert server.request("POST", path, b"[1]", {"Content-Encoding": "br"}).status == 415


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_malformed_body_is_a_400_with_one_sentence(server: Any, body: bytes) -> None:
    server.deploy("Echo")
    reply = server.request("POST", "/api/v1/predict/run-1", body)
    assert reply.status == 400
    assert len(reply.message) < 200
    assert server.predict("still there").json == "still there"


def test_tokens(server: Any) -> None:
    server.deploy("Echo", token="secret-token")
    assert server.predict(1).status == 401
    assert server.predict(1, Access_Token="secret-tokem").status == 401
    assert server.predict(1, Access_Token="secret-token").status == 200


def test_unknown_routes_methods_and_undeployed_models(server: Any) -> None:
    endpoint = server.deploy("Echo")
    assert server.predict(1, run_id="another").status == 404
    assert server.request("GET", "/api/v1/predict/run-1").status == 405
    assert server.request("GET", "/nothing").status == 404
    server.supervisor.table.undeploy(endpoint)
    reply = server.predict(1)
    assert (reply.status, "undeployed" in reply.message) == (410, True)


def test_a_models_exception_is_a_502_with_its_traceback_and_no_folders(server: Any) -> None:
    server.deploy("Raises")
    reply = server.predict(1)
    assert reply.status == 502
    assert "FileNotFoundError" in reply.message
    assert 'File "served_models.py", line' in reply.message
    assert "with open(" in reply.message
    assert "index.ann" in reply.message
    assert "/tmp" not in reply.message
    assert "child.py" not in reply.message  # our own frames are not the user's business


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "ValueError"])
def test_the_server_and_the_model_live_after_any_exception(server: Any, name: str) -> None:
    pid = server.deploy("RaisesNamed").status()["pid"]
    for _ in range(6):  # more than there are lanes
        reply = server.predict(name)
        assert reply.status == 502
        assert name in reply.message
    assert server.supervisor.table.get("run-1").status()["pid"] == pid


@pytest.mark.parametrize("how", ["full", "closed", "replaced"])
def test_a_model_whose_log_cannot_be_written_raises_as_any_other(server: Any, how: str) -> None:
    if how == "full" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    server.deploy("CannotWriteItsLog", threads=2)
    pid = server.predict("pid").json
    replies = [server.predict(how), server.predict(how), server.predict("again")]
    assert [(reply.status, "what the model says" in reply.message) for reply in replies] == [(502, True)] * 3
    assert server.predict("pid").json == pid


def test_answers_that_are_not_plain_json(server: Any) -> None:
    pytest.importorskip("numpy")
    server.deploy("Answers")
    expected = {
        "array": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
        "numpy scalar": 7,
        "numpy key": {"1": "one"},
        "bytes": "AP8=",
        "set": [1, 2, 3],
        "day": "2020-03-13",
        "box": {"left": 4, "label": "cat"},
        "large": 2**70 + 1,
        "infinite": float("-inf"),
    }
    for name, value in expected.items():
        assert server.predict(name).json == value
    assert server.predict("nan").body.replace(b" ", b"") == b"[1.0,NaN,null]"
    assert server.predict("array with nan").body.replace(b" ", b"") == b"[1.0,NaN]"
    for name, part in {
        "object": "answer['scores'][1] is of type object",
        "key": "a key of type tuple",
        "itself": "contains itself",
    }.items():
        reply = server.predict(name)
        assert reply.status == 502
        assert part in reply.message.replace("Circular reference detected", "contains itself")


def test_a_short_request_passes_a_long_one(server: Any, tools: Any) -> None:
    server.deploy("Sleeps")
    long = tools.in_background(lambda: server.predict(1.5))
    time.sleep(0.2)
    start = time.perf_counter()
    assert server.predict(0).status == 200
    assert time.perf_counter() - start < 0.5
    assert long().json == 1.5


def test_a_model_bound_to_its_thread_answers_one_by_one(server: Any) -> None:
    server.deploy("OneThread")
    assert [server.predict(n).json for n in range(20)] == list(range(1, 21))


def test_the_models_process_does_not_see_the_callers_folder(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_TEST_VARIABLE", "seen")
    server.deploy("Where")
    seen = server.predict(None).json
    assert "" not in seen["path"]
    assert seen["folder"] not in seen["path"]
    assert seen["folder"].endswith("work")
    assert seen["variable"] == "seen"
    assert seen["main thread"] is True


def test_sixteen_first_requests_wait_for_the_model(server: Any, tools: Any) -> None:
    server.deploy("SlowToLoad", wait=False, seconds=1.0)
    waiting = [tools.in_background(lambda n=n: server.predict(n)) for n in range(16)]
    replies = [wait() for wait in waiting]
    assert [reply.status for reply in replies] == [200] * 16
    assert [reply.json for reply in replies] == list(range(16))


def test_a_request_over_the_queue_is_refused_at_once(server: Any, tools: Any) -> None:
    server.deploy("Sleeps", threads=1, queue_limit=2)
    busy = [tools.in_background(lambda: server.predict(0.5)) for _ in range(3)]
    tools.eventually(lambda: server.supervisor.table.get("run-1").waiting == 2)
    start = time.perf_counter()
    reply = server.predict(1.0)
    assert time.perf_counter() - start < 0.3
    assert reply.status == 503
    assert int(reply.headers["retry-after"]) >= 1
    assert [wait().status for wait in busy] == [200] * 3


def test_a_model_that_loads_too_long_is_a_503_with_retry_after(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verta_local.serving.endpoint.LOAD_WAIT_S", 0.2)
    server.deploy("SlowToLoad", wait=False, seconds=2)
    reply = server.predict(1)
    assert reply.status == 503
    assert "retry-after" in reply.headers


def test_a_client_that_hangs_up_leaves_nothing_stuck(server: Any, tools: Any) -> None:
    endpoint = server.deploy("Sleeps", threads=1)
    for _ in range(3):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("POST", "/api/v1/predict/run-1", b"0.3")
        connection.close()
    assert server.predict(0).status == 200
    tools.eventually(lambda: endpoint.in_flight == 0)


def test_a_model_sees_no_command_line_of_ours(server: Any) -> None:
    server.deploy("Arguments")
    assert server.predict(None).json == [["verta_local model"]] * 2


def test_a_predict_of_other_arguments_is_one_line_without_our_frames(server: Any) -> None:
    server.deploy("TakesNothing")
    reply = server.predict(1)
    assert reply.status == 502
    assert reply.message == "TypeError: TakesNothing.predict() takes 1 positional argument but 2 were given"
    assert "child.py" not in Path(server.supervisor.table.get("run-1").status()["log"]).read_text()


def test_a_table_goes_in_and_out(server: Any) -> None:
    path = "/api/v1/batch-predict/run-1"
    table = json.dumps({"columns": ["a"], "index": [5, 6], "data": [[1], [2]]}).encode()
    server.deploy("Echo")
    assert "no batch_predict" in server.request("POST", path, table).message
    pytest.importorskip("pandas")
    server.deploy("Table")
    assert server.request("POST", path, table).json == {"columns": ["a"], "index": [5, 6], "data": [[2], [4]]}
    assert server.request("POST", path, b"[1]").status == 400


def test_health_and_metrics(server: Any) -> None:
    endpoint = server.deploy("SlowToLoad", wait=False, seconds=0.5)
    assert server.request("GET", "/health/live").status == 200
    assert server.request("GET", "/health/ready").status == 503
    endpoint.wait_settled(1, 10)
    assert server.request("GET", "/health/ready").json == {"status": "ready", "models": {"run-1": "deployed"}}
    server.predict(1)
    server.predict(1, run_id="unknown")
    text = server.request("GET", "/metrics").body.decode()
    assert 'verta_requests_total{route="run-1",run="run-1",status="200"} 1' in text
    assert 'verta_requests_total{route="",run="",status="404"} 1' in text
    assert 'verta_model_up{route="run-1",run="run-1"} 1' in text
    assert 'verta_request_seconds_bucket{route="run-1",run="run-1",le="+Inf"} 1' in text


def test_lanes_over_loopback_tcp_work_where_sockets_cannot_be_inherited(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LaneEnds.open.__func__, "__defaults__", (True,))  # as on Windows
    server.deploy("Where")
    assert server.predict(None).json["main thread"] is True
    server.deploy("Echo")
    large = list(range(300_000))
    assert server.predict(large).json == large
    assert "VERTA_LOCAL_LANE_KEY" not in str(server.predict("x").headers)


def test_a_stranger_on_the_lane_port_is_turned_away() -> None:
    ends = LaneEnds.open(1, over_tcp=True)
    port = int(ends.arguments[1])
    stranger = socket.create_connection(("127.0.0.1", port))
    stranger.sendall(bytes(33))
    key = bytes.fromhex(ends.environment["VERTA_LOCAL_LANE_KEY"])
    own = socket.create_connection(("127.0.0.1", port))
    own.sendall(key + b"\0")
    (lane,) = ends.connected()
    lane.sendall(b"hello")
    assert own.recv(5) == b"hello"
    assert stranger.recv(1) == b""
    for connection in (stranger, own, lane):
        connection.close()
