"""A journal that was deleted by hand is missed by every host, because those that came after it name it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from new_entities import new_run
from test_index import answers

from verta_store import Store
from verta_store.errors import CollectionRefused
from verta_store.fsck import verify
from verta_store.gc import collect
from verta_store.journal import SEALED_SUFFIX, Position, list_journals, read_journal
from verta_store.query import Query
from verta_store.repair import repair
from verta_store.sealed_journals import SealedJournals, named_before

COUNT = 5


@pytest.fixture
def filled(store: Store) -> Store:
    """A journal a run, one after the other."""
    for number in range(COUNT):
        store.put(new_run(store, f"run {number}"), "metrics", {"a": number})
        store.seal()
    return store


def journals(store: Store) -> list[Path]:
    """In the order of their making."""
    paths = [Path(store.root, "journals", stem + SEALED_SUFFIX) for stem in list_journals(store.root)]
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns)


def named_in(path: Path) -> list[str]:
    return list(named_before(read_journal(str(path), Position()).lines[0]))


def stem_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name.removesuffix(SEALED_SUFFIX)}"


def remembered(store: Store) -> Path:
    return Path(store.cache_dir, "stores", store.id, "sealed")


def test_a_journal_names_those_before_it_the_newest_first(filled: Store) -> None:
    paths = journals(filled)
    for number, path in enumerate(paths):
        assert named_in(path) == [stem_of(one) for one in reversed(paths[:number])]


def test_a_journal_that_is_gone_is_missed_by_a_host_that_never_saw_it(
    filled: Store, another: Callable[..., Store]
) -> None:
    for number, path in enumerate(journals(filled)[:-1]):
        path.rename(path.with_suffix(".away"))
        stranger = another(filled, f"cache-{number}")
        assert stranger.count(Query("run")) == COUNT - 1
        for deep in (False, True):
            (problem,) = verify(stranger, deep=deep).problems
            assert problem.path == str(path) and "gone" in problem.what and "--accept-loss" in problem.advice
        with pytest.raises(CollectionRefused, match="is gone"):
            collect(stranger)
        path.with_suffix(".away").rename(path)
        assert verify(stranger, deep=True).is_clean
        collect(stranger)


def test_several_that_end_at_one_moment_are_all_named_by_the_next(store: Store, another: Callable[..., Store]) -> None:
    writers = [another(store, "cache") for _ in range(7)]
    for number, writer in enumerate(writers):
        new_run(writer, f"run {number}")
    for writer in writers:
        writer.seal()
    new_run(store, "last")
    header = named_in(Path(store.root, "journals", store._journal.stem + ".open.jsonl"))
    assert sorted(header) == sorted(stem for stem in list_journals(store.root) if stem != store._journal.stem)


def test_what_a_repair_gives_up_is_damage_no_longer_until_it_is_back(
    filled: Store, another: Callable[..., Store]
) -> None:
    filled.refresh()
    before = answers(filled)
    path = journals(filled)[1]
    path.rename(path.with_suffix(".away"))
    assert not repair(filled).after.is_clean
    report = repair(filled, accept_loss=True)
    assert report.after.is_clean and any("given up" in note for note in report.notes)
    for one in (filled, another(filled, "other")):
        assert verify(one, deep=True).is_clean
        collect(one)
    path.with_suffix(".away").rename(path)
    assert verify(filled, deep=True).is_clean and answers(filled) == before


def test_a_repair_that_gives_up_nothing_forgets_nothing(filled: Store, another: Callable[..., Store]) -> None:
    filled.refresh()
    last = journals(filled)[-1]  # only the index knows of it
    last.unlink()
    for _ in range(2):
        (problem,) = repair(filled).after.problems
        assert problem.path == str(last)
        filled.close()
        filled = another(filled, "cache")  # as the next process has it
        with pytest.raises(CollectionRefused, match="is gone"):
            collect(filled)
    assert repair(filled, accept_loss=True).after.is_clean
    collect(another(filled, "cache"))


def test_nothing_is_given_up_that_is_there(filled: Store) -> None:
    assert repair(filled, accept_loss=True).after.is_clean
    assert not Path(filled.root, "quarantine").exists()


def test_a_store_of_which_an_older_copy_was_put_back_is_sound_for_others(
    filled: Store, tmp_path: Path, another: Callable[..., Store]
) -> None:
    paths = journals(filled)
    for path in paths[3:]:
        path.unlink()
    new_run(filled, "after the loss")
    filled.seal()
    (newest,) = set(journals(filled)) - set(paths)
    assert named_in(newest) == [stem_of(path) for path in reversed(paths[:3])]
    assert verify(another(filled, "other"), deep=True).is_clean


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 5000, b"../../x\n" * 20, b"host/../../../etc/passwd\n"])
def test_a_memory_that_is_lost_or_damaged_names_none_and_alarms_nobody(filled: Store, content: bytes | None) -> None:
    if content is None:
        shutil.rmtree(filled.cache_dir)
    else:
        remembered(filled).write_bytes(content)
    filled.put(new_run(filled, "run 0"), "metrics", {"b": 1})
    assert named_in(Path(filled.root, "journals", filled._journal.stem + ".open.jsonl")) == []
    filled.seal()
    assert verify(filled, deep=True).is_clean


def test_the_memory_does_not_grow_with_the_journals(tmp_path: Path) -> None:
    memory = SealedJournals(str(tmp_path), str(tmp_path / "cache" / "sealed"))
    (tmp_path / "journals" / "host").mkdir(parents=True)
    for number in range(5000):
        memory.note(f"host/20261122t000000-1-{number:08}")
    assert (tmp_path / "cache" / "sealed").stat().st_size < 70_000
    (tmp_path / "journals" / "host" / "20261122t000000-1-00004999.jsonl").touch()
    assert memory.newest("host") == ["20261122t000000-1-00004999"]
    assert memory.newest("other") == []
    SealedJournals(str(tmp_path), "").note("host/a")
    assert SealedJournals(str(tmp_path), "").newest("host") == []


@pytest.mark.parametrize("after", [None, "a", 7, ["../../x"], [7], {"a": 1}])
def test_what_a_hostile_header_names_is_no_path(after: object) -> None:
    assert list(named_before({"name": "host/a", "after": after})) == []
