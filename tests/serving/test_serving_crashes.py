"""What happens when a model's process, or the supervisor, dies or hangs."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from verta_local.serving.frames import FrameReader
from verta_local.serving.process import ChildProcess
from verta_local.serving.version import Version


@pytest.mark.parametrize(
    ("how", "part"),
    [("exit", "exit code 3"), ("kill", "SIGKILL (9)"), ("segfault", "SIGSEGV (11)")],
)
def test_a_death_is_a_502_that_says_how_and_the_model_is_back_at_once(server: Any, how: str, part: str) -> None:
    server.deploy("Dies")
    reply = server.predict(how)
    start = time.perf_counter()
    assert reply.status == 502
    assert part in reply.message
    if how == "exit":
        assert "last words" in reply.message
    if how == "segfault":
        assert "Segmentation fault" in reply.message
        assert "served_models.py" in reply.message
    assert server.predict("pid").status == 200
    assert time.perf_counter() - start < 1.0  # 0.3 s plus the start of an interpreter on a busy machine
    assert server.supervisor.table.get("run-1").status()["restarts"] == 1


def test_only_the_requests_of_the_dead_process_fail(server: Any, tools: Any) -> None:
    server.deploy("Dies")
    dying = tools.in_background(lambda: server.predict("die slowly"))
    time.sleep(0.2)
    others = [server.predict("pid").status for _ in range(5)]
    assert others == [200] * 5
    assert dying().status == 502
    assert server.predict("pid").status == 200


def test_whoever_read_of_a_death_meets_the_next_process(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer comes when the dead process is out of service, however slow the thread that watches it."""
    told = Version.child_ended

    def tell_late(self: Version, child: ChildProcess) -> None:
        if threading.current_thread().name.startswith("watch-"):
            time.sleep(0.2)
        told(self, child)

    monkeypatch.setattr(Version, "child_ended", tell_late)
    endpoint = server.deploy("Dies")
    assert server.predict("exit").status == 502
    assert [server.predict("pid").status for _ in range(3)] == [200] * 3
    assert endpoint.status()["restarts"] == 1


def test_a_process_that_has_ended_gets_no_request(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before anybody has noticed in a request that it is dead."""
    told = Version.child_ended

    def tell_late(self: Version, child: ChildProcess) -> None:
        time.sleep(0.3)
        told(self, child)

    monkeypatch.setattr(Version, "child_ended", tell_late)
    pid = server.deploy("Dies").status()["pid"]
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)
    assert server.predict("pid").status == 200


def test_a_request_that_a_dead_process_never_read_goes_to_the_next(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = server.deploy("Dies")
    launched = type(endpoint.versions()[0]._replicas[0].active._launched)
    waits = launched.wait

    def notice_late(self: Any) -> None:
        waits(self)
        time.sleep(0.3)  # the kernel has closed the lanes, and `ended` is not set yet

    monkeypatch.setattr(launched, "wait", notice_late)
    server.deploy("Dies", version=2)  # its watching thread waits by the slow one
    os.kill(endpoint.status()["pid"], signal.SIGKILL)
    time.sleep(0.1)
    assert server.predict("pid").status == 200
    assert endpoint.status()["restarts"] == 1


def test_a_lane_stays_open_until_its_request_has_returned(
    server: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the number of its descriptor is that of the next process's lane, and the old request reads from it."""
    endpoint = server.deploy("Dies")
    child = endpoint.versions()[0]._replicas[0].active
    sockets = [lane._socket for lane in (child._control, child._lifeline, child._work)]
    about_to_read, may_read = threading.Event(), threading.Event()
    reads = FrameReader.read_all

    def read_late(self: FrameReader) -> Any:
        if self is child._work._reader and not may_read.is_set():
            about_to_read.set()
            assert may_read.wait(10)
        return reads(self)

    monkeypatch.setattr(FrameReader, "read_all", read_late)
    late = tools.in_background(lambda: server.predict("die slowly"))  # not answered when it is killed
    assert about_to_read.wait(10)
    os.kill(child.pid, signal.SIGKILL)
    tools.eventually(lambda: endpoint.status()["pid"] not in (child.pid, None))
    assert [each.fileno() >= 0 for each in sockets].count(True) == 1
    may_read.set()
    assert late().status == 502
    tools.eventually(lambda: all(each.fileno() == -1 for each in sockets))
    assert server.predict("pid").status == 200


def test_what_a_process_started_while_loading_goes_with_it(server: Any, tools: Any, tmp_path: Path) -> None:
    """It holds a lane open, so the death is seen by the process id: without giving that id away too early."""
    marker = tmp_path / "pid"
    status = server.deploy("DiesAtLoadAndLeavesAFork", marker=str(marker)).status()
    assert status["status"] == "error"
    assert "exit code 9" in status["message"]
    tools.eventually(lambda: _is_gone(int(marker.read_text())))


def test_the_last_output_is_that_of_the_death(server: Any, tools: Any) -> None:
    endpoint = server.deploy("Dies")
    assert "an older mistake" in server.predict("print and raise").message
    os.kill(endpoint.status()["pid"], signal.SIGKILL)
    tools.eventually(lambda: endpoint.status()["restarts"] == 1)
    assert "was killed by SIGKILL (9)" in endpoint.status()["message"] or endpoint.state == "deployed"
    assert server.predict("print and raise").status == 502
    reply = server.predict("kill")
    assert "SIGKILL (9), without any output" in reply.message
    reply = server.predict("exit")
    assert "last words" in reply.message
    assert "an older mistake" not in reply.message


def test_five_deaths_in_a_minute_end_it_in_the_state_error(server: Any, tools: Any) -> None:
    endpoint = server.deploy("Dies")
    for _ in range(5):
        assert server.predict("exit").status == 502
    tools.eventually(lambda: endpoint.state == "error")
    reply = server.predict("pid")
    assert reply.status == 502  # not 503: a client would come again for minutes
    assert "died 5 times within a minute" in reply.message
    assert "last words" in endpoint.status()["message"]
    assert server.deploy("Dies").state == "deployed"  # deploying again gives it another chance
    assert server.predict("pid").status == 200


def test_a_model_that_hangs_is_answered_for_and_replaced(server: Any, tools: Any) -> None:
    endpoint = server.deploy("Sleeps", predict_timeout_s=0.5)
    before = endpoint.status()["pid"]
    start = time.perf_counter()
    reply = server.predict(600)
    assert 0.4 < time.perf_counter() - start < 3
    assert reply.status == 502
    assert "within 0.5 s" in reply.message
    after = tools.eventually(lambda: endpoint.status()["pid"] not in (before, None) and endpoint.status()["pid"])
    tools.eventually(lambda: not Path(f"/proc/{before}").exists())
    assert server.predict(0).status == 200
    assert endpoint.status()["pid"] == after


def test_a_model_that_hangs_again_and_again_ends_in_the_state_error(server: Any, tools: Any) -> None:
    endpoint = server.deploy("Sleeps", predict_timeout_s=0.2)
    for _ in range(5):
        tools.eventually(lambda: endpoint.state == "deployed")
        pid = endpoint.status()["pid"]
        assert server.predict(600).status == 502
        tools.eventually(lambda pid=pid: endpoint.status()["pid"] != pid)
    tools.eventually(lambda: endpoint.state == "error")


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("BreaksAtLoad", ["Traceback", "FileNotFoundError: index.ann is not what it was", "served_models.py"]),
        ("DiesAtLoad", ["exit code 9", "about to die"]),
        ("ExitsAtLoad", ["SystemExit: no GPU found"]),
        ("FailsItsOwnTest", ["AssertionError: accuracy fell to 0.1"]),
        ("NoSuchModel", ["KeyError"]),
        ("CannotSayWhyItBreaks", ["FileNotFoundError: index.ann is not what it was"]),
        ("LacksALibrary", ["Traceback of the user", "install it and deploy again"]),
    ],
)
def test_a_model_that_does_not_load_says_why_at_once(server: Any, model: str, parts: list[str]) -> None:
    start = time.perf_counter()
    server.deploy("Echo", run_id="run-0")
    good_s = time.perf_counter() - start
    start = time.perf_counter()
    status = server.deploy(model).status()
    assert time.perf_counter() - start < 1.0 + 5 * good_s  # no time limit is waited for, nothing is tried again
    assert status["status"] == "error"
    assert all(part in status["message"] for part in parts), status["message"]
    assert server.predict(1).status == 502


def test_programs_that_a_model_started_go_with_it(server: Any, tools: Any) -> None:
    endpoint = server.deploy("LeavesPrograms")
    left = server.predict(None).json
    assert Path(f"/proc/{left}").exists()
    server.supervisor.table.undeploy(endpoint)
    tools.eventually(lambda: _is_gone(left))


def test_stopping_answers_what_is_in_flight(make_server: Any, tools: Any) -> None:
    server = make_server()
    server.deploy("Sleeps")
    long = tools.in_background(lambda: server.predict(1.5))
    time.sleep(0.3)
    server.stop()
    assert long().json == 1.5
    assert server.exit_code == 0


def test_a_second_stop_does_not_wait(make_server: Any, tools: Any) -> None:
    server = make_server()
    server.deploy("Sleeps")
    long = tools.in_background(lambda: server.predict(30))
    time.sleep(0.3)
    server.supervisor.stop()
    time.sleep(0.3)
    start = time.perf_counter()
    server.stop()
    assert time.perf_counter() - start < 3
    with pytest.raises((OSError, AssertionError)):
        assert long().status == 200


def test_a_replacement_answers_the_old_ones_long_requests(server: Any, tools: Any) -> None:
    server.deploy("Sleeps")
    long = tools.in_background(lambda: server.predict(1.5))
    time.sleep(0.2)
    server.deploy("Name", version=1)
    assert server.predict(None).json == 1
    assert long().json == 1.5


def test_a_broken_replacement_leaves_the_old_model_in_service(server: Any) -> None:
    server.deploy("Name", version=0)
    status = server.deploy("BreaksAtLoad").status()
    assert status["status"] == "deployed"
    assert "index.ann is not what it was" in status["failure"]["message"]
    assert server.predict(None).json == 0
    server.deploy("Name", version=1)
    assert server.predict(None).json == 1


def test_a_model_can_be_undeployed_while_it_loads(server: Any, tools: Any) -> None:
    endpoint = server.deploy("SlowToLoad", wait=False, seconds=30)
    waiting = tools.in_background(lambda: server.predict(1))
    time.sleep(0.3)
    start = time.perf_counter()
    server.supervisor.table.undeploy(endpoint)
    assert time.perf_counter() - start < 2
    assert waiting().status == 410


def test_a_deploy_overtakes_one_that_still_loads(server: Any) -> None:
    server.deploy("SlowToLoad", wait=False, seconds=30)
    server.deploy("Name", wait=False, version=1)
    assert server.deploy("Name", version=2).state == "deployed"
    assert server.predict(None).json == 2


def test_the_same_deploy_again_changes_nothing(server: Any) -> None:
    pid = server.deploy("Echo").status()["pid"]
    assert server.deploy("Echo").status()["pid"] == pid


def test_another_run_at_the_same_path_takes_over(server: Any) -> None:
    server.deploy("Name", run_id="a", version="a", path="/search/best")
    route = "project-1/search/best"
    assert server.predict(None, run_id=route).json == "a"
    server.deploy("Name", run_id="b", version="b", path="search/best")
    assert server.predict(None, run_id=route).json == "b"
    assert server.supervisor.table.find("store-1", "a") is None


def test_a_run_that_moves_to_a_path_leaves_its_first_address(server: Any) -> None:
    pid = server.deploy("Name", version=1).status()["pid"]
    assert server.deploy("Name", version=1, path="there").status()["pid"] == pid
    assert server.predict(None, run_id="project-1/there").json == 1
    assert server.predict(None).status == 410


@pytest.mark.parametrize(
    "path", ["", "a//b", "../x", "a/../b", "a b", "%2e%2e", "a\\b", "a\0b", "x" * 600, "é", "?a=1"]
)
def test_paths_that_could_mean_something_else_are_refused(server: Any, path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        server.deploy("Echo", path=path)


def test_what_a_model_prints_is_in_its_log_which_is_private_and_bounded(
    server: Any, monkeypatch: pytest.MonkeyPatch, tools: Any
) -> None:
    monkeypatch.setattr("verta_local.serving.logfile._LIMIT_BYTES", 20_000)
    endpoint = server.deploy("Prints")
    log = Path(endpoint.status()["log"])
    server.predict("schöne Grüße \ud800")
    assert "schöne Grüße \\ud800" in log.read_text("utf-8")
    assert log.stat().st_mode & 0o777 == 0o600
    for _ in range(30):
        server.predict("x" * 1000)
    tools.eventually(lambda: log.stat().st_size < 20_000)
    server.predict("after")
    assert log.read_text("utf-8").rstrip().endswith("after")


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_children_go_when_the_supervisor_is_killed(state_folder: Path, tools: Any) -> None:
    from verta_local.deployment import DeployedModel, local
    from verta_local.deployment.supervisor import StateFile

    marker = state_folder.parent / "hanging"
    local.deploy(tools.spec_of("Echo"), wait=True, _loader=tools.LOADER)
    hanging = local.deploy(tools.spec_of("HoldsTheLock", run_id="run-2"), wait=True, _loader=tools.LOADER)
    model = DeployedModel(hanging["url"], hanging["token"])
    ask = tools.in_background(lambda: model.predict(str(marker)))
    tools.eventually(lambda: marker.exists() and marker.read_text())
    state = StateFile.read()
    assert state is not None
    assert len(tools.processes_of(state_folder)) == 3
    os.kill(state.pid, signal.SIGKILL)
    tools.eventually(lambda: not tools.processes_of(state_folder), within_s=3)
    with pytest.raises(ConnectionError):
        ask()
    status = local.status("store-1", "run-1")
    assert status["status"] == "not deployed"
    assert "killed, or this machine was restarted" in status["message"]
    assert "never" not in local.status("store-1", "another")["message"]
    again = local.deploy(tools.spec_of("Echo"), wait=True, _loader=tools.LOADER)
    assert DeployedModel(again["url"], again["token"]).predict(1) == 1
    local.undeploy("store-1", "run-1", wait=True)
