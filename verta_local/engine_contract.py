"""What every serving engine has to do, as tests: a plug-in's own test class derives from `EngineContract`.

    class TestMyEngine(EngineContract):
        engine = "mine"

Each test is run by pytest, with its fixture `tmp_path`; it needs nothing else. Real models, real HTTP.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from verta_local.client import Client
from verta_local.deployment import DeployedModel

WRONG_TOKEN_STATUS = 401


class Halves:
    """A class model: half of a number, and what it finds in its artifact."""

    def __init__(self, artifacts: dict[str, str]) -> None:
        self.text = Path(artifacts["text"]).read_text()
        self.file_name = os.path.basename(artifacts["text"])

    def predict(self, data: Any) -> Any:
        """ "pid" asks for the process id, "fail" for an exception."""
        if data == "pid":
            return os.getpid()
        if data == "fail":
            raise KeyError("asked for")
        return [data / 2, self.text, self.file_name]

    def batch_predict(self, df: Any) -> Any:
        """Not called here; that it exists must be known in front."""
        return df


class DoesNotLoad:
    """A class model with a fault in its `__init__`."""

    def __init__(self) -> None:
        raise ZeroDivisionError("in the model's own code")

    def predict(self, data: Any) -> Any:
        """Never called."""


class EngineContract:
    """Tests of the engine that `engine` names; each with a store of its own in `tmp_path`."""

    engine = "local"
    deploy_settings: ClassVar[dict[str, Any]] = {}

    def test_the_artifacts_are_there_and_the_answer_comes_over_http(self, tmp_path: Path) -> None:
        run = self.new_run(tmp_path)
        status = self.deploy(run)
        try:
            assert status["status"] == "deployed"
            assert status["url"].endswith(f"/api/v1/predict/{run.id}")
            assert run.get_deployed_model().predict(5) == [2.5, "what was logged", "text.txt"]
            assert run.get_deployment_status()["status"] == "deployed"
        finally:
            run.undeploy(wait=True)

    def test_without_the_token_nobody_predicts(self, tmp_path: Path) -> None:
        run = self.new_run(tmp_path)
        status = self.deploy(run, token="the-token")
        try:
            assert status["token"] == "the-token"
            error = raised(lambda: DeployedModel.from_url(status["url"], "another").predict(1))
            assert getattr(error, "status_code", None) == WRONG_TOKEN_STATUS
            assert DeployedModel.from_url(status["url"], "the-token").predict(1)[0] == 0.5
        finally:
            run.undeploy(wait=True)

    def test_what_the_model_raises_is_told_and_ends_nothing(self, tmp_path: Path) -> None:
        run = self.new_run(tmp_path)
        self.deploy(run)
        try:
            model = run.get_deployed_model()
            error = raised(lambda: model.predict("fail"))
            assert isinstance(error, RuntimeError)
            assert "deployed model encountered an error" in str(error)
            assert "KeyError: 'asked for'" in str(error)
            assert model.predict(1)[0] == 0.5
        finally:
            run.undeploy(wait=True)

    def test_a_model_that_does_not_load_shows_its_own_traceback(self, tmp_path: Path) -> None:
        run = self.client(tmp_path).set_experiment_run("broken")
        run.log_model(DoesNotLoad)
        run.log_requirements([])
        error = raised(lambda: self.deploy(run))
        run.undeploy(wait=True)
        assert isinstance(error, RuntimeError)
        assert "model deployment is failing;" in str(error)
        assert "ZeroDivisionError: in the model's own code" in str(error)
        assert run.get_deployment_status()["status"] != "deployed"

    def test_deploying_again_changes_nothing_and_undeploying_again_is_no_error(self, tmp_path: Path) -> None:
        run = self.new_run(tmp_path)
        first = self.deploy(run)
        try:
            again = self.deploy(run)
            assert (again["url"], again["token"]) == (first["url"], first["token"])
            assert run.get_deployed_model().predict(3)[0] == 1.5
        finally:
            run.undeploy(wait=True)
        assert run.undeploy(wait=True)["status"] == "not deployed"
        assert run.get_deployment_status()["status"] == "not deployed"
        assert isinstance(raised(run.get_deployed_model), RuntimeError)

    def test_replicas_are_processes_of_their_own(self, tmp_path: Path) -> None:
        run = self.new_run(tmp_path)
        self.deploy(run, replicas=2)
        try:
            model = run.get_deployed_model()
            assert os.getpid() not in {model.predict("pid") for _ in range(20)}
        finally:
            run.undeploy(wait=True)

    def test_another_run_takes_a_path_over_and_the_url_stays(self, tmp_path: Path) -> None:
        first, second = self.new_run(tmp_path, "first"), self.new_run(tmp_path, "second", text="another text")
        url = self.deploy(first, path="halves")["url"]
        try:
            before = first.get_deployed_model().predict(1)
            status = self.deploy(second, path="halves")
            assert status["url"] == url
            assert before[1] == "what was logged"
            assert second.get_deployed_model().predict(1)[1] == "another text"
            assert first.get_deployment_status()["status"] == "not deployed"
        finally:
            second.undeploy(wait=True)

    # What the tests use.

    def client(self, folder: Path) -> Any:
        """A client of a new store, with a project and an experiment."""
        client = Client(str(folder / "store"))
        client.set_project("engines")
        client.set_experiment("contract")
        return client

    def new_run(self, folder: Path, name: str = "halves", text: str = "what was logged") -> Any:
        """A run with the class above and its artifact."""
        run = self.client(folder).set_experiment_run(name)
        file = folder / "text.txt"
        file.write_text(text)
        run.log_artifact("text", str(file))
        run.log_model(Halves, artifacts=["text"])
        run.log_requirements([])
        return run

    def deploy(self, run: Any, **settings: Any) -> Any:
        """Deploys with this engine, and waits."""
        return run.deploy(wait=True, engine=self.engine, **self.deploy_settings, **settings)


def raised(call: Callable[[], object]) -> BaseException:
    """What a call raises. Raises: AssertionError when it does not."""
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")
