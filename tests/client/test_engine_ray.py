"""The engine for Ray, with a real Ray on this machine; skipped where Ray is not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from verta_local.engine_contract import EngineContract, Halves

ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve")

# Ray's own warnings and open files are not ours.
pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray on this machine, for this module; a short folder, because its sockets' names are in it."""
    folder = tempfile.mkdtemp(prefix="r-", dir="/tmp")
    os.environ["RAY_AUTH_MODE"] = "disabled"  # it would write a token into the user's home
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    yield str(ray.get_runtime_context().gcs_address)
    serve.shutdown()
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def found_by_the_servers(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster)


class TestRayEngine(EngineContract):
    engine = "ray"
    deploy_settings: ClassVar[dict[str, Any]] = {"actor_options": {"num_cpus": 0}}

    def test_it_shows_its_replicas_and_leaves_none_behind(self, tmp_path: Path) -> None:
        run = self.new_run(tmp_path)
        status = self.deploy(run, replicas=2)
        assert status["ray"]["status"] == "RUNNING"
        assert status["ray"]["replicas"] == 2
        model = run.get_deployed_model()
        seen = set()
        deadline = time.monotonic() + 20
        while len(seen) < 2 and time.monotonic() < deadline:
            seen.add(model.predict("pid"))
        assert len(seen) == 2
        assert model.headers()["Access-Token"] == status["token"]
        assert run.get_deployment_status()["ray"]["application"] in serve.status().applications
        run.undeploy(wait=True)
        assert serve.status().applications == {}

    def test_the_run_before_at_a_path_leaves_the_cluster(self, tmp_path: Path) -> None:
        first, second = self.new_run(tmp_path, "first"), self.new_run(tmp_path, "second")
        self.deploy(first, path="halves")
        self.deploy(second, path="halves")
        deadline = time.monotonic() + 20
        while len(serve.status().applications) > 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert [name.endswith(second.id) for name in serve.status().applications] == [True]
        second.undeploy(wait=True)

    def test_replicas_that_are_gone_are_an_error_in_the_status(self, tmp_path: Path) -> None:
        run = self.new_run(tmp_path)
        status = self.deploy(run)
        serve.delete(status["ray"]["application"])
        found = run.get_deployment_status()
        run.undeploy(wait=True)
        assert found["status"] == "error"
        assert "gone from the Ray cluster" in found["message"]

    def test_the_command_line_deploys_and_predicts(self, tmp_path: Path) -> None:
        run = self.new_run(tmp_path)
        store = ("--store", str(tmp_path / "store"))
        assert "deployed" in command(*store, "deploy", run.id, "--engine", "ray", "--replicas", "1")
        assert command(*store, "predict", run.id, "8").startswith("[4.0,")
        assert "not deployed" in command(*store, "undeploy", run.id)
        assert serve.status().applications == {}


def test_without_a_cluster_one_sentence_says_how_to_start_one(tmp_path: Path) -> None:
    contract: Any = TestRayEngine()
    run = contract.new_run(tmp_path)
    store = ("--store", str(tmp_path / "store"))
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-m", "verta_local", *store, "deploy", run.id, "--engine", "ray"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1
    assert "start one with: ray start --head" in done.stderr


def test_the_class_of_the_contract_is_the_one_that_was_logged() -> None:
    assert Halves.__module__ == "verta_local.engine_contract"


def command(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "verta_local", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
