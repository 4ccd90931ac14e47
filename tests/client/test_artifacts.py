"""Artifacts of a run: files, folders, streams and objects go in and come out; bad ones leave nothing behind."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import socket
import tarfile
import zipfile
from pathlib import Path

import pytest

from verta_local import Client
from verta_local.errors import LoadError
from verta_local.run import ExperimentRun
from verta_store.errors import CorruptObject, MissingObject


@pytest.fixture
def run(client: Client) -> ExperimentRun:
    return client.set_experiment_run()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    top = tmp_path / "saved_model"
    (top / "assets").mkdir(parents=True)
    (top / "variables").mkdir()
    (top / "saved_model.pb").write_bytes(b"graph")
    (top / "variables" / "data.bin").write_bytes(os.urandom(100_000))
    (top / "empty").write_bytes(b"")
    (top / "run.sh").write_text("#!/bin/sh\n")
    (top / "run.sh").chmod(0o755)
    return top


def stored_files(client: Client) -> set[str]:
    root = Path(client.store_path)
    return {str(p) for part in ("objects", "trees", "tmp") for p in (root / part).rglob("*") if p.is_file()}


def test_a_file_keeps_its_name_and_is_not_copied_again(run: ExperimentRun, client: Client, tmp_path: Path) -> None:
    source = tmp_path / "index.ann"
    source.write_bytes(os.urandom(200_000))
    run.log_artifact("nearest_neighbor_index", str(source))
    path = run.fetch_artifacts(["nearest_neighbor_index"])["nearest_neighbor_index"]
    assert os.path.basename(path) == "index.ann"
    assert Path(path).read_bytes() == source.read_bytes()
    assert path.startswith(client.store_path)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    blob = Path(client.store_path, "objects", "sha256", digest[:2], digest[2:])
    assert os.path.samefile(path, blob)
    assert run.fetch_artifacts(["nearest_neighbor_index"]) == {"nearest_neighbor_index": path}


def test_a_folder_comes_as_a_folder_with_its_empty_ones(run: ExperimentRun, folder: Path) -> None:
    run.log_artifact("tensorflow_saved_model", f"{folder}/")
    path = Path(run.fetch_artifacts(["tensorflow_saved_model"])["tensorflow_saved_model"])
    assert (path / "assets").is_dir() and not list((path / "assets").iterdir())
    assert (path / "variables" / "data.bin").read_bytes() == (folder / "variables" / "data.bin").read_bytes()
    assert (path / "empty").read_bytes() == b""
    assert os.access(path / "run.sh", os.X_OK) and not os.access(path / "saved_model.pb", os.X_OK)


def test_what_was_logged_does_not_change_with_its_source(run: ExperimentRun, folder: Path) -> None:
    run.log_artifact("model", str(folder))
    (folder / "saved_model.pb").write_bytes(b"other")
    (folder / "variables" / "data.bin").unlink()
    path = Path(run.fetch_artifacts(["model"])["model"])
    assert (path / "saved_model.pb").read_bytes() == b"graph"
    assert (path / "variables" / "data.bin").exists()


def test_a_stored_file_cannot_be_written(run: ExperimentRun, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"content")
    run.log_artifact("a", str(tmp_path / "a.bin"))
    path = run.fetch_artifacts(["a"])["a"]
    assert os.stat(path).st_mode & 0o222 == 0


def test_streams_are_read_from_their_start(run: ExperimentRun, tmp_path: Path) -> None:
    (tmp_path / "reviews.ann").write_bytes(b"binary")
    with open(tmp_path / "reviews.ann", "rb") as stream:
        stream.read(3)
        run.log_artifact("nn_index", stream)
    run.log_artifact("text", io.StringIO("grüße"))
    run.log_artifact("bytes", io.BytesIO(b"raw"))
    path = run.fetch_artifacts(["nn_index"])["nn_index"]
    assert os.path.basename(path) == "reviews.ann"
    assert run.get_artifact("nn_index").read() == b"binary"
    assert run.get_artifact("text").read() == "grüße".encode()
    assert run.get_artifact("bytes").read() == b"raw"


def test_objects_come_back_as_objects(run: ExperimentRun) -> None:
    value = {"weights": [1.5, None], "of": ("a", {"b"})}
    run.log_artifact("object", value)
    assert run.get_artifact("object") == value
    assert run.fetch_artifacts(["object"])["object"].endswith("/object.pkl")


def test_a_folder_read_as_artifact_is_a_zip(run: ExperimentRun, folder: Path) -> None:
    run.log_artifact("model", str(folder))
    with zipfile.ZipFile(run.get_artifact("model")) as archive:
        assert archive.read("saved_model.pb") == b"graph"
        assert "assets/" in archive.namelist()


def test_only_the_text_of_a_path_can_be_logged(run: ExperimentRun) -> None:
    run.log_artifact_path("elsewhere", "s3://bucket/key")
    assert run.get_artifact("elsewhere") == "s3://bucket/key"
    with pytest.raises(ValueError, match="only the path"):
        run.download_artifact("elsewhere", "x")


def test_a_download_is_checked_complete_and_writable(run: ExperimentRun, folder: Path, tmp_path: Path) -> None:
    run.log_artifact("model", str(folder))
    run.log_artifact("graph", str(folder / "saved_model.pb"))
    target = tmp_path / "new" / "deep" / "copy"
    assert run.download_artifact("model", str(target)) == str(target)
    assert sorted(os.listdir(target)) == sorted(os.listdir(folder))
    (target / "saved_model.pb").write_bytes(b"mine")
    assert run.download_artifact("graph", str(target / "saved_model.pb")) == str(target / "saved_model.pb")
    assert (target / "saved_model.pb").read_bytes() == b"graph"
    assert os.access(target / "run.sh", os.X_OK)


def test_archives_come_unpacked(run: ExperimentRun, folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bundle.tar.gz", "w:gz") as archive:
        archive.add(folder, arcname=".")
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as packed:
        packed.write(folder / "saved_model.pb", "sub/saved_model.pb")
    for name in ("bundle.tar.gz", "bundle.zip"):
        run.log_artifact(name.replace(".", "_"), str(tmp_path / name))
    found = run.fetch_artifacts(["bundle_tar_gz", "bundle_zip"])
    assert Path(found["bundle_tar_gz"], "saved_model.pb").read_bytes() == b"graph"
    assert Path(found["bundle_tar_gz"], "assets").is_dir()
    assert Path(found["bundle_zip"], "sub", "saved_model.pb").read_bytes() == b"graph"
    assert run.fetch_artifacts(["bundle_zip"])["bundle_zip"] == found["bundle_zip"]


# -- bad input -----------------------------------------------------------------------------------------------------


def test_a_missing_path_is_a_file_not_found_error(run: ExperimentRun, client: Client) -> None:
    with pytest.raises(FileNotFoundError, match="nope"):
        run.log_artifact("key", "nope/nothing")
    assert run.get_artifact_keys() == [] and stored_files(client) == set()


def test_empty_content_is_a_value_error(run: ExperimentRun, client: Client, tmp_path: Path) -> None:
    (tmp_path / "empty.bin").write_bytes(b"")
    for empty in (str(tmp_path / "empty.bin"), io.BytesIO(), io.StringIO("")):
        with pytest.raises(ValueError, match="object contains no data"):
            run.log_artifact("key", empty)
    assert run.get_artifact_keys() == []


@pytest.mark.parametrize("key", ["custom_modules", "model.pkl".replace(".", "_"), "train_data", "setup_script"])
def test_reserved_keys_are_refused(run: ExperimentRun, key: str) -> None:
    if key == "model_pkl":
        run.log_artifact(key, b"free")  # only the exact names are reserved
        return
    with pytest.raises(ValueError, match=r"please use a different key$"):
        run.log_artifact(key, b"x")


def test_a_duplicate_key_is_refused_before_the_bytes_are_read(run: ExperimentRun, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("first")
    (tmp_path / "b").write_text("second")
    run.log_artifact("key", str(tmp_path / "a"))
    with pytest.raises(ValueError, match="consider setting overwrite=True"):
        run.log_artifact("key", "not/even/there")
    assert run.get_artifact("key").read() == b"first"
    run.log_artifact("key", str(tmp_path / "b"), overwrite=True)
    assert run.get_artifact("key").read() == b"second"


def test_an_absent_key_is_a_key_error(run: ExperimentRun) -> None:
    run.log_artifact("there", {"a": 1})
    for read in (run.get_artifact, lambda key: run.download_artifact(key, "x")):
        with pytest.raises(KeyError, match=r"absent.*there"):
            read("absent")


def test_fetching_what_is_no_list_or_was_not_logged(run: ExperimentRun) -> None:
    for keys in ("key", [1], None):
        with pytest.raises(TypeError):
            run.fetch_artifacts(keys)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"not been logged: \['a', 'b'\]"):
        run.fetch_artifacts(["b", "a"])


def test_what_is_neither_file_nor_folder_is_refused_at_once(run: ExperimentRun, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    inside = tmp_path / "inside"
    inside.mkdir()
    os.mkfifo(inside / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(inside / "s"))
        for path in (tmp_path / "fifo", inside):
            with pytest.raises(ValueError, match=r"fifo|s is"):
                run.log_artifact("key", str(path))
    assert run.get_artifact_keys() == []


def test_an_object_that_cannot_be_pickled_is_a_type_error(run: ExperimentRun) -> None:
    with socket.socket() as sock, pytest.raises(TypeError, match="save it to a file"):
        run.log_artifact("key", sock)
    assert run.get_artifact_keys() == []


class Canary:
    """Unpickling it leaves a trace."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (self.path,))


def test_a_damaged_pickle_is_refused_before_it_is_unpickled(run: ExperimentRun, client: Client, tmp_path: Path) -> None:
    run.log_artifact("object", {"a": 1})
    trace = tmp_path / "trace"
    (blob,) = [path for path in Path(client.store_path, "objects").rglob("*") if path.is_file()]
    blob.chmod(0o644)
    blob.write_bytes(pickle.dumps(Canary(str(trace))))
    with pytest.raises(CorruptObject, match="damaged"):
        run.get_artifact("object")
    with pytest.raises(CorruptObject):
        run.fetch_artifacts(["object"])
    with pytest.raises(CorruptObject):
        run.download_artifact("object", str(tmp_path / "out"))
    assert not trace.exists() and not (tmp_path / "out").exists()


def test_logging_again_mends_a_damaged_artifact(run: ExperimentRun, client: Client) -> None:
    run.log_artifact("object", {"a": 1})
    path = Path(run.fetch_artifacts(["object"])["object"])
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(CorruptObject):
        run.get_artifact("object")
    run.log_artifact("object", {"a": 1}, overwrite=True)
    assert run.get_artifact("object") == {"a": 1}
    assert Path(run.fetch_artifacts(["object"])["object"]).read_bytes() != b"x" * 10


def test_a_vanished_blob_is_named(run: ExperimentRun, client: Client) -> None:
    run.log_artifact("object", {"a": 1})
    for path in Path(client.store_path, "objects").rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(MissingObject, match="log the artifact again"):
        run.get_artifact("object")


def test_a_users_own_pickle_that_does_not_load_comes_as_bytes(run: ExperimentRun, tmp_path: Path) -> None:
    (tmp_path / "broken.pkl").write_bytes(b"no pickle at all")
    run.log_artifact("broken", str(tmp_path / "broken.pkl"))
    assert run.get_artifact("broken").read() == b"no pickle at all"
    assert issubclass(LoadError, RuntimeError)


def test_the_bytes_of_a_pickle_come_back_as_the_object_whatever_their_name(run: ExperimentRun, tmp_path: Path) -> None:
    for protocol in (2, 5):
        run.log_artifact(f"stream/{protocol}", io.BytesIO(pickle.dumps({"a": 1}, protocol)))
        assert run.get_artifact(f"stream/{protocol}") == {"a": 1}
    (tmp_path / "data.bin").write_bytes(b"\x80\x04 no pickle.")
    run.log_artifact("other", str(tmp_path / "data.bin"))
    assert run.get_artifact("other").read() == b"\x80\x04 no pickle."


def test_an_archive_with_a_file_of_torchs_name_comes_as_bytes_where_it_is_none(
    run: ExperimentRun, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/data.pkl", b"no pickle")
    run.log_artifact("a", str(tmp_path / "a.zip"))
    assert run.get_artifact("a").read() == (tmp_path / "a.zip").read_bytes()


def test_what_is_downloaded_goes_to_a_path_that_can_be_one(run: ExperimentRun, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "inside").write_text("x")
    run.log_artifact("file", io.BytesIO(b"x"))
    run.log_artifact("folder", str(folder))
    with pytest.raises(IsADirectoryError, match="is a folder; give the path of the file"):
        run.download_artifact("file", str(folder))
    with pytest.raises(FileExistsError, match="is a file, and a folder was logged"):
        run.download_artifact("folder", str(folder / "inside"))
    with pytest.raises(TypeError, match="must be a path, not int"):
        run.download_artifact("file", 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is empty"):
        run.download_artifact("file", "")
    assert [path.name for path in tmp_path.rglob("*part*")] == []
