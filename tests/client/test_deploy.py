"""From a logged class to answers over HTTP: from a script, a module, a package; broken models; kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from verta_local import Client
from verta_local.deployment import local
from verta_local.deployment.supervisor import StateFile
from verta_local.run import ExperimentRun

SETUP = """
import os
from verta_local import Client
client = Client({store!r})
client.set_project("Text search"); client.set_experiment("Baselines")
run = client.set_experiment_run("r")
os.makedirs("generated/saved_model/assets", exist_ok=True)
open("generated/saved_model/graph.pb", "w").write("graph")
open("generated/index.ann", "wb").write(b"12345")
run.log_artifact("tensorflow_saved_model", "generated/saved_model/")
run.log_artifact("nearest_neighbor_index", "generated/index.ann")
KEYS = ["tensorflow_saved_model", "nearest_neighbor_index"]
"""

FINISH = """
run.log_model(Model, artifacts=KEYS)
run.log_requirements([])
print(Model(artifacts=run.fetch_artifacts(KEYS)).predict("x"))
run.deploy(wait=True)
print(run.get_deployed_model().predict("x"))
"""

CLASS_IN_MAIN = """
import json
FACTOR = 3
def scale(number):
    return number * FACTOR
class Model(object):
    def __init__(self, artifacts):
        assert list(artifacts) == KEYS_IN_ORDER
        self.size = os.path.getsize(artifacts["nearest_neighbor_index"])
        self.names = sorted(os.listdir(artifacts["tensorflow_saved_model"]))
        self.path = artifacts["nearest_neighbor_index"]
    def predict(self, data):
        return [data, scale(self.size), self.names, os.path.basename(self.path), json.dumps(None)]
KEYS_IN_ORDER = KEYS
"""

ANSWER = "['x', 15, ['assets', 'graph.pb'], 'index.ann', 'null']"


@pytest.fixture(autouse=True)
def nothing_stays_deployed(user_folders: Path) -> Iterator[None]:
    """Ends what a test deployed, also when it failed."""
    yield
    for deployment in local.list_deployments():
        local.undeploy(deployment["store_id"], deployment["run_id"], wait=True)


def test_a_class_of_a_script_is_deployed_with_its_globals(tmp_path: Path, python: Callable[..., Any]) -> None:
    done = python(SETUP.format(store=str(tmp_path / "store")) + CLASS_IN_MAIN + FINISH)
    assert done.stdout.splitlines()[-2:] == [ANSWER, ANSWER]
    # The script has ended, and the model is still served.
    client = Client(str(tmp_path / "store"))
    run = client.expt_runs[0]
    assert run.get_deployment_status()["status"] == "deployed"
    assert run.get_deployed_model().predict("y")[0] == "y"
    assert run.undeploy(wait=True)["status"] == "not deployed"
    with pytest.raises(RuntimeError, match="model is not currently deployed"):
        run.get_deployed_model()


def test_a_class_of_a_module_and_a_package_beside_the_script_loads_in_the_serving_process(
    tmp_path: Path, python: Callable[..., Any]
) -> None:
    package = tmp_path / "project" / "search"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("FACTOR = 3\n")
    (tmp_path / "project" / "lonely.py").write_text("def scale(number):\n    return number\n")
    class_text = (
        CLASS_IN_MAIN.replace("FACTOR = 3", "from .helper import FACTOR")
        .replace("return [data, scale", "import lonely; return [data, lonely.scale")
        .replace("lonely.scale(self.size)", "lonely.scale(scale(self.size))")
    )
    (package / "model.py").write_text(
        f"import os\nKEYS = {['tensorflow_saved_model', 'nearest_neighbor_index']}\n{class_text}"
    )
    code = SETUP.format(store=str(tmp_path / "store")) + "from search.model import Model\n" + FINISH
    done = python(code, name="project/train.py", cwd=tmp_path)
    assert done.stdout.splitlines()[-2:] == [ANSWER, ANSWER]
    # Not a file of the project is needed any more.
    subprocess.run(["rm", "-r", str(tmp_path / "project")], check=True)
    run = Client(str(tmp_path / "store")).expt_runs[0]
    run.undeploy(wait=True)
    run.deploy(wait=True)
    assert str(run.get_deployed_model().predict("x")) == ANSWER


class Echo:
    """A model of a module that is importable in the tests' process alone."""

    def __init__(self, artifacts: dict[str, str]) -> None:
        self.artifacts = artifacts

    def predict(self, data: Any) -> Any:
        if data == "pid":
            return os.getpid()
        if data == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return data


@pytest.fixture
def run(client: Client, tmp_path: Path) -> ExperimentRun:
    run = client.set_experiment_run()
    (tmp_path / "a.txt").write_text("content")
    run.log_artifact("a", str(tmp_path / "a.txt"))
    return run


@pytest.fixture
def echo(run: ExperimentRun) -> ExperimentRun:
    run.log_model(Echo, artifacts=["a"])
    run.log_requirements([])
    return run


def test_each_missing_part_is_named_in_the_words_of_verta(run: ExperimentRun) -> None:
    with pytest.raises(RuntimeError, match=r"^unable to deploy due to missing artifact model\.pkl$"):
        run.deploy()
    run.log_model(Echo, artifacts=["a"])
    with pytest.raises(RuntimeError, match=r"^unable to deploy due to missing artifact requirements\.txt$"):
        run.deploy()


def test_the_status_follows_the_deployment(echo: ExperimentRun) -> None:
    assert echo.get_deployment_status()["status"] == "not deployed"
    status = echo.deploy(path="my/model", token="secret", wait=True)
    assert status["status"] == "deployed" and status["url"].endswith("my/model") and status["token"] == "secret"
    assert echo.deploy(path="my/model", token="secret")["status"] == "deployed"  # as in Verta: no error
    assert echo.undeploy(wait=True)["status"] == "not deployed"
    assert echo.undeploy()["status"] == "not deployed"
    status = echo.deploy(no_token=True, wait=True)
    assert status["token"] is None and status["url"].endswith(echo.id)
    assert echo.get_deployed_model().predict([1.5, None, "ü"]) == [1.5, None, "ü"]


def test_after_the_model_was_killed_the_next_predict_is_answered(echo: ExperimentRun) -> None:
    echo.deploy(wait=True)
    model = echo.get_deployed_model()
    pid = model.predict("pid")
    os.kill(pid, signal.SIGKILL)
    try:
        assert model.predict("x") == "x"
    except RuntimeError as error:  # it was with the old process when that died
        assert "SIGKILL" in str(error)
    assert model.predict("pid") != pid
    with pytest.raises(RuntimeError, match="encountered an error"):
        model.predict("die")
    assert model.predict("x") == "x"
    assert echo.get_deployment_status()["status"] == "deployed"


def test_after_the_server_was_killed_the_status_is_true(echo: ExperimentRun) -> None:
    echo.deploy(wait=True)
    model = echo.get_deployed_model()
    child = model.predict("pid")
    state = StateFile.read()
    assert state is not None and state.pid not in (child, os.getpid())
    os.kill(state.pid, signal.SIGKILL)
    with pytest.raises((RuntimeError, ConnectionError), match=r"deploy"):
        model.predict("x")
    status = echo.get_deployment_status()
    assert status["status"] == "not deployed" and status["url"] is None
    assert echo.deploy(wait=True)["status"] == "deployed"
    assert echo.get_deployed_model().predict("x") == "x"


BROKEN = {
    "raises": (
        "class Model:\n    def __init__(self, artifacts):\n        raise KeyError('my own mistake', time.time())\n",
        "my own mistake",
    ),
    "needs": (
        "class Model:\n    def __init__(self, artifacts):\n        import not_there_at_all\n",
        "not_there_at_all",
    ),
    "dies": ("class Model:\n    def __init__(self, artifacts):\n        os._exit(7)\n", "7"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_model_fails_within_a_second_with_its_own_traceback(
    kind: str, tmp_path: Path, python: Callable[..., Any]
) -> None:
    text, expected = BROKEN[kind]
    code = f"""{SETUP.format(store=str(tmp_path / "store"))}
import time
{text}
run.log_model(Model, artifacts=KEYS)
run.log_requirements([])
try:
    run.deploy(wait=True)
except RuntimeError as error:
    print(time.time())
    print(error)
    print(run.get_deployment_status()["status"])
"""
    lines = python(code).stdout.splitlines()[1:]
    assert lines[1] == "model deployment is failing;"
    assert any(expected in line for line in lines[2:-1])
    assert lines[-1] == "error"
    if kind != "dies":  # a process that dies is tried again a few times
        assert any("Traceback" in line for line in lines)
        assert not any("verta_local/" in line for line in lines)  # the model's own frames, not ours
    if kind == "raises":
        broke_at = float(lines[-2].rpartition(", ")[2].rstrip(")"))
        assert float(lines[0]) - broke_at < 1


def test_an_answer_that_is_no_json_names_the_type(tmp_path: Path, python: Callable[..., Any]) -> None:
    code = f"""{SETUP.format(store=str(tmp_path / "store"))}
class Model:
    def __init__(self, artifacts): pass
    def predict(self, data): return [1, object()]
run.log_model(Model, artifacts=KEYS)
run.log_requirements([])
run.deploy(wait=True)
try:
    run.get_deployed_model().predict(1)
except RuntimeError as error:
    print(error)
"""
    assert "object" in python(code).stdout.splitlines()[-1]


def test_missing_requirements_are_listed(echo: ExperimentRun) -> None:
    spec = echo.model_spec(for_deployment=True)
    spec["requirements"] = ["not-a-real-distribution==1.0", *spec["requirements"]]
    with pytest.raises(RuntimeError, match=r"not-a-real-distribution==1\.0"):
        local.deploy(spec, wait=True)
    local.undeploy(spec["store_id"], spec["run_id"], wait=True)


def test_a_damaged_artifact_is_found_before_the_model_is_made(
    echo: ExperimentRun, client: Client, tmp_path: Path
) -> None:
    path = Path(echo.fetch_artifacts(["a"])["a"])
    path.chmod(0o644)
    path.write_text("CONTENT")
    with pytest.raises(RuntimeError, match="damaged"):
        echo.deploy(wait=True)


def test_a_damaged_model_is_never_unpickled(echo: ExperimentRun, client: Client, tmp_path: Path) -> None:
    import pickle

    from test_artifacts import Canary

    trace = tmp_path / "trace"
    digest = echo.model_spec()["model"]["digest"].partition(":")[2]
    blob = Path(client.store_path, "objects", "sha256", digest[:2], digest[2:])
    blob.chmod(0o644)
    blob.write_bytes(pickle.dumps(Canary(str(trace))))
    with pytest.raises(RuntimeError, match="damaged"):
        echo.deploy(wait=True)
    with pytest.raises(RuntimeError, match="damaged"):
        echo.get_model()
    assert not trace.exists()


def test_deploying_adds_no_bytes_of_the_artifact(client: Client, tmp_path: Path) -> None:
    run = client.set_experiment_run()
    with open(tmp_path / "big.bin", "wb") as file:
        file.write(os.urandom(30 << 20))
    run.log_artifact("a", str(tmp_path / "big.bin"))
    run.log_model(Echo, artifacts=["a"])
    run.log_requirements([])

    def used() -> int:
        seen = {}
        for parent, _, names in os.walk(tmp_path / "store"):
            for name in names:
                found = os.lstat(os.path.join(parent, name))
                seen[found.st_ino] = found.st_blocks * 512
        return sum(seen.values())

    before = used()
    run.deploy(wait=True)
    assert run.get_deployed_model().predict(1) == 1
    assert used() - before < 1 << 20


def test_serve_in_the_foreground_prints_what_is_needed_and_drains_on_ctrl_c(
    echo: ExperimentRun, client: Client
) -> None:
    client.flush()
    command = [sys.executable, "-m", "verta_local", "--store", client.store_path, "serve", echo.id[:8]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = {}
        for line in process.stdout:
            word, _, rest = line.strip().partition(" ")
            lines[word] = rest.strip()
            if word == "Ctrl-C":
                break
        done = subprocess.run(["sh", "-c", lines["try"]], capture_output=True, text=True, timeout=20)
        assert done.stdout == "[1, 2, 3]" or done.stdout == "[1,2,3]", done
        predict = [sys.executable, "-m", "verta_local", "predict", lines["url"], '"ask"', "--token", lines["token"]]
        told = subprocess.run(predict, capture_output=True, text=True, timeout=20)
        assert told.stdout == '"ask"\n', told
        # Another terminal finds it by the run alone.
        assert echo.get_deployment_status()["url"] == lines["url"]
        assert "serve" in echo.get_deployment_status()["message"]
        assert echo.get_deployed_model().predict("x") == "x"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert echo.get_deployment_status()["status"] == "not deployed"
    finally:
        process.kill()
        process.communicate()


def test_logging_goes_on_to_be_safe_while_a_script_is_killed(tmp_path: Path) -> None:
    """Kill -9 at any moment: what returned is there."""
    for attempt in range(4):
        store = tmp_path / f"store{attempt}"
        code = f"""
import os
from verta_local import Client
run = Client({str(store)!r}).set_experiment_run("r")
open("a.bin", "wb").write(os.urandom(200_000))
for number in range(100_000):
    run.log_metric(f"m{{number}}", number)
    if number % 10 == 0:
        run.log_artifact(f"a{{number}}", "a.bin")
    os.write(1, b"%d\\n" % number)
"""
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "0\n":
            assert line, "the script ended"
        time.sleep(attempt * 0.07)
        process.kill()
        acknowledged = [0, *(int(line) for line in process.stdout.read().split("\n")[:-1])]
        process.wait()
        process.stdout.close()
        run = Client(str(store)).expt_runs[0]
        metrics = run.get_metrics()
        assert all(metrics[f"m{number}"] == number for number in acknowledged)
        keys = set(run.get_artifact_keys())
        assert all(f"a{number}" in keys for number in acknowledged if number % 10 == 0)
        from verta_store import open_store
        from verta_store.fsck import verify

        assert verify(open_store(store, tmp_path / "cache"), deep=True).is_clean
