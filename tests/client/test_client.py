"""Projects, experiments and runs: got or created, by name or id; where the store is."""

from __future__ import annotations

import json
import os
import pickle
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from verta_local import Client
from verta_store.errors import StoreFormatError, StoreWriteError


def test_the_same_name_is_the_same_entity(client: Client) -> None:
    run = client.set_experiment_run("r")
    again = Client(client.store_path)
    again.set_project(client.proj.name)  # type: ignore[union-attr]
    again.set_experiment(client.expt.name)  # type: ignore[union-attr]
    assert again.set_experiment_run("r") == run
    assert len(again.expt_runs) == 1


def test_without_parents_they_are_made(client: Client) -> None:
    run = client.set_experiment_run()
    assert client.proj is not None and client.expt is not None
    assert client.expt.expt_runs[0].id == run.id
    assert client.proj.expt_runs[0].id == run.id


def test_another_project_detaches_the_experiment(client: Client) -> None:
    client.set_experiment_run()
    client.set_project("another")
    assert client.expt is None


def test_an_id_makes_its_parents_active(client: Client) -> None:
    client.set_project("p")
    client.set_experiment("e")
    run = client.set_experiment_run("r")
    other = Client(client.store_path)
    assert other.set_experiment_run(id=run.id).name == "r"
    assert (other.proj.name, other.expt.name) == ("p", "e")  # type: ignore[union-attr]


def test_a_name_and_an_id_together_are_refused(client: Client) -> None:
    project = client.set_project("p")
    with pytest.raises(ValueError, match="not both"):
        client.set_project("p", id=project.id)


@pytest.mark.parametrize("verb", ["set_project", "set_experiment", "set_experiment_run"])
def test_an_unknown_id_is_a_value_error(client: Client, verb: str) -> None:
    with pytest.raises(ValueError, match=r"no .* with the id"):
        getattr(client, verb)(id="nothing")


def test_an_id_of_another_kind_is_refused(client: Client) -> None:
    run = client.set_experiment_run()
    with pytest.raises(ValueError, match="no project"):
        client.set_project(id=run.id)


def test_description_tags_and_attributes_are_set_once(client: Client) -> None:
    project = client.set_project("p", desc="about", tags=["t"], attrs={"a": [1, 2]})
    assert (project.get_description(), project.get_tags(), project.get_attributes()) == ("about", ["t"], {"a": [1, 2]})
    with pytest.warns(UserWarning, match="already exists; cannot set desc, tags"):
        client.set_project("p", desc="other", tags=["u"])
    assert project.get_description() == "about"


def test_a_bad_tag_makes_no_project(client: Client) -> None:
    with pytest.raises(TypeError):
        client.set_project("p", tags=[1])
    assert len(client.projects) == 0


@pytest.mark.parametrize(
    "name",
    ["../../x", "/etc/passwd", "a\0b", "CON", "dot.", "~", "-rf", "x" * 10_000, "\u202eabc", "", "%2e%2e%2f", "é"],
)
def test_any_text_is_a_name_and_none_becomes_a_path(client: Client, tmp_path: Path, name: str) -> None:
    run = client.set_experiment_run(name)
    assert client.set_experiment_run(name).id == run.id
    assert client.expt_runs[0].name == name
    assert set(os.listdir(tmp_path)) == {"store"}


def test_half_a_character_is_no_name(client: Client) -> None:
    with pytest.raises(ValueError, match="half a character"):
        client.set_project("a\ud800")
    run = client.set_experiment_run("r")
    with pytest.raises(ValueError, match="half a character"):
        run.rename("a\ud800")
    assert run.name == "r"


def test_deleting_takes_what_lies_below_and_the_name_becomes_free(client: Client) -> None:
    project = client.set_project("p")
    client.set_experiment("e")
    run = client.set_experiment_run("r")
    run.log_metric("m", 1)
    project.delete()
    assert (len(client.projects), len(client.expt_runs)) == (0, 0)
    assert client.set_project("p").id != project.id
    client.set_experiment("e")
    assert client.set_experiment_run("r").get_metrics() == {}


def test_renaming_keeps_the_id_and_frees_the_name(client: Client) -> None:
    run = client.set_experiment_run("old")
    run.rename("new")
    assert client.set_experiment_run("new").id == run.id
    assert client.set_experiment_run("old").id != run.id
    with pytest.raises(ValueError, match="already a run named"):
        run.rename("old")


def test_a_client_can_be_pickled(client: Client) -> None:
    client.set_project("p")
    copy = pickle.loads(pickle.dumps(client))
    assert copy.proj == client.proj and copy.store_path == client.store_path


def test_the_store_is_named_once_and_found_upwards(tmp_path: Path, python: Callable[..., Any]) -> None:
    inner = tmp_path / "project" / "deep"
    inner.mkdir(parents=True)
    made = python("from verta_local import Client\nClient('project/.verta_local')\nClient('project/.verta_local')")
    assert made.stdout.splitlines() == [f"new store: {tmp_path}/project/.verta_local (named by the caller)"]
    found = python("from verta_local import Client\nprint(Client().store_path)", cwd=inner)
    assert found.stdout.splitlines()[-1] == str(tmp_path / "project" / ".verta_local")
    assert "nearest .verta_local" in found.stdout


def test_the_environment_names_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user_folders: Path) -> None:
    assert Client().store_path == str(user_folders / "data" / "store")
    monkeypatch.setenv("VERTA_LOCAL_STORE", str(tmp_path / "named"))
    assert Client().store_path == str(tmp_path / "named")


@pytest.mark.parametrize("host", ["https://app.verta.ai", "app.verta.ai", "localhost:3000", "http://127.0.0.1:3000"])
def test_the_address_of_a_server_is_passed_over_with_a_word(
    host: str, user_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Client(host).store_path == str(user_folders / "data" / "store")
    assert host in capsys.readouterr().out


def test_a_store_of_a_newer_format_is_refused_with_what_to_do(client: Client, python: Callable[..., Any]) -> None:
    path = Path(client.store_path, "store.json")
    description = json.loads(path.read_text())
    path.write_text(json.dumps({**description, "format": 99}))
    done = python(f"from verta_local import Client\nClient({client.store_path!r})", check=False)
    assert "StoreFormatError" in done.stderr and "pip install --upgrade verta_local" in done.stderr


def test_a_folder_with_other_files_is_no_place_for_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreFormatError, match="holds other files"):
        Client(str(tmp_path))
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX modes")
def test_a_read_only_folder_gives_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "read_only"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    # The superuser writes everywhere: as another user then.
    drop = "import os\nfrom verta_local import Client\nos.geteuid() == 0 and os.setuid(65534)\n"
    code = f"Client({str(folder / 'store')!r})"
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    env = {**os.environ, "VERTA_LOCAL_CACHE": str(tmp_path / "c")}
    done = subprocess.run([sys.executable, "-c", drop + code], capture_output=True, text=True, env=env, timeout=30)
    last = done.stderr.strip().splitlines()[-1]
    assert "StoreWriteError" in last and "permission denied" in last
    assert issubclass(StoreWriteError, OSError)


def test_generated_names_never_meet(client: Client) -> None:
    """Their ids are derived from them, and nothing is looked up: two of one name would be one run."""
    assert len({client.set_experiment_run().id for _ in range(20_000)}) == 20_000
