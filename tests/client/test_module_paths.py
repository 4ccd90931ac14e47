"""The modules that Verta notebooks import from are there under the same paths, and under `verta` where that is asked."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import verta_local
from verta_local import Client
from verta_local.code import Git, Notebook
from verta_local.configuration import Hyperparameters
from verta_local.credentials import EmailCredentials, JWTCredentials, load_from_os_env
from verta_local.visibility import OrgCustom, Private

PATHS = [
    ("client", "Client"),
    ("client", "ExperimentRun"),
    ("client", "Project"),
    ("code", "Git"),
    ("configuration", "Hyperparameters"),
    ("credentials", "EmailCredentials"),
    ("data_types", "Matrix"),
    ("dataset", "Path"),
    ("deployment", "DeployedModel"),
    ("environment", "Python"),
    ("tracking.entities", "Project"),
    ("tracking.entities", "Projects"),
    ("tracking.entities", "Experiment"),
    ("tracking.entities", "Experiments"),
    ("tracking.entities", "ExperimentRun"),
    ("tracking.entities", "ExperimentRuns"),
    ("utils", "ModelAPI"),
    ("visibility", "Private"),
]


@pytest.mark.parametrize(("path", "name"), PATHS)
def test_each_path_has_its_names(path: str, name: str) -> None:
    assert isinstance(getattr(importlib.import_module(f"verta_local.{path}"), name), type)


def test_modules_are_attributes_of_the_package_alone(python: Callable[..., Any]) -> None:
    code = (
        "import verta_local as verta, sys\nassert 'verta_local.utils' not in sys.modules\n"
        "print(verta.Client.__name__, verta.utils.ModelAPI.__name__, verta.environment.Python.__name__)\n"
    )
    for path in (
        "tracking.entities.Project",
        "tracking.Client",
        "dataset.entities.Dataset",
        "registry.entities.RegisteredModel",
        "endpoint.update.DirectUpdateStrategy",
    ):
        code += f"verta.{path}\n"
    assert python(code).stdout.splitlines()[-1] == "Client ModelAPI Python"
    with pytest.raises(AttributeError):
        getattr(verta_local, "nonsense")  # noqa: B009


def test_one_line_makes_verta_another_name(python: Callable[..., Any]) -> None:
    code = """
import verta_local.as_verta
import verta
from verta import Client
from verta.tracking.entities import ExperimentRun
import verta.deployment, verta.utils as utils
import verta_local, verta_local.tracking.entities, verta_local.utils
assert verta is verta_local and Client is verta_local.Client
assert ExperimentRun is verta_local.tracking.entities.ExperimentRun
assert verta.deployment is verta_local.deployment and utils is verta_local.utils
assert verta.tracking.__spec__.name == "verta_local.tracking"
run = Client("store").set_experiment_run()
assert type(run) is ExperimentRun and type(run).__module__ == "verta_local.run"
import importlib
importlib.import_module("verta_local.as_verta").install()
try:
    import verta.nonsense
except ModuleNotFoundError as error:
    print(error)
"""
    assert python(code).stdout.splitlines()[-1] == "No module named 'verta.nonsense'"


def test_another_verta_is_not_covered_up_half(tmp_path: Path, python: Callable[..., Any]) -> None:
    (tmp_path / "verta.py").write_text("name = 'somebody else'\n")
    done = python("import verta\nimport verta_local.as_verta", check=False)
    assert "another package `verta` is imported already" in done.stderr


# -- the classes of the thin modules -------------------------------------------------------------------------------


def test_git_describes_the_present_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *arguments], cwd=tmp_path,
                              check=True, capture_output=True, text=True)  # fmt: skip
        return done.stdout.strip()

    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="not in a git repository"):
        Git()
    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "x")
    git("tag", "v1")
    git("remote", "add", "origin", "https://token@host/a.git")
    found = Git()
    assert found.commit_hash == git("rev-parse", "HEAD")
    assert (found.repo_url, found.branch, found.tag, found.is_dirty) == ("https://host/a.git", "main", "v1", False)
    assert Git(tag="v1").commit_hash == found.commit_hash and Git(tag="v1").tag == "v1"
    assert Git(commit_hash="abc", autocapture=False).repo_url is None
    assert found == Git() and "main" in repr(found)
    for wrong in ({"branch": "a", "tag": "b"}, {"branch": "absent"}):
        with pytest.raises(ValueError):
            Git(**wrong)


def test_a_notebook_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.ipynb").write_text("{}")
    assert Notebook(str(tmp_path / "a.ipynb")).path == str(tmp_path / "a.ipynb")
    with pytest.raises(OSError, match="no file"):
        Notebook("nowhere.ipynb")
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    with pytest.raises(OSError, match="notebook_path"):
        Notebook()


def test_hyperparameters_are_checked() -> None:
    made = Hyperparameters({"a": 1}, {"b": (0, 1, 0.1)}, {"c": ["x", "y"]})
    assert (made.hyperparameters, made.hyperparameter_ranges) == ({"a": 1}, {"b": (0, 1, 0.1)})
    assert made.hyperparameter_sets == {"c": ["x", "y"]} and "c" in repr(made)
    with pytest.raises(ValueError):
        Hyperparameters()
    with pytest.raises(TypeError, match="must be a dict"):
        Hyperparameters(5)  # type: ignore[arg-type]
    for wrong in ((0, 1), "abc", 5):
        with pytest.raises(TypeError):
            Hyperparameters(hyperparameter_ranges={"b": wrong})  # type: ignore[dict-item]


def test_credentials_go_to_the_environment_and_back_and_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_from_os_env() is None
    for made in (JWTCredentials("t0ken", "s1g"), EmailCredentials("a@b.c", "k3y", organization_id="o")):
        with monkeypatch.context():
            made.export_env_vars_to_os()
            assert load_from_os_env() == made == pickle.loads(pickle.dumps(made))
        assert not {"t0ken", "s1g", "k3y"} & set(repr(made).replace("=", " ").split())
    headers = EmailCredentials("a@b.c", "k3y").headers()
    assert headers["Grpc-Metadata-email"] == "a@b.c" and headers["Grpc-Metadata-developer-key"] == "k3y"


def test_visibility_is_accepted(client: Client) -> None:
    assert OrgCustom(write=True) == OrgCustom(write=True) != OrgCustom()
    assert Private() != OrgCustom() and repr(Private()) == "Private()"
    assert client.set_project("p", visibility=OrgCustom()).name == "p"
    assert sys.modules["verta_local.visibility"]
