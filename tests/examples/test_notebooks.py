"""The notebooks as Verta users wrote them: each is its script, its kept output holds, and it runs again."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = {
    "sklearn_grid_search": ["sklearn"],
    "keras_callback": ["keras", "tensorflow", "sklearn"],
    "pytorch_class_model": ["torch", "sklearn"],
}


def read(examples: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((examples / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")))


def test_every_notebook_is_in_this_test(examples: Path) -> None:
    assert {path.stem for path in (examples / "notebooks").iterdir()} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_holds_its_script_and_the_output_of_one_run(examples: Path, name: str) -> None:
    notebook = read(examples, name)
    split_cells = runpy.run_path(str(examples / "make_notebook.py"))["split_cells"]
    expected = split_cells((examples / "notebooks" / f"{name}.py").read_text(encoding="utf-8"))
    # When this fails: run examples/make_notebook.py.
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]] == expected
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert {output["output_type"] for cell in code for output in cell["outputs"]} <= {"stream", "execute_result"}
    check_figures(outputs_of(notebook))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_shows_nothing_of_the_machine_it_ran_on(examples: Path, name: str) -> None:
    text = json.dumps(read(examples, name))
    assert not re.findall(r"/root|/tmp|/work|/home/(?!me/)|/Users|ipykernel_|site-packages|[IWE]0000 |INFO:", text)
    assert len(text) < 40_000


@pytest.mark.examples
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(
    name: str, run_python: Callable[..., Any], examples: Path, assert_nothing_runs: Callable[[], None]
) -> None:
    for module in (*NOTEBOOKS[name], "nbclient", "ipykernel"):
        pytest.importorskip(module)
    execute = """if True:
        import json, sys, nbformat, nbclient
        notebook = nbformat.read(sys.argv[1], as_version=4)
        nbclient.NotebookClient(notebook, timeout=150).execute()
        print(json.dumps(notebook))
    """
    output = run_python("-c", execute, examples / "notebooks" / f"{name}.ipynb", timeout_s=200)
    check_figures(outputs_of(json.loads(output.text.splitlines()[-1])))
    assert_nothing_runs()


def outputs_of(notebook: dict[str, Any]) -> str:
    found = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            found.append("".join(output.get("text", "")))
            found += ["".join(text) for text in output.get("data", {}).values()]
    return "\n".join(found)


def check_figures(text: str) -> None:
    """A card or table was shown, the model was served and good, and nothing is left."""
    assert 'class="verta-local ' in text
    assert text.index("'deployed'") < text.index("over HTTP") < text.index("'not deployed'")
    (accuracy,) = re.findall(r"accuracy over HTTP: ([\d.]+)%", text)
    assert float(accuracy) > 85
    assert re.findall(r"served: (.*)", text) and "Traceback" not in text
