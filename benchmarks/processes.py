"""Rows about whole processes: start-up, the first run, a cold path for a model, memory, and what lies on the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from verta_store.gc import collect

from .harness import Bench, Pairs, Result, unsynced
from .objects import large_file, make_files, many_files, new_run
from .writing import lines_of_a_run, log_run


@dataclass(frozen=True)
class Finished:
    """A process that has ended: what it took and what it wrote to stderr."""

    wall_s: float
    cpu_s: float
    errors: str


def run_python(bench: Bench, code: str, *arguments: str) -> Finished:
    """Runs a text with this interpreter and waits for its end.

    Raises:
        RuntimeError: it failed; with what it wrote.
    """
    begin = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=bench.environment,
        cwd=bench.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert child.stderr is not None, "a pipe was asked for"
    errors = child.stderr.read().decode()
    child.stderr.close()
    cpu_s = 0.0
    if hasattr(os, "wait4"):
        # The resources of this very child, not of all children so far.
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        cpu_s = used.ru_utime + used.ru_stime
    else:
        child.wait()
    wall_s = time.perf_counter() - begin
    if child.returncode:
        raise RuntimeError(f"a measured process failed: {errors}")
    return Finished(wall_s, cpu_s, errors)


def _compare(bench: Bench, floor: Callable[[], Finished], ours: Callable[[], Finished]) -> list[tuple[str, Pairs]]:
    """Wall time and CPU time of whole processes."""
    floors, mine = bench.interleave(floor, ours)
    wall = Pairs([each.wall_s for each in floors], [each.wall_s for each in mine])
    cpu = Pairs([each.cpu_s for each in floors], [each.cpu_s for each in mine])
    return [("wall", wall), ("CPU", cpu)] if hasattr(os, "wait4") else [("wall", wall)]


def imports(bench: Bench) -> Iterator[Result]:
    """The package alone, and the class that every program needs."""
    # The issue limits the first; the second is for the eye: its price is within the limit of `first-run`.
    for code, limit in (("import verta_local", 2.0), ("from verta_local import Client", None)):
        found = _compare(bench, lambda: run_python(bench, "pass"), lambda code=code: run_python(bench, code))  # type: ignore[misc]
        for what, pairs in found:
            yield pairs.result(f"{code}, {what}", "bare Python", at_most_ratio=limit, amount=0)


_FIRST_RUN = """
import sys
from verta_local import Client
client = Client(sys.argv[1])
client.set_project("project")
client.set_experiment("experiment")
run = client.set_experiment_run()
run.log_hyperparameter("rate", 0.1)
run.log_metric("loss", 0.5)
"""

_READ_BACK = """
assert run.get_metrics() == {"loss": 0.5}
assert client.set_experiment_run(id=run.id).get_hyperparameter("rate") == 0.1
"""

# The same promises by hand: a description and a journal that survive a power cut, and a searchable index.
_FIRST_RUN_BY_HAND = """
import hashlib, json, os, sqlite3, sys, time, uuid

def sync_folder(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)

root, cache = sys.argv[1:]
os.makedirs(root + "/journals")
with open(root + "/store.json", "x") as file:
    json.dump({"format": 1, "id": str(uuid.uuid4())}, file)
    file.flush()
    os.fsync(file.fileno())
sync_folder(root)
os.makedirs(cache)
database = sqlite3.connect(cache + "/index.sqlite")
database.executescript('''PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
CREATE TABLE runs (num INTEGER PRIMARY KEY, id TEXT UNIQUE, updated INTEGER);
CREATE TABLE keys (num INTEGER PRIMARY KEY, section TEXT, key TEXT, UNIQUE (section, key));
CREATE TABLE vals (run INTEGER, key INTEGER, num REAL, text TEXT, PRIMARY KEY (run, key)) WITHOUT ROWID;
CREATE INDEX vals_by_number ON vals (key, num);''')
path = root + "/journals/1.jsonl"
descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
whole = b""
for record in ({"k": "journal"}, {"k": "project"}, {"k": "experiment"}, {"k": "run"}, {"rate": 0.1}, {"loss": 0.5}):
    line = json.dumps({"time": time.time(), **record}).encode() + b"\\n"
    os.write(descriptor, line)
    whole += line
os.write(descriptor, hashlib.sha256(whole).hexdigest().encode())
os.fsync(descriptor)
os.close(descriptor)
sync_folder(root + "/journals")
database.close()
"""


def first_run(bench: Bench) -> Iterator[Result]:
    """From nothing to a logged run: a new process, a new store, named project and experiment, two values."""

    def floor() -> Finished:
        return run_python(bench, _FIRST_RUN_BY_HAND, str(bench.new_path("floor")), str(bench.new_path("cache")))

    def ours() -> Finished:
        return run_python(bench, _FIRST_RUN, str(bench.new_path("store")))

    def ours_read() -> Finished:
        return run_python(bench, _FIRST_RUN + _READ_BACK, str(bench.new_path("store")))

    for what, pairs in _compare(bench, floor, ours):
        name = f"first logged run, cold process, new store, {what}"
        yield pairs.result(name, "by hand, with an index", at_most_ratio=1.7, amount=0)
    # Ours makes its index at the first look; without a limit of the issue.
    for what, pairs in _compare(bench, floor, ours_read):
        yield pairs.result(f"the same, and read back, {what}", "by hand, with an index", amount=0)


_PATHS = """
import sys, time
from verta_local import Client
client = Client(sys.argv[1])
run = client.set_experiment_run(id=sys.argv[2])
clock = time.perf_counter
begin = clock()
run.fetch_artifacts(["many"])
first = clock()
run.fetch_artifacts(["many"])
second = clock()
finish = run._store.begin_tree_check(run._artifact("many").digest)
begun = clock()
finish()
print(first - begin, second - first, begun - second, clock() - begun, file=sys.stderr)
"""


def paths(bench: Bench) -> Iterator[Result]:
    """The path of a folder of many files, in a process that never saw it. What loading a model adds: the check."""
    run = new_run(bench)
    run.log_artifact("many", str(many_files(bench)))
    run._store.seal()
    samples = []
    for _ in range(bench.pairs + 1):
        printed = run_python(bench, _PATHS, run._store.root, run.id).errors.split()
        samples.append([float(number) for number in printed])
    first, again, begun, beside = (median(column) for column in zip(*samples[1:], strict=True))
    count = f"{bench.sizes.files:,}"
    yield Result(f"path of an artifact of {count} files, first", ours=first, at_most=0.005, pairs=bench.pairs)
    yield Result(f"path of an artifact of {count} files, again", ours=again, at_most=0.005, pairs=bench.pairs)
    work = f"what their check adds before a model is loaded, {count} files"
    yield Result(work, ours=begun, at_most=0.005, pairs=bench.pairs)
    work = f"that check beside the loading, {count} files known"
    yield Result(work, ours=beside, amount=bench.sizes.files, pairs=bench.pairs)


_MEMORY = """
import resource, sys
from verta_local import Client
client = Client(sys.argv[1])
run = client.set_experiment_run()
run.log_artifact("small", sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run.log_artifact("large", sys.argv[3])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * (1 if sys.platform == "darwin" else 1024), file=sys.stderr)
"""


def memory(bench: Bench) -> Iterator[Result]:
    """By how many bytes logging a large file raises the peak of a process that has logged a small one."""
    if os.name != "posix":
        yield Result("memory above the start", skipped="no getrusage")
        return
    small = make_files(bench.new_path("small"), 1) / "part-000" / "file-00000.bin"
    printed = run_python(bench, _MEMORY, str(bench.new_path("store")), str(small), str(large_file(bench))).errors
    work = f"memory above the start, a file of {bench.sizes.file_bytes / (1 << 20):g} MiB"
    yield Result(work, ours=float(printed.split()[-1]), at_most=64 << 20, unit="B", amount=0)


_ONE_RUN = """
import sys
from verta_local import Client
client = Client(sys.argv[1])
client.set_project("project")
client.set_experiment("experiment")
for number in range(int(sys.argv[2])):
    run = client.set_experiment_run()
    for place in range(20):
        run.log_hyperparameter(f"parameter_{place}", number + place)
        run.log_metric(f"metric_{place}", (number + place) / 7)
"""


def _allocated(top: Path) -> tuple[int, int]:
    """(bytes on the disk, number of files) below a folder."""
    found = [os.stat(os.path.join(parent, name)) for parent, _, names in os.walk(top) for name in names]
    return sum(each.st_blocks * 512 for each in found), len(found)


def disk(bench: Bench) -> Iterator[Result]:
    """What a run of 40 values takes on the disk: alone in its process, and with others in one journal."""
    if os.name != "posix":
        yield Result("disk use of a run", skipped="no st_blocks")
        return
    floor_path = bench.new_path("floor")
    floor_path.mkdir()
    with open(floor_path / "run.jsonl", "wb") as file:
        for line in lines_of_a_run(bench):
            record = json.loads(line)
            del record["c"]  # the check value is ours
            file.write(json.dumps(record).encode() + b"\n")
        os.fsync(file.fileno())
    floor, _ = _allocated(floor_path)

    def alone_and_together(count: int) -> tuple[int, int]:
        root = bench.new_path("store")
        run_python(bench, _ONE_RUN, str(root), "0")
        before = _allocated(root)
        run_python(bench, _ONE_RUN, str(root), str(count))
        after = _allocated(root)
        return after[0] - before[0], after[1] - before[1]

    size, _ = alone_and_together(1)
    name = "its lines as plain JSON"
    yield Result("disk: a run of 40 values", name, floor, size, size / floor, at_most_ratio=1.0, unit="B", amount=0)
    count = 100
    size, files = alone_and_together(count)
    work = f"disk: one of {count} runs in one journal"
    yield Result(work, name, floor, size / count, size / count / floor, unit="B", amount=0)
    yield Result(f"files: one of {count} runs in one journal", ours=files / count, at_most=0.01, unit="files", amount=0)
    client = bench.client()
    client.set_project("benchmarks")
    client.set_experiment("packed")
    runs = 500
    with unsynced():
        for number in range(runs):
            log_run(client.set_experiment_run(), number)
            client._store.seal()
    journals = Path(client.store_path, "journals")
    before = _allocated(journals)
    collect(client._store, grace_s=0, is_alone=True)
    after = _allocated(journals)
    sizes = f"{runs} runs, each from a journal of its own, packed"
    a_run = before[0] / runs
    yield Result(
        f"disk: one of {sizes}",
        "unpacked",
        a_run,
        after[0] / runs,
        after[0] / before[0],
        at_most_ratio=0.25,
        unit="B",
        amount=0,
    )
    yield Result(f"files: one of {sizes}", ours=after[1] / runs, at_most=0.01, unit="files", amount=0)
