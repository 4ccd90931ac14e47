"""The table "What happens when" of docs/serving.md: each line is done to a real server, and what is seen is compared.

`WRITE_TABLE=1 python -m pytest tests/serving/test_serving_table.py` writes what was seen into the document.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from verta_local import config
from verta_local.deployment import DeployedModel, local

DOCUMENT = Path(__file__).parents[2] / "docs" / "serving.md"
_PREDICT = "/api/v1/predict/run-1"
_HEADING = "| when | then |\n|---|---|\n"
ROWS: dict[str, Callable[..., str]] = {}


def row(when: str) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """Adds a line: the function does it, and returns what it saw in words."""

    def add(function: Callable[..., str]) -> Callable[..., str]:
        ROWS[when] = function
        return function

    return add


def _seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = function()
    return time.perf_counter() - start, found


@row("a malformed, empty or non-UTF-8 body, or 100,000 nested `[`")
def _(server: Any, tools: Any, make_server: Any) -> str:
    server.deploy("Echo")
    replies = [server.request("POST", _PREDICT, body) for body in (b"{", b"", b"\xff", b"[" * 100_000)]
    is_sentence = all("\n" not in reply.message and len(reply.message) < 200 for reply in replies)
    (status,) = {reply.status for reply in replies}
    return f"{status}{' with one sentence' if is_sentence else ''}"


@row("a body over the limit (64 MiB)")
def _(server: Any, tools: Any, make_server: Any) -> str:
    server.deploy("Echo")
    head = (
        f"POST {_PREDICT} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: {64 * 1024 * 1024 + 1}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head.encode())  # and not a byte of the body
        status = connection.recv(65536).split()[1].decode()
    return f"{status}, without reading it"


@row("the model raises an exception, SystemExit or KeyboardInterrupt")
def _(server: Any, tools: Any, make_server: Any) -> str:
    pid = server.deploy("RaisesNamed").status()["pid"]
    names = ("ValueError", "SystemExit", "KeyboardInterrupt")
    replies = {name: server.predict(name) for name in names}
    (status,) = {reply.status for reply in replies.values()}
    says = all(name in reply.message for name, reply in replies.items())
    lives = server.supervisor.table.get("run-1").status()["pid"] == pid
    return f"{status}{' with its traceback' if says else ''}; the process {'goes on' if lives else 'ends'}"


@row("the model calls `os._exit`, is killed, or crashes")
def _(server: Any, tools: Any, make_server: Any) -> str:
    endpoint = server.deploy("Dies")
    seen = set()
    for how, part in (("exit", "exit code 3"), ("kill", "SIGKILL (9)"), ("segfault", "SIGSEGV (11)")):
        reply = server.predict(how)
        seconds, after = _seconds(lambda: server.predict("pid"))
        seen.add((reply.status, part in reply.message, after.status, seconds < 3))
    ((status, says, after_status, _),) = seen
    for _ in range(5):
        if endpoint.state != "error":
            server.predict("exit")
            tools.eventually(lambda: endpoint.state in ("deployed", "error"))
    last = "last words" in endpoint.status()["message"]
    said = " with the exit code or signal and the last output" if says and last else ""
    back = "the next request is answered" if after_status == 200 else "the next request fails"
    return f"{status}{said}; {back}; after five deaths in a minute `{endpoint.state}`"


@row("the model hangs")
def _(server: Any, tools: Any, make_server: Any) -> str:
    endpoint = server.deploy("Sleeps", predict_timeout_s=0.5)
    before = endpoint.status()["pid"]
    seconds, reply = _seconds(lambda: server.predict(600))
    tools.eventually(lambda: endpoint.status()["pid"] not in (before, None))
    tools.eventually(lambda: not Path(f"/proc/{before}").exists())
    in_time = "at the time limit" if 0.4 < seconds < 5 else "late"
    return f"{reply.status} {in_time}; the process is replaced"


@row("the model answers with NaN, NumPy, bytes, a date, or something that has no JSON form")
def _(server: Any, tools: Any, make_server: Any) -> str:
    pytest.importorskip("numpy")
    server.deploy("Answers")
    assert server.predict("nan").body.replace(b" ", b"") == b"[1.0,NaN,null]"
    assert server.predict("array").json == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert server.predict("bytes").json == "AP8="
    assert server.predict("day").json == "2020-03-13"
    reply = server.predict("object")
    assert "answer['scores'][1] is of type object" in reply.message
    return f"`NaN`, lists, base64, ISO 8601; {reply.status} that names the type and its place"


@row("SIGTERM while a request runs")
def _(server: Any, tools: Any, make_server: Any) -> str:
    program = (
        "import json, sys; from verta_local.serving import serve_foreground\n"
        "ready = lambda models: print(models[0].url, flush=True)\n"
        "sys.exit(serve_foreground([json.loads(sys.argv[1])], no_token=True, on_ready=ready, _loader=sys.argv[2]))"
    )
    command = [sys.executable, "-c", program, json.dumps(tools.spec_of("Sleeps")), tools.LOADER]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    metrics_url = f"http://{urllib.parse.urlsplit(url).netloc}/metrics"
    waiting = tools.in_background(lambda: DeployedModel(url).predict(2.0))
    tools.eventually(lambda: b'verta_in_flight{route="run-1"} 1' in urllib.request.urlopen(metrics_url).read())
    group = process.pid
    process.send_signal(signal.SIGTERM)
    answered = waiting() == 2.0
    process.communicate(timeout=15)
    left = [pid for pid in tools.processes_of(Path(os.environ["VERTA_LOCAL_STATE"])) if pid != group]
    ended = f"exit code {process.returncode}, {'no' if not left else 'a'} process is left"
    return f"{'it is answered' if answered else 'it is lost'}; {ended}"


@row("a short request while a long one runs")
def _(server: Any, tools: Any, make_server: Any) -> str:
    server.deploy("Sleeps")
    long = tools.in_background(lambda: server.predict(3.0))
    time.sleep(0.3)
    seconds, reply = _seconds(lambda: server.predict(0))
    is_first = long() is not None
    return "answered at once" if reply.status == 200 and seconds < 1.5 and is_first else "waits"


@row("a client hangs up in the middle of a request")
def _(server: Any, tools: Any, make_server: Any) -> str:
    endpoint = server.deploy("Sleeps", threads=1)
    for _ in range(3):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("POST", _PREDICT, b"0.2")
        connection.close()
    reply = server.predict(0)
    tools.eventually(lambda: endpoint.in_flight == 0)
    return "nothing is stuck" if reply.status == 200 else "stuck"


@row("16 first requests before the model is loaded")
def _(server: Any, tools: Any, make_server: Any) -> str:
    server.deploy("SlowToLoad", wait=False, seconds=1.0)
    waiting = [tools.in_background(lambda n=n: server.predict(n)) for n in range(16)]
    replies = [wait() for wait in waiting]
    good = [reply.json for reply in replies if reply.status == 200]
    return "all wait and are answered" if good == list(range(16)) else f"{16 - len(good)} fail"


@row("another model at the same URL, under load")
def _(server: Any, tools: Any, make_server: Any) -> str:
    server.deploy("Name", version=0)
    load = tools.Load(server, 4, keep_alive=False)
    for version in (1, 2, 3):
        server.deploy("Name", version=version)
    seen = load.stop()
    assert sum(seen.values()) > 10
    return f"{sum(count for (status, _), count in seen.items() if status != 200)} requests are lost"


@row("the queue is full")
def _(server: Any, tools: Any, make_server: Any) -> str:
    server.deploy("Sleeps", threads=1, queue_limit=2)
    busy = [tools.in_background(lambda: server.predict(1.0)) for _ in range(3)]
    tools.eventually(lambda: server.supervisor.table.get("run-1").waiting == 2)
    seconds, reply = _seconds(lambda: server.predict(0))
    assert [wait().status for wait in busy] == [200] * 3
    how = "at once" if seconds < 0.9 else "late"
    return f"{reply.status} with `Retry-After` {how}" if "retry-after" in reply.headers else f"{reply.status} {how}"


@row("the port is taken")
def _(server: Any, tools: Any, make_server: Any) -> str:
    program = (
        "import sys; from verta_local.serving import serve_foreground as s; sys.exit(s([], port=int(sys.argv[1])))"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-c", program, str(taken.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=15)
    lines = done.stderr.strip().splitlines()
    return f"{'one sentence' if len(lines) == 1 else f'{len(lines)} lines'}, exit code {done.returncode}"


@row("the server was killed, or the machine restarted, and its old port and process id belong to others")
def _(server: Any, tools: Any, make_server: Any) -> str:
    with socket.create_server(("127.0.0.1", 0)) as other:
        state = {
            "version": 1,
            "pid": os.getpid(),
            "port": other.getsockname()[1],
            "instance": "i",
            "admin_token": "old",
            "deployments": [{"run_id": "run-9", "store_id": "store-1", "route": "run-9"}],
        }
        folder = config.serving_dir()
        folder.mkdir(parents=True)
        (folder / "supervisor.json").write_text(json.dumps(state))
        threading.Thread(target=lambda: other.accept()[0].close(), daemon=True).start()
        status = local.status("store-1", "run-9")
    return f'"{status["status"]}", and why' if "restarted" in status["message"] else status["status"]


@pytest.mark.parametrize("when", list(ROWS))
def test_the_table_says_what_is_seen(when: str, server: Any, tools: Any, make_server: Any) -> None:
    seen = ROWS[when](server, tools, make_server)
    text = DOCUMENT.read_text()
    said = _table(text)
    if os.environ.get("WRITE_TABLE"):
        said[when] = seen
        above, heading, rest = text.partition(_HEADING)
        lines = "".join(f"| {each} | {said[each]} |\n" for each in ROWS if each in said)
        DOCUMENT.write_text(above + heading + lines + "\n" + rest.partition("\n\n")[2])
    assert said.get(when) == seen


def test_the_table_has_these_lines_and_no_others() -> None:
    assert list(_table(DOCUMENT.read_text())) == list(ROWS)


def _table(text: str) -> dict[str, str]:
    lines = text.partition(_HEADING)[2].partition("\n\n")[0].splitlines()
    cells = [line.strip("|").split("|") for line in lines]
    return {when.strip(): then.strip() for when, then in cells}
