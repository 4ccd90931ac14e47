"""`serve`, `deploy`, `status`, `undeploy` and their options, as a shell runs them, on real models in a store."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from verta_local import Client
from verta_local.deployment import DeployedModel, local
from verta_local.deployment.supervisor import StateFile


def named() -> type:
    """A class that travels by value: this file is not on the path of its process."""

    class Named:
        def __init__(self, artifacts):  # type: ignore[no-untyped-def]
            with open(artifacts["name"]) as file:
                self.name = file.read()

        def predict(self, data):  # type: ignore[no-untyped-def]
            print("asked", data)
            return [self.name, data]

    return Named


@pytest.fixture
def store(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    client.set_project("Text search")
    client.set_experiment("Baselines")
    for name in ("first", "second", "third"):
        run = client.set_experiment_run(name)
        (tmp_path / f"{name}.txt").write_text(name)
        run.log_artifact("name", str(tmp_path / f"{name}.txt"))
        run.log_model(named(), custom_modules=[], artifacts=["name"])
        run.log_requirements([])
    monkeypatch.setenv("VERTA_LOCAL_STORE", client.store_path)
    yield client
    for found in local.list_deployments():
        local.undeploy(found["store_id"], found["run_id"], wait=True)


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "verta_local", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=50)


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "verta_local", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def served(process: subprocess.Popen[str]) -> dict[str, DeployedModel]:
    """Run name -> its model, from what `serve` prints."""
    found, name, url = {}, "", ""
    assert process.stdout is not None
    for line in process.stdout:
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if word == "serving":
            name = rest
        elif word == "url":
            url = rest
        elif word == "token":
            found[name] = DeployedModel(url, None if rest == "(none)" else rest)
        elif word == "Ctrl-C":
            break
    return found


def end(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    return errors


def test_one_supervisor_serves_several_runs_with_their_replicas(store: Client) -> None:
    process = start("serve", "first", "second", "--replicas", "2", "--threads", "1")
    models = served(process)
    assert {name: model.predict(1) for name, model in models.items()} == {
        "first": ["first", 1],
        "second": ["second", 1],
    }
    shown = json.loads(cli("status", "--json").stdout)
    assert [(len(each["pids"]), each["replicas"], each["threads"]) for each in shown] == [(2, 2, 1)] * 2
    assert "deployed (foreground)" in cli("status").stdout
    assert "asked 1" in end(process)


def test_what_is_deployed_comes_back_with_all_after_a_kill_at_its_paths_and_tokens(store: Client) -> None:
    first = cli("deploy", "first", "--path", "search/best", "--replicas", "2")
    second = cli("deploy", "second")
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    before = {each["run_name"]: each for each in local.list_deployments()}
    state = StateFile.read()
    assert state is not None
    os.kill(state.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while local.list_deployments() and time.monotonic() < deadline:
        time.sleep(0.05)
    process = start("serve", "--all")
    models = served(process)
    assert sorted(models) == ["first", "second"]
    for name, model in models.items():
        assert model.predict(0) == [name, 0]
        assert model.prediction_url.partition("/api")[2] == before[name]["url"].partition("/api")[2]
        assert model.headers()["Access-Token"] == before[name]["token"]
    shown = {each["run_name"]: len(each["pids"]) for each in json.loads(cli("status", "--json").stdout)}
    assert shown == {"first": 2, "second": 1}
    end(process)
    again = cli("deploy", "first", "--path", "search/best")
    assert before["first"]["token"] in again.stdout
    cli("undeploy", "first")
    cli("undeploy", "second")
    nothing = cli("serve", "--all")
    assert nothing.returncode == 1 and "deploy a run with" in nothing.stderr


def test_logs_show_what_the_model_printed_and_its_requests(store: Client) -> None:
    assert "was not served here" in cli("logs", "first").stderr
    process = start("serve", "first", "second", "--slow", "0.000001")
    models = served(process)
    models["first"].predict("a \x1b[31mred\x1b[0m word")
    models["second"].predict("another")
    follow = start("logs", "first", "-f")
    assert follow.stdout is not None
    assert follow.stdout.readline() == "asked a \\x1b[31mred\\x1b[0m word\n"  # it cannot steer the terminal
    models["first"].predict("followed")
    assert follow.stdout.readline() == "asked followed\n"
    follow.send_signal(signal.SIGINT)
    follow.communicate(timeout=10)
    models["first"].predict_with_id("x", prediction_id="my-own-id")
    end(process)
    assert cli("logs", "first", "-n", "1").stdout == "asked x\n"  # they outlive the server
    (line,) = cli("logs", "first", "--access", "-n", "1").stdout.splitlines()
    entry = json.loads(line)
    assert (entry["request_id"], entry["status"], entry["slow"]) == ("my-own-id", 200, True)
    assert len(cli("logs", "first", "--access").stdout.splitlines()) == 3
    again = start("serve", "first")
    served(again)["first"].predict("later")
    assert end(again) == "asked later\n"  # not the lines of the server before


def test_names_and_log_lines_cannot_steer_the_terminal(store: Client, tmp_path: Path) -> None:
    """On any command about serving; a prediction's input is a stranger's text too."""
    hostile = "evil \x1b]0;title\x07 \x1b[2J\u202egnp"
    run = store.set_experiment_run(hostile)
    run.log_artifact("name", str(tmp_path / "first.txt"))
    run.log_model(named(), custom_modules=[], artifacts=["name"])
    run.log_requirements([])
    broken = store.set_experiment_run(f"{hostile} broken")
    broken.log_model(lambda: hostile, custom_modules=[])  # no predict() of one input: its call says so
    broken.log_requirements([])
    store.flush()
    orders = [["deploy", run.id], ["status"], ["predict", run.id, json.dumps(hostile)], ["logs", run.id]]
    orders += [
        ["logs", run.id, "--access"],
        ["deploy", run.id, "--path", hostile],
        ["trust", run.id],
        ["deploy", "nil" + hostile],
    ]
    orders += [["deploy", broken.id], ["predict", broken.id, json.dumps(hostile)], ["status", "--json"]]
    orders += [["build", run.id, "-o", str(tmp_path / "built")], ["serve", run.id, "--host", hostile]]
    orders += [["undeploy", run.id], ["predict", run.id, "1"]]
    for order in orders:
        done = cli(*order)
        text = done.stdout + done.stderr
        assert text, order
        assert all(letter.isprintable() or letter == "\n" for letter in text), (order, ascii(text))


def test_an_endpoint_is_served_by_its_path(store: Client) -> None:
    endpoint = store.get_or_create_endpoint("/search/v2")
    never = cli("serve", "search/v2")
    assert never.returncode == 1 and "was never updated" in never.stderr
    run = next(run for run in store.expt_runs if run.name == "second")
    endpoint.update(run, wait=True)
    token = endpoint.get_access_token()
    endpoint.undeploy(wait=True)
    for arguments in (("serve", "/search/v2"), ("serve", "search/v2", "--token", "another")):
        process = start(*arguments)
        (model,) = served(process).values()
        assert model.predict(1) == ["second", 1]
        assert model.prediction_url.endswith("/api/v1/predict/search/v2")
        assert model.headers()["Access-Token"] == ("another" if "another" in arguments else token)
        end(process)


def test_a_canary_is_deployed_beside_the_present_run(store: Client) -> None:
    assert cli("deploy", "first", "--path", "best").returncode == 0
    done = cli("deploy", "second", "--path", "best", "--canary", "25%")
    assert done.returncode == 0, done.stderr
    assert "canary second gets 25% of the requests" in done.stdout
    (shown,) = local.list_deployments()
    model = DeployedModel(shown["url"], shown["token"])
    assert sorted(model.predict(0)[0] for _ in range(8)) == ["first"] * 6 + ["second"] * 2
    assert "canary, 25%" in cli("status").stdout
    assert cli("undeploy", "second").returncode == 0
    assert {model.predict(0)[0] for _ in range(8)} == {"first"}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["serve"], "say which runs"),
        (["serve", "first", "--all"], "say which runs"),
        (["serve", "--all"], "is deployed on this machine; deploy"),
        (["serve", "first", "--replicas", "0"], "replicas must be"),
        (["serve", "first", "--queue", "-1"], "queue_limit must be"),
        (["deploy", "first", "--canary", "10%"], "give the path"),
        (["deploy", "first", "--canary", "110%", "--path", "x"], "canary must be"),
    ],
)
def test_what_cannot_be_is_one_sentence(store: Client, arguments: list[str], part: str) -> None:
    done = cli(*arguments)
    assert done.returncode == 1
    assert part in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def surroundings() -> type:
    class Surroundings:
        def predict(self, data):  # type: ignore[no-untyped-def]
            import os
            import shlex
            import sys

            main = sys.modules["__main__"]
            return {
                "path": sys.path,
                "arguments": sys.argv,
                "is_main_a_file": hasattr(main, "__file__") or main.__spec__ is not None,
                "folder": os.getcwd().rpartition("foreground")[2].strip("/0123456789"),
                "input": sys.stdin.read(),
                "descriptors": len(os.listdir("/proc/self/fd")),
                "shlex": shlex.__file__,
                "leads_its_group": os.getpgid(0) == os.getpid(),
                "parent": os.getppid(),
            }

    return Surroundings


@pytest.mark.skipif(sys.platform != "linux", reason="models are forked on Linux only")
def test_a_model_sees_the_same_in_a_fork_of_the_command_as_in_a_fresh_interpreter(
    store: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.set_experiment_run("fourth")
    run.log_model(surroundings(), custom_modules=[])
    run.log_requirements([])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    seen = []
    # With an option of the interpreter, and with a module of the current folder, the warm parent is a fresh one.
    for option, is_fork in ((None, True), ("-s", False), (None, False)):
        command = [sys.executable, *([option] if option else []), "-m", "verta_local", "serve", "fourth"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        found = served(process)["fourth"].predict(None)
        parent_command = Path(f"/proc/{found.pop('parent')}/cmdline").read_bytes()
        assert (parent_command == Path(f"/proc/{process.pid}/cmdline").read_bytes()) is is_fork
        end(process)
        seen.append(found)
        Path("shlex.py").write_text(Path(shlex.__file__).read_text())
    assert seen[0] == seen[1] == seen[2]
    assert seen[0]["folder"] == "work" and seen[0]["input"] == "" and seen[0]["leads_its_group"]
