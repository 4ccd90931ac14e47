"""Which local modules travel with a model, from where, under which names, and what is left out."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import textwrap
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from verta_local import Client, modules
from verta_local.local_modules import imports_of_code, is_local_file
from verta_local.modules import FoundModules, collect_modules, find_modules, stage_modules


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write files, relative path -> text."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of a user: the current one, first on the path; its modules are forgotten afterwards."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("mine"):
            del sys.modules[name]


def paths(found: FoundModules) -> list[str]:
    """What would be staged."""
    return [path for path, _ in found.files]


# What is local


def test_python_and_installed_modules_are_not_local() -> None:
    """Standard library, packages beside pytest, and our own two packages wherever they lie."""
    assert not is_local_file(json.__file__)
    assert not is_local_file(pytest.__file__)
    assert not is_local_file("/opt/venv/lib/python3.12/site-packages/x/__init__.py")
    assert is_local_file(__file__)
    found = find_modules(["json", "pytest", "verta_local.values", "verta_store", "builtins", "sys", "os.path"])
    assert found.files == () and found.third_party == ("pytest",) and not found


def test_a_plain_module_brings_its_file_alone(project: Path) -> None:
    """Not what lies beside it."""
    write(project, {"mine_a.py": "X = 1", "mine_b.py": "Y = 1", "data.csv": "1,2"})
    found = find_modules(["mine_a"])
    assert paths(found) == ["mine_a.py"] and found.names == ("mine_a",)


def test_a_package_brings_its_whole_folder_but_no_caches_or_secrets(project: Path) -> None:
    """Data files are read by packages through their path; `.env` and virtual environments never travel."""
    package = write(
        project,
        {
            "mine/model.py": "X = 1",
            "mine/sub/deep.py": "",
            "mine/words.txt": "a",
            "mine/__init__.py": "",
            "mine/venv/lib/x.py": "",
        },
    )
    (package / "mine/venv/pyvenv.cfg").write_text("")
    for hidden in ("mine/.env", "mine/.git/config", "mine/__pycache__/x.pyc", "mine/.ipynb_checkpoints/y.py"):
        (package / hidden).parent.mkdir(exist_ok=True)
        (package / hidden).write_text("secret")
    found = find_modules(["mine.model"])
    assert paths(found) == ["mine/__init__.py", "mine/model.py", "mine/sub/deep.py", "mine/words.txt"]


def test_imports_are_followed_also_inside_functions(project: Path) -> None:
    """Absolute, relative, dynamic with a plain text, under TYPE_CHECKING and in `try`; never what is not there."""
    write(
        project,
        {
            "mine_a.py": """
            import mine_b, json, pytest, no_such_module
            def predict():
                from mine_pack.inner import thing
                import importlib
                importlib.import_module("mine_c")
                __import__("mine_d")
            """,
            "mine_b.py": "try:\n    from mine_e import *\nexcept ImportError:\n    pass",
            "mine_c.py": "",
            "mine_d.py": "",
            "mine_e.py": "",
            "mine_unused.py": "",
            "mine_pack/__init__.py": "",
            "mine_pack/inner.py": "from . import other",
            "mine_pack/other.py": "from ..mine_too_far import x\nfrom .missing import y\nimport mine_f",
            "mine_f.py": "this does not parse",
        },
    )
    found = find_modules(["mine_a"])
    assert paths(found) == [
        "mine_a.py",
        "mine_b.py",
        "mine_c.py",
        "mine_d.py",
        "mine_e.py",
        "mine_f.py",
        "mine_pack/__init__.py",
        "mine_pack/inner.py",
        "mine_pack/other.py",
    ]
    assert found.third_party == ("pytest",)
    assert not any(name.startswith("mine") for name in sys.modules), "looking must not import"


def test_imports_of_a_package_module_that_is_not_reached_are_not_followed(project: Path) -> None:
    """The training code of a package travels, as a part of it, but not what only training needs."""
    write(
        project,
        {
            "mine/__init__.py": "",
            "mine/model.py": "",
            "mine/train.py": "import mine_plots",
            "mine_plots.py": "",
        },
    )
    assert paths(find_modules(["mine.model"])) == ["mine/__init__.py", "mine/model.py", "mine/train.py"]


def test_what_a_package_imported_by_unreadable_means_is_followed(project: Path) -> None:
    """A plug-in loaded by a computed name is in `sys.modules` by now."""
    write(
        project,
        {
            "mine/__init__.py": "import importlib\nimportlib.import_module(__name__ + '.plug' + 'in')",
            "mine/plugin.py": "import mine_helper",
            "mine_helper.py": "",
        },
    )
    importlib.invalidate_caches()
    importlib.import_module("mine")
    assert "mine_helper.py" in paths(find_modules(["mine"]))


def test_a_folder_without_init_counts_where_it_holds_a_needed_module(project: Path) -> None:
    """`src/model.py` with its word list beside it; but not all projects of a folder that is only passed through."""
    write(
        project,
        {
            "mine/model.py": "from mine.deep.tool import x",
            "mine/words.txt": "",
            "mine/deep/tool.py": "x = 1",
            "mine/data/more.txt": "",
        },
    )
    everything = ["mine/data/more.txt", "mine/deep/tool.py", "mine/model.py", "mine/words.txt"]
    assert paths(find_modules(["mine.model"])) == everything
    assert paths(find_modules(["mine.deep.tool"])) == ["mine/deep/tool.py"]
    importlib.invalidate_caches()
    importlib.import_module("mine.model")
    assert paths(find_modules(["mine.model"])) == everything


def test_a_regular_package_in_a_namespace_keeps_its_place(project: Path) -> None:
    """The namespace's other packages stay at home."""
    write(project, {"mine/text/__init__.py": "", "mine/text/model.py": "", "mine/image/__init__.py": ""})
    assert paths(find_modules(["mine.text.model"])) == ["mine/text/__init__.py", "mine/text/model.py"]


def test_a_module_is_staged_under_its_name_not_its_files(project: Path) -> None:
    """As loaders that take a path name it."""
    write(project, {"odd/plug-in.py": "X = 1"})
    spec = importlib.util.spec_from_file_location("mine_plugin", project / "odd/plug-in.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mine_plugin"] = module
    spec.loader.exec_module(module)
    assert paths(find_modules(["mine_plugin"])) == ["mine_plugin.py"]


def test_a_local_module_named_like_a_standard_or_installed_one_is_local(project: Path) -> None:
    """What counts is where the file lies. In a fresh process, where the user's folder comes first."""
    write(project, {"colorsys.py": "import mine_a", "tabulate.py": "", "mine_a.py": "", "main.py": ""})
    code = (
        "import colorsys, tabulate\nfrom verta_local.modules import find_modules\n"
        "print([path for path, _ in find_modules(['colorsys', 'tabulate']).files])"
    )
    (project / "main.py").write_text(code)
    result = subprocess.run([sys.executable, "main.py"], cwd=project, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['colorsys.py', 'mine_a.py', 'tabulate.py']"


def test_extension_modules_keep_their_whole_suffix(project: Path) -> None:
    """Without it Python does not find them."""
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (project / f"mine_fast{suffix}").write_bytes(b"\x7fELF")
    assert paths(find_modules(["mine_fast"])) == [f"mine_fast{suffix}"]


def test_large_data_is_left_out_with_a_warning_code_never(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It belongs into an artifact."""
    monkeypatch.setattr(modules, "_MAX_DATA_FILE_BYTES", 1000)
    write(project, {"mine/__init__.py": "#" * 2000, "mine/small.txt": "x" * 1000, "mine/big.npy": "x" * 1001})
    with pytest.warns(UserWarning, match=r"too large to travel .*: mine.big\.npy .*log_artifact\(\)"):
        found = find_modules(["mine"])
    assert paths(found) == ["mine/__init__.py", "mine/small.txt"]


@pytest.mark.parametrize("limit", ["_MAX_DATA_FILES", "_MAX_DATA_BYTES"])
def test_a_data_set_inside_a_package_is_left_out_with_a_warning(
    project: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """Where the whole project is one package; its code still travels."""
    monkeypatch.setattr(modules, limit, 2)
    write(project, {"mine/__init__.py": "", "mine/a.txt": "a", "mine/b.txt": "b", "mine/c.txt": "c"})
    with pytest.warns(UserWarning, match=r"too large to travel .*: 3 data files of mine \(0 MiB\)"):
        found = find_modules(["mine"])
    assert paths(found) == ["mine/__init__.py"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_links_that_loop_and_pipes_do_not_hang(project: Path) -> None:
    """A FIFO would block forever, a link to the parent never end."""
    write(project, {"mine/__init__.py": "", "mine/a.py": ""})
    os.symlink(project / "mine", project / "mine" / "loop")
    os.mkfifo(project / "mine" / "pipe")
    (project / "outside").mkdir()
    (project / "outside" / "words.txt").write_text("a")
    os.symlink(project / "outside", project / "mine" / "linked")
    assert paths(find_modules(["mine"])) == ["mine/__init__.py", "mine/a.py", "mine/linked/words.txt"]


def test_an_edit_after_the_import_is_said(project: Path) -> None:
    """By reference the new text would run, which nobody tried; moved lines and comments are no edit."""
    text = "class Model:\n    def predict(self, data):\n        return [x + 1 for x in data]\n"
    write(
        project,
        {"mine_a.py": text, "mine_b.py": "import functools\ndef deco(f):\n    return functools.wraps(f)(lambda: f)"},
    )
    importlib.invalidate_caches()
    importlib.import_module("mine_a")
    assert find_modules(["mine_a", "mine_b"]).names == ("mine_a", "mine_b")
    (project / "mine_a.py").write_text("# moved\n\n" + text)
    assert find_modules(["mine_a"])
    (project / "mine_a.py").write_text(text.replace("x + 1", "x + 2"))
    with pytest.warns(UserWarning, match="mine_a changed on disk after the import"):
        find_modules(["mine_a"])


def test_decorated_and_generated_functions_are_no_edits(project: Path) -> None:
    """Wrappers, dataclasses, lambdas, properties, nested functions and two versions of one name."""
    write(
        project,
        {
            "mine_a.py": """
            import dataclasses, functools, sys
            def deco(f):
                @functools.wraps(f)
                def wrapper(*args):
                    return f(*args)
                return wrapper
            if sys.version_info > (3,):
                def pick(): return {1, 2} & {"a", "b"} or 1 in {"x", "y", "z"}
            else:
                def pick(): return 2
            short = lambda: 1
            @dataclasses.dataclass
            class A:
                x: int = 0
                @property
                def p(self): return 1
                @deco
                def m(self): return [lambda: y for y in (1, 2)]
                @classmethod
                def c(cls): return cls
            made = deco(lambda: 3)
            """,
        },
    )
    importlib.invalidate_caches()
    importlib.import_module("mine_a")
    assert paths(find_modules(["mine_a"])) == ["mine_a.py"]


def test_imports_in_code_are_found_without_its_source() -> None:
    """A notebook's functions have no file."""
    scope: dict[str, types.FunctionType] = {}
    exec(
        "def f():\n    import a.b\n    from c import d, e\n    from . import g\n    from ..h import i\n"
        "    def inner():\n        from j import x\n        import importlib; importlib.import_module('k')\n"
        "    return [__import__('l') for _ in ()]",
        scope,
    )
    names = imports_of_code(scope["f"].__code__, "pack.sub")
    assert {"a.b", "c", "c.d", "c.e", "pack.sub", "pack.sub.g", "pack.h", "pack.h.i", "j", "k", "l"} <= names
    assert "" not in names


# What the user lists


def test_nothing_listed_is_nothing(project: Path) -> None:
    """As in Verta."""
    assert collect_modules([]) == FoundModules(())


@pytest.mark.parametrize("wrong", ["mine", {"mine"}, 3, [3], [None], b"mine"])
def test_no_list_of_str_is_a_type_error(project: Path, wrong: object) -> None:
    """A bare text would be read letter by letter."""
    with pytest.raises(TypeError, match="custom_modules must"):
        collect_modules(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["no_such", "no/such.py", "", "sys", "../x", "a b"])
def test_neither_path_nor_module_is_a_value_error(project: Path, wrong: str) -> None:
    """Also a built-in module, which has no file."""
    with pytest.raises(ValueError, match="no file, folder or importable module"):
        collect_modules([wrong])


def test_a_listed_file_keeps_its_place_below_the_path(project: Path) -> None:
    """So that it is imported as it is here."""
    write(project, {"mine/a.py": "", "mine_b.py": ""})
    assert paths(collect_modules(["mine/a.py", project / "mine_b.py"])) == ["mine/a.py", "mine_b.py"]


def test_a_listed_folder_brings_hidden_files_but_no_git_and_no_environment(project: Path) -> None:
    """As in Verta; the user named it."""
    write(project, {"mine/__init__.py": "", "mine/env/x.py": "", "mine/data/big.txt": "x"})
    for name in (".hidden", ".git/config", ".cache/x", "__pycache__/x.pyc", "env/pyvenv.cfg"):
        (project / "mine" / name).parent.mkdir(exist_ok=True)
        (project / "mine" / name).write_text("x")
    expected = ["mine/.cache/x", "mine/.hidden", "mine/__init__.py", "mine/data/big.txt"]
    assert paths(collect_modules(["mine"])) == expected
    assert paths(collect_modules([str(project / "mine") + "/"])) == expected


def test_a_listed_folder_that_is_on_the_path_itself_is_laid_out_flat(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its modules are imported by their short names here, so they are there; by their long ones too."""
    write(project, {"lib/mine_a.py": ""})
    monkeypatch.syspath_prepend(str(project / "lib"))
    assert paths(collect_modules(["lib"])) == ["lib/mine_a.py", "mine_a.py"]
    assert paths(collect_modules(["."])) == ["lib/mine_a.py", "mine_a.py"]


def test_a_listed_folder_beside_the_path_is_found_by_its_name_or_as_an_entry(project: Path) -> None:
    """Nothing says which of the two is meant; a package can only be meant by its name."""
    write(project.parent / "shared", {"plain/mine_a.py": "", "pack/__init__.py": "", "pack/b.py": ""})
    shared = project.parent / "shared"
    assert paths(collect_modules([shared / "plain"])) == ["mine_a.py", "plain/mine_a.py"]
    assert paths(collect_modules([shared / "pack"])) == ["pack/__init__.py", "pack/b.py"]
    assert paths(collect_modules([shared / "pack" / "b.py"])) == ["b.py"]


def test_listed_module_names_bring_what_they_name(project: Path) -> None:
    """Local ones, namespace packages, and installed ones that the user wants to travel."""
    write(
        project,
        {"mine/__init__.py": "", "mine/a.py": "", "mine_b.py": "", "mine_space/x.txt": "", "mine_space/y.py": ""},
    )
    os.chdir(project.parent)
    assert paths(collect_modules(["mine.a", "mine_b"])) == ["mine/__init__.py", "mine/a.py", "mine_b.py"]
    assert paths(collect_modules(["mine_space"])) == ["mine_space/x.txt", "mine_space/y.py"]
    assert "tabulate/__init__.py" in paths(collect_modules(["tabulate"]))


# The staged folder


def test_the_staged_folder_works_as_one_entry_of_the_path(project: Path, tmp_path: Path) -> None:
    """In another process, with the source gone; the executable bit stays."""
    write(
        project,
        {"mine/__init__.py": "from . import a", "mine/a.py": "import mine_b", "mine_b.py": "X = 7", "mine/run.sh": ""},
    )
    (project / "mine" / "run.sh").chmod(0o755)
    staged = tmp_path / "staged"
    stage_modules(staged, find_modules(["mine"]))
    assert os.access(staged / "mine/run.sh", os.X_OK) and not os.access(staged / "mine_b.py", os.X_OK)
    project.rename(tmp_path / "moved")
    code = f"import sys; sys.path.insert(0, {str(staged)!r}); import mine; print(mine.a.mine_b.X)"
    result = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert result.stdout == "7\n"


def test_what_is_downloaded_makes_itself_importable(client: Client, project: Path, tmp_path: Path) -> None:
    """As in Verta: `import _verta_config` where it was unpacked; the user's own `__init__.py` stays."""
    write(project, {"mine.py": "X = 7", "__init__.py": "Y = 8"})
    run = client.set_experiment_run()
    run.log_model(len, custom_modules=["mine.py", "__init__.py"])
    folder = run.download_artifact("custom_modules", str(tmp_path / "unpacked"))
    assert (tmp_path / "unpacked" / "__init__.py").read_text() == "Y = 8"
    code = "import _verta_config, os, mine; print(mine.X, os.getcwd())"
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert result.stdout == f"7 {os.path.realpath(folder)}\n"
    run.log_model(len, custom_modules=[], overwrite=True)
    assert set(zipfile.ZipFile(run.get_artifact("custom_modules")).namelist()) == {"_verta_config.py", "__init__.py"}


def test_staging_nothing_makes_an_empty_folder(tmp_path: Path) -> None:
    """Which is stored all the same: the record says that nothing travels."""
    stage_modules(str(tmp_path / "staged"), FoundModules(()))
    assert list((tmp_path / "staged").iterdir()) == []
