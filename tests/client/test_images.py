"""Images of all kinds go in and come back as Pillow images, or as bytes where they are none."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path

import pytest

from verta_local import Client
from verta_local.run import ExperimentRun

PIL_Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def run(client: Client) -> ExperimentRun:
    return client.set_experiment_run()


@pytest.fixture
def png(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    PIL_Image.new("RGB", (3, 2), "red").save(path)
    return path


def test_a_path_and_a_file_are_stored_as_they_are(run: ExperimentRun, png: Path) -> None:
    run.log_image("path", str(png))
    with png.open("rb") as file:
        run.log_image("file", file)
    for key in ("path", "file"):
        assert run.get_image(key).size == (3, 2)
        assert run.get_artifact(key).read() == png.read_bytes()
    assert run.artifact_file_name("path") == "red.png"


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1", "P"])
def test_a_pillow_image_comes_back_equal(run: ExperimentRun, mode: str) -> None:
    image = PIL_Image.effect_mandelbrot((20, 10), (-2, -1, 1, 1), 10).convert(mode)
    run.log_image("image", image)
    found = run.get_image("image")
    assert (found.format, found.mode) == ("PNG", mode)
    assert found.tobytes() == image.tobytes()


@pytest.mark.parametrize(("color", "mode"), [("white", "RGB"), ((0, 0, 0, 0), "RGBA"), (255, "L")])
def test_an_image_that_is_white_all_over_is_warned_of(run: ExperimentRun, color: object, mode: str) -> None:
    with pytest.warns(UserWarning, match="blank .white all over") as caught:
        run.log_image("image", PIL_Image.new(mode, (4, 4), color))
    assert caught[0].filename == __file__
    assert run.get_image("image").size == (4, 4)


def test_figures_are_stored_as_png(run: ExperimentRun) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Matplotlib's own, of its own dependencies
        from matplotlib import pyplot
    figure = pyplot.figure(figsize=(1, 1))
    pyplot.plot([1, 2, 3])
    run.log_image("pyplot", pyplot)
    run.log_image("figure", figure)
    pyplot.close()
    with pytest.warns(UserWarning, match="blank .white all over"):
        run.log_image("blank", pyplot)
    pyplot.close()
    assert run.get_image("pyplot").tobytes() == run.get_image("figure").tobytes()
    assert run.artifact_file_name("figure") == "figure.png"


def test_any_other_object_is_pickled_and_what_is_no_image_comes_as_bytes(run: ExperimentRun) -> None:
    run.log_image("object", {"a": 1})
    assert isinstance(run.get_image("object"), io.BytesIO)
    assert run.get_artifact("object") == {"a": 1}


def test_without_pillow_the_bytes_come(run: ExperimentRun, png: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.log_image("image", str(png))
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert run.get_image("image").read() == png.read_bytes()


def test_of_a_path_only_its_text_is_stored(run: ExperimentRun) -> None:
    run.log_image_path("key", "/somewhere/else.png")
    assert run.get_image("key") == run.get_artifact("key") == "/somewhere/else.png"
    with pytest.raises(TypeError, match="image_path"):
        run.log_image_path("other", 1)  # type: ignore[arg-type]


def test_errors_are_those_of_artifacts(run: ExperimentRun, png: Path) -> None:
    run.log_image("key", str(png))
    with pytest.raises(ValueError, match="consider setting overwrite=True"):
        run.log_image("key", str(png))
    run.log_image("key", PIL_Image.new("RGB", (1, 1), "blue"), overwrite=True)
    assert run.get_image("key").size == (1, 1)
    with pytest.raises(ValueError, match=r"please use a different key$"):
        run.log_image("train_data", str(png))
    with pytest.raises(FileNotFoundError):
        run.log_image("other", "nowhere.png")
    with pytest.raises(KeyError):
        run.get_image("absent")
