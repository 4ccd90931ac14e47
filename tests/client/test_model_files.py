"""Models that are given as files, folders and streams: kept as they are, read by what they hold."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest

from verta_local import Client
from verta_local.loading import load_model
from verta_local.model_formats import file_format
from verta_local.run import ExperimentRun


@pytest.fixture
def run(client: Client) -> ExperimentRun:
    """A run without a model."""
    return client.set_experiment_run("r")


def test_a_path_that_does_not_exist_logs_nothing(run: ExperimentRun, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file or folder 'none\.h5'"):
        run.log_model("none.h5")
    (tmp_path / "empty.h5").touch()
    with pytest.raises(ValueError, match="object contains no data"):
        run.log_model(tmp_path / "empty.h5")
    assert run.get_artifact_keys() == []
    with pytest.raises(KeyError, match="no model in run 'r'"):
        run.get_model()


def test_artifacts_are_for_classes_alone(run: ExperimentRun, tmp_path: Path) -> None:
    """A file is no class; it is said before anything is stored."""
    (tmp_path / "model.bin").write_bytes(b"x")
    run.log_artifact("index", io.BytesIO(b"x"))
    with pytest.raises(ValueError, match="can only be given with a class as the model"):
        run.log_model(str(tmp_path / "model.bin"), artifacts=["index"])
    assert run.get_artifact_keys() == ["index"]


def test_a_users_own_pickle_comes_back_as_its_object(run: ExperimentRun, tmp_path: Path) -> None:
    """One that is damaged as its bytes, and it is said."""
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps({"weights": [1, 2]}))
    run.log_model(tmp_path / "weights.pkl")
    assert run.get_model() == {"weights": [1, 2]}
    with open(tmp_path / "weights.pkl", "rb") as file:
        run.log_model(file, overwrite=True)
    assert run.get_model() == {"weights": [1, 2]}
    run.log_model(io.BytesIO(b"\x80\x04not a pickle"), overwrite=True)
    with pytest.warns(UserWarning, match="it comes back as its bytes"):
        assert run.get_model().read() == b"\x80\x04not a pickle"


def test_a_file_that_holds_no_model_is_not_served(run: ExperimentRun, tmp_path: Path) -> None:
    """With what it is, in one sentence."""
    for content in (b"plain bytes", pickle.dumps([1, 2])):
        (tmp_path / "data.bin").write_bytes(content)
        run.log_model(tmp_path / "data.bin", overwrite=True)
        with pytest.raises(RuntimeError, match=r"the model of run 'r' has no method predict\(data\)"):
            load_model(run.model_spec())


def test_a_pickled_function_in_a_file_is_served(run: ExperimentRun, tmp_path: Path) -> None:
    """As it would be if it were given itself."""
    (tmp_path / "function.pickle").write_bytes(pickle.dumps(len))
    run.log_model(tmp_path / "function.pickle")
    assert load_model(run.model_spec()).predict([1, 2, 3]) == 3


def archive(*names: str) -> bytes:
    """A zip with members of these names."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name in names:
            made.writestr(name, "x")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x89HDF\r\n\x1a\n rest", "hdf5"),
        (archive("config.json", "metadata.json", "model.weights.h5"), "keras"),
        (archive("archive/data.pkl", "archive/version"), "torch"),
        (archive("net/data.pkl", "net/constants.pkl", "net/code/x.py"), "torchscript"),
        (pickle.dumps(1), "pickle"),
        (archive("a.txt"), None),
        (archive("a.txt")[:20], None),
        (b"PK\x03\x04 no archive at all", None),
        (b"", None),
        (b"text", None),
    ],
)
def test_model_files_are_told_apart_by_what_they_hold(data: bytes, expected: str | None) -> None:
    """Not by their names: a stream has none."""
    assert file_format(data) == expected
