"""`serve_foreground`, in a process of its own as the command line runs it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from verta_local.deployment import DeployedModel

_PROGRAM = """
import json, sys
from verta_local.serving import serve_foreground
order = json.loads(sys.argv[1])
def ready(models):
    print(json.dumps([[m.run_id, m.url, m.token, m.curl] for m in models]), flush=True)
sys.exit(serve_foreground(order.pop("specs"), on_ready=ready, _loader="served_models:load", **order))
"""


def _serve(specs: list[dict[str, Any]], **settings: Any) -> subprocess.Popen[str]:
    order = json.dumps({"specs": specs, **settings})
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, order], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_it_says_where_and_ctrl_c_answers_what_is_in_flight(tools: Any, state_folder: Path) -> None:
    process = _serve([tools.spec_of("Sleeps"), tools.spec_of("Echo", "run-2")])
    assert process.stdout is not None
    (_, url, token, curl), (run_id, second_url, second_token, _) = json.loads(process.stdout.readline())
    assert token in curl and url in curl
    assert run_id == "run-2"
    assert DeployedModel(second_url, second_token).predict("hi") == "hi"
    waiting: list[Any] = []
    thread = threading.Thread(target=lambda: waiting.append(DeployedModel(url, token).predict(1.5)))
    thread.start()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    thread.join(10)
    assert waiting == [1.5]
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert tools.processes_of(state_folder) == []
    assert not list((state_folder / "foreground").glob("*"))


def test_a_second_ctrl_c_ends_at_once(tools: Any) -> None:
    process = _serve([tools.spec_of("Sleeps")], no_token=True)
    assert process.stdout is not None
    ((_, url, _, _),) = json.loads(process.stdout.readline())
    asked = tools.in_background(lambda: DeployedModel(url).predict(30))
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    with pytest.raises((RuntimeError, ConnectionError)):
        asked()


def test_a_model_that_does_not_load_is_a_traceback_and_exit_code_1(tools: Any) -> None:
    process = _serve([tools.spec_of("BreaksAtLoad")])
    output, errors = process.communicate(timeout=15)
    assert process.returncode == 1
    assert output == ""
    assert errors.count("FileNotFoundError: index.ann is not what it was") == 1
    assert "loading the index" in errors
    assert errors.strip().splitlines()[-1].startswith("verta-local: the model of run a run does not load")


def test_a_taken_port_is_one_sentence(tools: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = _serve([tools.spec_of("Echo")], port=taken.getsockname()[1])
        _, errors = process.communicate(timeout=15)
    assert process.returncode == 1
    assert len(errors.strip().splitlines()) == 1
    assert "choose another port" in errors


def test_no_token_on_the_network_is_refused(tools: Any) -> None:
    process = _serve([tools.spec_of("Echo")], host="0.0.0.0", no_token=True)
    _, errors = process.communicate(timeout=15)
    assert process.returncode == 1
    assert "needs a token" in errors


def test_what_the_model_prints_is_seen(tools: Any) -> None:
    process = _serve([tools.spec_of("Prints")], no_token=True)
    assert process.stdout is not None
    ((_, url, _, _),) = json.loads(process.stdout.readline())
    DeployedModel(url).predict("seen by the user")
    time.sleep(0.6)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert "seen by the user" in errors
    assert process.returncode == 0


def test_closing_the_terminal_ends_it_in_order(tools: Any, state_folder: Path) -> None:
    process = _serve([tools.spec_of("Echo")])
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=10)
    assert process.returncode == 0
    assert not list((state_folder / "foreground").glob("*"))
