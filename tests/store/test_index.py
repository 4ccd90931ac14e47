"""The index can go, break, be locked or be somebody else's at any time: it is rebuilt and the answers are equal."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from new_entities import new_run

from verta_store import Store, catching_up, drive, index_tables, journal, open_store
from verta_store.errors import KeyTaken, UnknownEntity
from verta_store.journal import OPEN_SUFFIX, SEALED_SUFFIX, list_journals
from verta_store.query import Query, SortKey


@pytest.fixture
def filled(store: Store) -> Store:
    """A store with a little of everything."""
    for number in range(6):
        run = new_run(store, f"run {number}", experiment=f"experiment {number % 2}")
        store.put_all(run, {"hyperparameters": {"layers": number, "name": "x" * number}, "metrics": {"a": number / 3}})
        store.put(run, "attributes", {"note": {"deep": [1, 2.5, None, "ü"]}, "big": 2**70})
        store.add_tags(run, ["t", f"t{number}"])
        for epoch in range(10):
            store.add_points(run, "loss", [(1 / (epoch + 1), 1_700_000_000_000 + epoch, epoch)])
    store.delete(new_run(store, "gone"))
    return store


def answers(store: Store) -> dict[str, Any]:
    """All kinds of questions, with their answers."""
    found: dict[str, Any] = {
        "rows": store.find(Query("run")),
        "sorted": [row.name for row in store.find(Query("run", sort=SortKey("metrics", "a", True)))],
        "where": sorted(row.name for row in store.find(Query("run").where("metrics.a > 0.5", "tags == t"))),
        "count": store.count(Query("run")),
        "named": store.named("project", None, "project"),
        "conflicts": store.conflicts(),
        "many": sorted(map(repr, store.values_of_many([row.id for row in store.find(Query("run"))]))),
        "select": store.select("SELECT count(*) FROM entities WHERE is_known = 1"),
    }
    for row in store.find(Query("run")):
        found[row.id] = (
            store.entity(row.id),
            {section: store.values(row.id, section) for section in ("metrics", "hyperparameters", "attributes")},
            store.tags(row.id),
            store.point_keys(row.id),
            store.points(row.id, "loss"),
        )
    return found


def index_file(store: Store) -> Path:
    return Path(store.cache_dir, "stores", store.id, "index.sqlite")


def remove_index(store: Store) -> None:
    for path in index_file(store).parent.glob("index.sqlite*"):
        path.unlink()


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_a_little(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def zero_a_page(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(8192)
        file.write(bytes(4096))


def zero_the_head(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(bytes(100))


def empty(path: Path) -> None:
    os.truncate(path, 0)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def older_version(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {index_tables.SCHEMA_VERSION - 1}")
    connection.close()


def newer_version(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE vals ADD COLUMN more TEXT")
        connection.execute(f"PRAGMA user_version = {index_tables.SCHEMA_VERSION + 1}")
    connection.close()


def other_program(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE vals (something TEXT)")
    connection.close()


def other_store(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA application_id = 12345")
        connection.execute("UPDATE vals SET json = '7'")
    connection.close()


def lost_table(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE points")
    connection.close()


def bad_json(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE vals SET json = '{' || json")
    connection.close()


def bad_points(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE points SET data = substr(data, 1, 11)")
    connection.close()


def bad_text(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE vals SET json = CAST(x'22fffe22' AS TEXT)")
    connection.close()


DAMAGES: list[Callable[[Path], None]] = [
    Path.unlink, garbage, cut, cut_a_little, zero_a_page, zero_the_head, empty, make_folder, older_version, newer_version,
    other_program, other_store, lost_table, bad_json, bad_points, bad_text,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_or_foreign_index_is_rebuilt_and_the_answers_are_equal(
    filled: Store, damage: Callable[[Path], None]
) -> None:
    expected = answers(filled)
    filled.close()
    damage(index_file(filled))
    assert answers(filled) == expected
    filled.close()
    assert answers(filled) == expected


@pytest.mark.parametrize("damage", [Path.unlink, garbage, zero_a_page, zero_the_head, cut, empty])
def test_an_index_that_is_damaged_while_it_is_open_does_no_harm(filled: Store, damage: Callable[[Path], None]) -> None:
    expected = answers(filled)
    damage(index_file(filled))
    assert answers(filled) == expected
    store_put = new_run(filled, "later")
    filled.put(store_put, "metrics", {"a": 9})
    assert filled.values(store_put, "metrics") == {"a": 9}


def test_a_lost_or_left_over_write_ahead_log_does_no_harm(filled: Store) -> None:
    expected = answers(filled)
    log = index_file(filled).with_name("index.sqlite-wal")
    stale = log.read_bytes() if log.exists() else b""
    filled.close()
    remove_index(filled)
    assert answers(filled) == expected
    filled.close()
    for content in (stale, os.urandom(20_000), b""):
        log.write_bytes(content)
        assert answers(filled) == expected
        filled.close()


def test_no_flip_of_a_bit_in_the_index_ever_reaches_the_user_as_an_error(filled: Store) -> None:
    """SQLite guards its structure and not the bytes of a value: a flip in one may show, and no flip may crash."""
    expected = answers(filled)
    filled.close()
    whole = index_file(filled).read_bytes()
    generator = random.Random(20261122)
    wrong = 0
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        remove_index(filled)
        index_file(filled).write_bytes(damaged)
        try:
            wrong += answers(filled) != expected
        except UnknownEntity:  # a flip in an id; any other error would be SQLite's or Python's own
            wrong += 1
        filled.close()
    assert wrong <= 10  # 4 % of 2,500, when it was measured
    remove_index(filled)
    assert answers(filled) == expected


@pytest.fixture
def locker(filled: Store) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts another program that holds the index with a statement, until its input is closed."""
    started: list[subprocess.Popen[str]] = []

    def hold(statement: str) -> subprocess.Popen[str]:
        code = f"""
            import sqlite3, sys
            connection = sqlite3.connect({str(index_file(filled))!r}, isolation_level=None)
            connection.execute({statement!r})
            print("held", flush=True)
            sys.stdin.read()
        """
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.communicate()


@pytest.mark.parametrize("statement", ["BEGIN EXCLUSIVE", "BEGIN IMMEDIATE", "PRAGMA locking_mode = EXCLUSIVE"])
def test_an_index_that_another_program_holds_is_replaced_by_one_in_memory(
    filled: Store,
    locker: Callable[[str], subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
    statement: str,
) -> None:
    monkeypatch.setattr("verta_store.index_file._BUSY_TIMEOUT_S", 0.2)
    expected = answers(filled)
    filled.close()
    locker(statement)
    assert answers(filled) == expected
    run = new_run(filled, "logged while it was held")
    filled.put(run, "metrics", {"a": 1})
    assert filled.values(run, "metrics") == {"a": 1}


@pytest.mark.parametrize("cache", ["a file", "read-only", "no folder above it"])
def test_a_cache_folder_that_cannot_be_written_is_done_without(
    filled: Store, another: Callable[..., Store], tmp_path: Path, cache: str
) -> None:
    expected = answers(filled)
    place = tmp_path / "bad-cache"
    if cache == "a file":
        place.write_bytes(b"")
    elif cache == "read-only":
        place.mkdir(mode=0o555)
        if os.access(place, os.W_OK):
            place.rmdir()
            place.symlink_to("/proc/nowhere")
    else:
        place.symlink_to("/proc/self/nothing/here")
    other = another(filled, cache="bad-cache")
    assert answers(other) == expected
    run = new_run(other, "without a cache")
    other.put(run, "metrics", {"a": 1})
    assert other.values(run, "metrics") == {"a": 1}
    connection = other.reading_connection()
    assert connection.execute("SELECT count(*) FROM entities WHERE kind = 'run' AND deleted IS NULL").fetchone() == (7,)
    connection.close()


def test_a_cache_folder_on_a_full_drive_is_done_without(
    filled: Store, another: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own limit on the pages of a file stands for the end of a drive."""
    expected = answers(filled)
    real = sqlite3.connect

    def small(path: str, **more: Any) -> sqlite3.Connection:
        connection = real(path, **more)
        if path != ":memory:":
            connection.execute("PRAGMA max_page_count = 5")
        return connection

    monkeypatch.setattr(sqlite3, "connect", small)
    assert answers(another(filled)) == expected


def test_a_journal_that_is_gone_is_gone_from_the_answers(filled: Store, another: Callable[..., Store]) -> None:
    """An older copy of the store was put back."""
    other = another(filled)
    run = new_run(other, "of the lost journal")
    stem = other._journal.stem
    assert filled.entity(run).name == "of the lost journal"
    other.close()
    Path(filled.root, "journals", stem + SEALED_SUFFIX).unlink()
    assert [row.name for row in filled.find(Query("run").where("name ~= lost"))] == []
    assert filled.count(Query("run")) == 6


def test_a_copy_of_a_journal_under_another_name_is_not_counted_twice(filled: Store) -> None:
    """What file synchronisers leave behind."""
    expected = answers(filled)
    filled.close()
    ((stem, suffix),) = list_journals(filled.root).items()
    path = Path(filled.root, "journals", stem + suffix)
    shutil.copy(path, path.with_name(path.name.replace(SEALED_SUFFIX, " (conflicted copy).jsonl")))
    shutil.copy(path, path.with_name("copy" + OPEN_SUFFIX))
    assert answers(filled) == expected
    filled.close()
    remove_index(filled)
    assert answers(filled) == expected


def test_a_renamed_journal_is_read_on_where_reading_ended(filled: Store, another: Callable[..., Store]) -> None:
    other = another(filled)
    run = filled.find(Query("run"))[0].id
    for value in range(5):
        other.put(run, "attributes", {f"v{value}": value})
        assert filled.values(run, "attributes")[f"v{value}"] == value
        if value % 2:
            other.seal()
    assert answers(filled) == answers(other)


def test_what_a_sibling_process_took_in_is_known_here_too(filled: Store, another: Callable[..., Store]) -> None:
    """Two processes share one index file; a record that the other took in moves this one's clock and its keys."""
    sibling, host = another(filled, cache="cache"), another(filled, cache="host-cache")
    run = filled.find(Query("run"))[0].id
    assert "ours" not in filled.values(run, "metrics")
    host._clock.last += 3_600_000 << 12  # that host's clock is an hour ahead
    host.put(run, "metrics", {"ours": "theirs"}, overwrite=True)
    assert sibling.values(run, "metrics")["ours"] == "theirs"
    filled.refresh()
    with pytest.raises(KeyTaken):
        filled.put(run, "metrics", {"ours": 1})
    filled.put(run, "metrics", {"ours": "mine"}, overwrite=True)
    for store in (filled, sibling, host):
        assert store.values(run, "metrics")["ours"] == "mine", "a later overwrite wins, whatever the clocks say"
        assert store.conflicts() == []


def test_threads_ask_and_log_at_once(filled: Store) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            run = new_run(filled, f"thread {number}")
            for value in range(15):
                filled.put(run, "metrics", {f"m{value}": value})
                filled.add_points(run, "loss", [(value, value, None)])
                assert len(filled.values(run, "metrics")) == value + 1
                filled.find(Query("run").where("metrics.m1 == 1"))
                if value == 7 and number == 0:
                    filled._index.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for row in filled.find(Query("run").where("name ~= thread")):
        assert [point.epoch for point in filled.points(row.id, "loss")] == list(range(15))


def test_a_reading_connection_reads_and_does_not_write(filled: Store) -> None:
    expected = filled.count(Query("run"))
    connection = filled.reading_connection()
    assert connection.execute("SELECT count(*) FROM entities WHERE kind = 'run'").fetchone() == (expected + 1,)
    with pytest.raises(sqlite3.OperationalError):
        connection.execute("DELETE FROM entities")
    connection.close()


def test_eight_processes_build_one_index_and_answer_alike(filled: Store, tmp_path: Path) -> None:
    for number in range(40):
        filled.put(new_run(filled, f"more {number}"), "metrics", {f"m{key}": key for key in range(30)})
    filled.close()
    code = f"""
import os, sys, time
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from test_index import answers
from verta_store import open_store
store = open_store({filled.root!r}, {str(tmp_path / "fresh-cache")!r})
while not os.path.exists({str(tmp_path / "go")!r}):
    time.sleep(0.001)
print(hash(repr(answers(store))), store._index._path)
"""
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    workers = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(8)
    ]
    (tmp_path / "go").touch()
    printed = [worker.communicate()[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 8
    assert len({digest for digest, _ in printed}) == 1
    assert {path for _, path in printed} == {str(tmp_path / "fresh-cache" / "stores" / filled.id / "index.sqlite")}


def test_catching_up_reads_only_new_bytes(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.close()
    answers(filled)
    read: list[int] = []
    real = journal.read_journal

    def watch(path: str, start: Any, **more: bool) -> Any:
        part = real(path, start, **more)
        read.append(part.position.offset - start.offset)
        return part

    monkeypatch.setattr(journal, "read_journal", watch)
    answers(filled)
    assert sum(read) == 0, "sealed and known: not even opened again"
    filled.put(filled.find(Query("run"))[0].id, "metrics", {"new": 1})
    filled.refresh()
    assert 0 < sum(read) < 1000
    assert open_store(filled.root, filled.cache_dir) is filled


def test_a_refresh_without_news_opens_no_journal_and_asks_no_table(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not drive.of(filled.root).is_stat_true:
        pytest.skip("a share is asked each time")
    filled.refresh()
    real = journal.read_listed
    read: list[str] = []

    def note(root: str, stem: str, *more: Any, **named: Any) -> Any:
        read.append(stem)
        return real(root, stem, *more, **named)

    monkeypatch.setattr(journal, "read_listed", note)
    asked: list[str] = []
    filled._index._open().set_trace_callback(asked.append)
    filled.refresh()
    assert read == [] and asked == ["PRAGMA data_version"]
    filled.put(new_run(filled, "one more"), "metrics", {"a": 1})
    filled.refresh()
    assert read == [filled._journal.stem]


def test_a_reader_beside_many_others_takes_note_of_what_they_took_in(
    filled: Store, another: Callable[..., Store]
) -> None:
    """Both share an index, so that each finds the journals of the other as read already, or half of them."""
    other = another(filled, cache="cache")
    for number in range(30):
        writer, reader = (filled, other) if number % 2 else (other, filled)
        run = new_run(writer, f"more {number}")
        writer.put(run, "metrics", {"number": number})
        if number % 5 == 0:
            writer.seal()
        if number % 3 == 0:
            writer.refresh()
        assert reader.values(run, "metrics") == {"number": number}
        assert writer.count(Query("run")) == reader.count(Query("run"))
    assert answers(other) == answers(filled)


@pytest.mark.timeout(10)
def test_a_process_that_adds_a_journal_behind_one_of_another_process_still_reads_that_one(
    store: Store, another: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(store)
    writers = [another(store, f"cache of writer {number}") for number in range(2)]
    mine, other = another(store, "shared"), another(store, "shared")
    mine.refresh()
    listing = mine._index._catch_up._listing
    listed = listing.journals

    def meanwhile(**arguments: bool) -> dict[str, str]:
        monkeypatch.setattr(listing, "journals", listed)
        writers[0].put(run, "metrics", {"first": 1})
        other.refresh()
        writers[1].put(run, "metrics", {"second": 2})
        return listed(at_once=True)

    monkeypatch.setattr(listing, "journals", meanwhile)
    assert mine.values(run, "metrics") == {"first": 1, "second": 2}


def test_an_index_made_of_many_parts_of_journals_is_the_same(
    filled: Store, another: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answers(filled)
    for part_bytes in (300, 1000, 5000):  # less than the longest line, and more
        monkeypatch.setattr(catching_up, "_BATCH_BYTES", part_bytes)
        other = another(filled, cache=f"cache {part_bytes}")
        assert answers(other) == expected
        assert other._index.run("SELECT count(*) FROM sqlite_master WHERE name LIKE 'vals_by_%'") == [(2,)]
        plan = other._index.run("EXPLAIN QUERY PLAN SELECT entity FROM vals WHERE key = 1 AND num > 0")
        assert "vals_by_number" in str(plan)


def test_damage_in_a_journal_read_by_parts_costs_what_it_costs_otherwise(
    filled: Store, another: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    (stem,) = list_journals(filled.root)
    path = Path(filled.root, "journals", stem + OPEN_SUFFIX)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    expected = answers(another(filled, cache="whole"))
    monkeypatch.setattr(catching_up, "_BATCH_BYTES", 1000)
    assert answers(another(filled, cache="parts")) == expected


def test_a_rebuild_that_was_killed_goes_on_where_it_was(
    filled: Store, another: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answers(filled)
    monkeypatch.setattr(catching_up, "_BATCH_BYTES", 1000)
    real = catching_up.CatchUp._take_in
    for kept in (0, 1, 3):
        cache = f"killed after {kept}"
        left = [kept]

        def take_in(self: catching_up.CatchUp, *more: Any, left: list[int] = left) -> int:
            if not left[0]:
                raise SystemExit  # as good as a kill: nothing here is made good again
            left[0] -= 1
            return real(self, *more)

        with monkeypatch.context() as patch:
            patch.setattr(catching_up.CatchUp, "_take_in", take_in)
            with pytest.raises(SystemExit):
                another(filled, cache=cache).refresh()
        other = another(filled, cache=cache)
        assert answers(other) == expected
        assert other._index.run("SELECT count(*) FROM sqlite_master WHERE name LIKE 'vals_by_%'") == [(2,)]
