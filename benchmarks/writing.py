"""Rows about log calls: one at a time, durable, in batches, whole runs. The floor is a line of JSON and `write(2)`."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from verta_local import Client
from verta_local.run import ExperimentRun
from verta_store import journal

from .harness import Bench, Pairs, Result, each_call, seconds

_KEYS = [f"metric_{number}" for number in range(20)]
_PARAMETERS = [f"parameter_{number}" for number in range(20)]
_ENTITY = "f2f446c6-0000-8000-8000-000000000000"
_TIME = 7353758081179648  # a record's time, as long as a real one


def open_new(path: Path) -> int:
    """A new file for appending."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)


def client_of(bench: Bench, durability: str = "normal") -> Client:
    """A client of a new store with an active experiment."""
    client = bench.client(durability=durability)
    client.set_project("benchmarks")
    client.set_experiment("writing")
    return client


def new_run(bench: Bench, durability: str = "normal") -> Callable[[], ExperimentRun]:
    """Makes runs in a new store."""
    return client_of(bench, durability).set_experiment_run


def create(bench: Bench) -> Iterator[Result]:
    """A run is a record in the journal that the process has open; nothing is to be done at its end."""
    count = max(10, bench.sizes.calls // 20)
    make = new_run(bench)
    make()

    def floor(number: int) -> None:
        descriptor = open_new(bench.new_path("run"))
        for word in ("begin", "end"):
            record = {"h": _TIME, "k": word, "e": _ENTITY, "name": "Run", "at": number}
            os.write(descriptor, json.dumps(record).encode() + b"\n")
        os.close(descriptor)

    def durable_floor(number: int) -> None:
        descriptor = open_new(bench.new_path("run"))
        for word in ("begin", "end"):
            record = {"h": _TIME, "k": word, "e": _ENTITY, "name": "Run", "at": number}
            os.write(descriptor, json.dumps(record).encode() + b"\n")
        getattr(os, "fdatasync", os.fsync)(descriptor)
        os.close(descriptor)

    # A name may be taken, so it is looked up: in a store of this process alone, and in one that another writer shares.
    names = itertools.count()
    alone, shared, durable = client_of(bench), client_of(bench), client_of(bench)
    _write_as_another_process(bench, shared)

    def made_durable(_: int) -> None:
        durable.set_experiment_run()
        durable.flush()

    for work, floor_name, floor_call, ours in (
        ("create a run", "O_EXCL file, two lines", floor, lambda _: make()),
        (
            "create a run with a name",
            "O_EXCL file, two lines",
            floor,
            lambda _: alone.set_experiment_run(f"{next(names)}"),
        ),
        (
            "the same beside another writer",
            "O_EXCL file, two lines",
            floor,
            lambda _: shared.set_experiment_run(f"{next(names)}"),
        ),
        ("create a run, durable", "the same, fdatasync", durable_floor, made_durable),
    ):
        pairs = bench.compare_own_clock(
            lambda call=floor_call: each_call(call, count)[0],  # type: ignore[misc]
            lambda call=ours: each_call(call, count)[0],  # type: ignore[misc]
        )
        yield pairs.result(work, floor_name, at_most_ratio=2.2)


def _write_as_another_process(bench: Bench, client: Client) -> None:
    """Leaves a journal in a client's store that is not of this process."""
    code = "import sys; from verta_local import Client; Client(sys.argv[1]).set_experiment_run().log_metric('a', 1)"
    subprocess.run(
        [sys.executable, "-c", code, client.store_path], env=bench.environment, check=True, stdout=subprocess.DEVNULL
    )


def log_one(bench: Bench) -> Iterator[Result]:
    """In the kernel when the call returns: median and 99th percentile of single calls."""
    count = bench.sizes.calls
    descriptor = open_new(bench.new_path("lines"))
    make = new_run(bench)

    def floor_observation(number: int) -> None:
        record = {"h": _TIME + number, "k": "points", "e": _ENTITY, "key": "loss", "v": [[number / 7, _TIME, number]]}
        os.write(descriptor, json.dumps(record).encode() + b"\n")

    def floor_metric(number: int) -> None:
        record = {"h": _TIME + number, "k": "put", "e": _ENTITY, "s": "metrics", "v": {_KEYS[0]: number / 7}}
        os.write(descriptor, json.dumps(record).encode() + b"\n")

    def ours_observation() -> tuple[float, float]:
        log = make().log_observation
        return each_call(lambda number: log("loss", number / 7), count)

    def ours_metric() -> tuple[float, float]:
        # 20 keys a run, as users do; the runs are made before the clock starts.
        runs = [make() for _ in range(count // len(_KEYS) + 1)]
        calls = [(run.log_metric, key) for run in runs for key in _KEYS]

        def call(number: int) -> None:
            log, key = calls[number]
            log(key, number / 7)

        return each_call(call, count)

    for name, floor, ours in (
        ("log_observation", floor_observation, ours_observation),
        ("log_metric", floor_metric, ours_metric),
    ):
        floors, mine = bench.interleave(lambda call=floor: each_call(call, count), ours)  # type: ignore[misc]
        for place, what, limit in ((0, "", 1.8), (1, ", p99", 3.0)):
            pairs = Pairs([sample[place] for sample in floors], [sample[place] for sample in mine])
            yield pairs.result(f"{name}, one at a time{what}", "json.dumps + write", at_most_ratio=limit)

    run = make()

    def ours_after_reading(repeats: int = max(1, count // 10)) -> float:
        took = []
        for number in range(repeats):
            run.get_metrics()
            begin = time.perf_counter()
            run.log_metric("last", number / 7, overwrite=True)
            took.append(time.perf_counter() - begin)
        return median(took)

    # No limit of the issue: for the eye.
    pairs = bench.compare_own_clock(lambda: each_call(floor_metric, count)[0], ours_after_reading)
    yield pairs.result("log_metric, each behind a read", "json.dumps + write")
    os.close(descriptor)


def log_durable(bench: Bench) -> Iterator[Result]:
    """On the device when the call returns. Says nothing where the scratch folder lies in memory."""
    count = max(10, bench.sizes.calls // 20)
    descriptor = open_new(bench.new_path("lines"))
    make = new_run(bench, "full")
    sync = getattr(os, "fdatasync", os.fsync)

    def floor(number: int) -> None:
        record = {"h": _TIME + number, "k": "points", "e": _ENTITY, "key": "loss", "v": [[number / 7, _TIME, number]]}
        os.write(descriptor, json.dumps(record).encode() + b"\n")
        sync(descriptor)

    def ours() -> float:
        log = make().log_observation
        return each_call(lambda number: log("loss", number / 7), count)[0]

    pairs = bench.compare_own_clock(lambda: each_call(floor, count)[0], ours)
    yield pairs.result('log_observation, durability="full"', "line + fdatasync", at_most_ratio=1.35)
    os.close(descriptor)


def log_batch(bench: Bench) -> Iterator[Result]:
    """1,000 values in one call."""
    batch = {f"metric_{number}": number / 7 for number in range(1000)}
    points = [(number / 7, 1795349701000 + number, number) for number in range(1000)]
    descriptor = open_new(bench.new_path("lines"))
    make = new_run(bench)
    repeats = max(1, bench.sizes.calls // 200)

    def floor() -> None:
        for _ in range(repeats):
            lines = [json.dumps({"h": _TIME, "e": _ENTITY, "key": key, "v": value}) for key, value in batch.items()]
            os.write(descriptor, ("\n".join(lines) + "\n").encode())

    def ours_metrics() -> float:
        runs = [make() for _ in range(repeats)]

        def log_all() -> None:
            for run in runs:
                run.log_metrics(batch)

        return seconds(log_all)

    def ours_points() -> float:
        run = make()

        def log_all() -> None:
            for _ in range(repeats):
                run._store.add_points(run.id, "loss", points)

        return seconds(log_all)

    for name, ours in (("log_metrics of 1,000", ours_metrics), ("1,000 points (engine)", ours_points)):
        pairs = bench.compare_own_clock(lambda: seconds(floor), ours)
        yield pairs.result(name, "1,000 json.dumps, one write", divide_by=repeats, at_most_ratio=1.5)
    os.close(descriptor)


def whole_runs(bench: Bench) -> Iterator[Result]:
    """Runs with 20 parameters and 20 metrics, each value by a call of its own, in one process.

    Two floors: the lines are made by `json.dumps` and written one by one, as in `log_one`; and the very lines of
    such a run, made beforehand, so that only `os.write` is left.
    """
    count = bench.sizes.runs_logged
    make = new_run(bench)
    lines = lines_of_a_run(bench)
    line_records = [json.loads(line) for line in lines]
    descriptor = open_new(bench.new_path("lines"))

    def dump_and_write() -> None:
        for _ in range(count):
            for record in line_records:
                os.write(descriptor, json.dumps(record).encode() + b"\n")

    def write() -> None:
        for _ in range(count):
            for line in lines:
                os.write(descriptor, line)

    def ours() -> None:
        for number in range(count):
            log_run(make(), number)

    for floor, name in ((dump_and_write, "41 json.dumps + write"), (write, "41 lines by os.write")):
        pairs = bench.compare(floor, ours)
        total = count * (len(pairs.ours) + 1)
        work = f"a run with 20 + 20 values, {total:,} in one process"
        yield pairs.result(work, name, divide_by=count, at_most_ratio=3.0)
    os.close(descriptor)


def log_run(run: ExperimentRun, number: int) -> None:
    """20 parameters and 20 metrics, one call each."""
    for place, key in enumerate(_PARAMETERS):
        run.log_hyperparameter(key, number + place)
    for place, key in enumerate(_KEYS):
        run.log_metric(key, (number + place) / 7)


def lines_of_a_run(bench: Bench) -> list[bytes]:
    """The records of one such run as they stand in a journal, without the header and the footer."""
    client = bench.client()
    client.set_project("benchmarks")
    client.set_experiment("lines")
    log_run(client.set_experiment_run(), 1)
    client._store.seal()
    (stem, suffix), *_ = journal.list_journals(client.store_path).items()
    whole = Path(client.store_path, "journals", stem + suffix).read_bytes().splitlines(keepends=True)
    # Header, project, experiment; the run and its 40 values; the footer.
    return list(itertools.islice(whole, 3, len(whole) - 1))
