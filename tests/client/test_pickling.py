"""How single classes get into a model's pickle."""

from __future__ import annotations

import pickle
import sys
import types
from _json import make_scanner  # a compiled class that calls itself `_json.Scanner`, which does not exist
from pathlib import Path
from typing import Any

import pytest

from verta_local.pickling import pickle_model


def class_of_main(**names: object) -> Any:
    scope = {"__name__": "__main__", **names}
    exec("class Model:\n    def predict(self, data):\n        return Other.__name__", scope)
    return scope["Model"]


def test_a_compiled_class_under_another_name_goes_by_reference() -> None:
    """`annoy.AnnoyIndex` is one: by value it would come back without its methods."""
    pickled = pickle_model(class_of_main(Other=make_scanner))
    assert "_json" in pickled.module_names
    model = pickle.loads(pickled.data)
    assert model.predict.__globals__["Other"] is make_scanner


def test_a_renamed_class_of_a_module_goes_by_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module travels, so there is no need for a copy of the class."""
    (tmp_path / "renaming.py").write_text("def make():\n    class Inner: pass\n    return Inner\nPublic = make()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import renaming

    pickled = pickle_model(class_of_main(Other=renaming.Public))
    assert "renaming" in pickled.module_names
    assert pickle.loads(pickled.data).predict.__globals__["Other"] is renaming.Public


def test_a_renamed_class_of_a_module_that_no_file_backs_goes_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """No reference could be followed where the model is served."""
    module = types.ModuleType("in_memory")
    exec("class Inner:\n    answer = 42\nPublic = Inner\ndel Inner", module.__dict__)
    monkeypatch.setitem(sys.modules, "in_memory", module)
    pickled = pickle_model(class_of_main(Other=module.Public))
    monkeypatch.delitem(sys.modules, "in_memory")
    assert pickle.loads(pickled.data).predict.__globals__["Other"].answer == 42


def test_a_real_annoy_index_class_goes_by_reference() -> None:
    """The class that showed the need."""
    annoy = pytest.importorskip("annoy")
    model = pickle.loads(pickle_model(class_of_main(Other=annoy.AnnoyIndex)).data)
    assert model.predict.__globals__["Other"] is annoy.AnnoyIndex
