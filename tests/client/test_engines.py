"""The plug point for serving engines: the built-in one keeps the contract, others are found by name."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from verta_local import Client
from verta_local.engine_contract import EngineContract
from verta_local.engines import ServingEngine, engine_named


class TestLocalEngine(EngineContract):
    engine = "local"


class Recorder:
    """An engine of a plug-in, which serves nothing."""

    def __init__(self) -> None:
        self.deployed: dict[str, Any] = {}

    def deploy(self, spec: dict[str, Any], **settings: Any) -> dict[str, Any]:
        return {"status": "deployed", "url": f"http://there/{spec['run_id']}", "token": None, "message": str(settings)}

    def undeploy(self, store_id: str, run_id: str, wait: bool = False) -> dict[str, Any]:
        return {"status": "not deployed", "url": None, "token": None, "message": "by the recorder"}

    def status(self, store_id: str, run_id: str) -> dict[str, Any]:
        return {"status": "deployed", "url": None, "token": None, "message": "asked of the recorder"}


def test_an_engine_of_another_package_is_found_by_its_name(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its entry point; `status` and `undeploy` go to the engine that the run was deployed with."""
    (tmp_path / "site").mkdir()
    information = tmp_path / "site" / "recorder-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: recorder\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[verta_local.engines]\nrecorder = {__name__}:Recorder\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()
    assert isinstance(engine_named("recorder"), ServingEngine)
    client.set_project("p"), client.set_experiment("e")
    run = client.set_experiment_run("r")
    run.log_model(Recorder)
    run.log_requirements([])
    assert "'replicas': 3" in run.deploy(engine="recorder", replicas=3)["message"]
    assert run.get_deployment_status()["message"] == "asked of the recorder"
    assert run.undeploy()["message"] == "by the recorder"
    assert run.get_deployment_status()["message"] != "asked of the recorder"


def test_an_unknown_engine_is_named_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"there is no engine 'kubernetes'; installed are: local, ray"):
        engine_named("kubernetes")


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_one_sentence_names_the_extra() -> None:
    with pytest.raises(RuntimeError, match=r"install it with: python -m pip install 'verta-local\[ray\]'"):
        engine_named("ray")


def test_the_contract_notices_an_engine_that_serves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules["verta_local.engines"]._BUILT_IN, "nothing", f"{__name__}:Recorder")

    class OfNothing(EngineContract):
        engine = "nothing"

    for name in [name for name in dir(OfNothing) if name.startswith("test_")]:
        folder = tmp_path / name
        folder.mkdir()
        with pytest.raises((AssertionError, RuntimeError, ValueError)):
            getattr(OfNothing(), name)(folder)
