"""What of a journal cannot be read keeps a collection away until somebody accepts the loss; what can be read stays."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from collecting import everything, is_there, later, log
from new_entities import new_run
from test_fsck import DAMAGES, change
from test_packs import answers, fill, names_of, pack, pack_away

from verta_store import Store, close_all, packing, packs
from verta_store.errors import CollectionRefused
from verta_store.fsck import verify
from verta_store.gc import collect
from verta_store.journal import OPEN_SUFFIX, SEALED_SUFFIX
from verta_store.objects import Ref
from verta_store.query import Query
from verta_store.repair import repair

COUNT = 4
_ARTIFACTS = b'"s":"artifacts"'


@pytest.fixture
def refs(store: Store) -> list[Ref]:
    """Blobs, each named by a run of its own, all in one sealed journal; and one that nothing names."""
    refs = []
    for number in range(COUNT):
        run = new_run(store, f"run {number}")
        refs.append(log(store, run, f"key {number}", store.put_bytes(b"blob %d" % number)))
        store.put(run, "metrics", {"a": number})
    refs.append(store.put_bytes(b"named by nothing"))
    close_all()
    return refs


def journal(store: Store) -> Path:
    (path,) = Path(store.root, "journals").rglob("*" + SEALED_SUFFIX)
    return path


def damage_record(path: Path, number: int, part: bytes) -> None:
    """Changes a bit of the last byte of `part`, behind the begin of the record of an artifact."""
    data = bytearray(path.read_bytes())
    at = -1
    for _ in range(number + 1):
        at = data.index(_ARTIFACTS, at + 1)
    data[data.index(part, at) + len(part) - 1] ^= 1
    change(path, bytes(data))


def test_nothing_is_collected_until_the_loss_is_accepted_and_then_all_but_what_can_be_read(
    store: Store, refs: list[Ref]
) -> None:
    damage_record(journal(store), 1, b"sha256:0"[:-1])
    run = next(row for row in store.find(Query("run")) if row.name == "run 1")
    for report in (verify(store), repair(store).after, verify(store)):
        (problem,) = report.problems
        assert problem.affects == (f"run 'run 1' ({run.id})",) and "--repair --accept-loss" in problem.advice
        with pytest.raises(CollectionRefused, match=r"damaged record.*copy of the store.*--repair --accept-loss"):
            collect(store)
    report = repair(store, accept_loss=True)
    assert report.after.is_clean and any("accepted" in note for note in report.notes)
    assert any("a damaged record" in note and "accepted as lost" in note for note in verify(store).notes)
    everything(store)
    there = [is_there(store, ref) for ref in refs]
    assert there == [True, False, True, True, False]
    assert verify(store, deep=True).is_clean and len(store.find(Query("run"))) == COUNT


def test_what_a_lost_record_still_shows_to_the_eye_stays(store: Store, refs: list[Ref]) -> None:
    damage_record(journal(store), 1, b'"key 1')
    repair(store, accept_loss=True)
    everything(store)
    assert [is_there(store, ref) for ref in refs] == [True, True, True, True, False]
    digest = store.put_bytes(b"blob 1").digest
    assert digest == refs[1].digest


def test_what_is_damaged_further_counts_anew_and_a_good_copy_ends_it(store: Store, refs: list[Ref]) -> None:
    path = journal(store)
    whole = path.read_bytes()
    damage_record(path, 1, b"sha256")
    assert repair(store, accept_loss=True).after.is_clean
    accepted = path.read_bytes()
    damage_record(path, 2, b"sha256")
    assert not verify(store).is_clean
    with pytest.raises(CollectionRefused):
        collect(store)
    change(path, accepted)
    assert verify(store).is_clean
    change(path, whole)
    assert verify(store).is_clean and not any("accepted" in note for note in verify(store).notes)
    everything(store)
    assert [is_there(store, ref) for ref in refs] == [True] * COUNT + [False]


@pytest.mark.parametrize("how", ["as a new file", "with its times", "in place"])
def test_an_index_that_has_read_what_was_damaged_takes_in_the_good_copy(
    store: Store, refs: list[Ref], another: Callable[..., Store], how: str
) -> None:
    path = journal(store)
    whole, times = path.read_bytes(), path.stat()
    damage_record(path, 1, b"sha256")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    reader, again = another(store), another(store)
    run = next(row.id for row in reader.find(Query("run")) if row.name == "run 1")
    assert reader.values(run, "artifacts") == {} == again.values(run, "artifacts")
    again.close()
    if how == "in place":
        path.write_bytes(whole)
    else:
        change(path, whole)
    if how != "as a new file":
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    for one in (reader, again):
        assert one.values(run, "artifacts")["key 1"]["digest"] == refs[1].digest
    assert another(store).values(run, "artifacts").keys() == {"key 1"}


def test_a_damaged_journal_that_was_accepted_is_missed_when_it_is_gone(
    store: Store, refs: list[Ref], another: Callable[..., Store]
) -> None:
    path = journal(store)
    new_run(store, "one that names it")
    store.seal()
    damage_record(path, 1, b"sha256")
    assert repair(store, accept_loss=True).after.is_clean
    path.rename(path.with_suffix(".away"))
    stranger = another(store)
    (problem,) = verify(stranger).problems
    assert "is gone" in problem.what and problem.path == str(path)
    with pytest.raises(CollectionRefused):
        collect(stranger)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_after_any_damage_that_was_accepted_collecting_takes_nothing_that_a_record_names(
    store: Store, refs: list[Ref], damage: Callable[[Path, random.Random, Store], None]
) -> None:
    new_run(store, "one that names it")
    store.close()
    (path,) = [one for one in Path(store.root, "journals").rglob("*.jsonl") if b"blob" in one.read_bytes()]
    for number in range(3):
        kept = Path(store.root + "-kept")
        shutil.copytree(store.root, kept)
        damage(path, random.Random(f"accepted {damage.__name__} {number}"), store)
        if not verify(store).is_clean:
            repair(store, accept_loss=True)
        named = readable(store)
        everything(store)
        assert named == {ref.digest for ref in refs if ref.digest in named and is_there(store, ref)}
        report = verify(store, deep=True)
        assert report.is_clean, report.problems
        close_all()
        shutil.rmtree(store.root)
        kept.rename(store.root)
        store.forget_derived()


def test_the_last_record_of_an_open_journal_that_is_damaged_is_told_by_both(store: Store) -> None:
    run = new_run(store)
    ref = log(store, run, "key", store.put_bytes(b"named by the last record"))
    path = Path(store.root, "journals", store._journal.stem + OPEN_SUFFIX)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for at in range(last, len(whole) - 1, 7):
        change(path, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        (problem,) = verify(store).problems
        assert f"at byte {last}" in problem.what
        with pytest.raises(CollectionRefused, match=f"at byte {last}"):
            collect(store)
    assert repair(store, accept_loss=True).after.is_clean and path.exists()
    store.leases.close()
    collect(store, rules=later(days=15))
    change(path, whole)
    assert verify(store).is_clean and is_there(store, ref)


def readable(store: Store) -> set[str]:
    """The digests that the records name which can be read."""
    runs = store.find(Query("run"))
    return {value["digest"] for row in runs for value in store.values(row.id, "artifacts").values()}


# -- packs


def block_of(path: Path, stem_part: int = 0) -> int:
    """A place in the middle of a block of a pack."""
    data = path.read_bytes()
    starts = [at for at in range(len(data)) if data.startswith(packs._BLOCK_BEGIN, at)] + [len(data)]
    return (starts[1 + stem_part] + starts[2 + stem_part]) // 2


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 16
    change(path, bytes(data))


def test_a_damaged_pack_is_put_aside_while_the_journals_are_there(store: Store, another: Callable[..., Store]) -> None:
    fill(store)
    expected = answers(store)
    pack(store)
    (name,) = names_of(store)
    path = Path(packs.path_of(store.root, name))
    whole = path.read_bytes()
    flip(path, block_of(path))
    damaged = path.read_bytes()
    packing.delete_packed(store.root, 2**62, 0, deleted := packing.Packed())
    assert deleted.deleted_count == 0, "nothing is deleted for the sake of a damaged pack"
    report = repair(store)
    assert report.after.is_clean and not path.exists()
    assert [Path(one).read_bytes() for one in report.set_aside] == [damaged]
    assert answers(store) == expected == answers(another(store, cache="new"))
    assert pack_away(store) != path and answers(store) == expected
    path.write_bytes(whole)  # and a copy that comes back doubles nothing
    assert verify(store, deep=True).is_clean and answers(another(store, cache="newer")) == expected


def test_no_flip_in_a_pack_gives_a_journal_another_name(store: Store, another: Callable[..., Store]) -> None:
    """Under that name it would be read beside the true one, and each of its points twice."""
    fill(store)
    expected = answers(store)
    pack(store)
    (name,) = names_of(store)
    path = Path(packs.path_of(store.root, name))
    whole = path.read_bytes()
    members = packs.read_members(str(path))
    places = [at for at in range(block_of(path), len(whole)) if at % 3 == 0] + list(
        range(block_of(path) - 300, block_of(path))
    )
    renamed = []
    for at in places:
        flip(path, at)
        found = packs.read_pack(str(path))
        assert not found.members or found.journals.keys() <= members.keys(), at
        if any(packs._stem_of(data) not in (stem, "") for stem, data in found.journals.items()):
            renamed.append(at)
        change(path, whole)
    assert renamed
    flip(path, renamed[0])
    assert answers(another(store, cache="new")) == expected
    assert repair(store).after.is_clean and not path.exists()


@pytest.mark.parametrize("damage", ["cut", "a line gone", "changed", "empty"])
def test_a_damaged_journal_that_a_pack_holds_whole_is_put_aside(
    store: Store, another: Callable[..., Store], damage: str
) -> None:
    fill(store)
    pack(store)
    path = next(Path(store.root, "journals").rglob("*" + SEALED_SUFFIX))
    expected = answers(store)
    data = path.read_bytes()
    last = data.rindex(b"\n", 0, -1) + 1
    damaged = {"cut": data[:-80], "a line gone": data[:last], "changed": data[:200] + b"~" + data[201:], "empty": b""}
    change(path, damaged[damage])
    assert not verify(store).is_clean
    report = repair(store)
    assert report.after.is_clean and not path.exists() and len(report.set_aside) == 1
    assert answers(store) == expected == answers(another(store, cache="new"))


def test_a_damaged_pack_is_read_as_far_as_it_can_be_and_accepted(
    store: Store, another: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "_BLOCK_BYTES", 3000)
    fill(store, 10)
    refs = [log(store, new_run(store, f"with {n}"), "key", store.put_bytes(b"%d" % n * 90)) for n in range(2)]
    forgotten = store.put_bytes(b"forgotten")
    store.seal()
    expected = answers(store)
    path = pack_away(store)
    whole = path.read_bytes()
    close_all()
    flip(path, block_of(path))
    with pytest.raises(CollectionRefused, match="--accept-loss"):
        collect(store)
    assert not repair(store).after.is_clean and path.exists()
    assert repair(store, accept_loss=True).after.is_clean and path.exists()
    assert any("accepted as lost" in note for note in verify(store).notes)
    named = readable(store) & {ref.digest for ref in refs}
    everything(store)
    assert named <= {ref.digest for ref in refs if is_there(store, ref)}
    assert not is_there(store, forgotten) and verify(store, deep=True).is_clean
    change(path, whole)
    assert {problem.kind for problem in verify(store).problems} <= {"missing"}, "what only the lost records named"
    assert answers(store) == expected == answers(another(store, cache="all"))


def test_after_any_damage_to_a_pack_that_was_accepted_collecting_goes_on(
    store: Store, another: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "_BLOCK_BYTES", 3000)
    fill(store, 8)
    store.refresh()  # this host has read every journal, and would miss each
    path = pack_away(store)
    whole = path.read_bytes()
    chosen = random.Random(5).sample(range(10, len(whole)), 5)
    for damaged in [b"", whole[:7], whole[:-30], *(whole[:at] + b"~~~" + whole[at + 3 :] for at in chosen)]:
        change(path, damaged)
        assert not verify(store).is_clean and not repair(store).after.is_clean
        with pytest.raises(CollectionRefused):
            collect(store)
        after = repair(store, accept_loss=True).after
        assert after.is_clean, after.problems
        close_all()
        collect(store, rules=later(days=2))
        assert verify(another(store, cache="other")).is_clean
    path.write_bytes(whole)
    assert verify(store).is_clean and store.count(Query("run")) == 9


# -- killed

KILLED = """
import json, os, sys
sys.path.insert(0, {tests!r})
from steps import kill_at_each_step
from verta_store import files, open_store
from verta_store.errors import CollectionRefused
from verta_store.fsck import verify
from verta_store.gc import collect
from verta_store.repair import repair
files.sync_file = lambda *_, **__: None
template, folder, names = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

def work(root):
    repair(open_store(root, folder + "/cache"), accept_loss=True)

def survivor(root):
    store = open_store(root, folder + "/cache")
    if verify(store).is_clean:
        collect(store)
    else:
        try:
            collect(store)
        except CollectionRefused:
            pass
        else:
            raise AssertionError("collected before all of the loss was accepted")
    report = repair(store, accept_loss=True)
    assert report.after.is_clean, report.after.problems
    collect(store)
    found = sorted(row.name for row in store.find(query))
    assert found == names, found

from verta_store.query import Query
query = Query("experiment")
print(kill_at_each_step(template, folder, work, survivor))
"""


def test_accepting_that_is_killed_at_any_step_is_ended_by_the_next(store: Store) -> None:
    fill(store, 3)
    pack_away(store)
    fill(store, 3, first=3)
    pack(store, fewest=1)  # damaged below, with its journals there
    store.add_points(new_run(store, "last"), "loss", [(0.5, 1, 1)])
    store.seal()
    one, two = sorted(Path(packs.path_of(store.root, name)) for name in names_of(store))
    flip(one, block_of(one))
    flip(two, block_of(two))
    newest = max(Path(store.root, "journals").rglob("*" + SEALED_SUFFIX), key=os.path.getmtime)
    change(newest, newest.read_bytes()[:-40])
    close_all()
    assert not verify(store).is_clean
    store.forget_derived()
    experiments = sorted(row.name for row in store.find(Query("experiment")))
    close_all()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        command = [sys.executable, "-c", KILLED.format(tests=os.path.dirname(__file__)), store.root]
        command += [str(Path(folder).resolve()), json.dumps(experiments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
