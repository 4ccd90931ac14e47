"""Projects, experiments and runs: created only once, got, in workspaces, deleted, pickled, shown."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
import types
from typing import Any

import pytest

from verta_local import Client
from verta_local.errors import EntityExists

KINDS = ["project", "experiment", "experiment_run"]


def verb(client: Client, prefix: str, kind: str) -> Any:
    return getattr(client, f"{prefix}_{kind}")


# -- create only ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_create_makes_what_is_new_and_refuses_what_is_there(client: Client, kind: str) -> None:
    client.set_experiment_run()
    made = verb(client, "create", kind)("name", desc="d", tags=["t"], attrs={"a": 1})
    assert (made.name, made.get_description(), made.get_tags(), made.get_attributes()) == ("name", "d", ["t"], {"a": 1})
    with pytest.raises(EntityExists, match=r"409.*already exists") as caught:
        verb(client, "create", kind)("name")
    assert isinstance(caught.value, ValueError)
    assert verb(client, "set", kind)("name") == made
    assert verb(client, "create", kind)().id != verb(client, "create", kind)().id


def test_create_makes_missing_parents_and_becomes_active(client: Client) -> None:
    run = client.create_experiment_run("r")
    assert client.expt is not None and client.expt.expt_runs[0] == run
    project = client.create_project("p")
    assert client.proj == project and client.expt is None
    experiment = client.create_experiment("e")
    assert client.expt == experiment


def test_code_that_catches_the_http_error_of_requests_goes_on_working(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        import requests
    except ImportError:  # the shape that matters of it
        requests = types.ModuleType("requests")  # type: ignore[assignment]
        requests.HTTPError = type("HTTPError", (OSError,), {})  # type: ignore[misc,assignment]
        requests.Response = type("Response", (), {})  # type: ignore[misc,assignment]
        monkeypatch.setitem(sys.modules, "requests", requests)
    client.create_project("p")
    with pytest.raises(requests.HTTPError, match="already exists") as caught:
        client.create_project("p")
    assert caught.value.response.status_code == 409  # type: ignore[union-attr]
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), (EntityExists, requests.HTTPError))


def _create(folder: str, found: Any) -> None:
    try:
        Client(folder).create_project("wanted")
        found.put("created")
    except EntityExists:
        found.put("exists")


def test_of_racing_processes_one_creates(client: Client) -> None:
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    processes = [context.Process(target=_create, args=(client.store_path, found)) for _ in range(6)]
    for process in processes:
        process.start()
    assert sorted(found.get(timeout=30) for _ in processes) == ["created", *["exists"] * 5]
    for process in processes:
        process.join()


# -- get -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_get_finds_by_name_and_id_and_makes_active(client: Client, kind: str) -> None:
    client.set_project("project")
    client.set_experiment("experiment")
    client.set_experiment_run("experiment_run")
    made = verb(client, "get", kind)(kind)
    for arguments in ({}, {"name": kind, "id": made.id}):
        with pytest.raises(ValueError, match=r"give a name or an id"):
            verb(client, "get", kind)(**arguments)
    for arguments in ({"name": "absent"}, {"id": "absent"}, {"id": 7}):
        with pytest.raises(ValueError, match=r"^\w+ not found"):
            verb(Client(client.store_path), "get", kind)(**arguments)
    other = Client(client.store_path)
    assert verb(other, "get", kind)(id=made.id) == made
    assert other.proj == client.proj
    assert (other.expt is None) == (kind == "project")


def test_get_makes_nothing(client: Client) -> None:
    for kind in KINDS:
        with pytest.raises(ValueError, match="not found"):
            verb(client, "get", kind)("absent")
    assert (len(client.projects), len(client.experiments), client.proj) == (0, 0, None)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_for_an_existing_one_is_warned_of_also_by_id(client: Client, kind: str) -> None:
    made = verb(client, "set", kind)("name")
    with pytest.warns(UserWarning, match="already exists; cannot set desc, tags, attrs"):
        verb(client, "set", kind)("name", desc="d", tags=["t"], attrs={"a": 1})
    with pytest.warns(UserWarning, match="cannot set tags") as caught:
        verb(client, "set", kind)(id=made.id, tags=["t"])
    assert caught[0].filename == __file__
    assert (made.get_description(), made.get_tags(), made.get_attributes()) == ("", [], {})


def test_the_aliases_are_there(client: Client) -> None:
    assert client.get_or_create_project("p") == client.set_project("p")
    assert client.get_or_create_experiment("e") == client.set_experiment("e")
    assert client.get_or_create_experiment_run("r") == client.set_experiment_run("r")


@pytest.mark.parametrize("tags", ["one", ["one"], ("one",), {"one"}])
def test_tags_may_be_one_text_or_a_collection(client: Client, tags: Any) -> None:
    for kind in KINDS:
        assert verb(client, "set", kind)(tags=tags).get_tags() == ["one"]


@pytest.mark.parametrize("arguments", [{"tags": 1}, {"tags": [1]}, {"tags": {"a": 1}}, {"attrs": [1]}, {"desc": 1}])
def test_bad_arguments_make_nothing(client: Client, arguments: dict[str, Any]) -> None:
    for prefix in ("set", "create"):
        for kind in KINDS:
            with pytest.raises(TypeError):
                verb(client, prefix, kind)("x", **arguments)
    assert (len(client.projects), len(client.experiments), len(client.expt_runs)) == (0, 0, 0)


def test_a_run_takes_the_dates_of_an_old_one(client: Client) -> None:
    run = client.set_experiment_run(date_created=1_500_000_000_000)
    assert run.get_date_created() == 1_500_000_000_000 < run.get_date_updated()
    with pytest.raises(TypeError, match="date_created"):
        client.set_experiment_run(date_created="yesterday")  # type: ignore[arg-type]


def test_visibility_and_public_within_org_are_taken(client: Client) -> None:
    assert client.set_project("p", public_within_org=True, visibility="private").name == "p"


# -- attributes and tags of projects and experiments ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_tags_and_attributes_are_logged_to_each_kind(client: Client, kind: str) -> None:
    entity = verb(client, "set", kind)()
    entity.log_tag("a")
    entity.log_tags(["b", "a"])
    entity.log_tags("c")
    assert entity.get_tags() == ["a", "b", "c"]
    entity.del_tag("b")
    assert entity.get_tags() == ["a", "c"]
    for bad in (1, None):
        with pytest.raises(TypeError):
            entity.log_tag(bad)
    entity.log_attribute("x", [1, {"y": None}])
    entity.log_attributes({"z": 1})
    assert entity.get_attribute("x") == [1, {"y": None}]
    assert entity.get_attributes() == {"x": [1, {"y": None}], "z": 1}
    with pytest.raises(ValueError, match="already exists"):
        entity.log_attribute("z", 2)
    with pytest.raises(KeyError):
        entity.get_attribute("absent")


# -- workspaces ----------------------------------------------------------------------------------------------------


def test_a_workspace_is_a_name_space_for_projects(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.get_workspace() == "personal"
    mine = client.set_project("p")
    ours = client.set_project("p", workspace="team")
    assert mine != ours and (mine.workspace, ours.workspace) == ("personal", "team")
    run = client.set_experiment_run()
    assert (client.expt.workspace, run.workspace) == ("team", "team")  # type: ignore[union-attr]
    client.set_workspace("team")
    assert client.get_workspace() == "team" and client.get_project("p") == ours
    assert client.get_project("p", workspace="personal") == mine
    assert len(client.projects) == 2
    assert len(ours.expt_runs) == 1
    with pytest.raises(EntityExists):
        client.create_project("p")
    monkeypatch.setenv("VERTA_WORKSPACE", "by environment")
    assert Client(client.store_path).get_workspace() == "by environment"
    with pytest.raises(ValueError, match="not found"):
        Client(client.store_path).get_project("p")


def test_an_unknown_workspace_is_a_value_error_and_another_type_a_type_error(client: Client) -> None:
    with pytest.raises(ValueError, match="Workspace not found"):
        client.set_workspace("nobody's")
    with pytest.raises(TypeError):
        client.set_workspace(7)  # type: ignore[arg-type]
    client.set_workspace("personal")


# -- deleted -------------------------------------------------------------------------------------------------------


def test_reading_what_was_deleted_is_one_error_that_verta_code_catches(client: Client) -> None:
    run = client.set_experiment_run("r")
    run.log_metric("m", 1)
    run.log_tag("t")
    run.log_observation("o", 1)
    client.proj.delete()  # type: ignore[union-attr]
    reads = [
        lambda: run.name,
        lambda: run.get_metric("m"),
        run.get_metrics,
        run.get_tags,
        run.get_attributes,
        run.get_date_updated,
        run.get_artifact_keys,
        lambda: run.get_observation("o"),
        run.get_observations,
        lambda: run.workspace,
    ]
    for read in reads:
        with pytest.raises(AttributeError, match="was deleted") as caught:
            read()
        assert isinstance(caught.value, KeyError)
    with pytest.raises(KeyError):
        run.log_metric("n", 1)
    with pytest.raises(KeyError):
        client.set_experiment_run()
    assert "deleted" in repr(run)


# -- the same everywhere -------------------------------------------------------------------------------------------


def test_everything_can_be_pickled(client: Client) -> None:
    run = client.set_experiment_run("r")
    run.log_metric("m", 1)
    things = (client.proj, client.expt, run)
    assert pickle.loads(pickle.dumps(things)) == things
    lists = (client.projects, client.experiments, client.expt_runs.find("metrics.m == 1").top_k("metrics.m", 1))
    for found in lists:
        assert [item.id for item in pickle.loads(pickle.dumps(found))] == [item.id for item in found]


def _log(client: Client, number: int) -> None:
    run = client.set_experiment_run(f"run {number}")
    run.log_metric("number", number)
    run.log_observation("all", number)
    client.set_experiment_run("shared").log_observation("all", number)


def test_one_client_works_in_36_processes_at_once(client: Client) -> None:
    client.set_project("p")
    client.set_experiment("e")
    shared = client.set_experiment_run("shared")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_log, args=(client, number)) for number in range(36)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 36
    assert len(client.expt_runs) == 37
    assert sorted(value for value, _, _ in shared.get_observation("all")) == list(range(36))


def test_what_is_shown_holds_name_and_url(client: Client) -> None:
    run = client.set_experiment_run("my run")
    for entity in (client.proj, client.expt):
        assert entity is not None
        assert entity.name in repr(entity) and entity.url in repr(entity) and entity.id in repr(entity)
    run.log_hyperparameter("depth", 3)
    run.log_artifact("words", b"x")
    shown = repr(run)
    for text in ("my run", run.url, run.id, "depth", "words", client.expt.id, client.proj.id):  # type: ignore[union-attr]
        assert text in shown
    assert repr(client.projects) == "<Projects containing 1 projects>"
    assert repr(client.experiments) == "<Experiments containing 1 experiments>"
