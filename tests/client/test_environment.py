"""The environment of a run: what is recorded, in which form it comes back, and what a deployment makes of it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from verta_local import Client, __version__
from verta_local.environment import Docker, Python, check_environment, from_record

NUMPY = f"numpy=={importlib.metadata.version('numpy')}"
OWN = [f"verta_local=={__version__}", f"cloudpickle=={importlib.metadata.version('cloudpickle')}"]


def test_requirements_are_pinned_and_ours_are_added() -> None:
    """A bare name gets the installed version, silently; a range does with a word."""
    assert Python(["numpy", "annoy==1.17.3"]).requirements == [NUMPY, "annoy==1.17.3", *OWN]
    with pytest.warns(UserWarning, match=f"'numpy>=1' to {NUMPY}"):
        assert Python(["numpy>=1"]).requirements == [NUMPY, *OWN]
    assert Python([]).requirements == OWN


def test_lines_that_are_no_requirements_are_kept_as_they_are_without_passwords() -> None:
    """Options, addresses, and what nobody can read; they are no pins to check."""
    lines = ["numpy", "--extra-index-url https://me:secret@host/simple", "-e git+ssh://git@host/x.git", "so what?"]
    environment = Python(lines)
    kept = ["--extra-index-url https://host/simple", "-e git+ssh://git@host/x.git", "so what?"]
    assert environment.requirements == [NUMPY, *kept, *OWN]
    assert environment.pins == [NUMPY, *OWN]


def test_without_a_list_all_that_is_installed_is_recorded() -> None:
    """`Python(None)`, and the list of it by `read_pip_environment`."""
    assert NUMPY in Python.read_pip_environment()
    assert set(Python.read_pip_environment()) <= {*Python().requirements, *OWN, f"verta-local=={__version__}"}


def test_a_pip_file_is_read_line_by_line(tmp_path: Path) -> None:
    """Comments go, continued lines are joined; options go where that is asked for."""
    file = tmp_path / "requirements.txt"
    file.write_text("# all\n--pre\nannoy==1.17.3  # index\n\nnumpy \\\n  >=1\n-e .\n")
    assert Python.read_pip_file(str(file)) == ["--pre", "annoy==1.17.3", "numpy >=1", "-e ."]
    assert Python.read_pip_file(file, skip_options=True) == ["annoy==1.17.3", "numpy >=1"]
    with pytest.raises(FileNotFoundError, match="there is no requirements file"):
        Python.read_pip_file(tmp_path / "none.txt")


def test_environment_variables_by_name_or_with_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """None where none were given, as in Verta."""
    monkeypatch.setenv("WORKERS", "4")
    assert Python([], env_vars=["WORKERS"]).env_vars == {"WORKERS": "4"}
    assert Python([], env_vars={"MODE": "fast"}).env_vars == {"MODE": "fast"}
    assert Python([]).env_vars is None
    with pytest.raises(ValueError, match="names what is not set here: NO_SUCH_VARIABLE"):
        Python([], env_vars=["NO_SUCH_VARIABLE"])
    with pytest.raises(ValueError, match="'a=b' cannot be set"):
        Python([], env_vars={"a=b": "c"})
    with pytest.raises(TypeError, match="must hold str only"):
        Python([], env_vars={"A": 1})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="a list of names or a dict, not str"):
        Python([], env_vars="WORKERS")  # type: ignore[arg-type]


def test_the_other_parts_come_back_as_they_were_given() -> None:
    """And the version of Python as three numbers."""
    environment = Python(["numpy"], ["six<2"], {"A": "b"}, ["libgomp1", "g++=4:12.2"])
    assert environment.constraints == ["six<2"]
    assert environment.apt_packages == ["libgomp1", "g++=4:12.2"]
    assert environment.python_version == tuple(sys.version_info[:3])
    assert environment.python_version.minor == sys.version_info.minor
    for part in ("numpy==", "six<2", "A=b", "libgomp1", str(environment.python_version)):
        assert part in repr(environment)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["numpy"], TypeError, "`requirements` must be a list of str; found int"),
        ([[1]], TypeError, r"`requirements` must be a list of str; found \[1\]"),
        ([["no-such-thing"]], ValueError, "not installed here"),
        ([[], "six"], TypeError, "`constraints` must be a list of str"),
        ([[], None, None, ["Bad Name; rm -rf"]], ValueError, "no name of a system package"),
    ],
)
def test_what_cannot_be_recorded_is_refused(arguments: list[object], kind: type[Exception], message: str) -> None:
    """One sentence each."""
    if message.endswith("found int"):
        arguments = [3]
    with pytest.raises(kind, match=message):
        Python(*arguments)  # type: ignore[arg-type]


def test_docker_names_one_image() -> None:
    """By tag or digest; anything that is no image's name is refused."""
    image = Docker("registry.example:5000/team/search", tag="1.2", env_vars={"A": "b"})
    assert (image.repository, image.tag, image.sha) == ("registry.example:5000/team/search", "1.2", None)
    assert Docker("search", sha="0" * 64).sha == "0" * 64
    assert "search" in repr(image) and "A=b" in repr(image)
    with pytest.raises(ValueError, match="needs a tag or a sha"):
        Docker("search")
    for arguments in (("search it", "1"), ("search", "a b"), ("search", None, "12")):
        with pytest.raises(ValueError, match="does not have the form"):
            Docker(*arguments)
    with pytest.raises(TypeError, match="tag must be a str, not int"):
        Docker("search", tag=1)  # type: ignore[arg-type]


def test_equal_by_content_and_through_a_record() -> None:
    """A record is JSON; one of a later kind says what to do."""
    for environment in (Python(["numpy"], ["six<2"], {"A": "b"}, ["libgomp1"]), Docker("search", "1")):
        assert from_record(json.loads(json.dumps(environment.to_record()))) == environment
    assert Python([]) != Python(["numpy"]) and Python([]) != Docker("search", "1") and Python([]) != 1
    with pytest.raises(ValueError, match="upgrade verta_local"):
        from_record({"kind": "conda"})


def test_a_run_keeps_one_environment(client: Client) -> None:
    """A second one needs overwrite; another process reads the same."""
    run = client.set_experiment_run("r")
    assert not run.has_environment
    with pytest.raises(RuntimeError, match="environment was not previously set in run 'r'"):
        run.get_environment()
    environment = Python(["numpy"], env_vars={"A": "b"})
    run.log_environment(environment)
    assert run.has_environment and run.get_environment() == environment
    with pytest.raises(ValueError, match=r"environment already exists.*consider setting overwrite=True"):
        run.log_environment(Python([]))
    run.log_environment(Docker("search", "1"), overwrite=True)
    assert client.set_experiment_run(id=run.id).get_environment() == Docker("search", "1")
    with pytest.raises(TypeError, match=r"must be a verta_local\.environment\.Python or Docker, not list"):
        run.log_environment([NUMPY])  # type: ignore[arg-type]
    assert check_environment(environment) is environment


def test_requirements_are_those_of_log_requirements_else_of_the_environment(client: Client) -> None:
    """Only what can be checked: a model of an environment with options loads."""
    run = client.set_experiment_run()
    assert run.get_requirements() == []
    run.log_environment(Python(["numpy", "--pre"]))
    assert run.get_requirements() == [NUMPY, *OWN]
    run.log_requirements([])
    assert run.get_requirements() == OWN


class Model:
    """Answers with an environment variable as it was when the class was made."""

    def __init__(self) -> None:
        self.mode = os.environ.get("SEARCH_MODE")

    def predict(self, data: object) -> object:
        """What was found."""
        return [self.mode, data]


def test_a_model_with_an_environment_is_deployed_with_its_variables(client: Client) -> None:
    """In place of `log_requirements`, as in Verta's later clients."""
    run = client.set_experiment_run()
    run.log_model(Model, custom_modules=[__file__])
    with pytest.raises(RuntimeError, match=r"unable to deploy due to missing artifact requirements\.txt"):
        run.deploy()
    run.log_environment(Python([], env_vars={"SEARCH_MODE": "fast"}))
    try:
        run.deploy(wait=True)
        assert run.get_deployed_model().predict(1) == ["fast", 1]
    finally:
        run.undeploy(wait=True)
    assert "SEARCH_MODE" not in os.environ


def test_importing_the_module_does_not_import_packaging() -> None:
    """Start-up time."""
    code = "import sys, verta_local.environment as e\nassert 'packaging' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
