"""log_code: in and out of a git repository, dirty or clean, from scripts and notebooks; no password is kept."""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from verta_local import Client
from verta_local.code_capture import without_credentials


def git(folder: Path, *arguments: str) -> str:
    identity = [
        "-c",
        "user.name=n",
        "-c",
        "user.email=e@x",
        "-c",
        "init.defaultBranch=main",
        "-c",
        "commit.gpgsign=false",
    ]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, which is the current folder."""
    folder = tmp_path / "repository"
    (folder / "deep").mkdir(parents=True)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    git(folder, "init", "-q")
    (folder / "deep" / "train.py").write_text("print(1)\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    git(folder, "remote", "add", "origin", "https://me:secret@example.org/team/project.git")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def no_git(tmp_path: Path) -> Client:
    """A client that was told not to look for a repository."""
    return Client(str(tmp_path / "store"), use_git=False)


# -- in a repository -----------------------------------------------------------------------------------------------


def test_the_state_of_the_repository_is_logged_without_credentials(client: Client, repository: Path) -> None:
    run = client.set_experiment_run()
    run.log_code(exec_path="deep/train.py")
    assert run.get_code() == {
        "filepaths": ["deep/train.py"],
        "repo_url": "https://example.org/team/project.git",
        "commit_hash": git(repository, "rev-parse", "HEAD"),
        "is_dirty": False,
    }
    assert run.get_code_patch() is None
    for path in Path(client.store_path).rglob("*"):
        assert not path.is_file() or b"secret" not in path.read_bytes()


def test_of_a_dirty_repository_the_difference_is_kept_and_applies(
    client: Client, repository: Path, tmp_path: Path
) -> None:
    (repository / "deep" / "train.py").write_text("print(2)\n")
    (repository / "data.bin").write_bytes(bytes(range(256)))
    git(repository, "add", "data.bin")
    (repository / "notes.txt").write_text("git does not follow it")
    run = client.set_experiment_run()
    run.log_code()
    code = run.get_code()
    assert isinstance(code, dict) and code["is_dirty"] is True
    patch = run.get_code_patch()
    assert patch is not None
    git(tmp_path, "clone", "-q", str(repository), "copy")
    (tmp_path / "patch").write_bytes(patch)
    git(tmp_path / "copy", "apply", str(tmp_path / "patch"))
    assert (tmp_path / "copy" / "deep" / "train.py").read_text() == "print(2)\n"
    assert (tmp_path / "copy" / "data.bin").read_bytes() == bytes(range(256))


def test_a_file_that_git_does_not_follow_makes_nothing_dirty(client: Client, repository: Path) -> None:
    (repository / "notes.txt").write_text("x")
    run = client.set_experiment_run()
    run.log_code()
    assert run.get_code()["is_dirty"] is False  # type: ignore[index]


def test_the_calling_script_is_found(repository: Path, tmp_path: Path, python: Callable[..., Any]) -> None:
    code = """
from verta_local import Client
run = Client("../../store").set_experiment_run()
run.log_code()
print(run.get_code()["filepaths"])
"""
    done = python(code, name="repository/deep/caller.py", cwd=repository / "deep")
    assert done.stdout.splitlines()[-1] == "['deep/caller.py']"


def test_what_is_given_counts_more_than_what_is_found(client: Client, repository: Path) -> None:
    run = client.set_experiment_run()
    run.log_code("deep/train.py", "https://token@host/x.git", "abc123", is_dirty=True)
    assert run.get_code() == {
        "filepaths": ["deep/train.py"],
        "repo_url": "https://host/x.git",
        "commit_hash": "abc123",
        "is_dirty": True,
    }
    assert run.get_code_patch() is None, "it would be that of another commit"


def test_without_autocapture_nothing_is_looked_for(client: Client, repository: Path) -> None:
    run = client.set_experiment_run()
    run.log_code(repo_url="https://host/x.git", autocapture=False)
    assert run.get_code() == {
        "filepaths": [],
        "repo_url": "https://host/x.git",
        "commit_hash": None,
        "is_dirty": None,
    }


def test_a_repository_without_commits_or_remote_is_no_error(client: Client, outside: Path) -> None:
    git(outside, "init", "-q")
    run = client.set_experiment_run()
    run.log_code()
    code = run.get_code()
    assert isinstance(code, dict)
    assert (code["repo_url"], code["commit_hash"]) == (None, None)


def test_nothing_of_the_repositorys_own_is_run(client: Client, repository: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for name in ("core.fsmonitor", "diff.external"):
        git(repository, "config", name, f"touch {trace}; false")
    (repository / "deep" / "train.py").write_text("print(3)\n")
    run = client.set_experiment_run()
    run.log_code()
    assert run.get_code_patch() and not trace.exists()


# -- outside, and without git --------------------------------------------------------------------------------------


def test_outside_of_a_repository_it_is_said_and_nothing_logged(
    client: Client, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for entity in (client.set_project(), client.set_experiment(), client.set_experiment_run()):
        entity.log_code()
        assert "not in a git repository" in capsys.readouterr().out
        with pytest.raises(RuntimeError, match="no code version"):
            entity.get_code()


def test_without_git_installed_it_is_the_same(
    client: Client, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    run = client.set_experiment_run()
    run.log_code()
    with pytest.raises(RuntimeError):
        run.get_code()


def test_without_use_git_the_script_itself_is_logged(no_git: Client) -> None:
    run = no_git.set_experiment_run()
    for entity in (no_git.proj, no_git.expt, run):
        assert entity is not None
        entity.log_code(exec_path=__file__)
        code = entity.get_code()
        assert isinstance(code, zipfile.ZipFile)
        with code:
            assert code.namelist() == ["test_code.py"]
            assert code.read("test_code.py") == Path(__file__).read_bytes()
    run.log_code(overwrite=True)
    with run.get_code() as code:  # type: ignore[union-attr]
        assert code.namelist() == ["test_code.py"], "the calling file"


def test_every_way_to_an_entity_keeps_the_word_about_git(no_git: Client) -> None:
    run = no_git.set_experiment_run("r")
    project, experiment = no_git.projects[0], no_git.experiments[0]
    others = [no_git.expt_runs[0], project.expt_runs[0], project.experiments[0], *experiment.expt_runs, project]
    for entity in [*others, no_git.get_experiment_run(id=run.id), no_git.proj]:
        with pytest.raises(ValueError, match="use_git=True"):
            entity.log_code(repo_url="x")  # type: ignore[union-attr]


def test_the_cells_of_a_notebook_without_a_known_file_are_logged(no_git: Client) -> None:
    run = no_git.set_experiment_run()
    cells = {"get_ipython": None, "In": ["", "x = 1", "run.log_code()"], "run": run}
    exec(compile("run.log_code()", "<ipython-input-2>", "exec"), cells)
    with run.get_code() as code:  # type: ignore[union-attr]
        assert code.read("notebook_cells.py") == b"# %%\nx = 1\n\n# %%\nrun.log_code()\n\n"


def test_the_file_of_a_notebook_is_logged_where_the_front_end_tells_it(
    no_git: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work.ipynb").write_text("{}")
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "work.ipynb"))
    run = no_git.set_experiment_run()
    exec(compile("run.log_code()", "<cell>", "exec"), {"get_ipython": None, "In": [""], "run": run})
    with run.get_code() as code:  # type: ignore[union-attr]
        assert code.namelist() == ["work.ipynb"]


def test_without_a_script_one_sentence_says_what_to_give(no_git: Client) -> None:
    run = no_git.set_experiment_run()
    with pytest.raises(ValueError, match="give its path as `exec_path`"):
        exec(compile("run.log_code()", "<string>", "exec"), {"run": run})


# -- errors --------------------------------------------------------------------------------------------------------


def test_a_second_time_needs_overwrite_which_only_runs_have(client: Client, repository: Path) -> None:
    run = client.set_experiment_run()
    for entity in (client.proj, client.expt, run):
        assert entity is not None
        entity.log_code(commit_hash="a")
        with pytest.raises(ValueError, match="already"):
            entity.log_code(commit_hash="b")
    run.log_code(commit_hash="c", overwrite=True)
    assert run.get_code()["commit_hash"] == "c"  # type: ignore[index]
    for entity in (client.proj, client.expt):
        with pytest.raises(ValueError, match="cannot be overwritten"):
            entity.log_code(overwrite=True)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "arguments", [{"repo_url": "x"}, {"commit_hash": "x"}, {"autocapture": False}, {"is_dirty": False}]
)
def test_details_of_a_repository_need_use_git(no_git: Client, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="use_git=True"):
        no_git.set_experiment_run().log_code(**arguments)


def test_bad_arguments_are_refused(client: Client, tmp_path: Path) -> None:
    run = client.set_experiment_run()
    for path in ("nowhere.py", str(tmp_path)):
        with pytest.raises(ValueError, match="there is no file"):
            run.log_code(exec_path=path)
    with pytest.raises(TypeError, match="repo_url"):
        run.log_code(repo_url=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://user:p@ss:w@host/a.git", "https://host/a.git"),
        ("https://token@host/a.git", "https://host/a.git"),
        ("HTTPS://token@host/a.git", "HTTPS://host/a.git"),
        ("https://host/a@b.git", "https://host/a@b.git"),
        ("ssh://git@host/a.git", "ssh://git@host/a.git"),
        ("ssh://git:pass@host/a.git", "ssh://host/a.git"),
        ("git@host:team/a.git", "git@host:team/a.git"),
        ("/srv/git/a.git", "/srv/git/a.git"),
    ],
)
def test_credentials_are_taken_out_of_addresses(url: str, kept: str) -> None:
    assert without_credentials(url) == kept
