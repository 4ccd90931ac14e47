"""Garbage collection beside writers and readers, and killed: stopped at each of its steps, and raced by processes.

The grace and the wait in the trash are 0 here, so that only leases, freshening and looking again protect anything.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from new_entities import new_run
from steps import CHANGES, LOOKS, at_step

from verta_store import Store, close_all, files, ids, leases, open_store, records
from verta_store.description import read_description
from verta_store.errors import MissingObject, StoreError
from verta_store.fsck import verify
from verta_store.gc import DAY_S, Rules, collect
from verta_store.objects import Ref
from verta_store.roots import RootReader
from verta_store.trash import Part

AT_ONCE = Rules(minimum_grace_s=0, trash_wait_s=0)
INTO_TRASH = Rules(minimum_grace_s=0, trash_wait_s=3600)
OLD = b"what a deleted run named"
ALL_STEPS = CHANGES + LOOKS


def record(ref: Ref) -> dict[str, Any]:
    return {"kind": ref.kind, "digest": ref.digest, "size_bytes": ref.size_bytes, "name": "name"}


class World:
    """Copies of a store in which a deleted run named a blob and a tree, and who works with them."""

    def __init__(self, tmp_path: Path) -> None:
        self._tmp_path = tmp_path
        self._opened: list[Store] = []
        self._count = 0
        self.folder = tmp_path / "folder"
        (self.folder / "sub").mkdir(parents=True)
        (self.folder / "sub" / "small").write_text("small")
        (self.folder / "large").write_bytes(b"L" * 65536)
        self.template = tmp_path / "template"
        store = open_store(self.template, tmp_path / "cache", create=True)
        self.experiment = store.entity(new_run(store, "living")).parent
        run = new_run(store, "dead")
        self.blob = store.put_bytes(OLD)
        self.tree = store.put_tree(self.folder)
        store.put(run, records.ARTIFACTS, {"blob": record(self.blob), "tree": record(self.tree)})
        store.delete(run)
        close_all()

    def copy(self) -> str:
        """A fresh copy of the store; those who worked with the last one let go of it."""
        self.close()
        self._count += 1
        root = self._tmp_path / f"store-{self._count}"
        shutil.copytree(self.template, root)
        return str(root)

    def close(self) -> None:
        for store in self._opened:
            store.close()
        self._opened.clear()

    def open(self, root: str) -> Store:
        """The store as one more process would have it: a journal, leases and an index of its own."""
        cache = self._tmp_path / f"cache-{self._count}"
        self._opened.append(Store(root, read_description(root), str(cache), "normal"))
        return self._opened[-1]

    def store_again(self, store: Store) -> list[Ref]:
        """What the deleted run had, met again, and something new."""
        return [store.put_bytes(OLD), store.put_tree(self.folder), store.put_bytes(b"new")]

    def name(self, store: Store, refs: list[Ref]) -> list[Ref]:
        """Names objects in a new run, a record each."""
        run = store.create("run", self.experiment, f"run-{os.urandom(8).hex()}", is_fresh_name=True)
        for number, ref in enumerate(refs):
            store.put(run.id, records.ARTIFACTS, {f"key-{number}": record(ref)})
        return refs

    def require(self, root: str, refs: list[Ref], when: str) -> None:
        """Fails unless the journals name these objects, and any process finds them, each whole."""
        reader = RootReader(root)
        assert reader.catch_up() == [], when
        assert reader.roots.living(ids.now_ms()) == {ref.digest for ref in refs}, when
        store = self.open(root)
        for ref in refs:
            try:
                store.check(ref.kind, ref.digest)
            except StoreError as error:
                pytest.fail(f"{when}: {error}")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    # In memory and without syncing: nothing here is about disks, and each test makes a hundred stores.
    monkeypatch.setattr(files, "sync_file", lambda *_, **__: None)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory, prefix="verta_local-") as folder:
        world = World(Path(folder).resolve())
        yield world
        world.close()
        close_all()


def each_step(run: Callable[[int], list[str]]) -> int:
    """Calls `run` with 1, 2, ... until there are no more steps. Returns how many there were."""
    number = 1
    while len(run(number)) >= number:
        number += 1
    return number - 1


# -- a collection stopped at each of its steps, while others go on


@pytest.mark.parametrize(
    ("named", "rules"),
    [("at once", AT_ONCE), ("afterwards", AT_ONCE), ("afterwards", INTO_TRASH)],
    ids=["deleted at once", "deleted at once, named later", "into the trash, named later"],
)
def test_a_writer_between_any_two_steps_of_a_collection_loses_nothing(world: World, named: str, rules: Rules) -> None:
    def run(number: int) -> list[str]:
        root = world.copy()
        collector, writer = world.open(root), world.open(root)
        refs: list[Ref] = []

        def write() -> None:
            refs.extend(world.store_again(writer))
            if named == "at once":
                world.name(writer, refs)
                writer.close()

        with at_step(root, number, write, ALL_STEPS) as log:
            collect(collector, grace_s=0, rules=rules)
        if refs:
            if named == "afterwards":
                collect(collector, grace_s=0, rules=rules)
                world.name(writer, refs)
                writer.close()
            world.require(root, refs, f"step {number}, {log[number - 1]}")
            for _ in range(2):
                collect(collector, grace_s=0, rules=AT_ONCE)
            world.require(root, refs, f"step {number}, {log[number - 1]}, and two collections later")
        return log

    assert each_step(run) > 50


@pytest.mark.parametrize("rules", [AT_ONCE, INTO_TRASH], ids=["at once", "into the trash"])
def test_what_is_taken_for_serving_between_any_two_steps_stays(world: World, rules: Rules) -> None:
    def run(number: int) -> list[str]:
        root = world.copy()
        collector, server = world.open(root), world.open(root)
        served: list[Ref] = []

        def serve() -> None:
            server.hold([world.blob.digest, world.tree.digest], "a test")
            for ref in (world.blob, world.tree):
                try:
                    server.check(ref.kind, ref.digest)
                    served.append(ref)
                except MissingObject:
                    pass  # it came too late, and says so

        with at_step(root, number, serve, ALL_STEPS) as log:
            collect(collector, grace_s=0, rules=rules)
        for ref in served:
            path = server.path_of(ref.kind, ref.digest, "name")
            collect(collector, grace_s=0, rules=AT_ONCE)
            assert os.path.exists(path), f"step {number}, {log[number - 1]}"
        if os.path.lexists(Part("tree", world.tree.digest).home(root)):
            server.check("tree", world.tree.digest)  # nobody brings back a part of what is being deleted
        return log

    assert each_step(run) > 50


def test_two_collections_at_once_lose_nothing_and_end(world: World) -> None:
    def run(number: int) -> list[str]:
        root = world.copy()
        one, two, writer = world.open(root), world.open(root), world.open(root)
        refs = world.name(writer, [writer.put_bytes(OLD)])
        writer.close()

        def collect_too() -> None:
            # As if the other's turn were stale.
            Path(root, "leases", "collector.json").unlink(missing_ok=True)
            collect(two, grace_s=0, rules=AT_ONCE)

        with at_step(root, number, collect_too) as log:
            collect(one, grace_s=0, rules=AT_ONCE)
        world.require(root, refs, f"step {number}")
        collect(one, grace_s=0, rules=AT_ONCE)
        world.require(root, refs, f"step {number}, later")
        assert not os.path.lexists(one.tree_path(world.tree.digest))
        assert os.listdir(os.path.join(root, "trash")) == []
        return log

    assert each_step(run) > 20


# -- a writer stopped at each of its steps, while collections go on


@pytest.mark.parametrize("rules", [AT_ONCE, INTO_TRASH], ids=["at once", "into the trash"])
def test_a_collection_between_any_two_steps_of_a_writer_loses_nothing_and_hinders_nobody(
    world: World, rules: Rules
) -> None:
    def run(number: int) -> list[str]:
        root = world.copy()
        collector, writer = world.open(root), world.open(root)
        with at_step(root, number, lambda: collect(collector, grace_s=0, rules=rules) and None, ALL_STEPS) as log:
            refs = world.name(writer, world.store_again(writer))
        writer.close()
        world.require(root, refs, f"step {number}")
        for _ in range(2):
            collect(collector, grace_s=0, rules=AT_ONCE)
        world.require(root, refs, f"step {number}, and two collections later")
        return log

    assert each_step(run) > 50


@pytest.mark.parametrize("slept_days", [20, 200])
def test_a_writer_that_sleeps_at_any_step_and_is_taken_for_dead_names_nothing_that_is_lost(
    world: World, slept_days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 days: one collection, which moves all to the trash; 200 days: several, which delete."""
    here = leases.this_machine()
    refusals = Counter[str]()

    def run(number: int) -> list[str]:
        root = world.copy()
        collector, writer = world.open(root), world.open(root)

        def sleep() -> None:
            monkeypatch.setattr(leases, "this_machine", lambda: here)
            for days in range(20, slept_days + 1, 60):
                collect(collector, rules=Rules(clock=lambda now_ns, days=days: now_ns + int(days * DAY_S) * 10**9))
            monkeypatch.setattr(leases, "this_machine", lambda: "another host")

        monkeypatch.setattr(leases, "this_machine", lambda: "another host")
        refs: list[Ref] = []
        error = None
        with at_step(root, number, sleep, ALL_STEPS) as log:
            try:
                for _ in range(2):  # who is refused does it again
                    try:
                        refs = world.name(writer, world.store_again(writer))
                        break
                    except StoreError as refused:
                        error = refused
                        refusals[type(refused).__name__] += 1
            finally:
                monkeypatch.setattr(leases, "this_machine", lambda: here)
        assert refs, f"step {number}, {log[number - 1 :]}: {error!r}"
        writer.close()
        # Who was refused has a second run, which names the same.
        world.require(root, refs, f"step {number}, {log[number - 1 : number]}, {error!r}")
        collect(collector, grace_s=0, rules=AT_ONCE)
        world.require(root, refs, f"step {number}, later")
        return log

    steps = each_step(run)
    assert steps > 50
    # Only what was stopped in the midst of it is refused, and with a sentence.
    assert refusals.total() <= steps
    assert set(refusals) <= {"MissingObject", "StoreWriteError"}


# -- killed


KILLED_AT_EACH_STEP = """
import os, sys
sys.path.insert(0, {tests!r})
from steps import kill_at_each_step
from verta_store import files, open_store
from verta_store.fsck import verify
from verta_store.gc import Rules, collect
files.sync_file = lambda *_, **__: None
template, folder, cache, wait_s = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
kept, gone = sys.argv[5].split(), sys.argv[6].split()
rules = Rules(minimum_grace_s=0, trash_wait_s=wait_s)

def work(root):  # to be killed between two looks is to be killed before the next change
    collect(open_store(root, cache), grace_s=0, rules=rules)

def survivor(root):
    store = open_store(root, cache)
    first = verify(store, deep=True)
    for name in kept:
        kind, digest = name.split("=")
        store.check(kind, digest)
    assert first.is_clean, first.problems
    for _ in range(2):
        # A turn that was taken and not yet signed counts for an hour.
        collect(store, grace_s=0, rules=Rules(minimum_grace_s=0, trash_wait_s=0, turn_s=0))
    assert verify(store, deep=True).is_clean
    for name in kept:
        kind, digest = name.split("=")
        store.check(kind, digest)
    for name in gone:
        kind, digest = name.split("=")
        assert not os.path.lexists((store.tree_path if kind == "tree" else store.object_path)(digest)), name
    for name in ("trash", "tmp", "leases"):
        left = [one for one in os.listdir(os.path.join(root, name)) if not one.startswith(store.leases.name)]
        # An empty file that was made to read the clock waits for the grace.
        assert all(one.startswith("clock-") for one in left), (name, left)

print(kill_at_each_step(template, folder, work, survivor))
"""


@pytest.mark.parametrize("wait_s", [0, 3600], ids=["at once", "into the trash"])
def test_a_collection_killed_at_any_step_loses_nothing_and_the_next_one_goes_on(world: World, wait_s: float) -> None:
    store = open_store(world.template, world.template.parent / "cache")
    kept = world.name(store, [store.put_bytes(b"living"), store.put_bytes(b"living too")])
    store.put_bytes(b"forgotten")
    name = store.path_of("blob", world.blob.digest, "model.bin")
    (killed := Path(store.root, "tmp", "of-nobody")).mkdir()
    os.utime(killed, ns=(0, 0))
    close_all()
    assert os.path.exists(name)
    words = [" ".join(f"{ref.kind}={ref.digest}" for ref in refs) for refs in (kept, [world.blob, world.tree])]
    code = KILLED_AT_EACH_STEP.format(tests=os.path.dirname(__file__))
    command = [sys.executable, "-c", code, str(world.template), str(world.template.parent)]
    command += [str(world.template.parent / "c"), str(wait_s), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


# -- processes


RACER = """
import os, random, sys, time
sys.path.insert(0, {tests!r})
role, root, cache, out, hours, until = sys.argv[1:7]
shift_ns = int(float(hours) * 3600 * 10**9)
if shift_ns:
    real = time.time_ns  # a computer whose clock is wrong
    time.time_ns = lambda: real() + shift_ns
    time.time = lambda: (real() + shift_ns) / 1e9
from new_entities import new_run
from verta_store import files, open_store
from verta_store.errors import CollectionRefused
from verta_store.gc import Rules, collect
files.sync_file = lambda *_, **__: None
store = open_store(root, cache)
end = time.monotonic() + float(until)
dice = random.Random(out)
log = open(out, "a", buffering=1)

def collecting():
    rules = Rules(minimum_grace_s=0, trash_wait_s=dice.choice([0.0, 0.05, 0.3]))
    try:
        report = collect(store, grace_s=0, rules=rules)
    except CollectionRefused as refused:
        assert "another garbage collection" in str(refused), refused
        os.unlink(os.path.join(root, "leases", "collector.json"))  # two at once, on purpose
        return
    print("collection", report.trashed.object_count, report.freed.object_count, report.put_back_count, file=log)

mine = []
def writing():
    number = dice.randrange(12)
    if dice.random() < 0.3:
        folder = os.path.join(out + "-folders", str(number))
        if not os.path.isdir(folder):
            os.makedirs(folder)
            open(os.path.join(folder, "small"), "w").write(f"small {{number}}")
            open(os.path.join(folder, "large"), "wb").write(b"%d" % number * 70_000)
        ref = store.put_tree(folder)
    else:
        data = b"pool %d" % number if dice.random() < 0.8 else os.urandom(16)
        ref = store.put_bytes(data)
    if dice.random() < 0.2:
        time.sleep(dice.random() * 0.05)
    run = new_run(store, f"run-{{os.getpid()}}-{{dice.random()}}")
    store.put(run, "artifacts",
              {{"key": {{"kind": ref.kind, "digest": ref.digest, "size_bytes": ref.size_bytes, "name": "n"}}}})
    print("logged", run, ref.kind, ref.digest, file=log)
    mine.append(run)
    if len(mine) > 1:
        run = mine.pop(dice.randrange(len(mine)))
        print("deleting", run, file=log)
        store.delete(run)
    if dice.random() < 0.5:
        store.leases.advance()  # as the thread in the background does once an hour
    if dice.random() < 0.05:
        store.close()

while time.monotonic() < end:
    collecting() if role == "collect" else writing()
store.close()
"""


def test_processes_that_store_the_same_and_new_things_and_collect_lose_nothing(store: Store, tmp_path: Path) -> None:
    new_run(store)
    close_all()
    code = RACER.format(tests=os.path.dirname(__file__))
    processes = []
    for number, (role, hours) in enumerate(
        [("write", 0), ("write", 0), ("write", 5), ("write", -7), ("write", 0), ("collect", 0), ("collect", 11)]
    ):
        command = [sys.executable, "-c", code, role, store.root, str(tmp_path / f"cache-{number}")]
        command += [str(tmp_path / f"out-{number}"), str(hours), "5"]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    time.sleep(3)
    processes[4].send_signal(signal.SIGKILL)
    for number, process in enumerate(processes):
        _, errors = process.communicate(timeout=40)
        assert process.returncode == (-signal.SIGKILL if number == 4 else 0), f"process {number}: {errors}"
    logged: dict[str, tuple[str, str]] = {}
    deleted = set()
    totals = Counter[str]()
    for path in tmp_path.glob("out-?"):
        for line in path.read_text().splitlines():
            what, *words = line.split()
            totals[what] += 1
            if what == "logged" and len(words) == 3:
                logged[words[0]] = (words[1], words[2])
            elif what == "deleting":
                deleted.add(words[0])
            elif what == "collection":
                totals.update(dict(zip(("trashed", "freed", "put back"), map(int, words), strict=True)))
    print(dict(totals))
    assert verify(store, deep=True).is_clean
    living = {run: found for run, found in logged.items() if run not in deleted}
    for run, (kind, digest) in living.items():
        assert store.values(run, "artifacts")["key"]["digest"] == digest
        store.check(kind, digest)
    collect(store, grace_s=0, rules=AT_ONCE)
    assert verify(store, deep=True).is_clean
    for kind, digest in living.values():
        store.check(kind, digest)
    assert len(living) >= 4
    assert totals["logged"] > 50
    assert totals["freed"] > 20
