"""`ls` and `show` of datasets, registered models and endpoints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from verta_local import Client
from verta_local.dataset import Path as Files


@pytest.fixture
def store(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VERTA_LOCAL_STORE", client.store_path)
    Path("train.csv").write_text("1,2\n")
    dataset = client.set_dataset("reviews", desc="texts", tags=["nlp"], attrs={"rows": 3})
    dataset.create_version(Files("train.csv"))
    model = client.set_registered_model("search", labels=["good"])
    model.create_version("v1", attrs={"recall": 0.5}).log_artifact("index", "train.csv")
    client.set_endpoint("find/it", description="finds")
    client.flush()
    return client


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "verta_local", *arguments], capture_output=True, text=True, timeout=50)


def test_ls_lists_other_kinds(store: Client) -> None:
    lines = cli("ls", "datasets").stdout.splitlines()
    assert lines[0].split() == ["ID", "NAME", "CHANGED", "VERSIONS", "LAST", "CHANGED", "TAGS"]
    assert "reviews" in lines[1] and lines[1].endswith("nlp")
    assert "search" in cli("ls", "models", "--where", "labels == good").stdout
    assert "no models" in cli("ls", "models", "--where", "labels == bad").stdout
    assert "/find/it" in cli("ls", "endpoints", "--sort", "name").stdout
    (found,) = json.loads(cli("ls", "models", "--json").stdout)
    assert (found["name"], found["versions"], found["tags"]) == ("search", ["v1"], ["good"])
    assert cli("ls", "things").returncode == 2


def test_show_shows_what_is_not_a_run(store: Client) -> None:
    text = cli("show", "reviews").stdout
    for part in ("dataset", "texts", "nlp", "rows", "versions", store.datasets[0].id):
        assert part in text
    version = store.datasets[0].versions[0]
    assert "train.csv  4 B" in cli("show", version.id[:8]).stdout
    assert json.loads(cli("show", version.id, "--json").stdout)["components"][0]["size"] == 4
    for part in ("registered model version", "search", "recall", "index", "stage"):
        assert part in cli("show", "v1").stdout
    assert "finds" in cli("show", "find/it").stdout
    done = cli("show", "absent")
    assert done.returncode == 1 and "no run 'absent'" in done.stderr


def test_a_name_that_means_two_things_asks_for_the_id(store: Client) -> None:
    store.set_registered_model("other").create_version("v1")
    store.flush()
    done = cli("show", "v1")
    assert done.returncode == 1 and "more than one" in done.stderr
