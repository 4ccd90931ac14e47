"""Packing a model: what is pickled how, which modules are noticed, what is refused, and the model API."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import platform
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from verta_local.artifacts import check_artifact_keys
from verta_local.model import model_type, pack_model
from verta_local.pickling import pickle_model
from verta_local.utils import ModelAPI


class Model:
    """A class in a module: pickled by its name."""

    def __init__(self, artifacts: dict[str, str]) -> None:
        self.artifacts = artifacts

    def predict(self, data: Any) -> Any:
        """Give back what came in."""
        return data


def double(data: float) -> float:
    """A model that is a function."""
    return data * 2


def from_notebook(source: str, **values: object) -> dict[str, Any]:
    """Run source as a notebook's cell does: in the namespace of `__main__`, which this interpreter's is not."""
    scope: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__, **values}
    exec(compile(source, "<cell 1>", "exec"), scope)
    return scope


# Artifact keys


def test_artifact_keys_come_back_in_the_order_given() -> None:
    """None and an empty list are the same: nothing is recorded."""
    assert check_artifact_keys(["b", "a"], {"a", "b", "c"}) == ["b", "a"]
    assert check_artifact_keys(None, {"a"}) is None
    assert check_artifact_keys([], {"a"}) is None


@pytest.mark.parametrize("wrong", ["a", ("a",), {"a"}, [1], ["a", None], 0, ""])
def test_artifact_keys_that_are_no_list_of_str_are_a_type_error(wrong: object) -> None:
    """Also a bare text, which would be read letter by letter."""
    with pytest.raises(TypeError, match="`artifacts` must be a list of str"):
        check_artifact_keys(wrong, {"a"})


def test_unlogged_artifact_keys_are_named_in_order() -> None:
    """Verta's sentence."""
    with pytest.raises(ValueError, match=r"`artifacts` contains keys that have not been logged: \['x', 'z'\]"):
        check_artifact_keys(["z", "a", "x"], {"a"})


# What is packed


def test_a_class_of_a_module_goes_by_reference_with_its_module() -> None:
    """The pickle holds no code; the file travels."""
    packed = pack_model(Model, has_artifacts=True)
    assert packed.type == "class" and packed.method == "cloudpickle" and not packed.by_value
    assert packed.python == platform.python_version()
    assert packed.api == {"version": "v1"}
    assert pickle.loads(packed.data) is Model
    assert ("test_model.py", Path(__file__)) in packed.modules.files
    assert {"numpy", "pytest"} <= set(packed.third_party)
    json.dumps(packed.description())


def test_a_class_of_main_goes_by_value_with_the_globals_that_it_uses() -> None:
    """Helper functions and classes with them, and theirs; what it does not use stays."""
    scope = from_notebook(
        "import json\nSCALE = 3\nSECRET = object()\n"
        "def helper(x): return Deep().value * x\n"
        "class Deep:\n    value = SCALE\n"
        "class Model:\n    def __init__(self, artifacts): pass\n"
        "    def predict(self, data): return json.dumps(helper(data) + SCALE)\n",
        UNUSED=threading.Lock(),
    )
    packed = pack_model(scope["Model"])
    assert packed.by_value and not packed.modules
    code = f"import pickle; print(pickle.loads({packed.data!r})({{}}).predict(2))"
    result = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert result.stdout == "9\n"


def test_a_class_inside_a_function_goes_by_value() -> None:
    """With the variables of the function that it uses."""

    def make(offset: int) -> type:
        class Inner:
            def predict(self, data: int) -> int:
                return data + offset

        return Inner

    packed = pack_model(make(5))
    assert packed.by_value
    assert pickle.loads(packed.data)().predict(1) == 6


def test_imports_inside_the_methods_of_a_notebooks_class_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no file to read: they are found in the code, and nothing else that only sounds like a module."""
    for name in ("late_one", "late_two", "only_a_word"):
        (tmp_path / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    scope = from_notebook(
        "class Model:\n    def predict(self, data):\n        import late_one\n"
        "        def inner():\n            from late_two import x\n        return 'only_a_word'\n"
    )
    packed = pack_model(scope["Model"])
    assert [path for path, _ in packed.modules.files] == ["late_one.py", "late_two.py"]


def test_a_module_that_no_file_backs_goes_by_value() -> None:
    """Made in memory, or `__mp_main__`, as `__main__` is called in a process that multiprocessing started."""
    for name in ("made_in_memory", "__mp_main__"):
        module = types.ModuleType(name)
        exec("class Base: pass\nclass Model(Base):\n    def predict(self, data): return data", module.__dict__)
        sys.modules[name] = module
        try:
            packed = pack_model(module.Model)
        finally:
            del sys.modules[name]
        assert packed.by_value and not packed.modules
        code = f"import pickle; print(pickle.loads({packed.data!r})().predict(2))"
        result = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
        assert result.stdout == "2\n"


def test_registering_by_value_does_not_outlive_the_call() -> None:
    """It is a setting of the whole process."""
    module = types.ModuleType("made_in_memory")
    exec("class Model: pass", module.__dict__)
    sys.modules["made_in_memory"] = module
    try:
        pack_model(module.Model)
        assert cloudpickle.list_registry_pickle_by_value() == set()
    finally:
        del sys.modules["made_in_memory"]


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [
        ("sklearn.base", "BaseEstimator", "sklearn"),
        ("torch.nn.modules.module", "Module", "torch"),
        ("keras.src.models.model", "Model", "tensorflow"),
        ("xgboost.sklearn", "XGBModel", "xgboost"),
        ("mine", "Model", "custom"),
    ],
)
def test_the_type_of_a_model_object_is_verta_s_word(module: str, name: str, expected: str) -> None:
    """A user's own subclass counts as the library's."""
    base = type(name, (), {"__module__": module, "predict": double})
    own = type("Own", (base,), {"__module__": "mine"})
    assert model_type(own()) == expected
    assert model_type(own) == "class"


def test_callables_and_other_objects_have_their_types() -> None:
    """None is what Verta's last versions call any other object."""
    assert model_type(double) == "callable"
    assert model_type({"weights": [1]}) is None
    assert pack_model({"weights": [1]}).type is None


def test_a_real_scikit_learn_model_is_packed() -> None:
    """Where scikit-learn is installed."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    model = linear_model.LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
    packed = pack_model(model)
    assert packed.type == "sklearn" and "sklearn" in packed.third_party and not packed.modules
    assert pickle.loads(packed.data).predict([[2.0]])[0] == pytest.approx(4.0)


# What is refused


def test_an_instance_with_artifacts_is_a_value_error_that_says_what_to_log() -> None:
    """After the attempt to serialise, as in Verta; without artifacts it is a model."""
    with pytest.raises(
        ValueError, match=r"can only be given with a class.*found an object of type Model: log the class"
    ):
        pack_model(Model({}), has_artifacts=True)
    assert pack_model(Model({})).type == "custom"


@pytest.mark.parametrize("wrong", [{"version": "v1"}, "api.json", ModelAPI])
def test_a_model_api_of_another_type_is_a_value_error(wrong: Any) -> None:
    """Verta's class, not what is in it."""
    with pytest.raises(ValueError, match=r"`model_api` must be a verta_local\.utils\.ModelAPI"):
        pack_model(Model, model_api=wrong)


def test_a_lock_among_the_globals_is_named() -> None:
    """One sentence with the way to it."""
    scope = from_notebook(
        "class Holder:\n    def __init__(self, lock): self.inner = {'lock': lock}\nholder = Holder(lock)\n"
        "def helper(): return holder\n"
        "class Model:\n    def predict(self, data): return helper()\n",
        lock=threading.Lock(),
    )
    with pytest.raises(TypeError) as caught:
        pack_model(scope["Model"])
    assert str(caught.value) == (
        "the model Model cannot be pickled: method 'predict', global 'helper', global 'holder', attribute 'inner', "
        "item 'lock' is a _thread.lock (cannot pickle '_thread.lock' object); "
        "make it in __init__() or predict() instead, or log it as an artifact"
    )


def test_an_open_file_of_an_instance_is_named(tmp_path: Path) -> None:
    """Also class attributes, defaults and enclosing variables are looked at."""
    with open(tmp_path / "x", "w") as file:
        model = Model({})
        model.log = file  # type: ignore[attr-defined]
        with pytest.raises(TypeError, match=r"model of type Model cannot be pickled: attribute 'log' is a _io\.Text"):
            pack_model(model)
        scope = from_notebook("class Model:\n    def predict(self, data, file=file): return 1\n", file=file)
        with pytest.raises(TypeError, match=r"method 'predict', default 1 of its arguments is a _io\.TextIOWrapper"):
            pack_model(scope["Model"])
        scope = from_notebook("class Model:\n    log = file\n    def predict(self, data): return 1\n", file=file)
        with pytest.raises(TypeError, match=r"class attribute 'log' is a _io\.TextIOWrapper"):
            pack_model(scope["Model"])

        class Inner:
            def predict(self, data: Any) -> Any:
                return file

        with pytest.raises(TypeError, match="variable 'file' of the enclosing function"):
            pack_model(Inner)


class Session:
    """As a SparkContext: refuses with an error of its own, not a pickle one."""

    def __getstate__(self) -> object:
        raise RuntimeError("a session\ncannot be sent to workers")


def test_an_object_that_refuses_by_itself_is_named_with_its_own_words() -> None:
    """On one line."""
    scope = from_notebook("class Model:\n    def predict(self, data): return session\n", session=Session())
    with pytest.raises(TypeError, match=r"global 'session' is a .*Session \(a session cannot be sent to workers\)"):
        pack_model(scope["Model"])


def test_a_recursive_class_that_cannot_be_pickled_ends() -> None:
    """It refers to itself on the way to what is at fault."""
    scope = from_notebook(
        "class Model:\n    def predict(self, data): return Model, [Model, lock]\n    again = [lock]\n",
        lock=threading.RLock(),
    )
    with pytest.raises(TypeError, match=r"_thread\.RLock"):
        pickle_model(scope["Model"])


# The model API


def types_of(data: object) -> Any:
    """The type tree of data."""
    return ModelAPI(data, [0]).to_dict()["input"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (1, "VertaFloat"),
        ([1.5], "VertaFloat"),
        ([True], "VertaBool"),
        ("text", "VertaString"),
        (["text"], "VertaString"),
        ([None], "VertaNull"),
        (np.array([1, 2]), "VertaFloat"),
        (np.array(1), "VertaFloat"),
        (np.array(["a"]), "VertaString"),
        ((x for x in (True, False)), "VertaBool"),
    ],
)
def test_scalars_have_verta_s_names(data: object, expected: str) -> None:
    """Of the first datum; integers are floats there."""
    assert types_of(data) == {"type": expected, "name": ""}


def test_lists_and_dicts_have_their_members() -> None:
    """List members are named by position, those of a dict by key, sorted."""
    number = {"type": "VertaFloat", "name": "0"}
    assert types_of([[1.0, "a"], [2.0, "b"]]) == {
        "type": "VertaList",
        "name": "",
        "value": [number, {"type": "VertaString", "name": "1"}],
    }
    assert types_of(np.zeros((2, 1, 1))) == {
        "type": "VertaList",
        "name": "",
        "value": [{"type": "VertaList", "name": "0", "value": [number]}],
    }
    expected = {
        "type": "VertaJson",
        "name": "",
        "value": [
            {"type": "VertaList", "name": "a", "value": [number]},
            {"type": "VertaNull", "name": "b"},
        ],
    }
    assert types_of({"b": None, "a": [1]}) == expected
    assert types_of([{"b": None, "a": [1]}]) == expected


@dataclasses.dataclass
class Rows:
    """Rows by position, as pandas has them in `iloc`; the real library is not part of the test environment."""

    rows: Any

    def __getitem__(self, place: Any) -> Any:
        return self.rows[place[0]][place[1]] if isinstance(place, tuple) else self.rows[place]


class Table:
    """What is looked at in a DataFrame or Series."""

    def __init__(self, rows: Any, **named: Any) -> None:
        self.iloc = Rows(rows)
        self.__dict__.update(named)
        self._length = len(rows)

    def __len__(self) -> int:
        return self._length


def test_a_table_is_a_list_of_named_columns() -> None:
    """A DataFrame's columns, a Series' name; two columns of one name are refused."""
    assert types_of(Table([[1, "x"]], columns=["age", 7])) == {
        "type": "VertaList",
        "name": "",
        "value": [{"type": "VertaFloat", "name": "age"}, {"type": "VertaString", "name": "7"}],
    }
    assert types_of(Table([np.int64(1)], name="age")) == {"type": "VertaFloat", "name": "age"}
    with pytest.raises(ValueError, match="column names must be unique"):
        types_of(Table([[1, 2]], columns=["a", "a"]))
    with pytest.raises(ValueError, match="the data is empty"):
        types_of(Table([], columns=["a"]))


def test_real_pandas_tables_are_described() -> None:
    """Where pandas is installed."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [1, 2], "name": ["a", "b"]})
    assert [member["type"] for member in types_of(frame)["value"]] == ["VertaFloat", "VertaString"]
    assert types_of(frame["age"]) == {"type": "VertaFloat", "name": "age"}


def test_data_without_a_datum_or_of_another_type_is_refused() -> None:
    """One sentence each."""
    with pytest.raises(ValueError, match="the data is empty"):
        ModelAPI([], [1])
    with pytest.raises(TypeError, match=r"found builtins\.object"):
        ModelAPI([1], [object()])


def test_a_model_api_goes_through_a_file(tmp_path: Path) -> None:
    """By path and by opened file; other JSON is refused."""
    api = ModelAPI([[1.0]], ["a"])
    api.to_file(tmp_path / "api.json")
    stream = io.StringIO()
    api.to_file(stream)
    assert ModelAPI.from_file(str(tmp_path / "api.json")) == api == ModelAPI.from_file(io.StringIO(stream.getvalue()))
    assert api != ModelAPI([1.0], ["a"])
    assert "VertaList" in repr(api)
    for wrong in ("[]", "{}", '{"version": "v2", "input": {}}', "no json"):
        with pytest.raises(ValueError, match="a model API must"):
            ModelAPI.from_file(io.StringIO(wrong))
    assert pack_model(Model, model_api=api).api == api.to_dict()


def test_changing_the_dict_does_not_change_the_model_api() -> None:
    """The caller owns it."""
    api = ModelAPI([1], [2])
    api.to_dict()["input"]["type"] = "x"
    assert api.to_dict()["input"]["type"] == "VertaFloat"


def test_importing_the_module_does_not_import_cloudpickle() -> None:
    """Start-up time."""
    code = "import sys, verta_local.model\nassert not {'cloudpickle', 'numpy', 'packaging'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
