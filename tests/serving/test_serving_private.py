"""What of serving is on this machine's disk is for its user alone, whatever his umask."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from verta_local import Client, private_file
from verta_local.deployment import local


@pytest.mark.skipif(sys.platform == "win32", reason="modes")
def test_folders_of_tokens_approvals_logs_and_caches_are_private_whatever_the_umask(tmp_path: Path) -> None:
    """Who may write to a folder above may put another in place of a private one: with approvals of his own."""
    client = Client(str(tmp_path / "store"))
    run = client.set_experiment_run("mine")
    run.log_model(lambda data: data, custom_modules=[])
    run.log_requirements([])
    run.log_artifact("object", {1, 2})
    client.flush()
    program = (
        "import os, sys; os.umask(0); from verta_local import trust; from verta_local.cli import main\n"
        "trust.approve(['sha256:' + '0' * 64], 'bob on laptop'); sys.exit(main(sys.argv[1:]))"
    )
    for words in (["deploy", "mine"], ["predict", "mine", "1"], ["token", "mine", "--rotate"], ["ls"]):
        command = [sys.executable, "-c", program, "--store", str(tmp_path / "store"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, done.stderr
    (found,) = local.list_deployments()
    local.undeploy(found["store_id"], found["run_id"], wait=True)
    for top in (tmp_path / "state", tmp_path / "cache"):
        folders = [top, *(path for path in top.rglob("*") if path.is_dir())]
        assert len(folders) > 2
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}, folders
    names = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").rglob("*") if path.is_file()}
    assert {"tokens.json", "trusted.json", "access.jsonl"} <= names.keys()
    assert {mode for name, mode in names.items() if not name.endswith(".lock")} == {0o600}, names


def test_a_private_file_is_made_by_exclusive_creation_and_put_in_place_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that somebody laid at the name of the next temporary file is not written through."""
    monkeypatch.setattr(private_file.secrets, "token_hex", lambda length: "known")
    (tmp_path / "victim").write_text("his")
    (tmp_path / ".tokens.json.known").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        private_file.write_private(tmp_path / "tokens.json", b"secret")
    assert (tmp_path / "victim").read_text() == "his"
    (tmp_path / ".tokens.json.known").unlink()
    (tmp_path / "tokens.json").symlink_to(tmp_path / "victim")
    private_file.write_private(tmp_path / "tokens.json", b"secret")
    assert (tmp_path / "victim").read_text() == "his"
    assert stat.S_IMODE((tmp_path / "tokens.json").lstat().st_mode) == 0o600
