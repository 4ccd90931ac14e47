"""A user's folder with a store beside it, and a model logged into a store, for the tests of loading."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from verta_local.model import pack_model
from verta_local.modules import stage_modules
from verta_local.trust import own_author
from verta_store import open_store

# What run.log_model and run.model_spec do, straight on the engine: the spec goes to the file named by SPEC.
LOGGING = """
import json, os, tempfile
from verta_local.model import pack_model
from verta_local.modules import stage_modules
from verta_local.trust import own_author
from verta_store import open_store

def log(model, artifacts=None, custom_modules=None, requirements=()):
    store = open_store(os.environ["STORE"], os.environ["CACHE"], create=True)
    packed = pack_model(model, custom_modules, has_artifacts=bool(artifacts))
    with tempfile.TemporaryDirectory() as folder:
        stage_modules(folder, packed.modules)
        tree = store.put_tree(folder)
    blob = store.put_bytes(packed.data)
    described = {}
    for key, path in (artifacts or {}).items():
        ref = store.put_tree(path) if os.path.isdir(path) else store.put_file(path)
        described[key] = {"kind": ref.kind, "digest": ref.digest, "size_bytes": ref.size_bytes,
                          "name": os.path.basename(path), "unpack": path.endswith(".zip")}
    spec = {"store": store.root, "cache_dir": store.cache_dir, "store_id": store.id, "run_id": "0" * 8,
            "run_name": "first", "project_id": "p",
            "model": {"digest": blob.digest, "size_bytes": blob.size_bytes, **packed.description()},
            "custom_modules": {"kind": "tree", "digest": tree.digest}, "artifacts": described,
            "requirements": list(requirements), "python": packed.python, "api": packed.api, "author": own_author()}
    with open(os.environ["SPEC"], "w") as file:
        json.dump(spec, file)
    return spec
"""

LOADING = """
import json, sys
from verta_local.loading import load_model
model = load_model(json.load(open(sys.argv[1])))
print(json.dumps(model.predict(json.loads(sys.argv[2]))))
"""


class Place:
    """A user's folder, and a store beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = folder / "project"
        self.project.mkdir()
        (folder / "support").mkdir()
        (folder / "support" / "logging_model.py").write_text(LOGGING)
        self.environment = {
            **os.environ,
            "STORE": str(folder / "store"),
            "CACHE": str(folder / "cache"),
            "SPEC": str(folder / "spec.json"),
            "PYTHONWARNINGS": "error",
        }

    def write(self, files: dict[str, str]) -> None:
        """Write the user's files, relative path -> text."""
        for name, text in files.items():
            path = self.project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))

    def run(self, *arguments: str, cwd: str = ".", stdin: str | None = None) -> str:
        """Run Python in the user's folder, where it can log a model."""
        return run_python(
            arguments, self.project / cwd, {**self.environment, "PYTHONPATH": str(self.folder / "support")}, stdin
        )

    def predict_elsewhere(self, data: object) -> Any:
        """Load and predict in a fresh interpreter, in another folder, after the user's folder is gone."""
        gone = self.project.rename(self.folder / "gone")
        try:
            arguments = ["-c", LOADING, self.environment["SPEC"], json.dumps(data)]
            return json.loads(run_python(arguments, Path("/"), self.environment))
        finally:
            gone.rename(self.project)

    @property
    def spec(self) -> dict[str, Any]:
        """The spec that was logged last."""
        return dict(json.loads(Path(self.environment["SPEC"]).read_text()))


def run_python(arguments: Any, cwd: Path, environment: dict[str, str], stdin: str | None = None) -> str:
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A user's folder with a store beside it."""
    return Place(tmp_path)


def main_scope(source: str) -> dict[str, Any]:
    """What a script's source defines, as `__main__`."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(source, scope)
    return scope


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Log a model into a store of this test and give its spec; keywords replace fields of the spec."""
    store = open_store(tmp_path / "store", tmp_path / "cache", create=True)
    path, modules = list(sys.path), set(sys.modules)

    def log(model: object, **fields: Any) -> dict[str, Any]:
        packed = pack_model(model)
        stage_modules(tmp_path / "staged", packed.modules)
        tree = store.put_tree(tmp_path / "staged")
        blob = store.put_bytes(packed.data)
        return {
            "store": store.root,
            "cache_dir": store.cache_dir,
            "run_id": "00000000",
            "run_name": "first",
            "model": {"digest": blob.digest, "size_bytes": blob.size_bytes, **packed.description()},
            "custom_modules": {"kind": "tree", "digest": tree.digest},
            "artifacts": {},
            "requirements": [],
            "python": packed.python,
            "api": packed.api,
            "author": own_author(),
            **fields,
        }

    yield log
    store.close()
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("mine"):
            del sys.modules[name]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's, first on this process's path."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def imported(name: str) -> Any:
    """A module, imported now."""
    importlib.invalidate_caches()
    return importlib.import_module(name)
