"""A model that writes into what it was given, and a view that was deleted: never a damaged object that is not told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from verta_local import Client
from verta_store.errors import MissingObject
from verta_store.fsck import verify
from verta_store.repair import repair

ORDINARY = 54001

SCRIPT = """
import importlib, json, os, pkgutil, sys
# While still root: the interpreter may be one that only root can read.
import bz2, cloudpickle, concurrent.futures.thread, grp, lzma, pwd, shutil, sqlite3, tarfile, uuid, zipfile
import encodings.ascii, encodings.cp437, encodings.latin_1
import verta_local, verta_store
for package in (verta_local, verta_store):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
folder, user = sys.argv[1], int(sys.argv[2])
os.environ.update(USER="u", LOGNAME="u", HOME=folder,
                  **{f"VERTA_LOCAL_{name}": f"{folder}/{name}" for name in ("CACHE", "STATE", "DATA")})
os.makedirs(folder + "/index/sub")
open(folder + "/index/sub/shard", "wb").write(b"s" * 70_000)
open(folder + "/index/small", "wb").write(b"small")
open(folder + "/words.txt", "wb").write(b"list dict set")
from verta_local import Client
from verta_local.errors import LoadError
from verta_local.loading import load_model
client = Client(folder + "/store")
client.set_project("project"); client.set_experiment("experiment")
run = client.set_experiment_run("first")
run.log_artifact("index", folder + "/index")
run.log_artifact("shard", folder + "/index/sub/shard")
run.log_artifact("words", folder + "/words.txt")

class Model:
    def __init__(self, artifacts):
        path = artifacts[KEY] + PLACE
        if HOW == "in place":
            with open(path, "r+b") as file:
                file.write(b"X")
        elif HOW == "shortened":
            os.truncate(path, 1)
        elif HOW == "opened as a database":
            sqlite3.connect(path).execute("CREATE TABLE t (a)")
        elif HOW == "appended":
            open(path, "ab").write(b"X")
    def predict(self, data):
        return data

KEY, PLACE, HOW = sys.argv[3:6]
run.log_model(Model, artifacts=["index", "words"])
run.log_requirements([])
spec = run.model_spec()
verta_store.close_all()
if user:
    for parent, _, names in os.walk(folder):
        for path in (parent, *(os.path.join(parent, name) for name in names)):
            os.chown(path, user, user)
    os.setgroups([]); os.setgid(user); os.setuid(user)
try:
    load_model(spec)
    print(json.dumps(["loaded", ""]))
except LoadError as error:
    print(json.dumps([str(error), error.traceback]))
"""


@pytest.fixture
def load(python_path: None) -> Iterator[Callable[..., tuple[Path, str, str]]]:
    """Logs a model that does something to an artifact, and loads it; returns (folder, error, the user's traceback)."""
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)

        def run(user: int, key: str, place: str, how: str) -> tuple[Path, str, str]:
            folder = Path(tempfile.mkdtemp(dir=top))
            command = [sys.executable, "-W", "error", "-c", SCRIPT, str(folder), str(user), key, place, how]
            done = subprocess.run(command, capture_output=True, text=True, timeout=50)
            assert done.returncode == 0, done.stderr
            error, traceback = json.loads(done.stdout.splitlines()[-1])
            return folder, error, traceback

        yield run


@pytest.fixture
def python_path(user_folders: Path) -> None:
    """The environment of the tests, with the packages under test for other processes."""


def is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
@pytest.mark.parametrize(
    ("key", "place", "how"),
    [
        ("words", "", "in place"),
        ("words", "", "shortened"),
        ("words", "", "appended"),
        ("index", "/sub/shard", "in place"),
        ("index", "/small", "shortened"),
    ],
)
def test_a_model_of_an_ordinary_user_cannot_write_into_its_artifacts(
    load: Callable[..., tuple[Path, str, str]], key: str, place: str, how: str
) -> None:
    folder, error, traceback = load(ORDINARY if is_root() else 0, key, place, how)
    assert "PermissionError" in error and "PermissionError" in traceback
    assert verify(Client(str(folder / "store"))._store, deep=True).is_clean


def test_a_database_among_the_artifacts_opens_for_reading_and_refuses_to_be_written(
    load: Callable[..., tuple[Path, str, str]],
) -> None:
    folder, error, _ = load(ORDINARY if is_root() else 0, "words", "", "opened as a database")
    assert "file is not a database" in error or "readonly" in error or "unable to open" in error
    assert verify(Client(str(folder / "store"))._store, deep=True).is_clean


@pytest.mark.skipif(not is_root(), reason="only root is not kept out by modes")
@pytest.mark.parametrize(("key", "place"), [("words", ""), ("index", "/small"), ("index", "/sub/shard")])
def test_a_model_of_root_that_writes_into_its_artifact_is_told_at_once_and_refused_from_then_on(
    load: Callable[..., tuple[Path, str, str]], key: str, place: str
) -> None:
    folder, error, _ = load(0, key, place, "in place")
    assert f"has written into its artifact {key!r}" in error and "ordinary user" in error and "\n" not in error
    store = Client(str(folder / "store"))._store
    problems = verify(store, deep=True).problems
    assert problems and all(problem.advice for problem in problems)
    assert any(f"key {key!r}" in affected for problem in problems for affected in problem.affects)
    if key == "words":  # what the user still has mends it
        store.put_file(folder / "words.txt")
    else:
        store.put_tree(folder / "index")
        store.put_file(folder / "index" / "sub" / "shard")
    assert repair(store).after.is_clean


def test_a_view_that_was_deleted_by_hand_is_made_anew_and_a_tree_says_what_to_do(
    client: Client, tmp_path: Path
) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "shard").write_bytes(b"s" * 100)
    (tmp_path / "words.txt").write_bytes(b"words")
    client.set_project("project")
    client.set_experiment("experiment")
    run = client.set_experiment_run("first")
    run.log_artifact("index", str(tmp_path / "index"))
    run.log_artifact("words", str(tmp_path / "words.txt"))
    paths = run.fetch_artifacts(["index", "words"])
    shutil.rmtree(Path(paths["words"]).parent)
    assert Path(run.fetch_artifacts(["words"])["words"]).read_bytes() == b"words"
    shutil.rmtree(paths["index"])
    with pytest.raises(MissingObject, match="overwrite=True"):
        run.fetch_artifacts(["index"])
    run.log_artifact("index", str(tmp_path / "index"), overwrite=True)
    assert run.fetch_artifacts(["index"]) == {"index": paths["index"]}
    assert verify(client._store, deep=True).is_clean
