"""Runs of two stores with the same id: ids derive from names, so the same script in two folders makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from verta_local.deployment import DeployedModel, local

A, B = "aaaaaaaa-1111", "bbbbbbbb-2222"


def test_neither_ends_or_answers_for_the_other(server: Any) -> None:
    a = server.deploy("Name", store_id=A, version="a", token="token-of-a")
    b = server.deploy("Name", store_id=B, version="b", no_token=False)
    assert (a.route, b.route) == ("run-1", "bbbbbbbb/run-1")
    assert b.token not in (None, "token-of-a")
    assert server.predict(None, run_id="run-1", Access_Token="token-of-a").json == "a"
    assert server.predict(None, run_id=b.route, Access_Token=b.token).json == "b"
    assert server.predict(None, run_id=b.route, Access_Token="token-of-a").status == 401
    assert a.status()["log"] != b.status()["log"]
    table = server.supervisor.table
    assert (table.find(A, "run-1"), table.find(B, "run-1"), table.find("", "run-1")) == (a, b, None)
    table.undeploy(a)
    assert server.predict(None, run_id=b.route, Access_Token=b.token).json == "b"
    assert server.predict(None, run_id="run-1").status == 410


def test_a_url_stays_and_a_freed_one_is_not_handed_to_another_store(server: Any) -> None:
    a = server.deploy("Name", store_id=A, version="a")
    assert server.deploy("Name", store_id=B, version="b").route == "bbbbbbbb/run-1"
    server.supervisor.table.undeploy(a)
    b = server.deploy("Name", store_id=B, version="b2")
    assert b.route == "bbbbbbbb/run-1"
    server.supervisor.table.undeploy(b)
    assert server.deploy("Name", store_id=B, version="b3").route == "bbbbbbbb/run-1"
    assert server.deploy("Name", store_id=A, version="a2").route == "run-1"


def test_stores_whose_ids_begin_alike_have_urls_of_their_own(server: Any) -> None:
    routes = [server.deploy("Echo", store_id=f"aaaaaaaa-{n}").route for n in range(3)]
    assert routes == ["run-1", "aaaaaaaa/run-1", "aaaaaaaa-2/run-1"]


@pytest.mark.parametrize("run_id", ["run-1", "run-2"])
def test_a_path_of_another_store_is_refused_in_one_sentence(server: Any, run_id: str) -> None:
    server.deploy("Name", store_id=A, version="a", path="search/best", store="/the/first/store")
    with pytest.raises(ValueError, match="taken by run run-1 of another store \\(/the/first/store\\)") as caught:
        server.deploy("Name", store_id=B, version="b", run_id=run_id, path="/search/best")
    assert "\n" not in str(caught.value)
    assert server.predict(None, run_id="project-1/search/best").json == "a"
    assert server.supervisor.table.find(B, run_id) is None


def test_another_run_at_the_same_path_writes_to_a_log_of_its_own(server: Any) -> None:
    first = server.deploy("Name", run_id="a", version="a", path="best").status()["log"]
    second = server.deploy("Name", run_id="b", version="b", path="best").status()["log"]
    assert first != second
    assert Path(second).exists()


def test_a_spec_without_a_store_is_refused(server: Any) -> None:
    with pytest.raises(ValueError, match="store_id"):
        server.deploy("Echo", store_id=None)


def test_status_and_undeploy_mean_the_run_of_that_store(tools: Any) -> None:
    specs = [tools.spec_of("Name", store_id=store_id, version=store_id) for store_id in (A, B)]
    try:
        first, second = (local.deploy(spec, wait=True, _loader=tools.LOADER) for spec in specs)
        assert first["url"].endswith("/api/v1/predict/run-1")
        assert second["url"].endswith("/run-1")
        assert len({first["url"], second["url"], first["token"], second["token"]}) == 4
        assert [local.status(store_id, "run-1")["store_id"] for store_id in (A, B)] == [A, B]
        with pytest.raises(RuntimeError, match="several stores"):
            DeployedModel("localhost", "run-1")
        local.undeploy(B, "run-1", wait=True)
        assert local.status(B, "run-1")["status"] == "not deployed"
        assert DeployedModel(first["url"], first["token"]).predict(0) == A
        assert DeployedModel("localhost", "run-1").predict(0) == A
    finally:
        for store_id in (A, B):
            local.undeploy(store_id, "run-1", wait=True)
