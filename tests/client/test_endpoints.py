"""Endpoints: a URL under which now this, now that model is served, and no request is lost in between."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from verta_local import Client, runtime
from verta_local.deployment import DeployedModel, PredictionHTTPError, local
from verta_local.endpoint import Endpoint
from verta_local.endpoint.autoscaling import Autoscaling
from verta_local.endpoint.autoscaling.metrics import CpuUtilizationTarget, RequestsPerWorkerTarget
from verta_local.endpoint.resources import NvidiaGPU, NvidiaGPUModel, Resources
from verta_local.endpoint.update import CanaryUpdateStrategy, DirectUpdateStrategy
from verta_local.endpoint.update.rules import (
    MaximumAverageLatencyThresholdRule,
    MaximumRequestErrorPercentageThresholdRule,
    MaximumServerErrorPercentageThresholdRule,
    Served,
)
from verta_local.environment import Python
from verta_local.run import ExperimentRun
from verta_store import fsck, gc


@pytest.fixture(autouse=True)
def nothing_stays_deployed(user_folders: Path) -> Iterator[None]:
    """Ends what a test deployed, also when it failed."""
    yield
    for deployment in local.list_deployments():
        local.undeploy(deployment["store_id"], deployment["run_id"], wait=True)


class Says:
    """Answers with what its artifact holds, or with an environment variable."""

    def __init__(self, artifacts: dict[str, str]) -> None:
        self.word = Path(artifacts["word"]).read_text()

    def predict(self, data: Any) -> Any:
        if isinstance(data, str) and data.startswith("$"):
            return os.environ.get(data[1:])
        if data == "note":
            runtime.log("word", self.word)
        if data == "fail":
            raise ValueError("asked to")
        return self.word


class Broken:
    def __init__(self, artifacts: dict[str, str] | None = None) -> None:
        raise RuntimeError("the model is broken")

    def predict(self, data: Any) -> Any:
        return data


def run_that_says(client: Client, tmp_path: Path, word: str) -> ExperimentRun:
    run = client.set_experiment_run(word)
    (tmp_path / f"{word}.txt").write_text(word)
    run.log_artifact("word", str(tmp_path / f"{word}.txt"))
    run.log_model(Says, artifacts=["word"])
    run.log_environment(Python([]))
    return run


# -- the entity --------------------------------------------------------------------------------------------------------


def test_the_same_path_is_the_same_endpoint(client: Client) -> None:
    endpoint = client.set_endpoint("search/v1", description="finds")
    assert (endpoint.path, endpoint.get_description()) == ("/search/v1", "finds")
    assert client.get_or_create_endpoint("/search/v1") == client.set_endpoint(id=endpoint.id) == endpoint
    assert client.get_endpoint("search/v1") == client.get_endpoint(id=endpoint.id) == endpoint
    assert list(client.endpoints) == list(client.endpoints.find("path == /search/v1")) == [endpoint]
    with pytest.warns(UserWarning, match="cannot set desc"):
        client.set_endpoint("search/v1", description="x")
    with pytest.raises(ValueError, match=r"409.*already exists"):
        client.create_endpoint("/search/v1")
    for arguments in ({}, {"path": "absent"}, {"id": "absent"}, {"path": "search/v1", "id": endpoint.id}):
        with pytest.raises(ValueError):
            client.get_endpoint(**arguments)
    for verb in (client.create_endpoint, client.set_endpoint):
        with pytest.raises(ValueError):
            verb()
    with pytest.raises(ValueError):
        endpoint.rename("/other")
    assert "/search/v1" in repr(endpoint)


@pytest.mark.parametrize("path", ["", "/", "a b", "../x", "a/../b", "a//b", "é", "a?b", "a" * 600])
def test_a_path_is_one_that_a_url_can_have(client: Client, path: str) -> None:
    with pytest.raises(ValueError, match="path of an endpoint"):
        client.create_endpoint(path)
    with pytest.raises(TypeError):
        client.create_endpoint(1)  # type: ignore[arg-type]
    assert len(client.endpoints) == 0


def test_before_the_first_update_nothing_is_served(client: Client) -> None:
    endpoint = client.create_endpoint("p")
    status = endpoint.get_status()
    assert (status["status"], status["url"], status["components"]) == ("inactive", None, [])
    assert endpoint.get_url() == "/api/v1/predict/p"
    assert endpoint.get_update_status() == {"update_request": None, "status": "inactive"}
    assert endpoint.get_logs() == []
    assert endpoint.get_access_token() is None and endpoint.get_access_tokens() == []
    with pytest.raises(RuntimeError, match="not currently deployed"):
        endpoint.get_deployed_model()
    assert endpoint.undeploy()["status"] == "inactive"


# -- updates -----------------------------------------------------------------------------------------------------------


def test_runs_and_versions_take_turns_and_no_request_is_lost(client: Client, tmp_path: Path) -> None:
    first, second = run_that_says(client, tmp_path, "one"), run_that_says(client, tmp_path, "two")
    version = client.set_registered_model("m").create_version_from_run(second.id, "v1")
    endpoint = client.create_endpoint("some/path")
    status = endpoint.update(first, wait=True)
    assert (status["status"], status["components"][0]["run_id"]) == ("active", first.id)
    assert status["url"].endswith("/api/v1/predict/some/path")
    assert endpoint.get_url() == status["url"]
    model = endpoint.get_deployed_model()
    assert model.predict("x") == "one"
    answers: list[Any] = []
    is_over = threading.Event()

    def ask() -> None:
        own = endpoint.get_deployed_model()
        while not is_over.is_set():
            answers.append(own.predict("x"))

    thread = threading.Thread(target=ask)
    thread.start()
    status = endpoint.update(version, DirectUpdateStrategy(), wait=True)
    is_over.set()
    thread.join()
    assert answers[0] == "one" and set(answers) <= {"one", "two"}
    assert model.predict("x") == "two"  # the same URL and token
    assert status["components"][0]["model_version_id"] == version.id
    assert endpoint.get_update_status()["update_request"]["model_version_id"] == version.id
    # The run may be deployed by itself beside it.
    second.deploy(wait=True)
    assert second.get_deployed_model().predict("x") == "two"
    second.undeploy(wait=True)
    assert model.predict("x") == "two"
    # What is served stays, whatever is deleted.
    second.delete()
    version.delete()
    assert endpoint.get_status()["components"][0]["model_version_id"] == version.id
    gc.collect(client._store, grace_s=0, is_alone=True)
    assert fsck.verify(client._store, deep=True).is_clean
    assert client._store.read_verified(client._store.values(endpoint.id, "artifacts")["served/0"]["digest"])
    endpoint.delete()
    with pytest.raises(PredictionHTTPError if local.list_deployments() else ConnectionError):
        model.predict("x", max_retries=0)
    assert len(client.endpoints) == 0


def test_without_waiting_the_status_tells_how_far_it_is(client: Client, tmp_path: Path) -> None:
    endpoint = client.create_endpoint("p")
    assert endpoint.update(run_that_says(client, tmp_path, "one"))["status"] in ("creating", "active")
    deadline = time.monotonic() + 15
    while endpoint.get_status()["status"] == "creating" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert endpoint.get_status()["status"] == "active"
    assert endpoint.update(run_that_says(client, tmp_path, "two"))["status"] in ("updating", "active")
    while endpoint.get_status()["status"] == "updating" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert endpoint.get_deployed_model().predict("x") == "two"


def test_an_update_that_fails_says_why_and_the_present_model_goes_on(client: Client, tmp_path: Path) -> None:
    endpoint = client.create_endpoint("p")
    bare = client.set_experiment_run("bare")
    with pytest.raises(RuntimeError, match=r"missing artifact model\.pkl"):
        endpoint.update(bare, wait=True)
    broken = client.set_experiment_run("broken")
    broken.log_model(Broken)
    broken.log_environment(Python([]))
    with pytest.raises(RuntimeError, match=r"(?s)endpoint update failed;.*the model is broken"):
        endpoint.update(broken, wait=True)
    assert endpoint.get_status()["status"] == "error"
    good = run_that_says(client, tmp_path, "one")
    # A canary, too: there is nothing to be careful of beside a model that does not load.
    strategy = CanaryUpdateStrategy(interval=1, step=0.1)
    strategy.add_rule(MaximumAverageLatencyThresholdRule(5))
    endpoint.update(good, strategy, wait=True)
    with pytest.raises(RuntimeError, match=r"(?s)endpoint update failed;.*the model is broken"):
        endpoint.update(broken, wait=True)
    assert endpoint.get_deployed_model().predict("x") == "one"
    assert endpoint.get_update_status()["update_request"]["run_id"] == good.id


@pytest.mark.parametrize(
    "arguments",
    [
        {"model_reference": "run"},
        {"strategy": "direct"},
        {"strategy": DirectUpdateStrategy},
        {"resources": {"cpu": 1}},
        {"autoscaling": 3},
        {"env_vars": ["A"]},
        {"env_vars": {"A": 1}},
    ],
)
def test_arguments_of_other_types_are_refused_before_anything_is_started(
    client: Client, arguments: dict[str, Any]
) -> None:
    run = client.set_experiment_run()
    with pytest.raises(TypeError):
        client.create_endpoint("p").update(**{"model_reference": run, **arguments})
    assert local.list_deployments() == []


def test_what_an_update_was_given_is_recorded_and_counts_where_it_can(client: Client, tmp_path: Path) -> None:
    scaling = Autoscaling(min_replicas=2, max_replicas=4, min_scale=0.5, max_scale=1)
    scaling.add_metric(CpuUtilizationTarget(0.6))
    resources = Resources(cpu=0.25, memory="512Mi", nvidia_gpu=NvidiaGPU(1, NvidiaGPUModel.T4))
    endpoint = client.create_endpoint("p")
    endpoint.update(
        run_that_says(client, tmp_path, "one"), None, True, resources, scaling, {"GREETING": "hello", "SECRET": "s3"}
    )
    assert endpoint.get_deployed_model().predict("$GREETING") == "hello"
    (deployment,) = local.list_deployments()
    assert deployment["replicas"] == 2
    record = endpoint.get_update_status()["update_request"]
    assert record["env_vars"] == ["GREETING", "SECRET"]
    assert record["autoscaling"]["metrics"] == [{"metric": "cpu_utilization", "target": 0.6}]
    assert record["resources"] == {"cpu": 0.25, "memory": "512Mi", "nvidia_gpu": {"number": 1, "model": "T4"}}
    assert record["strategy"] == {"strategy": "direct"}


def test_a_config_file_says_what_to_update_to(client: Client, tmp_path: Path) -> None:
    run = run_that_says(client, tmp_path, "one")
    path = tmp_path / "update.json"
    content = {
        "run_id": run.id,
        "strategy": "direct",
        "autoscaling": {
            "quantities": {"min_replicas": 1},
            "metrics": [{"metric": "cpu_utilization", "parameters": [{"name": "target", "value": "0.5"}]}],
        },
        "resources": {"cpu": 1, "memory": "1G"},
        "env_vars": {"GREETING": "hello"},
    }
    path.write_text(json.dumps(content))
    endpoint = client.create_endpoint("p")
    assert endpoint.update_from_config(path, wait=True)["status"] == "active"
    assert endpoint.get_deployed_model().predict("$GREETING") == "hello"
    record = endpoint.get_update_status()["update_request"]
    assert record["autoscaling"]["metrics"] == [{"metric": "cpu_utilization", "target": 0.5}]
    for wrong in ({"strategy": "direct"}, {"run_id": run.id, "model_version_id": "x"}, {**content, "strategy": "x"}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError):
            endpoint.update_from_config(path)
    (tmp_path / "update.txt").write_text("{}")
    with pytest.raises(ValueError, match=r"\.json or \.yaml"):
        endpoint.update_from_config(tmp_path / "update.txt")


def test_the_setup_script_runs_before_the_model_is_loaded(client: Client, tmp_path: Path) -> None:
    run = run_that_says(client, tmp_path, "one")
    version = client.set_registered_model("m").create_version_from_run(run)
    version.log_setup_script("import os\nos.environ['SET_UP'] = 'done'\n")
    endpoint = client.create_endpoint("p")
    endpoint.update(version, wait=True)
    assert endpoint.get_deployed_model().predict("$SET_UP") == "done"
    version.log_setup_script("first = 1\nsecond = first / 0\n", overwrite=True)
    with pytest.raises(RuntimeError) as failed:
        endpoint.update(version, wait=True)
    for part in ("setup script", "line 2", "second = first / 0", "ZeroDivisionError", f"version {version.name!r}"):
        assert part in str(failed.value)


def test_what_a_model_notes_is_in_its_log(client: Client, tmp_path: Path) -> None:
    endpoint = client.create_endpoint("p")
    endpoint.update(run_that_says(client, tmp_path, "one"), wait=True)
    model = endpoint.get_deployed_model()
    assert [model.predict("note"), model.predict("x"), model.predict("note")] == ["one"] * 3
    assert [line for line in endpoint.get_logs() if "runtime" in line] == ['runtime.log {"word": "one"}'] * 2


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_the_token_is_made_or_set_before_or_while_a_model_is_served(client: Client, tmp_path: Path) -> None:
    endpoint = client.create_endpoint("p")
    endpoint.create_access_token("first")
    assert endpoint.get_access_token() == "first"
    status = endpoint.update(run_that_says(client, tmp_path, "one"), wait=True)
    assert endpoint.get_access_token() == "first"
    assert DeployedModel(status["url"], "first").predict("x") == "one"
    endpoint.create_access_token("second")
    assert endpoint.get_access_tokens() == ["second"]
    assert endpoint.get_deployed_model().predict("x") == "one"
    with pytest.raises(PredictionHTTPError) as refused:
        DeployedModel(status["url"], "first").predict("x")
    assert refused.value.status_code == 401
    with pytest.raises(TypeError):
        endpoint.create_access_token(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        endpoint.create_access_token("with blank")
    other = client.create_endpoint("q")
    other.update(run_that_says(client, tmp_path, "two"), wait=True)
    assert len(other.get_access_token() or "") > 30


# -- canaries ----------------------------------------------------------------------------------------------------------


class Traffic:
    """Asks an endpoint all the time, in a thread of its own."""

    def __init__(self, endpoint: Endpoint, data: str) -> None:
        self.answers: list[Any] = []
        self._is_over = threading.Event()
        self._model, self._data = endpoint.get_deployed_model(), data
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._is_over.is_set():
            try:
                self.answers.append(self._model.predict(self._data))
            except RuntimeError as error:
                self.answers.append(str(error))
            time.sleep(0.005)


def test_a_canary_gets_more_and_more_until_it_has_all(client: Client, tmp_path: Path) -> None:
    endpoint = client.create_endpoint("p")
    strategy = CanaryUpdateStrategy(interval=1, step=0.5)
    strategy.add_rule(MaximumServerErrorPercentageThresholdRule(0.5))
    strategy.add_rule(MaximumAverageLatencyThresholdRule(5))
    # Where nothing is served yet, there is nothing to be careful of.
    endpoint.update(run_that_says(client, tmp_path, "one"), strategy, wait=True)
    with Traffic(endpoint, "x") as traffic:
        status = endpoint.update(run_that_says(client, tmp_path, "two"), strategy, wait=True)
    assert status["status"] == "active"
    assert {"one", "two"} == set(traffic.answers)
    assert endpoint.get_deployed_model().predict("x") == "two"
    assert endpoint.get_update_status()["update_request"]["strategy"]["strategy"] == "canary"


def test_a_canary_that_breaks_a_rule_is_ended(client: Client, tmp_path: Path) -> None:
    endpoint = client.create_endpoint("p")
    good = run_that_says(client, tmp_path, "one")
    endpoint.update(good, wait=True)
    strategy = CanaryUpdateStrategy(interval=1, step=0.5)
    strategy.add_rule(MaximumServerErrorPercentageThresholdRule(0.01))
    with (
        Traffic(endpoint, "fail"),
        pytest.raises(RuntimeError, match=r"(?s)endpoint update failed;.*MaximumServerErrorPercentageThresholdRule"),
    ):
        endpoint.update(run_that_says(client, tmp_path, "two"), strategy, wait=True)
    status = endpoint.get_status()
    assert (status["status"], status["components"][0]["run_id"]) == ("active", good.id)
    assert [endpoint.get_deployed_model().predict("x") for _ in range(4)] == ["one"] * 4


def test_a_canary_without_waiting_goes_on_in_the_background(client: Client, tmp_path: Path) -> None:
    endpoint = client.create_endpoint("p")
    endpoint.update(run_that_says(client, tmp_path, "one"), wait=True)
    strategy = CanaryUpdateStrategy(interval=1, step=0.5)
    strategy.add_rule(MaximumRequestErrorPercentageThresholdRule(0.5))
    endpoint.update(run_that_says(client, tmp_path, "two"), strategy)
    seen = set()
    deadline = time.monotonic() + 15
    while endpoint.get_deployed_model().predict("x") == "one" or endpoint.get_status()["status"] != "active":
        seen.add((endpoint.get_status()["status"], len(endpoint.get_status()["components"])))
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert ("updating", 2) in seen


def test_a_canary_needs_a_rule(client: Client) -> None:
    with pytest.raises(RuntimeError, match="at least one rule"):
        client.create_endpoint("p").update(client.set_experiment_run(), CanaryUpdateStrategy(1, 0.5))


# -- the words of an update --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: CanaryUpdateStrategy("1", 0.5), TypeError),  # type: ignore[arg-type]
        (lambda: CanaryUpdateStrategy(0, 0.5), ValueError),
        (lambda: CanaryUpdateStrategy(1, "x"), TypeError),  # type: ignore[arg-type]
        (lambda: CanaryUpdateStrategy(1, 0), ValueError),
        (lambda: CanaryUpdateStrategy(1, 1.5), ValueError),
        (lambda: CanaryUpdateStrategy(1, 0.5).add_rule("fast"), TypeError),  # type: ignore[arg-type]
        (lambda: MaximumAverageLatencyThresholdRule("x"), TypeError),  # type: ignore[arg-type]
        (lambda: MaximumServerErrorPercentageThresholdRule(2), ValueError),
        (lambda: Autoscaling(min_replicas=0), ValueError),
        (lambda: Autoscaling(min_replicas=1.5), TypeError),  # type: ignore[arg-type]
        (lambda: Autoscaling(min_replicas=3, max_replicas=2), ValueError),
        (lambda: Autoscaling(max_scale=2), ValueError),
        (lambda: Autoscaling().add_metric(0.5), TypeError),  # type: ignore[arg-type]
        (lambda: RequestsPerWorkerTarget(0), ValueError),
        (lambda: Resources(cpu="1"), TypeError),  # type: ignore[arg-type]
        (lambda: Resources(cpu=0), ValueError),
        (lambda: Resources(memory=512), TypeError),  # type: ignore[arg-type]
        (lambda: Resources(memory="lots"), ValueError),
        (lambda: Resources(nvidia_gpu=1), TypeError),  # type: ignore[arg-type]
        (lambda: NvidiaGPU(0), ValueError),
        (lambda: NvidiaGPU(1, "unknown"), ValueError),
    ],
)
def test_numbers_are_checked_when_they_are_given(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


def test_a_rule_says_nothing_of_a_model_that_answered_nothing() -> None:
    rule = MaximumRequestErrorPercentageThresholdRule(0.1)
    assert not rule.is_broken(Served())
    assert rule.is_broken(Served(answers=10, request_errors=2))
    assert not rule.is_broken(Served(answers=10, request_errors=1))
