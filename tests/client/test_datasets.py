"""Datasets: versions of files whose content is known again, and given back; what a run was made from."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any

import pytest

from verta_local import Client
from verta_local.dataset import HDFS, Component, Path, Query
from verta_local.dataset.entities import Dataset, Datasets, DatasetVersion
from verta_store import fsck, gc


@pytest.fixture
def data(tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch) -> FilePath:
    """The current folder, with `data/train.csv`, `data/deep/test.csv` and `single.txt`."""
    (tmp_path / "work" / "data" / "deep").mkdir(parents=True)
    (tmp_path / "work" / "data" / "train.csv").write_text("1,2\n")
    (tmp_path / "work" / "data" / "deep" / "test.csv").write_text("3,4\n5,6\n")
    (tmp_path / "work" / "single.txt").write_text("one")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_the_same_name_is_the_same_dataset(client: Client) -> None:
    dataset = client.set_dataset("reviews", desc="texts", tags=["t"], attrs={"rows": 3})
    assert (dataset.name, dataset.get_description(), dataset.get_tags()) == ("reviews", "texts", ["t"])
    assert dataset.get_attributes() == {"rows": 3}
    assert client.get_or_create_dataset("reviews") == dataset == client.set_dataset(id=dataset.id)
    assert client.get_dataset("reviews") == client.get_dataset(id=dataset.id) == dataset
    with pytest.warns(UserWarning, match="already exists; cannot set desc"):
        client.set_dataset("reviews", desc="others")
    assert [each.id for each in client.datasets] == [dataset.id]


def test_create_wants_a_new_name_and_get_one_that_is_there(client: Client) -> None:
    client.create_dataset("reviews")
    with pytest.raises(ValueError, match=r"409.*already exists"):
        client.create_dataset("reviews")
    for arguments in ({}, {"name": "absent"}, {"id": "absent"}, {"name": "reviews", "id": "x"}):
        with pytest.raises(ValueError):
            client.get_dataset(**arguments)
    assert client.create_dataset().name != client.create_dataset().name


def test_the_type_of_first_clients_is_a_word(client: Client) -> None:
    assert client.set_dataset("a", type="s3").type == "s3"
    assert client.set_dataset("b").type == "local"
    with pytest.raises(ValueError, match="one of"):
        client.set_dataset("c", type="tape")
    assert len(client.datasets) == 2


@pytest.mark.parametrize("make", ["dataset", "version"])
def test_tags_attributes_and_description_can_be_changed(client: Client, data: FilePath, make: str) -> None:
    entity: Any = client.set_dataset("d")
    if make == "version":
        entity = entity.create_version(Path("single.txt"), desc="v", tags="a", attrs={"k": [1]})
        assert (entity.get_description(), entity.get_tags(), entity.get_attributes()) == ("v", ["a"], {"k": [1]})
        entity.del_tag("a")
        entity.del_attribute("k")
    entity.set_description("new")
    entity.add_tag("b")
    entity.add_tags(["c", "b"])
    entity.del_tag("absent")
    entity.add_attribute("k", 1)
    with pytest.raises(ValueError, match="overwrite=True"):
        entity.add_attribute("k", 2)
    entity.add_attributes({"k": 2, "j": None}, overwrite=True)
    assert entity.get_description() == "new"
    assert entity.get_tags() == ["b", "c"]
    assert entity.get_attributes() == {"k": 2, "j": None}
    entity.del_attribute("j")
    with pytest.raises(KeyError):
        entity.get_attribute("j")
    with pytest.raises(TypeError):
        entity.add_tag(1)
    with pytest.raises(TypeError):
        entity.set_description(1)


def test_a_folder_is_listed_file_by_file_with_hashes_sizes_and_times(data: FilePath) -> None:
    content = Path("data/")
    assert content.list_paths() == ["data/deep/test.csv", "data/train.csv"]
    component = content.list_components()[1]
    assert component.path == "data/train.csv"
    assert component.size == 4
    assert component.last_modified == os.stat("data/train.csv").st_mtime_ns // 1_000_000
    assert component.md5 == hashlib.md5(b"1,2\n").hexdigest()
    assert component.sha256 == hashlib.sha256(b"1,2\n").hexdigest()
    assert "data/train.csv" in repr(content)


def test_a_base_path_is_left_out_of_the_components(data: FilePath) -> None:
    content = Path(["data/train.csv", "data/deep"], base_path="data/")
    assert content.list_paths() == ["deep/test.csv", "train.csv"]
    assert {component.base_path for component in content.list_components()} == {"data/"}
    with pytest.raises(ValueError, match="base_path"):
        Path("single.txt", base_path="data")
    with pytest.raises(ValueError, match="base_path"):
        Path("data/train.csv", base_path="dat")


def test_contents_add_up_and_no_path_is_in_one_twice(data: FilePath) -> None:
    content = Path("data/train.csv")
    content.add("single.txt")
    both = content + Path("data/deep")
    assert both.list_paths() == ["data/deep/test.csv", "data/train.csv", "single.txt"]
    assert content.list_paths() == ["data/train.csv", "single.txt"]
    with pytest.raises(ValueError, match="already"):
        content.add("data")
    with pytest.raises(ValueError, match="twice"):
        Path(["data", "data/train.csv"])
    with pytest.raises(TypeError):
        content + HDFS()
    with pytest.raises(ValueError, match="enable_mdb_versioning"):
        content + Path("data/deep", enable_mdb_versioning=True)


@pytest.mark.parametrize("paths", [3, None, [1], {"a": 1}])
def test_paths_are_text(paths: Any) -> None:
    with pytest.raises(TypeError):
        Path(paths)


def test_an_absent_path_is_no_content(data: FilePath) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        Path("absent")


def test_versions_are_numbered_and_keep_their_content(client: Client, data: FilePath) -> None:
    dataset = client.set_dataset("d")
    with pytest.raises(ValueError, match="no versions"):
        dataset.get_latest_version()
    first = dataset.create_version(Path("data/train.csv"))
    second = dataset.create_version(Path("data"), date_created=5)
    assert (first.version, second.version) == (1, 2)
    assert (first.parent_id, second.parent_id) == (None, first.id)
    assert second.get_date_created() == 5
    assert dataset.get_latest_version() == second == dataset.versions[0]
    assert dataset.get_version(first.id) == client.get_dataset_version(first.id) == first
    assert first.dataset_id == dataset.id
    assert first.get_content() == Path("data/train.csv")
    assert isinstance(first.get_content(), Path)
    assert second.list_components() == Path("data").list_components()
    assert isinstance(second.list_components()[0], Component)
    assert first.name == "Version 1"
    assert [each.version for each in dataset.versions.find("version == 1")] == [1]
    with pytest.raises(ValueError, match="another dataset"):
        client.set_dataset("e").get_version(first.id)
    with pytest.raises(ValueError):
        client.get_dataset_version(dataset.id)


def test_a_deleted_version_is_gone_and_its_number_is_not_used_again(client: Client, data: FilePath) -> None:
    dataset = client.set_dataset("d")
    dataset.create_version(Path("single.txt"))
    dataset.create_version(Path("single.txt")).delete()
    assert [each.version for each in dataset.versions] == [1]
    assert dataset.create_version(Path("single.txt")).version == 3
    dataset.delete()
    assert len(client.datasets) == 0
    assert len(client.set_dataset("d").versions) == 0


@pytest.mark.parametrize("content", ["data", 3, object()])
def test_content_is_of_our_classes(client: Client, content: Any) -> None:
    with pytest.raises(TypeError, match=r"verta_local\.dataset"):
        client.set_dataset("d").create_version(content)
    assert len(client.set_dataset("d").versions) == 0


def test_a_version_needs_content_and_takes_the_arguments_of_first_clients(client: Client, data: FilePath) -> None:
    dataset = client.set_dataset("d")
    with pytest.raises(ValueError, match="needs content"):
        dataset.create_version()
    assert dataset.create_version(path="data").list_components() == Path("data").list_components()
    asked = dataset.create_version(query="SELECT 1").get_content()
    assert isinstance(asked, Query) and asked.query == "SELECT 1"


def test_a_query_is_kept_without_its_password(client: Client) -> None:
    query = Query("SELECT 1", "postgres://me:secret@host/db", "SELECT {}", [1], 7, 3)
    version = client.set_dataset("d", type="postgres").create_version(query)
    found = version.get_content()
    assert found == query
    assert isinstance(found, Query)
    assert (found.source, found.parameters, found.record_count) == ("postgres://me@host/db", [1], 3)
    assert version.list_components() == []


# -- managed versions --------------------------------------------------------------------------------------------------


def test_managed_content_comes_back_when_the_files_are_gone(client: Client, data: FilePath) -> None:
    content = Path(["data", "single.txt"], enable_mdb_versioning=True)
    version = client.set_dataset("d").create_version(content)
    for name in ("data/train.csv", "data/deep/test.csv", "single.txt"):
        os.unlink(name)
    whole = version.download_content()
    assert whole == str(data / "mdb-data-download")
    assert FilePath(whole, "data", "deep", "test.csv").read_text() == "3,4\n5,6\n"
    assert FilePath(whole, "single.txt").read_text() == "one"
    assert version.download_content() == str(data / "mdb-data-download 1")
    one = version.download_content("data/train.csv")
    assert (one, FilePath(one).read_text()) == (str(data / "train.csv"), "1,2\n")
    assert version.download_content("data/train.csv") == str(data / "train 1.csv")
    part = version.download_content("data/", "new/part")
    assert sorted(os.listdir(part)) == ["deep", "train.csv"]
    assert part == str(data / "new" / "part")
    FilePath(part, "train.csv").write_text("mine")  # what is downloaded may be written
    assert version.download_content("data/deep/test.csv", "t.csv") == str(data / "t.csv")
    with pytest.raises(KeyError, match="no components found"):
        version.download_content("dat")


def test_content_that_is_not_managed_cannot_be_downloaded(client: Client, data: FilePath) -> None:
    version = client.set_dataset("d").create_version(Path("data"))
    with pytest.raises(ValueError, match="enable_mdb_versioning"):
        version.download_content()


def test_a_file_that_changed_since_it_was_listed_makes_no_version(client: Client, data: FilePath) -> None:
    content = Path("data", enable_mdb_versioning=True)
    (data / "data" / "train.csv").write_text("other")
    dataset = client.set_dataset("d")
    with pytest.raises(ValueError, match="changed since"):
        dataset.create_version(content)
    assert len(dataset.versions) == 0


def test_downloaded_paths_stay_in_their_folder(client: Client, data: FilePath) -> None:
    os.chdir(data / "data")
    content = Path(["../single.txt", str(data / "data" / "train.csv")], enable_mdb_versioning=True)
    version = client.set_dataset("d").create_version(content)
    target = FilePath(version.download_content(download_to_path=str(data / "out")))
    found = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert found == sorted(["single.txt", str(data / "data" / "train.csv").lstrip("/")])


def test_managed_bytes_stay_through_a_collection_and_damage_names_the_version(client: Client, data: FilePath) -> None:
    version = client.set_dataset("d").create_version(Path(["data", "single.txt"], enable_mdb_versioning=True))
    gc.collect(client._store, grace_s=0, is_alone=True)
    assert version.download_content("single.txt", "back.txt") == str(data / "back.txt")
    assert fsck.verify(client._store, deep=True).is_clean
    digest = hashlib.sha256(b"one").hexdigest()
    os.unlink(client._store.object_path(f"sha256:{digest}"))
    (problem,) = fsck.verify(client._store).problems
    assert problem.affects == (f"dataset version '1' ({version.id}) key 'files/1'",)


def test_many_processes_make_versions_with_different_numbers(client: Client, data: FilePath) -> None:
    dataset = client.set_dataset("d")
    client.flush()
    code = f"""
from verta_local import Client
from verta_local.dataset import Path
dataset = Client({client.store_path!r}).get_dataset("d")
for _ in range(3):
    dataset.create_version(Path("single.txt"))
"""
    workers = [subprocess.Popen([sys.executable, "-c", code], cwd=data, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert sorted(each.version for each in dataset.versions) == list(range(1, 10))


def test_a_writer_that_dies_makes_a_whole_version_or_none(client: Client, data: FilePath) -> None:
    dataset = client.set_dataset("d")
    client.flush()
    code = f"""
import os
from verta_local import Client
from verta_local.dataset import Path
client = Client({client.store_path!r})
dataset = client.get_dataset("d")
client._store.create = lambda *arguments, **named: os._exit(9)
dataset.create_version(Path("data", enable_mdb_versioning=True))
"""
    died = subprocess.run([sys.executable, "-c", code], cwd=data, stdout=subprocess.DEVNULL)
    assert died.returncode == 9
    assert len(dataset.versions) == 0
    assert dataset.create_version(Path("data", enable_mdb_versioning=True)).version == 2
    assert fsck.verify(client._store, deep=True).is_clean


# -- on runs -----------------------------------------------------------------------------------------------------------


def test_a_run_says_which_version_it_was_made_from(client: Client, data: FilePath) -> None:
    version = client.set_dataset("d").create_version(Path("single.txt"))
    other = client.set_dataset("d").create_version(Path("data"))
    run = client.set_experiment_run()
    run.log_dataset_version("train", version)
    with pytest.raises(ValueError, match="overwrite=True"):
        run.log_dataset_version("train", other)
    run.log_dataset_version("train", other, overwrite=True)
    run.log_dataset("test", version)
    assert run.get_dataset_version("train") == other
    assert run.get_dataset_versions() == {"train": other, "test": version}
    assert run.get_dataset("test") == version
    with pytest.raises(KeyError):
        run.get_dataset_version("absent")
    for wrong in ("text", client.set_dataset("d"), run):
        with pytest.raises(TypeError, match="DatasetVersion"):
            run.log_dataset_version("wrong", wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no content of its own"):
        run.log_dataset("wrong", client.set_dataset("d"))


def test_first_clients_log_files_and_objects_as_datasets(client: Client, data: FilePath) -> None:
    run = client.set_experiment_run()
    run.log_dataset("file", "single.txt")
    run.log_dataset("object", {"rows": [1, 2]})
    run.log_dataset_path("place", "/mnt/data")
    assert run.get_dataset("file").read() == b"one"
    assert run.get_dataset("object") == {"rows": [1, 2]}
    assert run.get_dataset("place") == "/mnt/data"


def test_datasets_are_found_by_name_tag_and_attribute(client: Client) -> None:
    a = client.set_dataset("a", tags=["x", "y"], attrs={"rows": 10})
    b = client.set_dataset("b", tags=["x"])
    assert client.datasets.find("attributes.rows > 5")[0] == a
    assert isinstance(client.datasets.find("tags == x"), Datasets)
    assert client.datasets.sort("name")[1] == b
    assert client.find_datasets(tags=["x", "y"]) == [a]
    assert client.find_datasets(name="b") == [b]
    assert client.find_datasets([b.id]) == [b]
    assert client.find_datasets(sort_key="name", ascending=True) == [a, b]
    with pytest.raises(ValueError):
        client.datasets.find("stage == x")
    assert repr(client.datasets) == "<Datasets containing 2 datasets>"
    assert a.id in repr(a)


def test_the_client_brings_none_of_this_until_it_is_used(python: Callable[..., Any]) -> None:
    code = "from verta_local import Client\nClient('s').set_experiment_run().log_metric('m', 1)\nimport sys\nprint([name for name in sys.modules if 'verta_local.dataset' in name])"
    assert python(code).stdout.splitlines()[-1] == "[]"


def test_files_of_a_cluster_are_hashed_by_its_workers() -> None:
    class Table(list):  # type: ignore[type-arg]
        """What the cluster would do: a resilient distributed dataset, here a list."""

        def map(self, function: Callable[..., Any]) -> Table:
            return Table(map(function, self))

        def collect(self) -> list[Any]:
            return list(self)

    class Cluster:
        def binaryFiles(self, path: str) -> Table:
            return Table([(f"{path}/a", b"one")])

    content = HDFS.with_spark(Cluster(), "hdfs://host/data")
    (component,) = content.list_components()
    assert (component.path, component.size) == ("hdfs://host/data/a", 3)
    assert component.sha256 == hashlib.sha256(b"one").hexdigest()
    with pytest.raises(ValueError, match="hdfs://"):
        HDFS.with_spark(Cluster(), "/local")
    assert Path.with_spark(Cluster(), "file:/x").list_paths() == ["file:/x/a"]


def test_the_entities_have_their_place() -> None:
    import verta_local.dataset.entities as entities

    assert entities.Dataset is Dataset and entities.DatasetVersion is DatasetVersion
