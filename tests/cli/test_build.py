"""`verta-local build`: a folder that serves without the store, in an environment without this package."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from verta_local import Client
from verta_local.built_files import dockerfile, resource_name
from verta_local.cli import main
from verta_local.deployment import DeployedModel
from verta_local.interpreter import package_folders

MODULE = """
import os
class Model:
    def __init__(self, artifacts):
        self.text = open(artifacts["text"]).read()
        self.names = sorted(os.listdir(artifacts["folder"]))
        self.base = os.path.basename(artifacts["text"])
    def predict(self, data):
        import verta_local, verta_store
        return [data, self.text, self.names, self.base, verta_local.__file__, verta_store.__file__,
                os.environ.get("MODEL_SECRET")]
"""


@pytest.fixture
def built(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Path:
    """The folder of a run with a file, a folder, a module of the user's, and an environment variable."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "my_model.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "source"))
    from my_model import Model  # type: ignore[import-not-found]

    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"a" * 100_000)
    (folder / "b.txt").write_text("b")
    (tmp_path / "words.txt").write_text("what was logged")
    client.set_project("p"), client.set_experiment("e")
    run = client.set_experiment_run("A run: with a name")
    run.log_artifact("text", str(tmp_path / "words.txt"))
    run.log_artifact("folder", str(folder))
    run.log_model(Model, artifacts=["text", "folder"])
    run.log_requirements([])
    from verta_local.environment import Python

    monkeypatch.setenv("MODEL_SECRET", "s3cr3t-value")
    run.log_environment(Python([], env_vars=["MODEL_SECRET"]))
    target = tmp_path / "built"
    assert main(["--store", str(tmp_path / "store"), "build", run.id, "-o", str(target)]) == 0
    assert "serve.py" in capsys.readouterr().out
    sys.modules.pop("my_model")
    for place in ("source", "data", "store"):
        shutil.rmtree(tmp_path / place)
    return target


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """A virtual environment that has what requirements.txt names, and not this package."""
    venv.create(tmp_path / "venv", with_pip=False)
    folders = {folder for name, folder in package_folders().items() if not name.startswith("verta_")}
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "needs.pth").write_text("".join(f"{folder}\n" for folder in sorted(folders)))
    return tmp_path / "venv" / "bin" / "python"


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TMPDIR")}
    return kept | {"HOME": str(home), "VERTA_LOCAL_STATE": str(home / "state")} | more


def serving(python: Path, folder: Path, home: Path, *arguments: str, **more: str) -> Iterator[list[str]]:
    """Runs serve.py; gives the lines of its announcement, or none when it ended."""
    command = [str(python), str(folder / "serve.py"), *(arguments or ("--port", "0"))]
    process = subprocess.Popen(
        command, env=environment(home, **more), cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        yield lines
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        process.stdout.close()


@pytest.mark.skipif(sys.platform == "win32", reason="bin/python")
def test_it_serves_without_the_store_in_a_clean_environment(built: Path, bare_python: Path, tmp_path: Path) -> None:
    for lines in serving(bare_python, built, tmp_path, VERTA_LOCAL_TOKEN="from-outside", MODEL_SECRET="now"):
        words = dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))
        assert words["token"].strip() == "from-outside", lines
        answer = DeployedModel.from_url(words["url"].strip(), "from-outside").predict([1, None])
        assert answer[:4] == [[1, None], "what was logged", ["a.bin", "b.txt"], "words.txt"]
        assert all(str(built / "lib") in place for place in answer[4:6])
        assert answer[6] == "now"


def test_no_secret_and_no_path_of_this_machine_is_in_it(built: Path, tmp_path: Path) -> None:
    import getpass
    import socket

    own = built / "lib"
    for path in built.rglob("*"):
        if path.is_file() and own not in path.parents:
            content = path.read_bytes()
            assert b"s3cr3t-value" not in content, path
            assert str(tmp_path).encode() not in content, path
            if path.suffix != ".py":
                assert socket.gethostname().encode() not in content, path
                assert f"{getpass.getuser()} on".encode() not in content, path
    assert json.loads((built / "spec.json").read_text())["env_names"] == ["MODEL_SECRET"]


@pytest.mark.skipif(sys.platform == "win32", reason="modes")
def test_whoever_a_container_runs_as_can_read_it_and_need_not_write(built: Path) -> None:
    """Clusters choose a user id that owns nothing; a file system may be read-only."""
    for path in built.rglob("*"):
        mode = path.stat().st_mode
        assert mode & 0o004 and (path.is_file() or mode & 0o001), path


@pytest.mark.skipif(sys.platform == "win32", reason="bin/python")
def test_the_steps_of_the_dockerfile_serve(built: Path, bare_python: Path, tmp_path: Path) -> None:
    """By hand: COPY, ENV and CMD as they stand, but for the port and where the state is."""
    steps = [line.split(" ", 1) for line in (built / "Dockerfile").read_text().splitlines()]
    assert [step for step, _ in steps] == ["FROM", "WORKDIR", "COPY", "RUN", "COPY", "USER", "ENV", "EXPOSE", "CMD"]
    parts = dict(steps)
    shutil.copytree(built, tmp_path / "model")
    variables = dict(pair.split("=", 1) for pair in parts["ENV"].split())
    assert all(value.startswith("/tmp/") for value in variables.values())  # where any user may write
    program, name, *arguments = json.loads(parts["CMD"])
    assert (program, name, arguments[arguments.index("--port") + 1]) == ("python", "serve.py", parts["EXPOSE"])
    arguments[arguments.index("--port") + 1] = "0"
    variables = {name: str(tmp_path / value.lstrip("/")) for name, value in variables.items()}
    secrets = {"VERTA_LOCAL_TOKEN": "from-outside", "MODEL_SECRET": "now"}
    for lines in serving(bare_python, tmp_path / "model", tmp_path, *arguments, **variables, **secrets):
        words = dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))
        url = urllib.parse.urlsplit(words["url"].strip())
        ask = http.client.HTTPConnection("127.0.0.1", url.port or 0, timeout=10)
        for method, path, headers, status in (
            ("GET", "/health/ready", {"Host": "10.1.2.3:8080"}, 200),  # a cluster's probes have no token
            ("GET", "/metrics", {}, 401),
            ("GET", "/metrics", {"Authorization": "Bearer from-outside"}, 200),
            ("POST", url.path, {"Host": "model.example.com", "Access-Token": "from-outside"}, 200),
        ):
            ask.request(method, path, b"[1]" if method == "POST" else None, headers)
            answer = ask.getresponse()
            assert (answer.status, bool(answer.read())) == (status, True), path
        ask.close()


# Fields of serving.kserve.io/v1beta1 and core/v1; the Python models of KServe 0.21 take such a manifest.
_MANIFEST = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "predictor": {
            "containers": [
                {
                    "name": str,
                    "image": str,
                    "ports": [{"containerPort": int, "protocol": str}],
                    "env": [{"name": str, "valueFrom": {"secretKeyRef": {"name": str, "key": str}}}],
                    "readinessProbe": {"httpGet": {"path": str, "port": int}},
                    "livenessProbe": {"httpGet": {"path": str, "port": int}},
                }
            ]
        }
    },
}


def _assert_fits(value: Any, shape: Any, place: str = "") -> None:
    if isinstance(shape, dict):
        assert isinstance(value, dict) and value.keys() == shape.keys(), place
        for name, part in shape.items():
            _assert_fits(value[name], part, f"{place}.{name}")
    elif isinstance(shape, list):
        assert isinstance(value, list) and value, place
        for part in value:
            _assert_fits(part, shape[0], f"{place}[]")
    else:
        assert type(value) is shape, place


def test_the_manifest_is_an_inference_service_of_a_container_of_ones_own(built: Path) -> None:
    yaml = pytest.importorskip("yaml")
    manifest = yaml.safe_load((built / "kserve.yaml").read_text())
    _assert_fits(manifest, _MANIFEST)
    assert (manifest["apiVersion"], manifest["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    (container,) = manifest["spec"]["predictor"]["containers"]
    assert container["name"] == "kserve-container"  # by this name KServe knows whose port it calls
    ports = {
        container["ports"][0]["containerPort"],
        *(container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("readiness", "liveness")),
    }
    assert ports == {8080}
    secrets = {each["valueFrom"]["secretKeyRef"]["name"] for each in container["env"]}
    assert secrets == {manifest["metadata"]["name"]}
    assert [each["valueFrom"]["secretKeyRef"]["key"] for each in container["env"]] == ["token", "MODEL_SECRET"]
    readme = (built / "README.md").read_text()
    assert f"create secret generic {manifest['metadata']['name']} --from-literal=token=" in readme


@pytest.mark.parametrize(
    ("run_name", "name"),
    [
        ("A run: with a name", "a-run-with-a-nam-01234567"),
        ("x" * 500, "x" * 16 + "-01234567"),
        ("15 characters --- and more", "model-15-charact-01234567"),
        ("\u3042", "model-01234567"),
        ("", "model-01234567"),
        ("abcdefghijklmno-p", "abcdefghijklmno-01234567"),
    ],
)
def test_names_of_resources_are_labels_with_room_for_a_namespace(run_name: str, name: str) -> None:
    made = resource_name({"run_name": run_name, "run_id": "01234567-89ab"})
    assert made == name
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", made)  # what KServe's own check wants
    assert len(f"{made}-predictor-kubeflow-user-example-com") <= 63


def test_a_python_version_that_is_none_does_not_become_a_line_of_the_dockerfile() -> None:
    for version in ("3.12\nRUN evil", None, "", 7):
        lines = dockerfile({"python": version}).splitlines()
        assert lines[0] in ("FROM python:3.12-slim", "FROM python:3.11-slim") and "RUN evil" not in lines


def test_all_that_is_needed_to_serve_is_pinned(built: Path) -> None:
    """Also what our own needs need: without pins, a folder that is built again next year is another one."""
    pins = (built / "requirements.txt").read_text().splitlines()
    names = {pin.partition("==")[0] for pin in pins}
    assert {"flask", "werkzeug", "jinja2", "markupsafe", "click", "blinker", "itsdangerous", "waitress"} <= names
    assert all(re.fullmatch(r"[a-z0-9-]+==\S+", pin) for pin in pins), pins
    assert not names & {"pip", "setuptools", "verta-local"}


def test_a_changed_byte_is_refused_before_the_model_runs(built: Path, tmp_path: Path) -> None:
    (damaged,) = [
        path for path in (built / "store" / "objects").rglob("*") if path.is_file() and b"what was" in path.read_bytes()
    ]
    damaged.chmod(0o644)
    damaged.write_text("what was logGed")
    for lines in serving(Path(sys.executable), built, tmp_path, MODEL_SECRET=""):
        assert not any(line.startswith("serving") for line in lines)
        assert "does not load" in lines[-1], lines
        assert any("digest" in line or "damaged" in line for line in lines), lines


def test_an_unset_variable_is_named(built: Path, capsys: Any) -> None:
    os.environ.pop("MODEL_SECRET", None)
    assert main(["serve", str(built), "--port", "0"]) == 1
    assert "variables that are not set here: MODEL_SECRET" in capsys.readouterr().err


def test_what_exists_is_not_touched(client: Client, tmp_path: Path, capsys: Any) -> None:
    client.set_project("p"), client.set_experiment("e")
    run = client.set_experiment_run("r")
    run.log_model(time.sleep)
    run.log_requirements([])
    (tmp_path / "there").mkdir()
    words = ["--store", str(tmp_path / "store"), "build", run.id, "-o", str(tmp_path / "there")]
    assert main(words) == 1
    assert "exists already" in capsys.readouterr().err
    assert list((tmp_path / "there").iterdir()) == []
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".there")] == []


def test_the_texts_name_the_python_the_token_and_the_probe(built: Path) -> None:
    docker, kserve = (built / "Dockerfile").read_text(), (built / "kserve.yaml").read_text()
    assert f"FROM python:{sys.version_info[0]}.{sys.version_info[1]}-slim" in docker
    assert "kind: InferenceService" in kserve and "\n  name: a-run-with-a-nam-" in kserve
    assert kserve.index('name: "VERTA_LOCAL_TOKEN"') < kserve.index('name: "MODEL_SECRET"')
    assert "readinessProbe:\n          httpGet: {path: /health/ready, port: 8080}" in kserve
    assert any(line.startswith("flask==") for line in (built / "requirements.txt").read_text().splitlines())
