"""Attacks on the server: other web sites, other programs, floods."""

from __future__ import annotations

import base64
import json
import socket
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from verta_local.deployment import DeployedModel
from verta_local.serving.admin import make_app

_ADMIN = {"Verta-Local-Admin": "the admin token"}


def _raw(port: int, data: bytes, pause_s: float = 0.0) -> bytes:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    try:
        for piece in (data,) if not pause_s else (data[:10], data[10:]):
            connection.sendall(piece)
            time.sleep(pause_s)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer
    finally:
        connection.close()


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:{port}",
        "127.0.0.1.evil.example:{port}",
        "localhost.:{port}",
        "127.0.0.1.:{port}",
        "127.0.0.1:1",
        "127.0.0.1",
        "localhost",
        "0.0.0.0:{port}",
        "127.0.0.2:{port}",
        "[::1]",
        "",
        "127.0.0.1:{port}, evil.example",
        "127.0.0.1:{port}@evil.example",
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/predict/run-1", "/health/live", "/admin/v1/instance"])
def test_any_other_host_name_is_refused(server: Any, host: str, path: str) -> None:
    reply = server.request("GET", path, headers={"Host": host.format(port=server.port)})
    assert reply.status == 403


def test_no_host_at_all_is_refused(server: Any) -> None:
    assert b" 403 " in _raw(server.port, b"GET /health/live HTTP/1.0\r\n\r\n")


def test_own_host_names_pass(server: Any) -> None:
    for host in ("127.0.0.1", "localhost", "LOCALHOST"):
        assert server.request("GET", "/health/live", headers={"Host": f"{host}:{server.port}"}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_web_pages_are_refused(server: Any, headers: dict[str, str]) -> None:
    server.deploy("Echo")
    sent = {name: value.format(port=server.port) for name, value in headers.items()}
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        assert server.request(method, "/api/v1/predict/run-1", b"1", sent).status == 403
        assert server.request(method, "/admin/v1/deployments", b"1", sent | _ADMIN).status == 403
    assert server.request("GET", "/admin/v1/deployments", headers=sent | _ADMIN).status == 403
    own = {"Origin": f"http://127.0.0.1:{server.port}", "Sec-Fetch-Site": "same-origin"}
    assert server.request("POST", "/api/v1/predict/run-1", b"1", own).status == 200


def test_the_admin_routes_want_their_token(server: Any) -> None:
    for headers in ({}, {"Verta-Local-Admin": "x"}, {"Access-Token": "the admin token"}):
        assert server.request("GET", "/admin/v1/deployments", headers=headers).status == 401
        assert server.request("POST", "/admin/v1/deployments", b"{}", headers).status == 401
        assert server.request("DELETE", "/admin/v1/deployments/x", headers=headers).status == 401
    assert server.request("GET", "/admin/v1/deployments", headers=_ADMIN).json == []


def test_there_are_no_other_admin_routes(server: Any) -> None:
    for path in ("", "/", "x", "/x", "/deployments/", "/deployments/a/b", "/deployments//token", "/instance/a"):
        assert server.request("GET", f"/admin/v1{path}").status == 401
        assert server.request("GET", f"/admin/v1{path}", headers=_ADMIN).status == 404
    for method, path, allowed in (
        ("PATCH", "/deployments", "GET, POST"),
        ("POST", "/deployments/run-1", "DELETE, GET"),
        ("GET", "/deployments/run-1/token", "PUT"),
    ):
        reply = server.request(method, f"/admin/v1{path}", headers=_ADMIN)
        assert (reply.status, reply.headers["allow"]) == (405, allowed)
    assert server.request("HEAD", "/admin/v1/deployments", headers=_ADMIN).body == b""


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"spec": {}, "interpreter": {}}', b"\xff", b'{"spec": 1}'])
def test_a_malformed_order_is_a_400(server: Any, body: bytes) -> None:
    reply = server.request("POST", "/admin/v1/deployments", body, _ADMIN)
    assert reply.status == 400
    assert reply.message


def test_the_instance_route_shows_a_proof_not_the_token(server: Any) -> None:
    first, second = (server.request("GET", f"/admin/v1/instance?nonce={n}").body for n in "ab")
    assert b"the admin token" not in first
    assert json.loads(first)["proof"] != json.loads(second)["proof"]


def test_security_headers_are_on_all_answers(server: Any) -> None:
    server.deploy("Echo", token="t")
    raw_error = _raw(server.port, b"nonsense\r\n\r\n")
    assert raw_error.startswith(b"HTTP/1.0 400")
    assert b"Content-Security-Policy: default-src 'none'" in raw_error
    replies = [
        server.predict(1, Access_Token="t"),
        server.predict(1),
        server.predict(1, run_id="x"),
        server.request("GET", "/health/live"),
        server.request("GET", "/nothing"),
        server.request("GET", "/", headers={"Host": "evil.example"}),
    ]
    assert [reply.status for reply in replies] == [200, 401, 404, 200, 404, 403]
    for reply in replies:
        assert reply.headers["content-security-policy"].startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in reply.headers
        assert "server" not in reply.headers


def test_the_errors_of_the_http_side_have_them_too(make_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verta_local.serving.listener._HEAD_TIMEOUT_S", 0.3)
    server = make_server(body_limit_bytes=1000)
    head = f"POST /api/v1/predict/run-1 HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
    requests = {
        400: f"{head}Content-Length: x\r\n\r\n",
        408: head,
        413: f"{head}Content-Length: 1001\r\n\r\n",
        431: f"{head}X: {'x' * 100_000}\r\n\r\n",
        501: f"{head}Transfer-Encoding: x\r\n\r\n",
    }
    for status, request in requests.items():
        answer, _, body = _raw(server.port, request.encode()).partition(b"\r\n\r\n")
        assert int(answer.split()[1]) == status
        for name in (b"Content-Security-Policy: default-src 'none'", b"X-Content-Type-Options: nosniff"):
            assert name in answer, (status, answer)
        assert b"Referrer-Policy: no-referrer" in answer and b"\r\nServer:" not in answer
        assert json.loads(body)["message"]


def test_no_route_gives_the_bytes_of_an_artifact(server: Any) -> None:
    """So none is ever shown as a page: artifacts leave this machine by the client, not by the server."""
    found = {rule.rule for rule in make_app(server.supervisor).url_map.iter_rules()}
    pages = {"/", "/try/<path:route>", "/pages/<name>", "/openapi.json", "/metrics"}
    health = {"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/ping", "/health"}
    models = {"/version", "/v2", "/v2/", "/v2/models/<path:name>", "/v2/models/<path:name>/ready"}
    assert found == pages | health | models  # and the admin routes, which answer with what is in a status


def test_a_made_token_has_256_random_bits(server: Any) -> None:
    made = [server.deploy("Echo", run_id=run_id, no_token=False).token for run_id in ("run-1", "run-2")]
    assert len(set(made)) == 2
    assert {len(base64.urlsafe_b64decode(f"{token}=")) * 8 for token in made} == {256}


def test_a_body_over_the_limit_is_a_413_without_reading_it(make_server: Any) -> None:
    server = make_server(body_limit_bytes=100_000)
    server.deploy("Echo")
    head = f"POST /api/v1/predict/run-1 HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
    told = _raw(server.port, (head + "Content-Length: 100001\r\n\r\n").encode())  # not a byte of the body is sent
    assert told.startswith(b"HTTP/1.1 413 ")
    assert b"100000 bytes" in told
    invited = _raw(server.port, (head + "Expect: 100-continue\r\nContent-Length: 9999999\r\n\r\n").encode())
    assert invited.startswith(b"HTTP/1.1 413 ")
    chunks = b"%x\r\n%s\r\n" % (60_000, b"1" * 60_000) * 2
    chunked = _raw(server.port, (head + "Transfer-Encoding: chunked\r\n\r\n").encode() + chunks)
    assert chunked.startswith(b"HTTP/1.1 413 ")
    assert server.request("POST", "/api/v1/predict/run-1", b'"%s"' % (b"1" * 99_998)).status == 200


def test_a_client_that_sends_all_of_a_refused_body_still_reads_the_413(make_server: Any) -> None:
    server = make_server(body_limit_bytes=100_000)
    reply = server.request("POST", "/api/v1/predict/run-1", b"1" * 30_000_000)
    assert reply.status == 413


def test_a_zip_bomb_is_a_413(make_server: Any) -> None:
    import gzip

    server = make_server(body_limit_bytes=100_000)
    server.deploy("Echo")
    server.supervisor.table.get("run-1")
    bomb = gzip.compress(b"0" * 80_000_000)
    assert len(bomb) < 100_000
    reply = server.request("POST", "/api/v1/predict/run-1", bomb, {"Content-Encoding": "gzip"})
    assert reply.status == 413


def test_large_headers_are_a_431(server: Any) -> None:
    assert server.request("GET", "/health/live", headers={"X": "x" * 100_000}).status == 431


def test_a_request_that_trickles_in_is_ended_with_an_answer(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verta_local.serving.listener._HEAD_TIMEOUT_S", 0.3)
    monkeypatch.setattr("verta_local.serving.listener._BODY_TIMEOUT_S", 0.3)
    head = f"POST /api/v1/predict/run-1 HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n".encode()
    assert b" 408 " in _raw(server.port, head)
    assert b" 408 " in _raw(server.port, head + b"Content-Length: 10\r\n\r\n1")
    assert server.request("GET", "/health/live").status == 200


def test_many_silent_connections_do_not_stop_the_others(server: Any) -> None:
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
    server.deploy("Echo")
    assert server.predict(1).status == 200
    for connection in silent:
        connection.close()


@pytest.mark.parametrize(
    "route",
    [
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%252e%252e/x",
        "a%00b",
        "%ff",
        "run-1/",
        "run-1/..",
        "//run-1",
        "CON",
    ],
)
def test_strange_routes_are_unknown(server: Any, route: str) -> None:
    server.deploy("Echo")
    assert server.request("POST", f"/api/v1/predict/{route}", b"1").status == 404


def test_pickle_is_never_read(server: Any, tmp_path: Path) -> None:
    import pickle

    class Canary:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "fired",))

    server.deploy("Echo")
    for kind in ("application/octet-stream", "application/python-pickle", "application/json"):
        reply = server.request("POST", "/api/v1/predict/run-1", pickle.dumps(Canary()), {"Content-Type": kind})
        assert reply.status == 400
    assert not (tmp_path / "fired").exists()


def test_the_network_needs_a_token(make_server: Any) -> None:
    server = make_server(host="0.0.0.0")
    with pytest.raises(ValueError, match="needs a token"):
        server.deploy("Echo")
    server.deploy("Echo", token="t")
    assert server.predict(1).status == 401
    assert server.predict(1, Access_Token="t").status == 200
    assert server.predict(1, Access_Token="t", Host=f"10.1.2.3:{server.port}").status == 200
    assert server.predict(1, Access_Token="t", Host=f"evil.example:{server.port}").status == 403


def test_no_way_into_a_debugger_or_folders_in_errors(server: Any) -> None:
    debugger = server.request("GET", "/?__debugger__=yes&cmd=resource&f=debugger.js")
    assert debugger.body == server.request("GET", "/").body
    for path in ("/console", "/static/x", "/admin/v1/none"):
        reply = server.request("GET", path, headers=_ADMIN)
        assert reply.status == 404
        assert str(Path(__file__).parents[2]) not in reply.body.decode()


def test_an_ipv6_address_works_as_well(make_server: Any) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    server = make_server(host="::1")
    endpoint = server.deploy("Echo")
    assert DeployedModel(server.supervisor.url_of(endpoint)).predict(1) == 1


HOSTILE_NAMES = [
    "../../x",
    "..\\..\\x",
    "/etc/passwd",
    "C:/x",
    "\\\\host\\x",
    "x/../../y",
    "%2e%2e%2f",
    "%252e",
    "#/../",
    "a\0b",
    "CON",
    "aux.txt",
    "a:b",
    "dot.",
    "space ",
    "~",
    "-rf",
    "x" * 10_000,
    "\u202etxt.exe",
    "e\u0301",
    "\u00e9",
    "",
    "<script>alert(1)</script>",
    "a\r\nX-Injected: 1",
]
ROUTES = [
    ("POST", "/api/v1/predict/{}"),
    ("POST", "/api/v1/batch-predict/{}"),
    ("POST", "/v2/models/{}/infer"),
    ("GET", "/v2/models/{}"),
    ("GET", "/v2/models/{}/ready"),
    ("GET", "/try/{}"),
    ("GET", "/openapi.json?model={}"),
    ("GET", "/admin/v1/deployments/{}"),
    ("DELETE", "/admin/v1/deployments/{}"),
]


@pytest.mark.parametrize(("method", "route"), ROUTES)
@pytest.mark.parametrize("times_encoded", [0, 1, 2])
def test_hostile_names_in_a_url_meet_nothing(
    server: Any, tmp_path: Path, method: str, route: str, times_encoded: int
) -> None:
    server.deploy("Echo")
    before = sorted(str(path) for path in tmp_path.rglob("*") if path.name != "access.jsonl")
    for name in HOSTILE_NAMES:
        text = name
        for _ in range(times_encoded):
            text = urllib.parse.quote(text, safe="")
        if (times_encoded == 0 and any(letter in name for letter in "\r\n\0 #")) or not text.isascii():
            continue  # no request line can hold it as it is
        head = f"{method} {route.format(text)} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n"
        request = head + "Verta-Local-Admin: the admin token\r\nContent-Length: 1\r\n\r\n1"
        answer = _raw(server.port, request.encode("latin-1"))
        status = int(answer.split()[1])
        assert (
            status in (200, 400, 404, 405, 431) if route.startswith("/openapi") else status in (400, 404, 405, 431)
        ), (
            name,
            answer,
        )
        head_of_answer, _, body = answer.partition(b"\r\n\r\n")
        assert b"X-Injected" not in head_of_answer
        assert b"<script>alert" not in body
        assert b"root:" not in body
    assert server.predict("still there").json == "still there"
    assert sorted(str(path) for path in tmp_path.rglob("*") if path.name != "access.jsonl") == before


def test_a_token_in_the_url_opens_nothing(server: Any) -> None:
    server.deploy("Echo", token="secret")
    for query in ("?token=secret", "?access_token=secret", "?Access-Token=secret"):
        assert server.request("POST", f"/api/v1/predict/run-1{query}", b"1").status == 401


def test_the_server_fetches_no_url_that_it_is_handed(server: Any) -> None:
    server.deploy("Echo")
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.3)
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/x"
        for body in ({"url": url}, {"inputs": [url]}, {"$ref": url}):
            for path in ("/api/v1/predict/run-1", "/v2/models/run-1/infer", "/invocations"):
                server.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with pytest.raises(TimeoutError):
            trap.accept()


def test_two_lengths_or_a_length_and_chunks_are_refused(server: Any) -> None:
    """Request smuggling: a proxy in front and this server must not read two different requests."""
    server.deploy("Echo")
    head = f"POST /api/v1/predict/run-1 HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n"
    for lines in (
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: -1\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    ):
        answer = _raw(server.port, (head + lines + "\r\n1\r\n\r\n0\r\n\r\n").encode())
        assert int(answer.split()[1]) in (400, 501), (lines, answer)


def test_a_client_that_ends_in_the_middle_of_its_body_is_told_so(server: Any) -> None:
    server.deploy("Echo")
    head = f"POST /api/v1/predict/run-1 HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
    for rest in (
        "Content-Length: 100\r\n\r\n[1",
        "Content-Length: 100\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\n[1",
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall((head + rest).encode())
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 400 "), (rest, answer)
        assert b"ended" in answer
    assert server.predict(1).status == 200
