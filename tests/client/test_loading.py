"""Loading what was logged: from scripts, packages and notebooks, elsewhere, verified."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from loading_places import Place, imported, logged, main_scope, place, project

from verta_local.loading import load_logged_model, load_model, load_object
from verta_local.trust import own_author
from verta_store import open_store

__all__ = ["logged", "place", "project"]

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
