"""Loading what was logged: from scripts, packages and notebooks, elsewhere, verified, and what stops it."""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from verta_local import loading
from verta_local.errors import LoadError
from verta_local.loading import load_logged_model, load_model, load_object
from verta_local.model import pack_model
from verta_local.modules import stage_modules
from verta_local.tracebacks import own_traceback
from verta_local.trust import own_author
from verta_store import open_store
from verta_store.errors import CorruptObject, MissingObject

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


MODEL = """
class Model(object):
    def __init__(self, artifacts):
        self.text = open(artifacts["words"]).read()
    def predict(self, data):
        return [self.text, helper.triple(data)]
"""


# From where a class may come


def test_a_class_of_a_script_with_a_helper_module_beside_it(place: Place) -> None:
    """By value, its globals too; the helper travels, with what it imports only when it is called."""
    place.write(
        {
            "helper.py": "def triple(x):\n    from deeper import FACTOR\n    return FACTOR * x\n",
            "deeper.py": "FACTOR = 3\n",
            "words.txt": "hello",
            "train.py": "import helper\nfrom logging_model import log\n"
            + MODEL
            + "log(Model, {'words': 'words.txt'})\n",
        }
    )
    place.run("train.py")
    assert place.predict_elsewhere(2) == ["hello", 6]


def test_a_script_that_is_run_from_another_folder(place: Place) -> None:
    """Beside the script counts, not the current folder."""
    place.write(
        {
            "code/helper.py": "def triple(x): return 3 * x\n",
            "code/train.py": "import helper\nfrom logging_model import log\n"
            + MODEL
            + "log(Model, {'words': 'w.txt'})\n",
            "w.txt": "hello",
        }
    )
    place.run("code/train.py")
    assert place.predict_elsewhere(2) == ["hello", 6]


def test_a_class_of_a_users_package(place: Place) -> None:
    """By reference; the package's data file is read through importlib.resources and through __file__."""
    place.write(
        {
            "search/__init__.py": "from .model import Model\n",
            "search/model.py": """
                from pathlib import Path
                from importlib import resources
                from . import helper
                class Model:
                    def __init__(self, artifacts):
                        self.one = resources.files("search").joinpath("data/words.txt").read_text()
                        self.two = (Path(__file__).parent / "data" / "words.txt").read_text()
                    def predict(self, data):
                        return [self.one, self.two, helper.triple(data)]
                """,
            "search/helper.py": "def triple(x): return 3 * x\n",
            "search/data/words.txt": "hello",
            "train.py": "from search import Model\nfrom logging_model import log\nlog(Model)\n",
        }
    )
    place.run("train.py")
    assert place.predict_elsewhere(2) == ["hello", "hello", 6]


def test_a_script_of_a_package_run_by_its_name(place: Place) -> None:
    """`python -m pack.train`: the class is in `__main__`, with relative imports at the top and inside predict."""
    place.write(
        {
            "pack/__init__.py": "",
            "pack/helper.py": "def triple(x): return 3 * x\n",
            "pack/late.py": "WORD = 'late'\n",
            "pack/train.py": """
                from . import helper
                from .helper import triple
                from logging_model import log
                class Model:
                    def predict(self, data):
                        from . import late
                        from .late import WORD
                        return [helper.triple(data), triple(data), late.WORD, WORD]
                log(Model)
                """,
        }
    )
    place.run("-m", "pack.train")
    assert place.predict_elsewhere(2) == [6, 6, "late", "late"]


def test_a_script_inside_a_package_folder(place: Place) -> None:
    """`python pack/train.py`: what lies beside it is imported without the package's name."""
    place.write(
        {
            "pack/__init__.py": "raise AssertionError('not imported where it was logged')",
            "pack/helper.py": "def triple(x): return 3 * x\n",
            "pack/train.py": "import helper\nfrom logging_model import log\n"
            "class Model:\n    def predict(self, data): return helper.triple(data)\nlog(Model)\n",
        }
    )
    place.run("pack/train.py")
    assert place.predict_elsewhere(2) == 6


def test_a_class_defined_in_a_function_of_a_local_module(place: Place) -> None:
    """By value, with the enclosing variables; what it refers to in the module by reference."""
    place.write(
        {
            "factory.py": "BASE = 10\ndef helper(x): return x + BASE\n"
            "def make(offset):\n    class Model:\n        def predict(self, data): return helper(data) + offset\n"
            "    return Model\n",
            "train.py": "from factory import make\nfrom logging_model import log\nlog(make(5))\n",
        }
    )
    place.run("train.py")
    assert place.predict_elsewhere(1) == 16


def test_a_class_whose_base_is_in_a_module_that_is_named_like_pythons(place: Place) -> None:
    """The user's `queue.py` hides Python's where the model was logged, so it does for the served model."""
    place.write(
        {
            "queue.py": "class Base:\n    word = 'mine'\n",
            "train.py": "from queue import Base\nfrom logging_model import log\n"
            "class Model(Base):\n    def predict(self, data): return self.word\nlog(Model)\n",
        }
    )
    place.run("train.py")
    assert place.predict_elsewhere(None) == "mine"


def test_a_class_of_a_notebook(place: Place) -> None:
    """An interactive session: `__main__` has no file, cells refer to earlier cells, the current folder is imported.

    Simulated with `python -i` fed by a pipe; a real notebook behaves the same for pickling.
    """
    place.write({"helper.py": "def triple(x): return 3 * x\n", "words.txt": "hello"})
    cells = f"""
import json
import helper
from logging_model import log

SCALE = 2

def scaled(x):
    return SCALE * x

class Base:
    def name(self):
        return "base"
{MODEL.replace("object", "Base").replace("helper.triple(data)", "helper.triple(scaled(data)), self.name()")}

_ = log(Model, {{"words": "words.txt"}})
"""
    place.run("-i", "-q", stdin=cells)
    assert place.predict_elsewhere(2) == ["hello", 12, "base"]


def test_a_function_and_an_object_are_models_too(place: Place) -> None:
    """A function becomes an object with predict; an object comes back with its state."""
    place.write(
        {
            "helper.py": "def triple(x): return 3 * x\n"
            "class Fitted:\n    def __init__(self, w): self.w = w\n    def predict(self, data): return data * self.w\n",
            "one.py": "from helper import triple\nfrom logging_model import log\nlog(triple)\n",
            "two.py": "from helper import Fitted\nfrom logging_model import log\nlog(Fitted(5))\n",
            "three.py": "from logging_model import log\nlog(lambda data: data + 1)\n",
        }
    )
    for script, expected in (("one.py", 6), ("two.py", 10), ("three.py", 3)):
        place.run(script)
        assert place.predict_elsewhere(2) == expected


def test_listed_modules_travel_as_they_are_imported_here(place: Place) -> None:
    """A folder that the script put on its path, and a module that is only imported by a computed name."""
    place.write(
        {
            "lib/helper.py": "import importlib\nNAME = 'deep' + 'er'\n"
            "def triple(x): return importlib.import_module(NAME).FACTOR * x\n",
            "lib/deeper.py": "FACTOR = 3\n",
            "train.py": "import sys; sys.path.append('lib')\nimport helper\nfrom logging_model import log\n"
            "class Model:\n    def predict(self, data): return helper.triple(data)\n"
            "log(Model, custom_modules=['lib'])\n",
        }
    )
    place.run("train.py")
    assert place.predict_elsewhere(2) == 6


def test_a_listed_file_that_the_model_does_not_use_hides_nothing(place: Place) -> None:
    """A `types.py` in the listed folder, which was not what `import types` gave where it was logged."""
    place.write(
        {
            "lib/types.py": "raise AssertionError('imported in place of the standard library')",
            "helper.py": "import types, enum\ndef triple(x): return 3 * x\n",
            "train.py": "import helper\nfrom logging_model import log\n"
            "class Model:\n    def predict(self, data):\n        import types, dataclasses\n"
            "        return helper.triple(data)\nlog(Model, custom_modules=['helper.py', 'lib'])\n",
        }
    )
    place.run("train.py")
    assert place.predict_elsewhere(2) == 6


# Artifacts and __init__


def test_artifacts_are_paths_in_the_store_with_their_own_names(place: Place) -> None:
    """A file keeps its name, a folder is a folder with its empty sub-folder, an archive is unpacked; order kept."""
    place.write(
        {
            "index.ann": "index",
            "saved/variables/data": "v",
            "train.py": """
                import os, zipfile
                os.mkdir("saved/assets")
                with zipfile.ZipFile("bundle.zip", "w") as archive:
                    archive.writestr("inner.txt", "zipped")
                from logging_model import log
                class Model:
                    def __init__(self, artifacts):
                        self.artifacts = artifacts
                    def predict(self, data):
                        a = self.artifacts
                        return [list(a), os.path.basename(a["z"]), sorted(os.listdir(a["b"])),
                                open(os.path.join(a["a"], "inner.txt")).read()]
                log(Model, {"z": "index.ann", "b": "saved", "a": "bundle.zip"})
                """,
        }
    )
    place.run("train.py")
    assert place.predict_elsewhere(None) == [["z", "b", "a"], "index.ann", ["assets", "variables"], "zipped"]


@pytest.mark.parametrize(
    ("init", "expected"),
    [
        ("def __init__(self, artifacts): self.got = artifacts", {}),
        ("def __init__(self, artifacts=None): self.got = artifacts", {}),
        ("def __init__(self, **options): self.got = options", {"artifacts": {}}),
        ("def __init__(self): self.got = 'nothing'", "nothing"),
        ("def __init__(self, depth=3): self.got = depth", 3),
        ("got = 'no init'", "no init"),
    ],
)
def test_a_class_logged_without_artifacts_gets_none_if_it_asks(
    logged: Callable[..., dict[str, Any]], init: str, expected: object
) -> None:
    """`artifacts={}` where `__init__` takes that name, else nothing."""
    scope = main_scope(f"class Model:\n    {init}\n    def predict(self, data): return self.got\n")
    assert load_model(logged(scope["Model"])).predict(None) == expected


# In this process


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


def test_get_model_gives_the_very_class_while_its_module_is_unchanged(
    logged: Callable[..., dict[str, Any]], project: Path
) -> None:
    """So that `isinstance` holds in the session that logged it."""
    (project / "mine.py").write_text("class Model:\n    def predict(self, data): return 1\n")
    module = imported("mine")
    spec = logged(module.Model)
    before = list(sys.path)
    assert load_logged_model(spec) is module.Model
    assert sys.path[: len(before)] == before, "what was on the path still comes first"


def test_get_model_gives_the_logged_version_and_leaves_the_users_module(
    logged: Callable[..., dict[str, Any]], project: Path
) -> None:
    """The module was edited and imported again since: both live, each with its own text."""
    (project / "mine.py").write_text(
        "import mine_late\nclass Model:\n    def predict(self, data): return WORD\nWORD = 'old'\n"
    )
    (project / "mine_late.py").write_text("")
    spec = logged(imported("mine").Model)
    (project / "mine.py").write_text("WORD = 'new'\n")
    del sys.modules["mine"]
    new = imported("mine")
    model = load_logged_model(spec)
    assert model().predict(None) == "old"
    assert sys.modules["mine"] is new and imported("mine").WORD == "new"


def test_fetching_leaves_a_notebooks_class_as_it_is(logged: Callable[..., dict[str, Any]]) -> None:
    """The same class comes back, and goes on to see the notebook's globals."""
    scope = main_scope(
        "import dataclasses, enum\nSCALE = 1\n"
        "class Model:\n    def predict(self, data): return SCALE\n"
        "@dataclasses.dataclass\nclass Settings:\n    depth: int = 3\n"
        "class Colour(enum.Enum):\n    RED = 1\n"
    )
    model = scope["Model"]()
    spec = logged(scope["Model"])
    assert load_logged_model(spec) is scope["Model"]
    scope["SCALE"] = 2
    assert model.predict(None) == 2
    store = open_store(spec["store"], spec["cache_dir"])
    for value in (scope["Settings"](7), scope["Colour"].RED):
        assert load_object(store, store.put_bytes(cloudpickle.dumps(value)).digest, own_author()) == value
    later = main_scope("class Model:\n    def predict(self, data): return 'defined again'\n")["Model"]
    assert load_logged_model(logged(later))().predict(None) == "defined again"
    assert load_logged_model(spec)().predict(None) == 2


def test_what_a_fetched_model_imports_late_is_still_found(logged: Callable[..., dict[str, Any]], project: Path) -> None:
    """But only behind everything of the user's own."""
    (project / "mine.py").write_text(
        "class Model:\n    def predict(self, data):\n        import mine_late\n        return mine_late.WORD\n"
    )
    (project / "mine_late.py").write_text("WORD = 'logged'\n")
    spec = logged(imported("mine").Model)
    for file in project.iterdir():
        if file.is_file():
            file.unlink()
    del sys.modules["mine"]
    sys.path_importer_cache.clear()
    assert load_logged_model(spec)().predict(None) == "logged"
    assert Path(sys.path[-1]).name == Path(sys.modules["mine_late"].__file__ or "").parent.name


def test_nothing_is_written_into_the_store_by_importing_from_it(place: Place) -> None:
    """No bytecode: a tree must stay what its digest says; the tests may run as a user whom modes do not stop."""
    place.write(
        {
            "pack/__init__.py": "",
            "pack/model.py": "class Model:\n    def predict(self, data):\n        import pack.late\n        return 1\n",
            "pack/late.py": "",
            "train.py": "from pack.model import Model\nfrom logging_model import log\nlog(Model)\n",
        }
    )
    place.run("train.py")
    assert place.predict_elsewhere(0) == 1
    names = {path.name for path in (place.folder / "store").rglob("*")}
    assert "late.py" in names and not any("pycache" in name or name.endswith(".pyc") for name in names)


# What stops a load


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def damage(path: Path, position: int = -1) -> None:
    """Flip one bit of a stored file, and give back its times, as a silent fault of a disk does."""
    times = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_one_flipped_bit_in_a_pickle_is_refused_before_it_is_unpickled(
    logged: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """On each of the three ways in; the canary never fires."""
    canary = tmp_path / "fired"
    spec = logged(lambda data: data)
    store = open_store(spec["store"], spec["cache_dir"])
    digest = store.put_bytes(pickle.dumps(Canary(canary))).digest
    spec["model"]["digest"] = digest
    damage(Path(store.object_path(digest)), 0)
    with pytest.raises(CorruptObject):
        load_object(store, digest, own_author())
    with pytest.raises(CorruptObject):
        load_logged_model(spec)
    with pytest.raises(LoadError, match="the model of run 'first' cannot be loaded"):
        load_model(spec)
    assert not canary.exists()
    with pytest.raises(MissingObject):
        load_object(store, "sha256:" + "0" * 64, own_author())


def test_a_changed_module_in_the_store_is_refused(place: Place) -> None:
    """Also one that is imported late, after the check at the start."""
    place.write(
        {
            "pack/__init__.py": "",
            "pack/model.py": "class Model:\n    def predict(self, data):\n        import pack.late\n        return 1\n",
            "pack/late.py": "X = 1\n",
            "train.py": "from pack.model import Model\nfrom logging_model import log\nlog(Model)\n",
        }
    )
    place.run("train.py")
    code = """
        import json, os, sys, pathlib
        from verta_local.loading import load_model
        spec = json.load(open(sys.argv[1]))
        model = load_model(spec)
        late = pathlib.Path(sys.modules["pack"].__path__[0], "late.py")
        late.chmod(0o644); late.write_text("X = 2\\n")
        try:
            model.predict(0)
        except ImportError as error:
            print(error)
        pathlib.Path(late.parent, "extra.py").write_text("")
        try:
            import pack.extra
        except ModuleNotFoundError as error:
            print(error)
        """
    output = run_python(["-c", textwrap.dedent(code), place.environment["SPEC"]], Path("/"), place.environment)
    assert "late.py was changed after it was logged" in output and "No module named 'pack.extra'" in output
    with pytest.raises(LoadError, match="cannot be loaded"):
        load_model(place.spec)


def test_a_damaged_or_missing_artifact_is_a_load_error(logged: Callable[..., dict[str, Any]]) -> None:
    """Before the class sees it."""
    spec = logged(main_scope("class Model:\n    def __init__(self, artifacts): raise AssertionError\n")["Model"])
    store = open_store(spec["store"], spec["cache_dir"])
    ref = store.put_bytes(b"index")
    artifact = {"kind": "blob", "digest": ref.digest, "size_bytes": 5, "name": "index.ann", "unpack": False}
    damage(Path(store.object_path(ref.digest)))
    for digest in (ref.digest, "sha256:" + "0" * 64):
        with pytest.raises(LoadError, match="the model of run 'first' cannot be loaded"):
            load_model({**spec, "artifacts": {"index": {**artifact, "digest": digest}}})


@pytest.mark.parametrize("breaks", [False, True])
def test_a_large_folder_that_was_changed_is_a_load_error_whatever_the_class_made_of_it(
    logged: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: bool
) -> None:
    """The look at each file goes on beside the loading; no model comes out of it before it has ended."""
    monkeypatch.setattr(loading, "_CHECKED_BESIDE_FROM", 3)
    code = """
class Model:
    def __init__(self, artifacts):
        self.names = sorted(p.name for p in __import__("pathlib").Path(artifacts["many"]).iterdir())
        if BREAKS and len(self.names) != 3:
            raise ValueError(self.names)
    def predict(self, data):
        return self.names
"""
    spec = logged(main_scope(code.replace("BREAKS", str(breaks)))["Model"])
    store = open_store(spec["store"], spec["cache_dir"])
    source = tmp_path / "source"
    source.mkdir()
    for name in "abc":
        (source / name).write_text(name)
    ref = store.put_tree(source)
    artifact = {"kind": "tree", "digest": ref.digest, "size_bytes": 3, "file_count": 3, "name": "many"}
    spec["artifacts"] = {"many": artifact}
    assert load_model(spec).predict(None) == ["a", "b", "c"]
    (Path(store.tree_path(ref.digest)) / "d").write_text("a loader's own")
    if not breaks:
        assert load_model(spec).predict(None) == ["a", "b", "c", "d"]
    damage(Path(store.tree_path(ref.digest)) / "b")
    with pytest.raises(LoadError, match="damaged"):
        load_model(spec)
    (Path(store.tree_path(ref.digest)) / "b").unlink()
    with pytest.raises(LoadError, match="has no object"):
        load_model(spec)


def test_a_large_folder_that_this_host_has_never_read_is_read_before_the_class_sees_it(
    logged: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_CHECKED_BESIDE_FROM", 1)
    spec = logged(main_scope("class Model:\n    def __init__(self, artifacts): raise AssertionError\n")["Model"])
    store = open_store(spec["store"], spec["cache_dir"])
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_text("a")
    ref = store.put_tree(tmp_path / "source")
    damage(Path(store.tree_path(ref.digest)) / "a")
    store.close()
    for path in (tmp_path / "cache").rglob("verified.sqlite*"):
        path.unlink()
    spec["artifacts"] = {
        "many": {"kind": "tree", "digest": ref.digest, "size_bytes": 1, "file_count": 1, "name": "many"}
    }
    with pytest.raises(LoadError, match="damaged"):
        load_model(spec)


def test_missing_requirements_are_listed_with_the_command(logged: Callable[..., dict[str, Any]]) -> None:
    """Before anything is unpickled."""
    spec = logged(lambda data: data, requirements=["no-such-thing==1.0", "numpy==0.1", "verta_local==9.9"])
    with pytest.raises(LoadError) as caught:
        load_model(spec)
    text = str(caught.value)
    assert "no-such-thing==1.0 (not installed), numpy==0.1 (" in text
    assert text.endswith("run: python -m pip install no-such-thing==1.0 numpy==0.1")


def test_another_python_refuses_bytecode_but_not_a_module(logged: Callable[..., dict[str, Any]], project: Path) -> None:
    """Bytecode of another minor version crashes the interpreter; a reference runs wherever its module does."""
    by_value = logged(main_scope("class Model:\n    def predict(self, data): return 1\n")["Model"], python="3.8.1")
    for by_value_known in (True, None):
        by_value["model"]["by_value"] = by_value_known
        for load in (load_model, load_logged_model):
            with pytest.raises(LoadError, match=r"logged by Python 3\.8\.1 .*: use Python 3\.8, or define"):
                load(by_value)
    (project / "mine.py").write_text("class Model:\n    def predict(self, data): return 1\n")
    by_reference = logged(imported("mine").Model, python="3.8.1")
    for known in (False, None):
        by_reference["model"]["by_value"] = known
        assert load_logged_model(by_reference)().predict(None) == 1


def test_a_patch_version_of_python_makes_no_difference(logged: Callable[..., dict[str, Any]]) -> None:
    """Bytecode is the same in all of a minor version."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}.99"
    assert load_model(logged(lambda data: data, python=version)).predict(1) == 1


def test_an_exception_in_init_shows_the_users_own_traceback(place: Place) -> None:
    """Without our frames and the import machinery's; the module's place in the store is shortened."""
    place.write(
        {
            "model.py": "import helper\nclass Model:\n    def __init__(self, artifacts):\n        helper.open_it()\n"
            "    def predict(self, data): pass\n",
            "helper.py": "def open_it():\n    try:\n        {}['index']\n    except KeyError as error:\n"
            "        raise ValueError('no index\\nhere') from error\n",
            "train.py": "from model import Model\nfrom logging_model import log\nlog(Model)\n",
        }
    )
    place.run("train.py")
    code = textwrap.dedent(
        """
        import json, sys
        from verta_local.errors import LoadError
        from verta_local.loading import load_model
        try:
            load_model(json.load(open(sys.argv[1])))
        except LoadError as error:
            print(json.dumps([str(error), error.traceback]))
        """
    )
    output = run_python(["-c", code, place.environment["SPEC"]], Path("/"), place.environment)
    message, text = json.loads(output)
    assert message == "Model() of the model of run 'first' cannot be loaded: ValueError: no index here"
    assert text.startswith('Traceback (most recent call last):\n  File "custom_modules/helper.py", line 3')
    assert 'File "custom_modules/model.py", line 4, in __init__' in text
    assert "KeyError: 'index'" in text and text.endswith("ValueError: no index\nhere")
    assert "verta_local" not in text and "frozen" not in text and "pickle" not in text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
        ("import no_such_module_anywhere\n", "install it and name it in log_requirements"),
        ("def broken(:\n", "SyntaxError: invalid syntax"),
        ("raise ValueError\n", "ValueError$"),
    ],
)
def test_what_an_import_raises_is_a_load_error(
    logged: Callable[..., dict[str, Any]], project: Path, source: str, message: str
) -> None:
    """Also SystemExit, of a script without a guard that is imported."""
    file = project / "mine_broken.py"
    file.write_text("class Model:\n    def predict(self, data): return 1\n")
    model = imported("mine_broken").Model
    file.write_text("class Model: pass\n" + source)
    with pytest.warns(UserWarning, match="mine_broken changed on disk after the import"):
        spec = logged(model)
    with pytest.raises(LoadError, match=message) as caught:
        load_logged_model(spec)
    assert "mine_broken.py" in caught.value.traceback


def test_a_model_without_predict_is_a_load_error(logged: Callable[..., dict[str, Any]]) -> None:
    """A class, and an object."""
    with pytest.raises(LoadError, match=r"has no method predict\(data\); it is of type Model"):
        load_model(logged(main_scope("class Model:\n    def __call__(self): pass\n")["Model"]))
    with pytest.raises(LoadError, match=r"has no method predict\(data\); it is of type dict"):
        load_model(logged({"weights": 1}))


def test_an_object_that_does_not_unpickle_is_a_load_error(logged: Callable[..., dict[str, Any]]) -> None:
    """A file that only looks like a pickle."""
    spec = logged(lambda data: data)
    store = open_store(spec["store"], spec["cache_dir"])
    assert load_object(store, store.put_bytes(pickle.dumps({"a": [1.5]})).digest, own_author()) == {"a": [1.5]}
    for data in (b"no pickle", b"\x80\x05", pickle.dumps([1])[:-3]):
        with pytest.raises(LoadError, match="the object cannot be loaded"):
            load_object(store, store.put_bytes(data).digest, own_author())


def test_the_policy_stands_in_front_of_every_way_in(
    logged: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One function decides, by digest and author, before anything is read."""
    spec = logged(lambda data: data, author="eve")
    store = open_store(spec["store"], spec["cache_dir"])
    asked: list[tuple[str, str | None]] = []

    def refuse(digest: str, author: str | None) -> bool:
        asked.append((digest, author))
        return False

    monkeypatch.setattr(loading, "may_load", refuse)
    with pytest.raises(LoadError, match="was logged by eve, and loading it runs their code"):
        load_model(spec)
    with pytest.raises(LoadError, match="approve it once"):
        load_logged_model({**spec, "custom_modules": None})
    with pytest.raises(LoadError, match="approve it once"):
        load_object(store, spec["model"]["digest"])
    assert asked == [
        (spec["model"]["digest"], "eve"),
        (spec["model"]["digest"], "eve"),
        (spec["model"]["digest"], None),
    ]


def test_only_loading_unpickles() -> None:
    """A second place would be a second gate."""
    package = Path(loading.__file__).parent
    users = {
        file.name
        for file in package.rglob("*.py")
        if any(word in file.read_text() for word in ("pickle.load", "pickle.Unpickler", "joblib.load", "torch.load"))
    }
    assert users == {"loading.py"}


def test_a_traceback_of_nothing_but_ours_is_one_line() -> None:
    """The sentence alone."""
    try:
        load_model({"store": "/no/such", "cache_dir": "/no/such"})
    except Exception as error:
        assert own_traceback(ValueError("x")) == "ValueError: x"
        assert isinstance(error, LoadError)


def test_an_archive_is_handed_over_unpacked(logged: Callable[..., dict[str, Any]]) -> None:
    """As in Verta, also for a user's own archive."""
    spec = logged(
        main_scope(
            "class Model:\n    def __init__(self, artifacts): self.a = artifacts\n"
            "    def predict(self, data): return self.a\n"
        )["Model"]
    )
    store = open_store(spec["store"], spec["cache_dir"])
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("inner.txt", "zipped")
    ref = store.put_bytes(stream.getvalue())
    artifact = {"kind": "blob", "digest": ref.digest, "size_bytes": 5, "name": "b.zip", "unpack": True}
    path = load_model({**spec, "artifacts": {"a": artifact}}).predict(None)["a"]
    assert (Path(path) / "inner.txt").read_text() == "zipped"
