"""Models forked from a warm parent: as isolated as those of a fresh interpreter, and no more dangerous."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="models are forked on Linux only")


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_models_have_one_warm_parent_and_groups_of_their_own(server: Any) -> None:
    pids = [server.deploy("Echo", run_id=f"run-{n}").status()["pid"] for n in range(3)]
    (parent,) = {_parent_of(pid) for pid in pids}
    assert _comm(parent) == "verta nursery"
    assert {_comm(pid) for pid in pids} == {"verta model"}
    assert [os.getpgid(pid) for pid in pids] == pids
    assert os.getpgid(parent) not in (os.getpgid(0), *pids)


def test_a_fork_sees_its_own_variables_and_nothing_of_another_model(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_TEST_VARIABLE", "first")
    server.deploy("Where", run_id="a")
    monkeypatch.delenv("SERVING_TEST_VARIABLE")
    server.deploy("Where", run_id="b")
    assert server.predict(None, run_id="a").json["variable"] == "first"
    assert server.predict(None, run_id="b").json["variable"] is None


def test_a_variable_that_the_interpreter_reads_when_it_starts_gets_another_parent(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = []
    for number in ("1", "2", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", number)
        parents.append(_parent_of(server.deploy("Echo", run_id=f"run-{number}").status()["pid"]))
    assert parents[0] != parents[1]
    assert parents[2] == os.getpid()  # two warm parents are enough: this one is a fresh interpreter


def test_forks_do_not_draw_the_same_random_numbers(server: Any) -> None:
    pytest.importorskip("numpy")
    for number in range(2):
        server.deploy("Draws", run_id=f"run-{number}", requirements=["numpy==1"])
    first, second = (server.predict(None, run_id=f"run-{number}").json for number in range(2))
    assert first["numpy"] != second["numpy"]
    assert first["random"] != second["random"]


def test_no_descriptor_of_another_model_is_open_in_a_fork(server: Any) -> None:
    server.deploy("Echo", run_id="a")
    alone = len(os.listdir(f"/proc/{server.deploy('Echo', run_id='b').status()['pid']}/fd"))
    for number in range(3):
        server.deploy("Echo", run_id=f"run-{number}")
    later = len(os.listdir(f"/proc/{server.deploy('Echo', run_id='c').status()['pid']}/fd"))
    assert later == alone


def test_a_killed_parent_takes_its_models_along_and_they_come_back_from_a_new_one(server: Any, tools: Any) -> None:
    endpoint = server.deploy("Dies")
    before = endpoint.status()["pid"]
    parent = _parent_of(before)
    os.kill(parent, signal.SIGKILL)
    tools.eventually(lambda: endpoint.state == "deployed" and endpoint.status()["pid"] not in (None, before))
    assert server.predict("pid").status == 200
    assert _parent_of(endpoint.status()["pid"]) not in (parent, os.getpid())


def test_a_warm_deployment_takes_a_fraction_of_a_fresh_interpreter(make_server: Callable[..., Any]) -> None:
    best_s = {}
    for may_fork in (True, False):
        server = make_server(may_fork=may_fork)
        server.deploy("Echo", run_id="warms-up")
        seconds = []
        for number in range(8):
            start = time.perf_counter()
            server.deploy("Echo", run_id=f"run-{number}")
            assert server.predict(number, run_id=f"run-{number}").json == number
            seconds.append(time.perf_counter() - start)
        best_s[may_fork] = min(seconds)
    assert best_s[True] < 0.5 * best_s[False]  # measured on a quiet machine: 0.01 s of 0.15 s


@pytest.mark.parametrize("how", ["exit", "kill", "segfault"])
def test_deaths_read_the_same_without_forks(make_server: Callable[..., Any], how: str) -> None:
    texts = []
    for may_fork in (True, False):
        server = make_server(may_fork=may_fork)
        endpoint = server.deploy("Dies")
        assert (_parent_of(endpoint.status()["pid"]) == os.getpid()) is not may_fork
        texts.append(server.predict(how).message.partition("last output")[0])
        assert server.predict("pid").status == 200
    assert texts[0] == texts[1]


def test_programs_that_a_fork_started_go_with_it(server: Any, tools: Any) -> None:
    endpoint = server.deploy("LeavesPrograms")
    left = server.predict(None).json
    os.kill(endpoint.status()["pid"], signal.SIGKILL)
    tools.eventually(lambda: not Path(f"/proc/{left}").exists() or " Z " in Path(f"/proc/{left}/stat").read_text())
