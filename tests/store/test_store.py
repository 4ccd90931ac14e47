"""The one door: a store is made once, what is logged is there for every process, and errors are sentences."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forking import fork
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from new_entities import new_run
from test_records import KEY, VALUE, is_same

import verta_store
from verta_store import Store, close_all, description, files, open_store
from verta_store.description import FOLDERS
from verta_store.errors import (
    BadContent,
    BadRecord,
    KeyTaken,
    StoreError,
    StoreFormatError,
    StoreNotFound,
    StoreWriteError,
    UnknownEntity,
)
from verta_store.fsck import verify
from verta_store.journal import list_journals
from verta_store.query import Query

# -- opening and making --------------------------------------------------------------------------------------------


def test_a_store_is_made_on_request_and_describes_itself(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="there is no store in"):
        open_store(tmp_path / "a" / "b", tmp_path / "cache")
    assert not (tmp_path / "a").exists()
    store = open_store(tmp_path / "a" / "b", tmp_path / "cache", create=True)
    assert store.was_created
    said = json.loads((tmp_path / "a" / "b" / "store.json").read_text())
    assert said["format"] == 2 and said["store_id"] == store.id
    assert said["capabilities"] == {"case_sensitive": True, "hard_links": True, "symlinks": True, "modes": True}
    assert set(os.listdir(store.root)) == {*FOLDERS, "store.json"}
    assert not os.listdir(Path(store.root, "tmp"))


def test_one_folder_is_one_store_in_a_process_by_whatever_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "store", tmp_path / "cache", create=True)
    (tmp_path / "link").symlink_to("store")
    monkeypatch.chdir(tmp_path)
    for path in ("store", "./store/../store", tmp_path / "link", str(tmp_path / "store") + "/"):
        assert open_store(path, tmp_path / "cache") is store
    assert pickle.loads(pickle.dumps(store)) is store


def test_a_store_that_was_deleted_and_made_anew_is_another_one(tmp_path: Path) -> None:
    import shutil

    store = open_store(tmp_path / "store", tmp_path / "cache", create=True)
    new_run(store)
    shutil.rmtree(tmp_path / "store")
    again = open_store(tmp_path / "store", tmp_path / "cache", create=True)
    assert again.id != store.id and again.count(Query("run")) == 0
    run = new_run(again)
    assert again.entity(run).name == "first"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 1}', '{"format": "1", "store_id": "x"}', "null",
                                     '{"format": 1, "store_id": 7}', '{"format": 1, "store_id": "../../x"}', "\xff"])  # fmt: skip
def test_a_damaged_description_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr(description, "_FILLED_WITHIN_S", 0.1)
    (tmp_path / "store.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(StoreFormatError, match="not the description of a store") as caught:
        open_store(tmp_path, tmp_path / "cache", create=True)
    assert "\n" not in str(caught.value)


def test_a_newer_format_says_what_to_upgrade(store: Store) -> None:
    path = Path(store.root, "store.json")
    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    verta_store.opening._open_stores.clear()
    with pytest.raises(StoreFormatError, match="pip install --upgrade verta_local"):
        open_store(store.root, store.cache_dir)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreFormatError, match=r"holds other files \(thesis.tex\)"):
        open_store(tmp_path, tmp_path / "cache", create=True)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_path_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError) as caught:
            open_store(path, tmp_path / "cache", create=True)
        assert "\n" not in str(caught.value) and str(tmp_path / "file") in str(caught.value)


def test_the_durability_is_one_of_two(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'normal' or 'full'"):
        open_store(tmp_path / "x", tmp_path, create=True, durability="some")


def test_a_store_without_its_empty_folders_works(store: Store, tmp_path: Path) -> None:
    """As after a copy by a program that leaves empty folders out."""
    for name in FOLDERS:
        folder = Path(store.root, name)
        if folder.exists() and not os.listdir(folder):
            folder.rmdir()
    run = new_run(store)
    ref = store.put_bytes(b"1")
    (tmp_path / "folder").mkdir()
    store.put_tree(tmp_path / "folder")
    store.put(run, "metrics", {"a": 1})
    assert store.values(run, "metrics") == {"a": 1} and store.path_of("blob", ref.digest, "x")
    assert verify(store, deep=True).is_clean


@pytest.mark.parametrize("failure", [errno.EPERM, errno.ENOTSUP])
def test_a_store_can_be_made_where_there_are_no_links_and_no_modes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(failure, os.strerror(failure))

    for name in ("link", "symlink", "chmod"):
        monkeypatch.setattr(os, name, refuse)
    store = open_store(tmp_path / "store", tmp_path / "cache", create=True)
    found = json.loads(Path(store.root, "store.json").read_text())["capabilities"]
    assert found == {"case_sensitive": True, "hard_links": False, "symlinks": False, "modes": False}


def test_a_full_drive_leaves_no_half_made_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for has_links in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", refuse)
            if not has_links:
                patch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
            with pytest.raises(StoreWriteError, match="no space left"):
                open_store(tmp_path / "store", tmp_path / "cache", create=True)
        assert not (tmp_path / "store" / "store.json").exists()
        assert not list((tmp_path / "store" / "tmp").glob("*"))
    assert open_store(tmp_path / "store", tmp_path / "cache", create=True).was_created


def test_the_folders_above_a_new_store_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = files.sync_folder
    monkeypatch.setattr(files, "sync_folder", lambda path: (synced.append(os.fspath(path)), real(path))[1])
    open_store(tmp_path / "a" / "b" / "store", tmp_path / "cache", create=True)
    assert {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b"), str(tmp_path / "a" / "b" / "store")} <= set(
        synced
    )


# -- values, points, tags ------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(KEY.filter(str.isprintable), VALUE, min_size=1, max_size=4))
def test_what_is_logged_comes_back_from_the_index_and_from_another_one(
    store: Store, another: Callable[..., Store], values: dict[str, Any]
) -> None:
    run = store.create("run", None, os.urandom(8).hex()).id
    store.put_all(run, {"metrics": values, "attributes": values})
    for reader in (store, another(store)):
        for section in ("metrics", "attributes"):
            found = reader.values(run, section)
            assert found.keys() == values.keys()
            assert all(is_same(found[key], values[key]) for key in values)
        reader._index.close()


def test_a_key_that_is_taken_is_refused_and_an_overwrite_is_not(store: Store, run: str) -> None:
    store.put(run, "metrics", {"a": 1})
    with pytest.raises(KeyTaken, match="overwrite=True") as caught:
        store.put(run, "metrics", {"b": 2, "a": 2})
    assert caught.value.key == "a"
    assert store.values(run, "metrics") == {"a": 1}, "all or none"
    store.put(run, "metrics", {"b": 2, "a": 2}, overwrite=True)
    assert store.values(run, "metrics") == {"a": 2, "b": 2} and store.conflicts() == []
    store.drop(run, "metrics", ["a", "never there"])
    assert store.values(run, "metrics") == {"b": 2}
    store.put(run, "metrics", {"a": 3})
    assert store.values(run, "metrics") == {"b": 2, "a": 3} and store.conflicts() == []


def test_values_of_several_sections_are_logged_together_or_not_at_all(store: Store, run: str) -> None:
    store.put(run, "attributes", {"a": 1})
    with pytest.raises(KeyTaken):
        store.put_all(run, {"metrics": {"m": 1}, "attributes": {"a": 2}})
    with pytest.raises(BadRecord):
        store.put_all(run, {"metrics": {"m": 1}, "attributes": {"b": object()}})
    assert store.values(run, "metrics") == {} and store.values(run, "attributes") == {"a": 1}
    store.put_all(run, {"metrics": {"m": 1}, "attributes": {"b": 2}})
    assert store.values(run, "metrics") == {"m": 1}


@pytest.mark.parametrize(
    ("value", "stamp", "epoch"),
    [(object(), 0, 0), ([1], 0, 0), ({}, 0, 0), (1.0, 2**63, 0), (1.0, 1.5, 0), (1.0, 0, -(2**63) - 1), (1.0, "0", 0)],
)
def test_a_point_that_no_reader_could_hold_is_refused(
    store: Store, run: str, value: Any, stamp: Any, epoch: Any
) -> None:
    with pytest.raises(BadRecord):
        store.add_points(run, "loss", [(0.5, 0, 0), (value, stamp, epoch)])
    assert store.points(run, "loss") == []


def test_points_keep_their_order_and_number_themselves(store: Store, run: str, another: Callable[..., Store]) -> None:
    store.add_points(run, "loss", [(0.5, 7, None), (math.nan, 6, None), ("text", 5, 9), (True, 4, None)])
    assert [(p.timestamp_ms, p.epoch) for p in store.points(run, "loss")] == [(7, 0), (6, 1), (5, 9), (4, 10)]
    other = another(store)
    other.add_points(run, "loss", [(1, 1, None)])
    assert store.points(run, "loss")[-1].epoch == 11 and store.newest_epoch(run, "loss") == 11
    store.add_points(run, "loss", [(2, 2, None)], overwrite=True)
    assert [(p.value, p.epoch) for p in other.points(run, "loss")] == [(2, 0)]
    assert store.point_keys(run) == ["loss"]


def test_tags_are_a_set_in_order(store: Store, run: str) -> None:
    store.add_tags(run, ["b", "a"])
    store.add_tags(run, ["a", "c"])
    assert store.tags(run) == ["b", "a", "c"]
    store.remove_tags(run, ["b", "never"])
    assert store.tags(run) == ["a", "c"]
    store.add_tags(run, ["b"])
    assert set(store.tags(run)) == {"a", "b", "c"}
    store.add_tags(run, [])


@pytest.mark.parametrize("entity", ["", "x", "../../x", "0" * 36, 'a","k":"delete', "é" * 36])
def test_an_id_that_is_none_never_reaches_a_journal(store: Store, entity: str) -> None:
    with pytest.raises(BadRecord, match="is a UUID"):
        store.put(entity, "metrics", {"a": 1})
    with pytest.raises(UnknownEntity):
        store.entity(entity)
    assert not list_journals(store.root)


# -- entities ------------------------------------------------------------------------------------------------------

NASTY_NAMES = ["../../x", "..\\..\\x", "/etc/passwd", "C:/x", "%2e%2e%2f", "a\0b", "CON", "a:b", "dot.", "~", "-rf",
               "x" * 10_000, "\u202eabc", "", "é", "e\u0301", "<script>", "\x1b[31m", "'; DROP TABLE entities; --", "\n", "日本"]  # fmt: skip


@pytest.mark.parametrize("name", NASTY_NAMES)
def test_any_name_is_data_and_never_a_path(
    store: Store, another: Callable[..., Store], tmp_path: Path, name: str
) -> None:
    run = new_run(store, name, project=name, experiment=name)
    store.put(run, "attributes", {name: name})
    store.add_tags(run, [name])
    for reader in (store, another(store)):
        assert reader.entity(run).name == name
        assert reader.values(run, "attributes") == {name: name} and reader.tags(run) == [name]
        assert new_run(reader, name, project=name, experiment=name) == run
    found = {path.relative_to(store.root).parts[0] for path in Path(store.root).rglob("*")}
    assert found <= {*FOLDERS, "store.json"}
    assert set(os.listdir(tmp_path)) == {"store", "cache", "other-cache"}
    assert all(len(path.name) < 120 and path.name.isascii() for path in Path(store.root).rglob("*"))


def test_names_that_differ_by_accents_only_are_two_entities(store: Store) -> None:
    assert new_run(store, "é") != new_run(store, "e\u0301")


def test_a_name_or_time_that_no_reader_could_hold_is_refused(store: Store) -> None:
    with pytest.raises(BadRecord, match="not valid Unicode"):
        store.create("project", None, "\udcff")
    for at_ms in (2**63, 1.5, "x"):
        with pytest.raises(BadRecord, match="64 bits"):
            store.create("project", None, "x", at_ms=at_ms)  # type: ignore[arg-type]
    assert store.create("project", None, "x", at_ms=-1).created_ms == -1
    assert store.named("project", None, "x") is not None


def test_the_same_name_is_the_same_entity_until_it_is_deleted(store: Store) -> None:
    first = new_run(store)
    assert new_run(store) == first
    store.put(first, "metrics", {"a": 1})
    store.delete(first)
    with pytest.raises(UnknownEntity, match=r"nothing with the id .* was deleted"):
        store.entity(first)
    second = new_run(store)
    assert second != first and store.entity(second).generation == 1
    assert store.values(second, "metrics") == {}
    store.put(second, "metrics", {"a": 2})
    store.delete(second)
    assert store.entity(new_run(store)).generation == 2


def test_a_renamed_entity_gives_its_name_free(store: Store) -> None:
    first = new_run(store, "old")
    store.put(first, "fields", {"name": "new"}, overwrite=True)
    assert store.entity(first).name == "new"
    assert new_run(store, "new") == first
    second = new_run(store, "old")
    assert second != first and store.entity(second).generation == 1
    assert store.entity(first).name == "new"


def test_deleting_a_project_deletes_what_lies_below_it(store: Store, another: Callable[..., Store]) -> None:
    run = new_run(store)
    other = another(store)
    project = other.named("project", None, "project")
    assert project is not None
    other.delete(project.id)
    assert store.count(Query("run")) == 0
    with pytest.raises(UnknownEntity):
        store.entity(run)
    assert new_run(store) != run and store.count(Query("run")) == 1


def test_what_was_logged_to_a_deleted_run_is_not_part_of_its_successor(
    store: Store, another: Callable[..., Store]
) -> None:
    first = new_run(store)
    other = another(store)
    other.delete(first)
    store.put(first, "metrics", {"late": 1})
    second = new_run(store)
    assert second != first and store.values(second, "metrics") == {}


# -- processes -----------------------------------------------------------------------------------------------------


def start(code: str, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, **more)


LOG = """
import os, signal, sys, time
from verta_store import open_store
store = open_store(sys.argv[1], sys.argv[2])
run = store.create("run", None, "x").id
store.put(run, "metrics", {"a": 1})
print("logged", flush=True)
"""


@pytest.mark.parametrize(
    ("end", "is_sealed"),
    [("", True), ("sys.exit(3)", True), ("raise RuntimeError", True), ("os.kill(os.getpid(), signal.SIGTERM)", True),
     ("os.kill(os.getpid(), signal.SIGKILL)", False), ("os._exit(1)", False)],
)  # fmt: skip
def test_an_acknowledged_record_outlives_its_process_however_that_ends(store: Store, end: str, is_sealed: bool) -> None:
    worker = start(LOG + end, store.root, store.cache_dir, stderr=subprocess.DEVNULL)
    assert worker.communicate()[0] == "logged\n"
    (suffix,) = list_journals(store.root).values()
    assert (suffix == ".jsonl") is is_sealed
    (row,) = store.find(Query("run"))
    assert store.values(row.id, "metrics") == {"a": 1}
    assert verify(store, deep=True).is_clean
    if end == "os.kill(os.getpid(), signal.SIGTERM)":
        assert worker.returncode == -signal.SIGTERM


def test_a_users_own_handler_of_sigterm_stays_his(store: Store) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, lambda *_: (print('mine', flush=True), exit(7)))\n" + LOG
    worker = start(code + "os.kill(os.getpid(), signal.SIGTERM)", store.root, store.cache_dir)
    assert worker.communicate()[0] == "logged\nmine\n" and worker.returncode == 7
    assert list(list_journals(store.root).values()) == [".jsonl"]


def test_sigterm_in_the_middle_of_logging_loses_nothing_and_leaves_no_damage(store: Store) -> None:
    code = (
        LOG
        + """
for number in range(10**9):
    store.put(run, "metrics", {f"m{number}": number})
    print(number, flush=True)
"""
    )
    for _ in range(3):
        worker = start(code.replace('"x"', "sys.argv[3]"), store.root, store.cache_dir, os.urandom(4).hex())
        assert worker.stdout is not None
        with worker:
            lines = [worker.stdout.readline() for _ in range(50)]
            worker.send_signal(signal.SIGTERM)
            lines += worker.stdout.readlines()
        acknowledged = [int(line) for line in lines[1:] if line.endswith("\n")]
        run = store.find(Query("run"))[0].id
        found = store.values(run, "metrics")
        assert all(found[f"m{number}"] == number for number in acknowledged)
    assert verify(store, deep=True).is_clean


def test_a_fork_writes_its_own_journal_and_uses_its_own_index(store: Store, run: str) -> None:
    store.put(run, "metrics", {"before": 1})
    store.find(Query("run"))
    store.put_bytes(b"parent")
    reader, writer = os.pipe()
    child = fork()
    if not child:
        status = 1
        try:
            store.put(run, "metrics", {"child": 2})
            store.put_bytes(b"child")
            found = store.values(run, "metrics")
            assert (found["before"], found["child"], found.get("parent", 3)) == (1, 2, 3)
            os.write(writer, store._journal.stem.encode())
            store.close()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    store.put(run, "metrics", {"parent": 3})
    assert os.waitpid(child, 0)[1] == 0
    os.close(writer)
    stem = os.read(reader, 200).decode()
    os.close(reader)
    assert stem != store._journal.stem and store._journal.stem
    assert store.values(run, "metrics") == {"before": 1, "child": 2, "parent": 3}
    store.put_bytes(b"parent again")
    assert verify(store, deep=True).is_clean


def test_a_fork_in_the_middle_of_anothers_thread_does_not_hang(store: Store, run: str) -> None:
    """The locks that the other thread held belong to the parent; the child must not wait for them."""
    stop = threading.Event()

    def log() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            store.put(run, "metrics", {f"m{number}": number})
            store.values(run, "metrics")

    thread = threading.Thread(target=log)
    thread.start()
    try:
        for number in range(8):
            time.sleep(0.01)
            child = fork()
            if not child:
                status = 1
                try:
                    signal.alarm(15)
                    store.put(run, "attributes", {f"child{number}": number})
                    assert store.values(run, "attributes")[f"child{number}"] == number
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join()
    assert store.values(run, "attributes") == {f"child{number}": number for number in range(8)}
    assert verify(store).is_clean


def test_a_closed_store_may_be_used_again(store: Store, run: str) -> None:
    for number in range(3):
        store.put(run, "metrics", {f"m{number}": number})
        store.put_bytes(b"%d" % number)
        close_all()
    assert len(list_journals(store.root)) == 3 and not os.listdir(Path(store.root, "tmp"))
    assert store.values(run, "metrics") == {"m0": 0, "m1": 1, "m2": 2}


def test_opening_and_reading_writes_nothing_into_the_store(
    store: Store, run: str, another: Callable[..., Store]
) -> None:
    store.put(run, "metrics", {"a": 1})
    store.close()
    before = {path: path.stat().st_mtime_ns for path in Path(store.root).rglob("*") if path.is_file()}
    reader = another(store)
    reader.find(Query("run").where("metrics.a == 1"))
    assert reader.values(run, "metrics") == {"a": 1}
    assert verify(reader, deep=True).is_clean
    reader.close()
    assert {path: path.stat().st_mtime_ns for path in Path(store.root).rglob("*") if path.is_file()} == before


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.ESTALE])
def test_a_refused_write_is_one_sentence_that_survives_pickling(
    store: Store, run: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store.put(run, "metrics", {"a": 1})

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        for attempt in (
            lambda: store.put(run, "metrics", {"b": 2}),
            lambda: store.put_bytes(b"x"),
            lambda: store.add_tags(run, ["t"]),
            lambda: store.add_points(run, "loss", [(1, 1, 1)]),
            lambda: store.delete(run),
        ):
            with pytest.raises(StoreWriteError) as caught:
                attempt()
            text = str(caught.value)
            assert "\n" not in text and "Nothing that was logged before is lost." in text
            assert caught.value.errno == number and isinstance(caught.value, OSError)
            copy = pickle.loads(pickle.dumps(caught.value))
            assert (str(copy), copy.errno, copy.path) == (text, number, caught.value.path)
        assert store.values(run, "metrics") == {"a": 1} and store.tags(run) == []
    store.put(run, "metrics", {"b": 2})
    assert store.values(run, "metrics") == {"a": 1, "b": 2}
    assert verify(store, deep=True).is_clean


def test_every_error_is_a_store_error_with_its_data_and_is_pickled() -> None:
    for cls in (BadContent, KeyTaken, StoreNotFound, StoreFormatError, UnknownEntity):
        error = cls("a sentence", path="/p", digest="sha256:0", key="k")
        copy = pickle.loads(pickle.dumps(error))
        assert isinstance(copy, StoreError) and type(copy) is cls
        assert (str(copy), copy.path, copy.digest, copy.key) == ("a sentence", "/p", "sha256:0", "k")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_store_can_be_read(store: Store, run: str) -> None:
    store.put(run, "metrics", {"a": 1})
    store.close()
    for path in (store.root, *Path(store.root).rglob("*")):
        os.chmod(path, 0o555 if os.path.isdir(path) else 0o444)
    try:
        assert store.values(run, "metrics") == {"a": 1}
        assert verify(store, deep=True).is_clean
        with pytest.raises(StoreWriteError, match="permission denied"):
            store.put(run, "metrics", {"b": 1})
    finally:
        for path in (store.root, *Path(store.root).rglob("*")):
            os.chmod(path, 0o755)


def test_what_was_deleted_takes_no_more_values_and_has_none(store: Store) -> None:
    run = new_run(store)
    store.put(run, "metrics", {"m": 1})
    store.add_tags(run, ["t"])
    store.add_points(run, "p", [(1, 1, 0)])
    store.delete(store.find(Query("project"))[0].id)
    assert store.values(run, "metrics") == {} and store.tags(run) == []
    assert store.point_keys(run) == [] and not store.point_columns(run, "p").epochs
    for write in (
        lambda: store.put(run, "metrics", {"n": 1}),
        lambda: store.add_tags(run, ["u"]),
        lambda: store.add_points(run, "p", [(1, 1, 0)]),
        lambda: store.delete(run),
        lambda: store.create("note", run, "below"),
    ):
        with pytest.raises(UnknownEntity):
            write()


def test_nothing_is_made_below_what_another_process_deleted(store: Store, another: Callable[..., Store]) -> None:
    project = store.create("project", None, "p")
    store.create("experiment", project.id, "e")
    another(store).delete(project.id)
    store.refresh()
    with pytest.raises(UnknownEntity):
        store.create("experiment", project.id, "f")


def test_the_cache_folder_may_be_named_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("store", "cache", create=True)
    run = store.create("run", None, "first").id
    monkeypatch.chdir("/")
    assert store.entity(run).name == "first"
    store.close()
    assert (tmp_path / "cache" / "stores" / store.id / "index.sqlite").exists()
