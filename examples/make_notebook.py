"""Make a notebook of each script that has `# %%` marks: split it there, run it, keep the output.

    pip install "verta_local[tensorflow,sklearn,torch]" nbclient ipykernel
    python examples/make_notebook.py                       # all of them
    python examples/make_notebook.py notebooks/keras_callback.py

Runs in a temporary folder with a store of its own. What belongs to the machine (the path of that folder, the
version of the kernel, its file names for cells) does not get into the notebook.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = ["text_embedding.py", *(f"notebooks/{path.name}" for path in sorted((HERE / "notebooks").glob("*.py")))]
SHOWN_DATA_FOLDER = "/home/me/.local/share/verta_local"  # in the kept output, in place of the temporary one


def split_cells(source):
    """[("markdown" or "code", text), ...] of a script in the percent format."""
    cells = []
    for part in re.split(r"(?m)^# %%", source)[1:]:
        mark, text = part.split("\n", 1)
        if mark.strip() == "[markdown]":
            cells.append(("markdown", re.sub(r"(?m)^# ?", "", text).strip()))
        else:
            cells.append(("code", text.strip()))
    return cells


def clean_text(text, folder):
    """Output as it is kept: without the temporary folder and the kernel's own file names."""
    text = text.replace(os.path.join(folder, "data"), SHOWN_DATA_FOLDER)
    return re.sub(r"\S*ipykernel_\d+/\d+\.py:\d+: ", "", text)


def make_notebook(source):
    """Run a script cell by cell and write the notebook beside it."""
    import nbformat  # noqa: PLC0415 - split_cells() is used without it
    from nbclient import NotebookClient  # noqa: PLC0415 - see above

    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for i, (kind, text) in enumerate(split_cells(source.read_text(encoding="utf-8"))):
        cell = nbformat.v4.new_code_cell(text) if kind == "code" else nbformat.v4.new_markdown_cell(text)
        cell["id"] = f"cell-{i}"  # the library draws a random one, which would show as a change each time
        notebook.cells.append(cell)

    with tempfile.TemporaryDirectory() as folder:
        folder = os.path.realpath(folder)
        os.environ.pop("VERTA_LOCAL_STORE", None)
        for name in ("DATA", "CACHE", "STATE"):
            os.environ[f"VERTA_LOCAL_{name}"] = os.path.join(folder, name.lower())
        NotebookClient(notebook, timeout=300, record_timing=False, resources={"metadata": {"path": folder}}).execute()
        notebook.metadata["language_info"] = {"name": "python"}
        for cell in notebook.cells:
            for output in cell.get("outputs", ()):
                if "text" in output:
                    output["text"] = clean_text(output["text"], folder)
                for form, text in output.get("data", {}).items():
                    output["data"][form] = clean_text(text, folder)

    nbformat.validate(notebook)
    nbformat.write(notebook, source.with_suffix(".ipynb"))
    print(f"{source.stem}: {len(notebook.cells)} cells")


if __name__ == "__main__":
    for name in sys.argv[1:] or SOURCES:
        make_notebook(HERE / name)
