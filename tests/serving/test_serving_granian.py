"""What the listener by granian promises, where granian is installed: the same behaviour as the one in pure Python."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from verta_local.serving import listeners

granian = pytest.importorskip("granian")


@pytest.fixture
def granian_server(make_server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("VERTA_LOCAL_HTTP_SERVER", "granian")
    return make_server(body_limit_bytes=100_000)


def test_granian_is_taken_where_it_is_installed(make_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERTA_LOCAL_HTTP_SERVER")
    assert type(make_server().supervisor.server).__name__ == "GranianServer"
    monkeypatch.setenv("VERTA_LOCAL_HTTP_SERVER", "waitress")
    assert type(make_server().supervisor.server).__name__ == "HttpServer"
    monkeypatch.setenv("VERTA_LOCAL_HTTP_SERVER", "apache")
    with pytest.raises(ValueError, match="is granian or waitress, not 'apache'"):
        make_server()


def test_an_unknown_granian_leaves_the_work_to_waitress(make_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("granian._granian.__version__", "3.0.0")
    monkeypatch.delenv("VERTA_LOCAL_HTTP_SERVER")
    assert type(make_server().supervisor.server).__name__ == "HttpServer"
    monkeypatch.setenv("VERTA_LOCAL_HTTP_SERVER", "granian")
    with pytest.raises(ValueError, match=r"its version is 3\.0\.0, and only 2\.x is known here"):
        make_server()


def test_it_predicts_and_refuses_as_the_other_one(granian_server: Any) -> None:
    granian_server.deploy("Echo", token="t")
    reply = granian_server.predict([1.5, "é"], Access_Token="t")
    assert (reply.status, reply.json) == (200, [1.5, "é"])
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert granian_server.predict(1).status == 401
    assert granian_server.predict(1, Access_Token="t", Host="evil.example").status == 403
    assert granian_server.request("GET", "/health/live").status == 200
    assert granian_server.request("GET", "/nothing").status == 404


def test_a_body_over_the_limit_is_a_413_at_once(granian_server: Any) -> None:
    granian_server.deploy("Echo")
    reply = granian_server.predict("x" * 200_000)
    assert (reply.status, reply.message) == (413, "the body is larger than the limit of 100000 bytes")
    head = f"POST /api/v1/predict/run-1 HTTP/1.1\r\nHost: 127.0.0.1:{granian_server.port}\r\n"
    assert b" 413 " in said(granian_server.port, head + "Content-Length: 9000000\r\n\r\n")
    chunks = "20000\r\n" + "x" * 0x20000 + "\r\n0\r\n\r\n"
    assert b" 413 " in said(granian_server.port, head + "Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert b" 200 " in said(granian_server.port, head + "Transfer-Encoding: chunked\r\n\r\n3\r\n[1]\r\n0\r\n\r\n")


def test_a_body_that_is_cut_short_never_reaches_the_model(granian_server: Any) -> None:
    granian_server.deploy("Echo")
    head = f"POST /api/v1/predict/run-1 HTTP/1.1\r\nHost: 127.0.0.1:{granian_server.port}\r\nContent-Length: 9\r\n\r\n"
    with socket.create_connection(("127.0.0.1", granian_server.port), timeout=10) as connection:
        connection.sendall((head + "[1]").encode())
        connection.shutdown(socket.SHUT_WR)
        assert b"the request ended before all 9 bytes of its body" in connection.recv(65536)


def test_a_head_far_over_the_limit_is_refused(granian_server: Any) -> None:
    try:
        status = granian_server.request("GET", "/health/live", headers={"X": "x" * 600_000}).status
    except OSError:
        return  # cut off while it was still sending: the other way in which granian refuses it
    assert status == 431


def test_the_port_is_not_shared_with_another_server(granian_server: Any, make_server: Any) -> None:
    with pytest.raises(OSError, match="in use"):
        make_server(port=granian_server.port)


def test_forty_waiting_requests_do_not_keep_a_short_one_out(granian_server: Any, tools: Any) -> None:
    """A request that waits for its model occupies no thread of the server."""
    granian_server.deploy("Sleeps", run_id="slow", threads=40)
    granian_server.deploy("Echo", run_id="short")
    waits = [tools.in_background(lambda: granian_server.predict(1.5, "slow").status) for _ in range(40)]
    tools.eventually(lambda: granian_server.supervisor.table.get("slow").in_flight >= 10)
    begin = time.monotonic()
    assert granian_server.predict(1, "short").status == 200
    assert time.monotonic() - begin < 1.2
    assert [wait() for wait in waits] == [200] * 40
    assert time.monotonic() - begin < 10


def test_what_is_in_flight_is_answered_when_the_server_stops(granian_server: Any, tools: Any) -> None:
    server = granian_server
    server.deploy("Sleeps")
    wait = tools.in_background(lambda: server.predict(1.0).status)
    tools.eventually(lambda: server.supervisor.table.get("run-1").in_flight)
    server.stop()
    assert wait() == 200
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()


def test_a_host_that_is_none_is_said_before_anything_listens() -> None:
    with pytest.raises(ValueError, match="no host is known by the name"):
        listeners.make_server(lambda environ, start: [], "no such host", 0, 1)


def said(port: int, request: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request.encode())
        return connection.recv(65536)
