"""Packs hold the same records as the journals that they replace, for every reader, at every moment, and show damage."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from new_entities import new_run
from steps import CHANGES, LOOKS, at_step

from verta_store import Store, drive, packing, packs
from verta_store.errors import CollectionRefused, StoreWriteError
from verta_store.fsck import verify
from verta_store.gc import Rules, collect
from verta_store.listing import PACK_SUFFIX, SEALED_SUFFIX, Listing, list_journals
from verta_store.query import Query
from verta_store.records import same_value

DAY_S = 24 * 3600


class Killed(BaseException):
    """The process is gone."""


def fill(store: Store, journals: int = 6, *, first: int = 0) -> None:
    """Runs in journals of their own, one run in several, conflicts, points, tags, a deletion, an artifact."""
    ref = store.put_bytes(b"only a packed journal names this")
    shared = new_run(store, "shared")
    for number in range(first, first + journals):
        run = new_run(store, f"run {number}", experiment=f"experiment {number % 2}")
        store.put_all(run, {"hyperparameters": {"layers": number}, "metrics": {"a": number / 3}})
        store.add_points(shared, "loss", [(number / 7, 1_700_000_000_000 + number, number)])
        store.add_tags(shared, [f"t{number}"])
        store.put(shared, "metrics", {"last": number}, overwrite=True)
        if number == 0:
            value = {"kind": "blob", "digest": ref.digest, "size_bytes": ref.size_bytes, "name": "x"}
            store.put(run, "artifacts", {"model": value})
        store.seal()
    store.delete(new_run(store, "gone"))
    store.seal()


def answers(store: Store) -> dict[str, Any]:
    """What a store says, to be compared."""
    found: dict[str, Any] = {
        "rows": [row._replace(updated_ms=0) for row in sorted(store.find(Query("run")))],
        "where": sorted(row.name for row in store.find(Query("run").where("metrics.a > 0.5"))),
        "conflicts": store.conflicts(),
        "journals": store.select("SELECT stem, record_count, is_sealed, host, user FROM journals ORDER BY stem"),
    }
    for row in found["rows"]:
        found[row.id] = (
            {section: store.values(row.id, section) for section in ("metrics", "hyperparameters", "artifacts")},
            store.tags(row.id),
            store.points(row.id, "loss"),
            store.author_of(row.id),
        )
    return found


def pack(store: Store, *, days: float = 0.5, wait_days: float = 1, fewest: int = 2) -> packing.Packed:
    """Packs, and deletes what was packed, as a collection so many days later would."""
    now_ns = os.stat(store.root).st_mtime_ns + int(days * DAY_S * 10**9) + 10**10
    report = packing.pack_journals(store.root, store.id, now_ns, after_s=0, fewest=fewest)
    packing.delete_packed(store.root, now_ns, wait_days * DAY_S, report)
    return report


def pack_away(store: Store) -> Path:
    """Packs all and deletes the journals. Returns the path of the only pack."""
    pack(store, wait_days=0)
    assert not list_journals(store.root)
    (name,) = names_of(store)
    return Path(packs.path_of(store.root, name))


def names_of(store: Store) -> tuple[str, ...]:
    listing = Listing(store.root)
    listing.journals(at_once=True)
    return listing.packs


def test_whoever_reads_before_between_or_after_sees_the_same(store: Store, another: Callable[..., Store]) -> None:
    early, half = another(store, cache="early"), another(store, cache="half")
    fill(store, 3)
    half.refresh()
    half._index.close()
    fill(store, 3, first=3)
    expected = answers(store)
    assert answers(early) == expected
    report = pack(store)
    assert (report.pack_count, report.journal_count, report.deleted_count) == (1, len(list_journals(store.root)), 0)
    for one in (early, another(store, cache="both are there")):
        assert answers(one) == expected
    assert pack(store, days=2).deleted_count == report.journal_count and not list_journals(store.root)
    for one in (store, early, half, another(store, cache="only the pack")):
        assert answers(one) == expected
    assert verify(store, deep=True).is_clean
    new_run(store, "one more")
    assert {row.name for row in half.find(Query("run"))} == {row.name for row in store.find(Query("run"))}


def test_a_journal_that_was_half_read_goes_on_in_the_pack(store: Store, another: Callable[..., Store]) -> None:
    other = another(store)
    run = new_run(store)
    store.add_points(run, "loss", [(0.5, 1, 1)])
    assert len(other.points(run, "loss")) == 1
    store.add_points(run, "loss", [(0.25, 2, 2)])
    store.seal()
    fill(another(store, cache="third"), 2)
    pack_away(store)
    assert [point.value for point in other.points(run, "loss")] == [0.5, 0.25]
    assert answers(other) == answers(another(store, cache="fourth"))


def test_an_index_that_breaks_while_it_is_in_use_reads_the_packs_again(store: Store) -> None:
    fill(store)
    expected = answers(store)
    pack_away(store)
    assert answers(store) == expected
    for _ in range(2):
        store._index._open().execute("DROP TABLE vals")
        assert answers(store) == expected
        store._index.close()
        for path in Path(store.cache_dir).rglob("index.sqlite*"):
            path.unlink()
        assert answers(store) == expected


def test_a_pack_is_read_with_gzip_and_every_line_is_json(store: Store) -> None:
    fill(store)
    folder = Path(store.root, "journals")
    whole = {stem: (folder / (stem + SEALED_SUFFIX)).read_bytes() for stem in list_journals(store.root)}
    path = pack_away(store)
    header, *lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    said = json.loads(header)
    assert said["k"] == "pack" and said["store"] == store.id and said["name"].split("/")[1] in path.name
    assert [member[0] for member in said["members"]] == sorted(whole)
    assert b"".join(lines) == b"".join(whole[stem] for stem in sorted(whole))
    assert all(json.loads(line)["c"] for line in lines)
    assert path.stat().st_mode & 0o222 == 0 or drive.of(store.root).is_careful


def test_only_old_small_sealed_sound_journals_are_packed_and_not_few(
    store: Store, another: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 3)
    count = len(list_journals(store.root))
    assert pack(store, fewest=count + 1).pack_count == 0
    now_ns = os.stat(store.root).st_mtime_ns
    assert packing.pack_journals(store.root, store.id, now_ns, after_s=3600, fewest=1).pack_count == 0
    stem = sorted(list_journals(store.root))[0]
    path = Path(store.root, "journals", stem + SEALED_SUFFIX)
    whole = path.read_bytes()
    path.write_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])
    new_run(another(store), "in an open journal")
    assert pack(store).journal_count == count - 1
    path.write_bytes(whole)
    assert pack(store).journal_count == 0  # alone, it is too few
    monkeypatch.setattr(packing, "_LARGEST_BYTES", 10)
    assert pack(store, fewest=1).journal_count == 0


def test_a_collection_packs_and_names_of_packed_journals_count(store: Store, another: Callable[..., Store]) -> None:
    fill(store)
    expected = answers(store)
    count = len(list_journals(store.root))

    def later(days: float, **more: Any) -> Any:
        store.close()
        rules = Rules(clock=lambda now_ns: now_ns + int(days * DAY_S) * 10**9, fewest_packed=2)
        return collect(store, rules=rules, **more)

    assert later(0.5, pack=False).packed.journal_count == 0
    assert later(0.5).packed.journal_count == count
    assert later(3).packed.deleted_count == count and not list_journals(store.root)
    assert later(40).trashed.object_count == 0
    later(80)
    assert answers(store) == expected and answers(another(store)) == expected
    report = verify(store, deep=True)
    assert report.is_clean and report.blob_count == 1
    run = next(row.id for row in store.find(Query("run")) if row.name == "run 0")
    store.delete(run)
    assert later(120).trashed.object_count == 1


def test_a_store_of_the_first_format_is_not_packed(store: Store) -> None:
    fill(store)
    store.format = 1
    collect(store, rules=Rules(clock=lambda now_ns: now_ns + 9 * DAY_S * 10**9, fewest_packed=2))
    assert not names_of(store)


def flips(path: Path, count: int) -> Iterator[int]:
    """Changes one byte after the other; the file is whole again in the end."""
    whole = path.read_bytes()
    os.chmod(path, 0o644)
    chosen = random.Random(7).sample(range(len(whole)), count)
    for place in (0, 1, 3, 9, len(whole) - 1, *chosen):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        yield place
    path.write_bytes(whole)


def test_damage_in_a_pack_is_found_named_and_reaches_no_further(
    store: Store, another: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "_BLOCK_BYTES", 3000)
    fill(store, 10)
    run_count = store.count(Query("run"))
    path = pack_away(store)
    named = 0
    for place in flips(path, 60):
        if place in (4, 5, 6, 7, 8, 9):
            continue  # gzip's time and system, which mean nothing
        report = verify(store)
        assert not report.is_clean and all(str(path) == problem.path for problem in report.problems), place
        named += any("run '" in affected for problem in report.problems for affected in problem.affects)
        left = another(store, cache=f"cache {place}")
        assert left.count(Query("run")) >= run_count - 8, place
        left.close()
        with pytest.raises(CollectionRefused):
            collect(store)
    assert named > 30
    assert verify(store).is_clean and answers(another(store, cache="whole again")) == answers(store)


def test_a_damaged_pack_costs_nothing_while_the_journals_are_there(store: Store, another: Callable[..., Store]) -> None:
    fill(store)
    expected = answers(store)
    pack(store)
    (name,) = names_of(store)
    path = Path(packs.path_of(store.root, name))
    for place in flips(path, 20):
        assert answers(another(store, cache=f"cache {place}")) == expected
        if place not in (4, 5, 6, 7, 8, 9):
            assert not verify(store).is_clean
            hurt = packs.read_pack(str(path)).hurt()
            deleted = packing.Packed()
            packing.delete_packed(store.root, 2**62, 0, deleted)
            assert set(hurt) <= list_journals(store.root).keys()
            assert answers(another(store, cache=f"after {place}")) == expected
            break


@pytest.mark.parametrize("end", ["cut", "gone", "another's", "empty"])
def test_a_pack_that_is_cut_gone_or_anothers_is_told(store: Store, another: Callable[..., Store], end: str) -> None:
    fill(store)
    path = pack_away(store)
    store.refresh()
    os.chmod(path, 0o644)
    if end == "cut":
        os.truncate(path, path.stat().st_size - 30)
    elif end == "empty":
        path.write_bytes(b"")
    elif end == "gone":
        kept = path.rename(path.parent.parent.parent / "kept")
        lost = store.lost_journals()
        assert len(lost) == 7
        shutil.move(kept, path)
        assert store.lost_journals() == [] and verify(store).is_clean
        path.unlink()
    else:
        other = path.with_name("x" + PACK_SUFFIX)
        path.rename(other)
        path = other
    report = verify(another(store) if end == "another's" else store)
    assert not report.is_clean
    if end == "another's":
        assert "swapped or renamed" in str(report.problems[0])


def test_two_that_pack_at_once_double_nothing(store: Store, another: Callable[..., Store]) -> None:
    fill(store, 12)
    expected = answers(store)
    script = textwrap.dedent("""
        import sys
        from verta_store import packing
        root, store_id = sys.argv[1:]
        print("ready", flush=True)
        sys.stdin.readline()
        report = packing.pack_journals(root, store_id, 2**62, after_s=0, fewest=2)
        print("packed", flush=True)
        sys.stdin.readline()
        packing.delete_packed(root, 2**62, 0, report)
    """)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", script, store.root, store.id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for _ in range(2)
    ]

    def wait_for(word: bytes) -> None:
        for worker in workers:
            assert worker.stdout is not None and worker.stdout.readline() == word

    is_over = threading.Event()
    are_right: list[bool] = []

    def read() -> None:
        while not is_over.is_set() or len(are_right) < 3:
            are_right.append(answers(another(store, cache=f"reader {len(are_right)}")) == expected)

    wait_for(b"ready\n")
    reader = threading.Thread(target=read)
    reader.start()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(b"\n")
        worker.stdin.flush()
    wait_for(b"packed\n")
    # A collection lets a day go by: who has listed the journals before the packs were there has read them.
    enough = len(are_right) + 2
    while len(are_right) < enough:
        time.sleep(0.01)
    for worker in workers:
        worker.communicate(b"\n")
        assert worker.returncode == 0
    is_over.set()
    reader.join()
    assert all(are_right) and not list_journals(store.root)
    assert answers(store) == expected and verify(store, deep=True).is_clean


def test_killed_at_any_step_nothing_is_lost_and_the_next_one_goes_on(
    store: Store, another: Callable[..., Store]
) -> None:
    fill(store, 2)
    expected = answers(store)
    kept = Path(store.root + "-kept")
    shutil.copytree(store.root, kept)
    number = 0
    while True:
        number += 1

        def kill() -> None:
            raise Killed

        try:
            with at_step(store.root, number, kill, CHANGES):
                pack(store, wait_days=0)
        except Killed:
            found = another(store, cache=f"after {number}")
            assert answers(found) == expected, number
            assert verify(found).is_clean, number
            pack(store, wait_days=0)
            assert not list_journals(store.root) and answers(found) == expected, number
            found.close()
        else:
            break
        shutil.rmtree(store.root)
        shutil.copytree(kept, store.root)
    assert number > 8


@pytest.mark.parametrize("step", ["packs", "deletes"])
def test_a_reader_between_any_two_steps_sees_all(store: Store, another: Callable[..., Store], step: str) -> None:
    fill(store, 2)
    expected = answers(store)
    if step == "deletes":  # a day later
        pack(store)
    kept = Path(store.root + "-kept")
    shutil.copytree(store.root, kept)
    reader = another(store, cache="reader")
    number = 0

    def act() -> None:
        pack(store, wait_days=1 if step == "packs" else 0)

    while True:
        number += 1
        with at_step(reader.root, number, act, (*LOOKS, "open")) as log:
            assert answers(reader) == expected, number
        if len(log) < number:
            break
        reader.close()
        shutil.rmtree(store.cache_dir, ignore_errors=True)
        for folder in Path(reader.cache_dir).rglob("index.sqlite*"):
            folder.unlink()
        shutil.rmtree(store.root)
        shutil.copytree(kept, store.root)
    assert number > 3


def test_a_full_drive_leaves_everything_as_it_was(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store)
    expected = answers(store)
    before = list_journals(store.root)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing.files, "write_all", full)
    with pytest.raises(StoreWriteError, match="no space left"):
        collect(store, rules=Rules(clock=lambda now_ns: now_ns + 9 * DAY_S * 10**9, fewest_packed=2))
    assert list_journals(store.root) == before and not names_of(store)
    assert not [name for name in os.listdir(os.path.join(store.root, "tmp")) if name.startswith("pack-")]
    assert answers(store) == expected


def test_a_pack_is_a_quarter_of_its_journals(store: Store) -> None:
    for number in range(120):
        run = new_run(store, f"run {number}")
        for place in range(20):
            store.put(run, "hyperparameters", {f"parameter_{place}": number + place})
            store.put(run, "metrics", {f"metric_{place}": (number + place) / 7})
        store.seal()
    report = pack(store, fewest=100)
    assert report.journal_count == 120 and report.pack_count == 1
    assert report.packed_bytes < 0.25 * report.size_bytes
    found = store.find(Query("run"))
    assert same_value(store.values(found[0].id, "metrics")["metric_3"], (119 + 3) / 7)
