"""Models whose requirements the serving environment does not meet: an environment of their own, made once, offline."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from verta_local import Client
from verta_local.deployment import local
from verta_local.environment import Python


def make_wheel(folder: Path, name: str, version: str, source: str, requires: str = "") -> None:
    """A wheel of one module, as small as pip takes it."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    if requires:
        metadata += f"Requires-Dist: {requires}\n"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with wheels of `vl_tiny_one` 1.0 and 2.0, and of `vl_tiny_two`, which needs the first; no index."""
    folder = tmp_path / "wheels"
    for version in ("1.0", "2.0"):
        make_wheel(folder, "vl_tiny_one", version, f"VERSION = {version!r}\n")
    make_wheel(folder, "vl_tiny_two", "1.5", "import vl_tiny_one\nONE = vl_tiny_one.VERSION\n", "vl_tiny_one<2")
    for installer in ("PIP", "UV"):
        monkeypatch.setenv(f"{installer}_FIND_LINKS", str(folder))
        monkeypatch.setenv(f"{installer}_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Client]:
    client = Client(str(tmp_path / "store"))
    yield client
    for found in local.list_deployments():
        local.undeploy(found["store_id"], found["run_id"], wait=True)


def uses_tiny() -> type:
    class Uses:
        def predict(self, data):  # type: ignore[no-untyped-def]
            import sys

            import vl_tiny_one

            try:
                import vl_tiny_two as two
            except ImportError:
                two = None
            try:
                import flask
            except ImportError:
                flask = None
            seen = {"one": vl_tiny_one.VERSION, "two": two and two.ONE, "prefix": sys.prefix, "flask": flask is None}
            return {**seen, "path": [each for each in sys.path if "site-packages" in each]}

    return Uses


def log(client: Client, name: str, requirements: list[str]) -> Any:
    run = client.set_experiment_run(name)
    run.log_model(uses_tiny(), custom_modules=[])
    run.log_requirements(requirements)
    return run


def test_a_model_gets_an_environment_with_its_pins_and_nothing_of_ours(
    store: Client, wheels: Path, tmp_path: Path
) -> None:
    run = log(store, "a", ["vl_tiny_two==1.5"])
    assert run.deploy(wait=True)["status"] == "deployed"
    seen = run.get_deployed_model().predict(None)
    assert (seen["one"], seen["two"]) == ("1.0", "1.0")  # what the pins need comes with them
    assert seen["prefix"].startswith(str(tmp_path / "cache" / "environments"))
    assert seen["flask"]  # none of the packages of the serving environment is seen
    assert all(path.startswith(seen["prefix"]) for path in seen["path"])
    assert "making an environment for vl_tiny_two==1.5" in Path(run.get_deployment_status()["log"]).read_text()


def test_the_installer_gets_the_options_and_constraints_of_a_logged_environment(
    store: Client, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--find-links` is where the wheels are found here; the constraint decides which one of two is taken."""
    for installer in ("PIP", "UV"):
        monkeypatch.delenv(f"{installer}_FIND_LINKS")
    make_wheel(wheels, "vl_tiny_two", "2.5", "import vl_tiny_one\nONE = vl_tiny_one.VERSION\n", "vl_tiny_one")
    run = store.set_experiment_run("a")
    run.log_model(uses_tiny(), custom_modules=[])
    run.log_environment(Python(["vl_tiny_two==2.5", f"--find-links {wheels}"], constraints=["vl_tiny_one<2"]))
    run.deploy(wait=True)
    assert run.get_deployed_model().predict(None)["one"] == "1.0"


def test_an_environment_is_made_once_and_shared_by_what_needs_the_same(
    store: Client, wheels: Path, tmp_path: Path
) -> None:
    first, second, other = (
        log(store, name, [f"vl_tiny_one=={version}"]) for name, version in (("a", "1.0"), ("b", "1.0"), ("c", "2.0"))
    )
    first.deploy(wait=True, replicas=2)
    shutil.rmtree(wheels)  # nothing can be installed any more
    start = time.perf_counter()
    second.deploy(wait=True)
    assert time.perf_counter() - start < 5
    assert first.get_deployed_model().predict(None)["prefix"] == second.get_deployed_model().predict(None)["prefix"]
    assert len(list((tmp_path / "cache" / "environments").glob("*/ready.json"))) == 1
    with pytest.raises(RuntimeError, match=r"cannot be had: vl_tiny_one==2\.0; connect"):
        other.deploy(wait=True)
    folders = [each for each in (tmp_path / "cache" / "environments").iterdir() if each.is_dir()]
    assert len(folders) == 1  # nothing half-made is left


def test_what_cannot_be_had_offline_is_one_error_that_lists_it(store: Client, wheels: Path) -> None:
    run = log(store, "a", ["vl_tiny_one==1.0", "vl_tiny_three==9.9", "vl_tiny_four==0.1"])
    with pytest.raises(RuntimeError) as caught:
        run.deploy(wait=True)
    text = str(caught.value)
    assert text.startswith("model deployment is failing;\nthe model needs what is not installed here: vl_tiny_one==1.0")
    assert "cannot be had: vl_tiny_four==0.1, vl_tiny_three==9.9; connect" in text
    assert len(text.splitlines()) == 2


def test_pins_that_contradict_each_other_are_said_in_the_installers_words(store: Client, wheels: Path) -> None:
    run = log(store, "a", ["vl_tiny_one==2.0", "vl_tiny_two==1.5"])
    with pytest.raises(RuntimeError, match="its requirements contradict:"):
        run.deploy(wait=True)


def test_an_upgrade_to_a_model_with_other_requirements_keeps_the_old_one_until_it_is_ready(
    store: Client, wheels: Path
) -> None:
    old, new = log(store, "a", ["vl_tiny_one==1.0"]), log(store, "b", ["vl_tiny_one==2.0"])
    old.deploy(path="best", wait=True)
    model = old.get_deployed_model()
    new.deploy(path="best")
    seen = [model.predict(None)["one"]]
    deadline = time.monotonic() + 18
    while seen[-1] == "1.0" and time.monotonic() < deadline:
        seen.append(model.predict(None)["one"])
    assert set(seen) == {"1.0", "2.0"}


def test_another_python_that_is_not_here_is_named(store: Client, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = log(store, "a", [])
    spec = {**run.model_spec(for_deployment=True), "python": "3.4.2"}
    with pytest.raises(RuntimeError, match=r"no Python 3\.4 is installed here"):
        local.deploy(spec, wait=True)


@pytest.mark.skipif(sys.platform == "win32", reason="its programs have other names")
def test_without_uv_pip_does_it(store: Client, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [each for each in os.environ["PATH"].split(os.pathsep) if not (Path(each) / "uv").exists()]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
    run = log(store, "a", ["vl_tiny_one==1.0"])
    run.deploy(wait=True)
    assert run.get_deployed_model().predict(None)["one"] == "1.0"
