"""The example with TensorFlow and Annoy, as a script and as the notebook that is made from it."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def notebook(examples: Path) -> dict[str, object]:
    return json.loads((examples / "text_embedding.ipynb").read_text(encoding="utf-8"))


def outputs_of(notebook: dict) -> str:
    return "".join("".join(output.get("text", "")) for cell in notebook["cells"] for output in cell.get("outputs", ()))


def test_notebook_holds_the_script_cell_by_cell(notebook: dict, examples: Path) -> None:
    split_cells = runpy.run_path(str(examples / "make_notebook.py"))["split_cells"]
    expected = split_cells((examples / "text_embedding.py").read_text(encoding="utf-8"))
    # When this fails: run examples/make_notebook.py.
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]] == expected


def test_notebook_keeps_the_output_of_one_run_in_order(notebook: dict) -> None:
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
    assert kinds == {"stream"}  # no error
    check_figures(outputs_of(notebook))


def test_notebook_shows_nothing_of_the_machine_it_ran_on(notebook: dict) -> None:
    text = json.dumps(notebook)
    assert not re.findall(r"/root|/tmp|/work|/home/(?!me/)|/Users|ipykernel_|site-packages|[IWE]0000 |INFO:", text)
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


@pytest.mark.examples
@pytest.mark.timeout(240)  # TensorFlow is imported twice, 4 to 12 s each
def test_text_embedding_is_served_from_a_saved_model_and_an_annoy_index(
    run_python: Callable[..., object], examples: Path, assert_nothing_runs: Callable[[], None], tmp_path: Path
) -> None:
    pytest.importorskip("annoy")
    pytest.importorskip("tensorflow")
    output = run_python(examples / "text_embedding.py", timeout_s=200)
    check_figures(output.text)
    assert (tmp_path / "generated" / "saved_model" / "assets").is_dir()
    assert_nothing_runs()


@pytest.mark.examples
@pytest.mark.timeout(240)
def test_model_of_a_notebook_is_served(
    run_python: Callable[..., object], examples: Path, assert_nothing_runs: Callable[[], None]
) -> None:
    for module in ("annoy", "tensorflow", "nbclient", "ipykernel"):
        pytest.importorskip(module)
    execute = """if True:
        import sys, nbformat, nbclient
        notebook = nbformat.read(sys.argv[1], as_version=4)
        nbclient.NotebookClient(notebook, timeout=150).execute()
        print("".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", ())))
    """
    output = run_python("-c", execute, examples / "text_embedding.ipynb", timeout_s=200)
    check_figures(output.text)
    assert_nothing_runs()


def check_figures(text: str) -> None:
    """A paragraph finds itself, neighbours share its topic more often than by chance, HTTP answers alike."""
    assert "recall@1 of the paragraph itself: 100.0%" in text
    found = re.search(r"neighbours of the same topic: ([\d.]+)% \(by chance: ([\d.]+)%\)", text)
    assert found and float(found.group(1)) > 2.5 * float(found.group(2))
    assert "over HTTP; the answers are those from above: True" in text
    assert re.search(r"(?m)^    \[global\] ", text)
    assert "not deployed" in text.rsplit("from above: True", 1)[1]
