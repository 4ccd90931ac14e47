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
from verta_local.serving import serve_foreground

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
    assert "(Address already in use)" in errors


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"port": 99999}, "from 0 (any free one) to 65535, not 99999"),
        ({"port": -5}, "from 0 (any free one) to 65535, not -5"),
        ({"host": "no-such-host.invalid"}, "no host is known by the name 'no-such-host.invalid'"),
        ({"host": "x" * 300}, "no host is known by the name"),
        ({"host": ""}, "no host is known by the name ''"),
        ({"host": "a\0b"}, "no host is known by the name"),
        ({"host": "192.0.2.1"}, "choose another host"),
        ({"threads": 0}, "threads must be a whole number from 1 to 64, not 0"),
        ({"threads": -1}, "threads must be"),
        ({"threads": 1000}, "threads must be"),
        ({"predict_timeout_s": 0}, "predict_timeout_s must be"),
        ({"token": ""}, "a token must be"),
        ({"token": "x" * 100_000}, "4096 characters at most"),
        ({"token": "a\nb"}, "a token must be"),
        ({"token": "x", "no_token": True}, "not both"),
    ],
)
def test_a_setting_that_cannot_be_is_one_sentence(
    tools: Any, state_folder: Path, capfd: pytest.CaptureFixture[str], settings: dict[str, Any], part: str
) -> None:
    assert serve_foreground([tools.spec_of("Echo")], **settings) == 1
    errors = capfd.readouterr().err
    assert part in errors
    assert len(errors.strip().splitlines()) == 1
    assert not list(state_folder.glob("foreground/*"))


def test_a_state_folder_that_cannot_be_written_is_one_sentence(
    tools: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VERTA_LOCAL_STATE", str(tmp_path / "file" / "state"))
    assert serve_foreground([tools.spec_of("Echo")]) == 1
    errors = capfd.readouterr().err
    assert "set VERTA_LOCAL_STATE to another folder" in errors
    assert len(errors.strip().splitlines()) == 1


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


def test_neither_a_runs_name_nor_a_requests_text_steers_the_terminal(tools: Any) -> None:
    """Escape sequences set titles, move the cursor, and on some terminals answer as if typed."""
    hostile = "\x1b]0;title\x07\x1b[2J\u202egnp.exe\rhidden"
    process = _serve([tools.spec_of("Prints", run_name=hostile)], no_token=True)
    assert process.stdout is not None
    ((_, url, _, _),) = json.loads(process.stdout.readline())
    DeployedModel(url).predict(f"{hostile} and text \u00e9")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert "hidden and text \u00e9" in errors
    broken = _serve([tools.spec_of("BreaksAtLoad", run_name=hostile)])
    told = broken.communicate(timeout=15)[1]
    assert "\\x1b]0;title" in told.splitlines()[-1]
    for text in (errors, told):
        assert all(letter.isprintable() or letter == "\n" for letter in text), ascii(text)


def test_a_signal_at_the_moment_of_readiness_ends_it_in_order(tools: Any, state_folder: Path) -> None:
    program = _PROGRAM.replace("flush=True)", "flush=True); os.kill(os.getpid(), signal.SIGHUP)")
    late = """
import os, signal, time
from verta_local.serving.supervisor import Supervisor
real = Supervisor.run
def run(self):
    time.sleep(1.0)  # the models are ready before the server has begun
    return real(self)
Supervisor.run = run
"""
    order = json.dumps({"specs": [tools.spec_of("Echo")]})
    process = subprocess.run([sys.executable, "-c", late + program, order], capture_output=True, text=True, timeout=20)
    assert process.stdout.startswith("[[") and process.returncode == 0, process.stderr
    assert tools.processes_of(state_folder) == []
    assert not list((state_folder / "foreground").glob("*"))


def test_closing_the_terminal_ends_it_in_order(tools: Any, state_folder: Path) -> None:
    process = _serve([tools.spec_of("Echo")])
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=10)
    assert process.returncode == 0
    assert not list((state_folder / "foreground").glob("*"))
