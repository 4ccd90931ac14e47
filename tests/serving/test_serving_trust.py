"""Whose code runs: one's own, and others' once it was approved; and never a byte that was changed."""

from __future__ import annotations

import json
import os
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from verta_local import Client, config, trust
from verta_local.cli.parser import parse
from verta_local.deployment import local

_BOB = """
import sys
from verta_local import Client
client = Client(sys.argv[1])
client.set_project("team")
client.set_experiment("shared")
run = client.set_experiment_run("bobs")
canary = sys.argv[2]
def make():
    class Model:
        def __init__(self, artifacts=None):
            open(canary, "w").close()
        def predict(self, data):
            return "bob"
    return Model
run.log_model(make(), custom_modules=[])
run.log_requirements([])
run.log_artifact("object", {"made", "by", "bob"})
"""


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "fired"


@pytest.fixture
def bobs_run(tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A run that somebody else logged into a store that this user opens."""
    store = tmp_path / "store"
    environment = {**os.environ, "LOGNAME": "bob"}
    done = subprocess.run([sys.executable, "-c", _BOB, str(store), str(canary)], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("LOGNAME", "anna")
    client = Client(str(store))
    client.set_project("team")
    client.set_experiment("shared")
    yield client.set_experiment_run("bobs")
    for found in local.list_deployments():
        local.undeploy(found["store_id"], found["run_id"], wait=True)


def _cli(run: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "verta_local", "--store", run._store.root, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, stdin=subprocess.DEVNULL)


def test_anothers_code_does_not_run_on_any_way_in_before_it_is_approved(bobs_run: Any, canary: Path) -> None:
    with pytest.raises(RuntimeError, match=r"was logged by bob on .*run\.trust\(\)"):
        bobs_run.get_model()
    with pytest.raises(RuntimeError, match="was logged by bob on"):
        bobs_run.get_artifact("object")
    with pytest.raises(RuntimeError, match=r"model deployment is failing;(.|\n)*was logged by bob on"):
        bobs_run.deploy(wait=True)
    for arguments in (["deploy", "bobs"], ["serve", "bobs"]):
        done = _cli(bobs_run, *arguments)
        assert done.returncode == 1
        assert "was logged by bob on" in done.stderr and "--trust" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not canary.exists()


def test_an_approval_is_asked_for_once_and_kept_privately(bobs_run: Any, canary: Path) -> None:
    bobs_run.trust()
    assert bobs_run.get_model()().predict(None) == "bob"
    assert bobs_run.get_artifact("object") == {"made", "by", "bob"}
    assert bobs_run.deploy(wait=True)["status"] == "deployed"
    assert bobs_run.get_deployed_model().predict(1) == "bob"
    file = config.state_dir() / "trusted.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not str(file).startswith(bobs_run._store.root)


def test_the_command_line_approves_with_trust(bobs_run: Any) -> None:
    assert _cli(bobs_run, "trust", "bobs").returncode == 0
    assert _cli(bobs_run, "deploy", "bobs").returncode == 0
    (config.state_dir() / "trusted.json").unlink()
    local.undeploy(bobs_run._store.id, bobs_run.id, wait=True)
    assert _cli(bobs_run, "deploy", "bobs").returncode == 1
    assert _cli(bobs_run, "deploy", "bobs", "--trust").returncode == 0


def test_an_approval_is_of_one_digest_by_one_author(bobs_run: Any) -> None:
    spec = bobs_run.model_spec()
    bobs_run.trust()
    assert trust.is_trusted(spec["model"]["digest"], spec["author"])
    assert not trust.is_trusted(spec["model"]["digest"], spec["author"].replace("bob", "eve"))
    assert not trust.is_trusted("sha256:" + "0" * 64, spec["author"])
    assert not trust.is_trusted(spec["model"]["digest"], None)


def test_own_code_needs_no_approval_also_from_another_host(bobs_run: Any) -> None:
    assert trust.is_own("anna on laptop") and trust.is_own(trust.own_author())
    assert not trust.is_own("annabel on laptop") and not trust.is_own("anna") and not trust.is_own("bob on anna on x")


@pytest.mark.skipif(not hasattr(os, "chown") or os.getuid() != 0, reason="only root gives files away")
def test_a_journals_word_is_not_believed_where_its_file_is_of_another_user(tmp_path: Path) -> None:
    client = Client(str(tmp_path / "store"))
    run = client.set_experiment_run("mine")
    run.log_artifact("object", {1, 2})
    client.flush()
    assert run.get_artifact("object") == {1, 2}
    for journal in (tmp_path / "store" / "journals").rglob("*.jsonl"):
        os.chown(journal, 1005, -1)
    with pytest.raises(RuntimeError, match=r"\(uid 1005\) on"):
        run.get_artifact("object")
    for journal in (tmp_path / "store" / "journals").rglob("*.jsonl"):
        os.chown(journal, 65534, -1)  # what a drive shows that cannot map owners
    assert run.get_artifact("object") == {1, 2}


def test_a_damaged_file_of_approvals_approves_nothing(bobs_run: Any) -> None:
    bobs_run.trust()
    for content in (b"", b"[]", b"{", b'{"x": 1}', b"\xff"):
        (config.state_dir() / "trusted.json").write_bytes(content)
        with pytest.raises(RuntimeError, match="was logged by bob"):
            bobs_run.get_model()


_WAYS = ["deploy", "serve", "get_model", "get_artifact", "a clone", "a model version", "an endpoint"]
_WAYS += ["verta-local deploy", "verta-local build"]


@pytest.mark.parametrize("way", _WAYS)
def test_one_flipped_bit_of_a_pickle_is_refused_before_it_is_read(tmp_path: Path, way: str) -> None:
    """A canary in the pickle's __reduce__ never fires."""

    class Canary:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "fired",))

    client = Client(str(tmp_path / "store"))
    run = client.set_experiment_run("mine")
    run.log_model(Canary(), custom_modules=[])
    run.log_artifact("object", Canary())
    run.log_requirements([])
    version = client.set_registered_model("registered").create_version_from_run(run.id)
    client.flush()
    run.get_artifact("object")
    assert (tmp_path / "fired").exists()  # the canary of a sound pickle does fire
    (tmp_path / "fired").unlink()
    digest = run.model_spec()["model"]["digest"] if way != "get_artifact" else run._artifact("object").digest
    path = Path(run._store.object_path(digest))
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    words = {
        "serve": ["serve", "mine"],
        "verta-local deploy": ["deploy", "mine"],
        "verta-local build": ["build", "mine", "-o", str(tmp_path / "built")],
    }
    calls = {
        "deploy": lambda: run.deploy(wait=True),
        "get_model": run.get_model,
        "get_artifact": lambda: run.get_artifact("object"),
        "a clone": lambda: run.clone().get_model(),
        "a model version": version.get_model,
        "an endpoint": lambda: client.set_endpoint("/e").update(version, wait=True),
    }
    try:
        if way in words:
            done = _cli(run, *words[way])
            assert done.returncode == 1
            assert "is damaged: its bytes no longer match sha256:" in done.stderr
        else:
            with pytest.raises(Exception, match="is damaged: its bytes no longer match sha256:"):
                calls[way]()
    finally:
        for found in local.list_deployments():
            local.undeploy(found["store_id"], found["run_id"], wait=True)
    assert not (tmp_path / "fired").exists()
    assert not (tmp_path / "built").exists()


# ---- tokens ----


def test_a_token_is_rotated_with_a_time_of_grace(server: Any, tools: Any) -> None:
    endpoint = server.deploy("Echo", token="old-token")
    endpoint.change_token("new-token", grace_s=0.5)
    assert [server.predict(1, Access_Token=t).status for t in ("old-token", "new-token", "x")] == [200, 200, 401]
    tools.eventually(lambda: server.predict(1, Access_Token="old-token").status == 401)
    assert server.predict(1, Access_Token="new-token").status == 200
    endpoint.change_token("third-token")
    assert [server.predict(1, Access_Token=t).status for t in ("new-token", "third-token")] == [401, 200]


def test_a_token_that_is_made_here_can_follow_its_option(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = iter(["-looks-like-an-option", "--this-too", "good", "another"])
    monkeypatch.setattr(secrets, "token_urlsafe", lambda size_bytes: next(made))
    assert server.deploy("Echo", no_token=False).token == "good"
    arguments = ["predict", "http://127.0.0.1:1/api", "1", "--token"]
    assert parse([*arguments, "good"]).token == "good"
    assert parse([*arguments[:-1], "--token=-from-elsewhere"]).token == "-from-elsewhere"
    with pytest.raises(SystemExit):  # so one may not be made
        parse([*arguments, "-looks-like-an-option"])


def test_the_command_line_rotates_a_token_and_the_next_deployment_has_the_new_one(tmp_path: Path) -> None:
    client = Client(str(tmp_path / "store"))
    run = client.set_experiment_run("mine")
    run.log_model(lambda data: data, custom_modules=[])
    run.log_requirements([])
    try:
        first = run.deploy(path="best", wait=True)["token"]
        assert stat.S_IMODE((config.serving_dir() / "tokens.json").stat().st_mode) == 0o600
        assert _cli(run, "token", "mine").stdout.strip() == first
        model = run.get_deployed_model()
        second = _cli(run, "token", "mine", "--rotate", "--grace", "1h").stdout.strip()
        assert second != first and len(second) >= 43
        assert model.predict(1) == 1
        assert run.get_deployed_model().headers()["Access-Token"] == second
        third = _cli(run, "token", "mine", "--rotate").stdout.strip()
        with pytest.raises(RuntimeError, match="401"):
            model.predict(1)
        run.undeploy(wait=True)
        assert run.deploy(path="best", wait=True)["token"] == third
        assert third not in json.dumps(os.listdir(tmp_path / "store"))
    finally:
        run.undeploy(wait=True)


def test_a_copy_of_anothers_code_is_anothers_code(bobs_run: Any, canary: Path) -> None:
    client = Client(bobs_run._store.root)
    version = client.create_registered_model("m").create_version_from_run(bobs_run)
    again = client.create_registered_model("n").create_version_from_run(bobs_run.clone())
    assert again.model_spec()["author"].startswith("bob on ")
    for copy in (bobs_run.clone(), bobs_run.clone().clone(), version):
        with pytest.raises(RuntimeError, match="was logged by bob on"):
            copy.get_model()
        with pytest.raises(RuntimeError, match="was logged by bob on"):
            copy.get_artifact("object")
    with pytest.raises(RuntimeError, match="was logged by bob on"):
        client.create_endpoint("p").update(version, wait=True)
    assert not canary.exists()
    version.trust()
    assert version.get_model()().predict(None) == "bob"
    # What this user puts in its place is his own again.
    mine = client.create_registered_model("own").create_version_from_run(bobs_run)
    mine.log_artifact("object", [1], overwrite=True)
    assert mine.get_artifact("object") == [1]


def test_what_another_adds_to_ones_own_model_is_not_run(bobs_run: Any, canary: Path, tmp_path: Path) -> None:
    client = Client(bobs_run._store.root)
    client.set_project("team")
    client.set_experiment("shared")
    run = client.set_experiment_run("annas")
    run.log_model(_Mine)
    run.log_requirements([])
    client.flush()
    assert run.get_model() is _Mine
    bob = f"""
from verta_local import Client
client = Client({bobs_run._store.root!r})
run = client.set_experiment_run(id={run.id!r})
run.log_setup_script("open({str(canary)!r}, 'w').close()")
"""
    environment = {**os.environ, "LOGNAME": "bob"}
    subprocess.run([sys.executable, "-c", bob], env=environment, check=True, capture_output=True)
    with pytest.raises(RuntimeError, match="was logged by bob on"):
        run.deploy(wait=True)
    assert not canary.exists()


@pytest.mark.parametrize("way", ["log_requirements(requirements, overwrite=True)", "log_environment(Python(['x==1']))"])
def test_what_another_has_installed_for_ones_own_model_is_asked_about_first(
    bobs_run: Any, canary: Path, tmp_path: Path, way: str
) -> None:
    client = Client(bobs_run._store.root)
    client.set_project("team")
    client.set_experiment("shared")
    run = client.set_experiment_run("annas")
    run.log_model(_Mine)
    run.log_requirements([])
    client.flush()
    (tmp_path / "requirements").write_text("pytest\n")
    bob = f"""
from verta_local import Client
from verta_local.environment import Python
client = Client({bobs_run._store.root!r})
run = client.set_experiment_run(id={run.id!r})
requirements = {str(tmp_path / "requirements")!r}
run.{way}
"""
    environment = {**os.environ, "LOGNAME": "bob"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", bob], env=environment, check=True, capture_output=True)
    with pytest.raises(RuntimeError, match="was logged by bob on"):
        run.deploy(wait=True)
    refused = _cli(run, "deploy", run.id)
    assert refused.returncode == 1 and "was logged by bob on" in refused.stderr, refused
    run.trust()
    if "requirements" in way:
        assert run.deploy(wait=True)["status"] == "deployed"


class _Mine:
    def predict(self, data: Any) -> Any:
        return data
