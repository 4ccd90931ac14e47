"""What a client is told by arguments, the environment and config files; none of Verta's arguments breaks a notebook."""

from __future__ import annotations

import json
import os
import pickle
import sys
import warnings
from pathlib import Path

import pytest

from verta_local import Client
from verta_local.config_files import ConfigError, read_config


@pytest.fixture
def project_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a home folder of its own beside it and a store that the environment names."""
    folder = tmp_path / "outer" / "inner"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VERTA_LOCAL_STORE", str(tmp_path / "store"))
    return folder


def write(folder: Path, **content: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verta_config.json").write_text(json.dumps(content))


# -- arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"email": "a@b.c"}, {"dev_key": "k"}])
def test_an_email_or_a_key_alone_is_a_value_error(project_folder: Path, given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="without"):
        Client(**given)  # type: ignore[arg-type]


def test_an_email_in_the_environment_needs_a_key_too(project_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERTA_EMAIL", "a@b.c")
    with pytest.raises(ValueError, match="VERTA_DEV_KEY"):
        Client()
    Client(dev_key="k")


def test_credentials_are_found_in_the_environment_afterwards(project_folder: Path) -> None:
    Client("https://app.verta.ai", email="a@b.c", dev_key="k", organization_id="o")
    assert [os.environ[f"VERTA_{name}"] for name in ("EMAIL", "DEV_KEY", "ORG_ID")] == ["a@b.c", "k", "o"]


def test_a_port_is_a_future_warning(project_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(FutureWarning, match="port"):
        Client("localhost", 3000)
    assert "'localhost:3000' is a server's address" in capsys.readouterr().out


@pytest.mark.parametrize("host", ["dev.verta.ai", "http://10.0.0.1", "10.0.0.1", "modeldb.team.internal", "[::1]:80"])
def test_the_address_of_a_server_is_no_folder(
    project_folder: Path, host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert Client(host).store_path == str(tmp_path / "store")
    monkeypatch.setenv("VERTA_HOST", host)
    assert Client().store_path == str(tmp_path / "store")
    assert os.listdir(project_folder) == []


def test_a_host_in_the_environment_may_be_a_folder_and_a_plain_word_there_is_none(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user_folders: Path
) -> None:
    monkeypatch.setenv("VERTA_HOST", str(tmp_path / "named"))
    assert Client().store_path == str(tmp_path / "store"), "our own variable counts first"
    monkeypatch.delenv("VERTA_LOCAL_STORE")
    assert Client().store_path == str(tmp_path / "named")
    monkeypatch.setenv("VERTA_HOST", "modeldb")
    assert Client().store_path == str(user_folders / "data" / "store")
    assert Client("modeldb").store_path == str(project_folder / "modeldb")


def test_the_attributes_can_be_set_and_use_git_cannot(client: Client) -> None:
    assert (client.max_retries, client.ignore_conn_err, client.debug, client.use_git) == (5, False, False, True)
    client.max_retries, client.ignore_conn_err, client.debug = 2, True, True
    assert (client.max_retries, client.ignore_conn_err, client.debug) == (2, True, True)
    with pytest.raises(AttributeError):
        client.use_git = False  # type: ignore[misc]


def test_every_argument_of_verta_is_taken(tmp_path: Path) -> None:
    client = Client(
        str(tmp_path / "store"), None, "a@b.c", "k", 3, True, False, True, {"X-Header": "1"}, "t", "s", "o", "n", True
    )
    assert (client.max_retries, client.use_git) == (3, False)


def test_an_argument_of_another_type_is_a_type_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="email must be a str"):
        Client(str(tmp_path / "store"), email=1, dev_key="k")  # type: ignore[arg-type]


# -- config files --------------------------------------------------------------------------------------------------


def test_a_config_file_names_project_and_experiment(project_folder: Path) -> None:
    write(project_folder, project="from file", experiment="its experiment")
    client = Client()
    client.set_experiment_run()
    assert (client.proj.name, client.expt.name) == ("from file", "its experiment")  # type: ignore[union-attr]
    assert client.set_project("given").name == "given"
    assert client.get_project().name == "from file"
    with pytest.raises(ValueError, match="already exists"):
        client.create_project()


def test_folders_are_read_upwards_the_nearest_wins_and_lists_join(project_folder: Path, tmp_path: Path) -> None:
    write(project_folder, project="near", tags=[1], deep={"a": 1})
    write(project_folder.parent, project="far", experiment="far", tags=[2], deep={"a": 2, "b": 2})
    write(tmp_path / "home" / ".verta", project="home", workspace="w", tags=[3])
    assert read_config() == {
        "project": "near",
        "experiment": "far",
        "workspace": "w",
        "tags": [1, 2, 3],
        "deep": {"a": 1, "b": 2},
    }


def test_a_yaml_file_counts(project_folder: Path) -> None:
    pytest.importorskip("yaml")
    (project_folder / "verta_config.yaml").write_text("project: from yaml\nexperiment: 7\n")
    client = Client()
    assert client.set_project().name == "from yaml"
    assert client.set_experiment().name == "7"
    (project_folder / "verta_config.yaml").write_text("")
    assert read_config() == {}


def test_yaml_is_read_without_running_anything(project_folder: Path) -> None:
    pytest.importorskip("yaml")
    (project_folder / "verta_config.yaml").write_text("project: !!python/object/apply:os.mkdir [trace]\n")
    with pytest.raises(ConfigError, match="is not YAML"):
        Client()
    assert not (project_folder / "trace").exists()


def test_without_pyyaml_one_sentence_says_what_to_do(project_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project_folder / "verta_config.yaml").write_text("project: x\n")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match="pip install pyyaml"):
        Client()


def test_config_files_can_be_switched_off(project_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project_folder / "verta_config.json").write_text("{broken")
    monkeypatch.setenv("VERTA_DISABLE_CLIENT_CONFIG", "1")
    assert read_config() == {}


@pytest.mark.parametrize("content", ["{broken", "[1]", "\udcff"])
def test_a_config_file_that_cannot_be_read_is_named(project_folder: Path, content: str) -> None:
    path = project_folder / "verta_config.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"verta_config\.json") as caught:
        Client()
    assert getattr(caught.value, "path") == str(path)  # noqa: B009
    assert pickle.loads(pickle.dumps(caught.value)).path == str(path)


def test_a_config_file_that_may_not_be_read_is_passed_over(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project_folder, project="x")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the superuser may read everything
    assert read_config() == {}


def test_credentials_and_host_may_stand_in_a_file(
    project_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project_folder, host="app.verta.ai", email="a@b.c", dev_key="k")
    assert Client().store_path == str(tmp_path / "store")
    assert os.environ["VERTA_EMAIL"] == "a@b.c"
    monkeypatch.delenv("VERTA_LOCAL_STORE")
    write(project_folder, host=str(tmp_path / "by file"))
    assert Client().store_path == str(tmp_path / "by file")


def test_nothing_is_warned_of_without_a_reason(project_folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Client().set_experiment_run()
