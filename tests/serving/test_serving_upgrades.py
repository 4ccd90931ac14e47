"""Another model at the same URL: replicas, replacing under load, canaries, and what happens when one of them is broken."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from typing import Any

import pytest


def test_ten_upgrades_under_load_of_keep_alive_clients_lose_no_request(server: Any, tools: Any) -> None:
    server.deploy("Name", version=0)
    load = tools.Load(server, 8)
    for version in range(1, 11):
        assert server.deploy("Name", version=version).state == "deployed"
        tools.eventually(lambda: (200, str(version)) in load.seen)  # noqa: B023 - it returns before the next
    seen = load.stop()
    assert {status for status, _ in seen} == {200}
    assert {body for _, body in seen} == {str(version) for version in range(11)}
    assert sum(seen.values()) > 100


def test_another_run_at_the_path_takes_over_without_a_lost_request(server: Any, tools: Any) -> None:
    server.deploy("Name", run_id="a", version="a", path="best")
    load = tools.Load(server, 4, "project-1/best")
    for run_id in ("b", "c"):
        server.deploy("Name", run_id=run_id, version=run_id, path="best")
        time.sleep(0.1)
    seen = load.stop()
    assert set(seen) == {(200, '"a"'), (200, '"b"'), (200, '"c"')}


def test_the_old_model_comes_back_when_it_dies_while_a_broken_one_loads(server: Any, tools: Any) -> None:
    endpoint = server.deploy("Name", version="old")
    before = endpoint.status()["pid"]
    server.deploy("SlowToLoad", wait=False, seconds=2, broken=True)
    os.kill(before, signal.SIGKILL)
    tools.eventually(lambda: endpoint.status()["pid"] not in (None, before))
    assert server.predict(None).json == "old"
    tools.eventually(lambda: endpoint.status()["failure"] is not None)
    status = endpoint.status()
    assert (status["status"], status["restart_reasons"]) == ("deployed", {"signal": 1})
    assert "it was broken after all" in status["failure"]["message"]
    assert server.predict(None).json == "old"


def test_a_model_given_up_is_replaced_by_the_one_that_loads(server: Any, tools: Any) -> None:
    endpoint = server.deploy("Dies")
    server.deploy("SlowToLoad", wait=False, seconds=3)
    for _ in range(5):
        server.predict("exit")
    waiting = tools.in_background(lambda: server.predict("waits for the new one"))
    assert waiting().json == "waits for the new one"
    assert endpoint.state == "deployed"


# ---- replicas ----


def test_replicas_are_processes_and_share_the_requests(server: Any, tools: Any) -> None:
    endpoint = server.deploy("PidAfter", threads=1, replicas=3)
    pids = endpoint.status()["pids"]
    assert len(set(pids)) == 3
    asked = [tools.in_background(lambda: server.predict(0.3)) for _ in range(3)]
    assert {reply().json for reply in asked} == set(pids)


def test_a_dead_replica_is_replaced_and_the_others_go_on(server: Any, tools: Any) -> None:
    endpoint = server.deploy("PidAfter", replicas=2)
    first, second = endpoint.status()["pids"]
    load = tools.Load(server, 2, data=0)
    os.kill(first, signal.SIGKILL)
    tools.eventually(lambda: len(set(endpoint.status()["pids"]) - {first}) == 2)
    seen = load.stop()
    assert endpoint.state == "deployed"
    assert second in endpoint.status()["pids"]
    assert sum(count for (status, _), count in seen.items() if status != 200) <= 2  # what ran in the killed one


def test_a_replica_that_does_not_load_fails_the_deployment_and_leaves_no_process(
    server: Any, state_folder: Any, tools: Any
) -> None:
    endpoint = server.deploy("BreaksAtLoad", replicas=3)
    assert endpoint.state == "error"
    tools.eventually(lambda: not tools.processes_of(state_folder))


def test_another_number_of_replicas_is_another_deployment(server: Any) -> None:
    endpoint = server.deploy("Echo")
    assert len(server.deploy("Echo", replicas=2).status()["pids"]) == 2
    assert len(server.deploy("Echo").status()["pids"]) == 1
    assert endpoint.status()["generation"] == 3


@pytest.mark.parametrize("settings", [{"replicas": 0}, {"replicas": 65}, {"replicas": True}, {"queue_limit": -1}])
def test_replicas_and_queues_that_cannot_be_are_refused(server: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(settings))} must be"):
        server.deploy("Echo", **settings)


# ---- canaries ----


def _with_canary(server: Any, share: str = "10%", class_name: str = "Name") -> Any:
    server.deploy("Name", run_id="a", version="a", path="best")
    return server.deploy(class_name, run_id="b", version="b", path="best", canary=share)


def _ask(server: Any, count: int) -> Counter[Any]:
    return Counter(server.predict(None, run_id="project-1/best").json for _ in range(count))


def test_a_canary_gets_its_share_and_both_are_in_the_metrics(server: Any) -> None:
    endpoint = _with_canary(server)
    assert _ask(server, 50) == {"a": 45, "b": 5}
    canary = endpoint.status()["canary"]
    assert (canary["run_id"], canary["share"], canary["status"]) == ("b", 0.1, "deployed")
    text = server.request("GET", "/metrics").body.decode()
    assert 'verta_requests_total{route="project-1/best",run="a",status="200"} 45' in text
    assert 'verta_requests_total{route="project-1/best",run="b",status="200"} 5' in text
    assert 'verta_model_up{route="project-1/best",run="b"} 1' in text


def test_a_canarys_share_can_change_and_it_can_take_over(server: Any) -> None:
    endpoint = _with_canary(server)
    pid = endpoint.status()["canary"]["pids"][0]
    server.deploy("Name", run_id="b", version="b", path="best", canary=0.5)
    assert _ask(server, 10) == {"a": 5, "b": 5}
    server.deploy("Name", run_id="b", version="b", path="best")
    assert _ask(server, 10) == {"b": 10}
    status = endpoint.status()
    assert (status["pid"], status["run_id"], status["canary"]) == (pid, "b", None)
    assert server.supervisor.table.find("store-1", "a") is None


def test_deploying_the_present_run_again_ends_the_canary_and_so_does_undeploying_it(server: Any) -> None:
    endpoint = _with_canary(server)
    server.deploy("Name", run_id="a", version="a", path="best")
    assert endpoint.status()["canary"] is None
    assert _ask(server, 20) == {"a": 20}
    _with_canary(server)
    assert server.supervisor.table.undeploy_run("store-1", "b")
    assert _ask(server, 20) == {"a": 20}
    assert server.supervisor.table.undeploy_run("store-1", "a")
    assert server.predict(None, run_id="project-1/best").status == 410


def test_a_canary_that_does_not_load_changes_nothing(server: Any) -> None:
    endpoint = _with_canary(server, class_name="BreaksAtLoad")
    status = endpoint.status()
    assert (status["status"], status["canary"]) == ("deployed", None)
    assert "index.ann is not what it was" in status["failure"]["message"]
    assert _ask(server, 20) == {"a": 20}


def test_a_canary_that_dies_again_and_again_is_ended(server: Any, tools: Any) -> None:
    server.deploy("Name", run_id="a", version="a", path="best")
    endpoint = server.deploy("Dies", run_id="b", path="best", canary="50%")
    route = "project-1/best"
    replies = [server.predict("exit", run_id=route) for _ in range(10)]
    assert Counter(reply.status for reply in replies) == {200: 5, 502: 5}
    tools.eventually(lambda: endpoint.status()["canary"] is None)
    assert [server.predict("exit", run_id=route).json for _ in range(4)] == ["a"] * 4
    assert "the canary of run b was ended" in endpoint.status()["failure"]["message"]


def test_canaries_come_and_go_under_load_without_a_lost_request(server: Any, tools: Any) -> None:
    server.deploy("Name", run_id="a", version="a", path="best")
    load = tools.Load(server, 4, "project-1/best")
    for number in range(3):
        server.deploy("Name", run_id=f"b{number}", version=number, path="best", canary="30%")
        time.sleep(0.1)
        server.deploy("Name", run_id=f"b{number}", version=number, path="best")
    seen = load.stop()
    assert {status for status, _ in seen} == {200}
    assert {body for _, body in seen} == {'"a"', "0", "1", "2"}


@pytest.mark.parametrize("share", ["0%", "100%", 0, 1, -0.1, "ten", True, float("nan"), [], ""])
def test_a_share_that_is_none_is_refused(server: Any, share: Any) -> None:
    server.deploy("Name", run_id="a", version="a", path="best")
    with pytest.raises(ValueError, match="canary must be a share of the requests"):
        server.deploy("Name", run_id="b", version="b", path="best", canary=share)


def test_a_canary_of_nothing_is_refused(server: Any) -> None:
    with pytest.raises(ValueError, match="give the path at which that one is deployed"):
        server.deploy("Name", run_id="b", version="b", path="best", canary="10%")
    with pytest.raises(ValueError, match="give the path"):
        server.deploy("Name", run_id="b", version="b", canary="10%")
    server.deploy("Name", run_id="a", version="a", path="best")
    with pytest.raises(ValueError, match="its own canary"):
        server.deploy("Name", run_id="a", version="a2", path="best", canary="10%")
