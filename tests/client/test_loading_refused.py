"""What stops the loading of a model: damage, a missing requirement, another Python, the user's own errors, the policy."""

from __future__ import annotations

import json
import os
import pickle
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loading_places import Place, imported, logged, main_scope, place, project, run_python

from verta_local import loading
from verta_local.errors import LoadError
from verta_local.loading import load_logged_model, load_model, load_object
from verta_local.tracebacks import own_traceback
from verta_local.trust import own_author
from verta_store import open_store
from verta_store.errors import CorruptObject, MissingObject

__all__ = ["logged", "place", "project"]


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
