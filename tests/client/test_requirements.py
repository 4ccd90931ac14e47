"""Requirements become exact pins, and an environment says what it lacks of them."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from verta_local import __version__
from verta_local.installed import UnmetPin, missing_requirements, unmet_pins
from verta_local.requirements import pin_requirements

NUMPY = f"numpy=={importlib.metadata.version('numpy')}"
CLOUDPICKLE = f"cloudpickle=={importlib.metadata.version('cloudpickle')}"
INJECTED = [f"verta_local=={__version__}", CLOUDPICKLE]


def install_stub(folder: Path, name: str, version: str, module: str, top_level: bool) -> None:
    """Make a distribution as pip leaves it: a module, METADATA, a RECORD; top_level.txt from old tools."""
    information = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    information.mkdir(parents=True)
    (folder / f"{module}.py").write_text("raise AssertionError('imported to find out its distribution')\n")
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (information / "RECORD").write_text(f"{module}.py,,\n{information.name}/METADATA,,\n")
    if top_level:
        (information / "top_level.txt").write_text(f"{module}\n")


def test_exact_pins_stay_as_given_and_ours_are_added() -> None:
    """Also versions that are not installed here, extras and blanks."""
    assert pin_requirements(["annoy==1.17.3", "Some_Lib[b,a] == 2.0"]) == [
        "annoy==1.17.3",
        "Some_Lib[a,b]==2.0",
        *INJECTED,
    ]
    assert pin_requirements([]) == INJECTED


@pytest.mark.parametrize("requirement", ["numpy", "numpy>=1.0", "numpy~=1.0", "numpy==1.*", "numpy<1"])
def test_without_exact_version_the_installed_one_is_pinned_with_a_warning(requirement: str) -> None:
    """One warning a call that names what was replaced."""
    with pytest.warns(UserWarning, match=f"{requirement.split('*')[0]}.*{NUMPY}") as caught:
        assert pin_requirements([requirement]) == [NUMPY, *INJECTED]
    assert len(caught) == 1


@pytest.mark.parametrize("requirement", ["a b", "==1.0", "numpy==", "ümlaut==1", "../x"])
def test_a_bad_name_is_a_value_error_that_shows_it(requirement: str) -> None:
    """With the form that is wanted."""
    with pytest.raises(ValueError, match="is not a requirement; write it as"):
        pin_requirements([requirement])


def test_a_requirement_that_is_not_installed_needs_a_version() -> None:
    """The message says what to do."""
    with pytest.raises(ValueError, match=r"'no-such-thing' .*not installed here; install it, or write it as"):
        pin_requirements(["no-such-thing"])
    with pytest.raises(ValueError, match="'json' is a part of Python's standard library"):
        pin_requirements(["json"])


@pytest.mark.parametrize("wrong", [None, 3, {"numpy": "1"}, [3], [None], [["numpy"]]])
def test_another_type_is_a_type_error(wrong: object) -> None:
    """A list of str or a path, nothing else."""
    with pytest.raises(TypeError, match="requirements must be a list of str"):
        pin_requirements(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("top_level", [True, False])
def test_an_import_name_becomes_the_distribution_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top_level: bool
) -> None:
    """As sklearn does scikit-learn, without importing it, with and without top_level.txt."""
    install_stub(tmp_path, "scikit-stub", "1.4.2", "skstub", top_level)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match="'skstub' to scikit-stub==1.4.2"):
        assert pin_requirements(["skstub"])[0] == "scikit-stub==1.4.2"
    assert pin_requirements(["skstub==1.3"])[0] == "scikit-stub==1.3"
    with pytest.warns(UserWarning, match=r"scikit_stub==1\.4\.2"):
        assert pin_requirements(["scikit_stub"])[0] == "scikit_stub==1.4.2"


def test_an_import_name_that_two_distributions_bring_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As google or cv2 can be: guessing would pin the wrong one."""
    install_stub(tmp_path, "cv-plain", "1.0", "cvstub", True)
    install_stub(tmp_path, "cv-headless", "1.0", "cvstub", True)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="several installed distributions, cv-headless, cv-plain"):
        pin_requirements(["cvstub"])


def test_verta_itself_is_left_out_with_a_warning() -> None:
    """On PyPI the name is another project's today; an old notebook lists it all the same."""
    with pytest.warns(UserWarning, match="'verta==0.14.1' is left out"):
        assert pin_requirements(["verta==0.14.1", NUMPY]) == [NUMPY, *INJECTED]


@pytest.mark.parametrize("requirement", ["cloudpickle==0.1", "verta-local==99", "cloudpickle<1", "Verta_Local>99"])
def test_another_version_of_an_injected_one_is_refused(requirement: str) -> None:
    """It could not be true: this version writes the model."""
    with pytest.raises(ValueError, match=r"contradicts .* which logs this run; leave it out"):
        pin_requirements([requirement])


@pytest.mark.parametrize("requirement", ["cloudpickle", CLOUDPICKLE, "verta_local", INJECTED[0], "cloudpickle>=1"])
def test_an_injected_one_that_agrees_is_recorded_once(requirement: str) -> None:
    """And without a warning: it was not the user's choice."""
    assert pin_requirements([requirement, NUMPY]) == [NUMPY, *INJECTED]


def test_a_name_given_twice_must_agree() -> None:
    """Names are compared as pip compares them."""
    assert pin_requirements(["my-lib==1", "my-lib == 1"]) == ["my-lib==1", *INJECTED]
    with pytest.raises(ValueError, match="'my-lib' is given twice: as my-lib==1 and as My_Lib==2"):
        pin_requirements(["my-lib==1", "My_Lib==2"])


def test_a_marker_for_another_platform_drops_the_line() -> None:
    """As pip does; one for this platform is evaluated here and not kept."""
    given = ["old-lib==1; python_version < '3'", "my-lib==1; python_version >= '3'"]
    assert pin_requirements(given) == ["my-lib==1", *INJECTED]


def test_a_file_loses_comments_options_and_addresses(tmp_path: Path) -> None:
    """Hashes and continued lines too; `-r` is followed, also in a circle."""
    (tmp_path / "base.txt").write_text("base-lib==2\n-r requirements.txt\n")
    file = tmp_path / "requirements.txt"
    file.write_text(
        "\ufeff# all we need\n\n--index-url https://user:secret@host/simple\n-c constraints.txt\n"
        "annoy==1.17.3  # nearest neighbours\nmy-lib==1 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n"
        "-r base.txt\nurl-lib==1#not-a-comment\n",
        encoding="utf-8",
    )
    with pytest.raises(ValueError, match="'url-lib==1#not-a-comment' is not a requirement"):
        pin_requirements(file)
    file.write_text(file.read_text(encoding="utf-8").replace("url-lib==1#not-a-comment\n", ""), encoding="utf-8")
    for path in (file, str(file)):
        assert pin_requirements(path) == ["annoy==1.17.3", "my-lib==1", "base-lib==2", *INJECTED]


@pytest.mark.parametrize(
    "line",
    ["git+https://user:secret@host/x.git", "-e .", "https://user:secret@host/x.whl", "--editable ../x"],
)
def test_an_address_is_left_out_with_a_warning_that_hides_passwords(line: str) -> None:
    """It names no distribution, but the model may need it."""
    with pytest.warns(UserWarning, match="is left out: it names no distribution") as caught:
        assert pin_requirements([line, "# comment", "", "my-lib==1\n"]) == ["my-lib==1", *INJECTED]
    assert "secret" not in str(caught[0].message)


def test_a_name_at_an_address_is_pinned_to_what_is_installed() -> None:
    """As `pip freeze` writes it for conda's builds."""
    with pytest.warns(UserWarning, match="pinned to the installed version"):
        assert pin_requirements(["numpy @ file:///croot/numpy/work"]) == [NUMPY, *INJECTED]
    with pytest.raises(ValueError, match="not installed here") as caught:
        pin_requirements(["my-lib @ https://user:secret@host/x.whl"])
    assert "secret" not in str(caught.value)


def test_a_missing_file_is_a_file_not_found_error(tmp_path: Path) -> None:
    """And so is a directory; bytes that are no text are a ValueError."""
    with pytest.raises(FileNotFoundError, match="there is no requirements file"):
        pin_requirements(tmp_path / "none.txt")
    with pytest.raises(FileNotFoundError, match="is a directory"):
        pin_requirements(str(tmp_path))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not text in UTF-8"):
        pin_requirements(tmp_path / "binary.txt")


def test_unmet_pins_say_what_is_there_instead() -> None:
    """What is met is not listed."""
    pins = [NUMPY, "numpy==0.1", "no-such-thing==1.0", "Flask==0.0.1; python_version < '3'"]
    assert unmet_pins(pins) == [
        UnmetPin("numpy==0.1", importlib.metadata.version("numpy")),
        UnmetPin("no-such-thing==1.0", None),
    ]
    assert missing_requirements(pins) == [
        f"numpy==0.1 ({importlib.metadata.version('numpy')} is installed)",
        "no-such-thing==1.0 (not installed)",
    ]


def test_a_local_version_satisfies_the_public_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.1.0+cpu is torch 2.1.0, but not the other way round; old forms are compared as text."""
    install_stub(tmp_path, "torch-stub", "2.1.0+cpu", "torchstub", False)
    install_stub(tmp_path, "old-stub", "2004-beta-x", "oldstub", False)
    monkeypatch.syspath_prepend(tmp_path)
    assert missing_requirements(["torch-stub==2.1.0", "torch-stub==2.1.0+cpu"]) == []
    assert missing_requirements(["torch-stub==2.1.0+cu121"]) != []
    assert missing_requirements(["old-stub==1.0"]) == ["old-stub==1.0 (2004-beta-x is installed)"]


def test_our_own_pins_do_not_make_a_model_undeployable() -> None:
    """A model logged by another patch version of ours, or by an older cloudpickle, still deploys."""
    assert missing_requirements(["verta_local==0.0.1", "verta-local==9.9.9", "cloudpickle==2.2.0"]) == []
    assert missing_requirements(["cloudpickle==99.0"]) != []


def test_importing_the_module_does_not_import_packaging() -> None:
    """Start-up time."""
    code = "import sys, verta_local.requirements as e\nassert 'packaging' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


def test_pins_are_stable() -> None:
    """What was pinned once comes back as it is, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        once = pin_requirements([NUMPY, "annoy==1.17.3"])
        assert pin_requirements(once) == once
