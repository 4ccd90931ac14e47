"""Requests whose sender does not wait (as those by granian): each is answered once, whatever becomes of the model."""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
import time
from collections import Counter
from typing import Any

import pytest

from verta_local.serving import endpoint as endpoint_module
from verta_local.serving import frames


class _Told:
    """Sends requests to the front without waiting, and gathers what it is told."""

    def __init__(self, server: Any) -> None:
        self._front = server.supervisor._front
        self._port = server.port
        self.got: queue.Queue[tuple[Any, int, dict[str, str], Any]] = queue.Queue()

    def begin(self, number: Any, data: Any, run_id: str = "run-1", **environ: str) -> bool:
        request = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": f"/api/v1/predict/{run_id}",
            "HTTP_HOST": f"127.0.0.1:{self._port}",
            **environ,
        }

        def respond(status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.got.put((number, status, dict(headers), json.loads(body)))

        return bool(self._front.begin(request, json.dumps(data).encode(), respond))

    def all_of(self, count: int) -> dict[Any, tuple[int, Any]]:
        found = {}
        for _ in range(count):
            number, status, _, body = self.got.get(timeout=15)
            assert number not in found, "answered twice"
            found[number] = status, body
        return found


@pytest.fixture
def told(server: Any) -> _Told:
    return _Told(server)


def test_hundreds_at_once_are_all_answered_by_their_own_answer(server: Any, told: _Told) -> None:
    server.deploy("Echo", threads=4, queue_limit=1000)
    bodies = [[number, "x" * (number % 7) * 20_000] for number in range(400)]
    threads = [
        threading.Thread(target=lambda start: [told.begin(n, bodies[n]) for n in range(start, 400, 8)], args=(start,))
        for start in range(8)
    ]
    for thread in threads:
        thread.start()
    awaited = [server.predict(number).json for number in range(20)]  # and some that wait, on the same lane
    for thread in threads:
        thread.join()
    assert told.all_of(400) == {number: (200, bodies[number]) for number in range(400)}
    assert awaited == list(range(20))
    endpoint = server.supervisor.table.get("run-1")
    assert (endpoint.in_flight, endpoint.waiting) == (0, 0)
    assert not told.got.qsize()


def test_the_reader_comes_back_after_a_pause(server: Any, told: _Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verta_local.serving.stream._LINGER_S", 0.05)
    server.deploy("Echo")
    for number in range(3):
        told.begin(number, number)
        assert told.all_of(1) == {number: (200, number)}
        time.sleep(0.4)
        assert "answers" not in {thread.name for thread in threading.enumerate()}


def test_what_no_model_is_asked_for_is_left_to_others(told: _Told) -> None:
    assert not told.begin(1, 1, PATH_INFO="/health/live")
    assert told.begin(2, 1, HTTP_HOST="evil.example")
    assert told.begin(3, 1, "nothing")
    assert told.begin(4, 1, HTTP_VERTA_REQUEST_ID="a b")
    assert {number: status for number, (status, _) in told.all_of(3).items()} == {2: 403, 3: 404, 4: 400}


def test_a_killed_process_answers_those_it_had_and_the_rest_go_to_the_next(server: Any, told: _Told) -> None:
    endpoint = server.deploy("Sleeps", threads=4, queue_limit=100)
    pid = endpoint.status()["pid"]
    for number in range(12):
        told.begin(number, 0.4)
    time.sleep(0.2)
    os.kill(pid, signal.SIGKILL)
    found = told.all_of(12)
    assert Counter(status for status, _ in found.values()) == {502: 4, 200: 8}
    assert "SIGKILL" in found[0][1]["message"]
    assert endpoint.in_flight == 0


def test_a_full_queue_is_a_503_at_once(server: Any, told: _Told) -> None:
    server.deploy("Sleeps", threads=1, queue_limit=2)
    for number in range(6):
        told.begin(number, 0.5)
    statuses = {number: status for number, (status, _) in told.all_of(6).items()}
    assert Counter(statuses.values()) == {200: 3, 503: 3}


def test_one_that_hangs_is_told_so_and_those_behind_it_are_answered(server: Any, told: _Told) -> None:
    server.deploy("Sleeps", threads=1, predict_timeout_s=0.6)
    told.begin("hangs", 30)
    told.begin("waits", 0)
    found = told.all_of(2)
    assert found["hangs"][0] == 502
    assert "did not answer within 0.6 s" in found["hangs"][1]["message"]
    assert (
        found["waits"] == (200, 0) or found["waits"][0] == 503
    )  # its time may be over before the next process is there


def test_waiting_for_a_model_that_loads_ends_with_a_503(
    server: Any, told: _Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "LOAD_WAIT_S", 0.3)
    server.deploy("SlowToLoad", wait=False, seconds=3)
    told.begin(1, 1)
    status, body = told.all_of(1)[1]
    assert status == 503
    assert body["message"] == "the model is still loading: try again"


def test_those_that_wait_are_answered_when_the_model_is_there_and_told_when_it_is_taken_down(
    server: Any, told: _Told
) -> None:
    endpoint = server.deploy("SlowToLoad", wait=False, seconds=0.5)
    for number in range(16):
        told.begin(number, number)
    assert set(told.all_of(16).values()) == {(200, number) for number in range(16)}
    endpoint = server.deploy("Sleeps", run_id="slow", threads=1)
    told.begin("runs", 0.5, "slow")
    told.begin("waits", 0.5, "slow")
    endpoint.stop()
    found = told.all_of(2)
    assert found["runs"] == (200, 0.5)
    assert found["waits"][0] == 410


def test_an_upgrade_loses_none(server: Any, told: _Told) -> None:
    server.deploy("Name", version=0, queue_limit=1000)
    ended = threading.Event()
    sent = 0

    def load() -> None:
        nonlocal sent
        while not ended.is_set():
            told.begin(sent, 1)
            sent += 1
            time.sleep(0.001)

    loader = threading.Thread(target=load)
    loader.start()
    for version in (1, 2, 3):
        server.deploy("Name", version=version, queue_limit=1000)
    time.sleep(0.2)
    ended.set()
    loader.join()
    assert set(told.all_of(sent).values()) == {(200, version) for version in range(4)}


def test_a_sender_that_fails_takes_no_answer_from_the_others(
    server: Any, told: _Told, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.deploy("Sleeps", threads=8)
    endpoint = server.supervisor.table.get("run-1")

    def fail(answer: Any) -> None:
        raise OSError("the client is gone")

    for number in range(4):
        told.begin(number, 0.2)
        endpoint.begin(frames.PREDICT, "id", b"0.2", b"", fail)
    assert told.all_of(4) == dict.fromkeys(range(4), (200, 0.2))
    tools.eventually(lambda: caplog.text.count("an answer could not be written") == 4)
