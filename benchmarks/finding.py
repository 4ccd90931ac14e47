"""Rows about reading: find, catching up, newest runs, histories, data frames, rebuilding the index.

The floors are hand-written SQL on tables of their own (`hand_written_tables`), filled with the same data.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import sqlite3
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

from verta_local import Client
from verta_store import Store, journal
from verta_store.index import Index
from verta_store.query import Query

from .harness import Bench, Pairs, Result, each_call, seconds, unsynced
from .processes import run_python
from .writing import log_run

_SECTIONS = ("hyperparameters", "metrics")
# With `p == 3` every number of runs has 100 matches, half of them with m > 0.5: the result does not grow.
_MATCHES = 100
_PREDICATES = ("metrics.m > 0.5", "hyperparameters.p == 0")


@dataclass(frozen=True)
class Searched:
    """A store with runs of 20 + 20 values in one sealed journal, and the same values in tables of a floor."""

    client: Client
    run_ids: list[str]
    database: sqlite3.Connection


def values_of_run(number: int, count: int) -> tuple[dict[str, int | float], dict[str, int | float]]:
    """(hyperparameters, metrics) of a run, 20 each: of these `p` and `m` are searched for."""
    parameters: dict[str, int | float] = {f"parameter_{place}": number + place for place in range(19)}
    metrics: dict[str, int | float] = {f"metric_{place}": (number + place) / 7 for place in range(19)}
    parameters["p"] = number % max(1, count // _MATCHES)
    metrics["m"] = (number * 0.6180339887) % 1
    return parameters, metrics


def sections_of_run(number: int, count: int) -> Iterator[tuple[str, dict[str, int | float]]]:
    """The same, with the names of the sections."""
    return zip(_SECTIONS, values_of_run(number, count), strict=True)


def searched(bench: Bench) -> Searched:
    """The store that is searched; made once."""
    return bench.keep("searched", lambda: _make_searched(bench))


def _make_searched(bench: Bench) -> Searched:
    client = bench.client()
    client.set_project("benchmarks")
    client.set_experiment("finding")
    count = bench.sizes.runs_found
    run_ids = []
    for number in range(count):
        parameters, metrics = values_of_run(number, count)
        run = client.set_experiment_run()
        run.log_hyperparameters(parameters)
        run.log_metrics(metrics)
        run_ids.append(run.id)
    client._store.seal()
    client._store.refresh()
    database = hand_written_tables(bench.new_path("floor.sqlite"))
    with database:
        database.executemany("INSERT INTO runs VALUES (?, ?, ?)", ((n, i, n) for n, i in enumerate(run_ids)))
        pairs = [(section, key) for section, part in sections_of_run(0, count) for key in part]
        numbers = {pair: number for number, pair in enumerate(pairs)}
        database.executemany("INSERT INTO keys VALUES (?, ?, ?)", ((n, *pair) for pair, n in numbers.items()))
        database.executemany(
            "INSERT INTO vals VALUES (?, ?, ?, NULL)",
            (
                (number, numbers[section, key], value)
                for number in range(count)
                for section, part in sections_of_run(number, count)
                for key, value in part.items()
            ),
        )
    database.execute("ANALYZE")
    return Searched(client, run_ids, database)


def hand_written_tables(path: Path) -> sqlite3.Connection:
    """What somebody would write who needs only these queries: runs, keys, values; an index to search by number."""
    database = sqlite3.connect(path)
    database.executescript(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
        "CREATE TABLE runs (num INTEGER PRIMARY KEY, id TEXT UNIQUE, updated INTEGER);"
        "CREATE INDEX runs_by_update ON runs (updated);"
        "CREATE TABLE keys (num INTEGER PRIMARY KEY, section TEXT, key TEXT, UNIQUE (section, key));"
        "CREATE TABLE vals (run INTEGER, key INTEGER, num REAL, text TEXT, PRIMARY KEY (run, key)) WITHOUT ROWID;"
        "CREATE INDEX vals_by_number ON vals (key, num);"
    )
    return database


_FIND = """
SELECT r.id, m.num FROM vals p
JOIN vals m ON m.run = p.run AND m.key = (SELECT num FROM keys WHERE section = 'metrics' AND key = 'm')
JOIN runs r ON r.num = p.run
WHERE p.key = (SELECT num FROM keys WHERE section = 'hyperparameters' AND key = 'p') AND p.num = 0 AND m.num > 0.5
ORDER BY m.num DESC LIMIT 20
"""

_COLD = """
import sys, time
from verta_local import Client
client = Client(sys.argv[1])
begin = time.perf_counter()
found = list(client.expt_runs.find(*sys.argv[2:]).top_k("metrics.m", 20))
print(time.perf_counter() - begin, len(found), file=sys.stderr)
"""


def find(bench: Bench) -> Iterator[Result]:
    """Two predicates, sorted, the best 20; and the first such call of a new process."""
    data = searched(bench)
    runs = data.client.expt_runs

    def ours() -> list[str]:
        return [run.id for run in runs.find(*_PREDICATES).top_k("metrics.m", 20)]

    def floor() -> list[str]:
        return [run_id for run_id, _ in data.database.execute(_FIND).fetchall()]

    assert ours() == floor(), "floor and product must find the same runs"
    calls = 20
    pairs = bench.compare_own_clock(
        lambda: each_call(lambda _: floor(), calls)[0], lambda: each_call(lambda _: ours(), calls)[0]
    )
    of = f"of {len(data.run_ids):,} runs"
    yield pairs.result(f"find, 2 predicates, best 20 {of}", "SQL by hand", at_most_ratio=4.0)
    script = [_COLD, data.client.store_path, *_PREDICATES]
    cold = [float(run_python(bench, *script).errors.split()[0]) for _ in range(bench.pairs + 1)][1:]
    yield Result(f"find, first call of a process, {of}", ours=median(cold), at_most=0.010, pairs=len(cold))


def catch_up(bench: Bench) -> Iterator[Result]:
    """What every read pays before it reads, when there is nothing new."""
    for count in sorted({1, bench.sizes.journals}):
        store = _store_of_journals(bench, count)
        store.refresh()
        top = os.path.join(store.root, "journals")
        folder = os.path.join(top, os.listdir(top)[0])
        calls = 200 if count < 100 else 3
        pairs = bench.compare_own_clock(
            lambda folder=folder, calls=calls: each_call(lambda _: os.listdir(folder), calls)[0],  # type: ignore[misc]
            lambda store=store, calls=calls: each_call(lambda _: store.refresh(), calls)[0],  # type: ignore[misc]
        )
        work = f"catch-up of nothing, {count:,} sealed journal{'s' * (count > 1)}"
        amount = 0 if count == 1 else count
        yield pairs.result(work, "os.listdir", at_most_ratio=3.0, at_most=0.020, amount=amount)
        store.close()


def _store_of_journals(bench: Bench, count: int) -> Store:
    client = bench.client()
    client.set_project("benchmarks")
    client.set_experiment("journals")
    with unsynced():
        for _ in range(count):
            client.set_experiment_run()
            client._store.seal()
    return client._store


_NEWEST = """
SELECT r.id, k.section, k.key, v.num, v.text FROM (SELECT num, id FROM runs ORDER BY updated DESC LIMIT 50) r
JOIN vals v ON v.run = r.num JOIN keys k ON k.num = v.key
"""


def newest(bench: Bench) -> Iterator[Result]:
    """The newest 50 runs with all keys: as `verta-local ls` asks for them, and run by run as a user of the API does."""
    data = searched(bench)
    store = data.client._store

    def floor() -> dict[str, dict[str, dict[str, object]]]:
        found: dict[str, dict[str, dict[str, object]]] = {}
        for run_id, section, key, number, text in data.database.execute(_NEWEST):
            value = number if number is not None else text
            found.setdefault(run_id, {"hyperparameters": {}, "metrics": {}})[section][key] = value
        return found

    def ours() -> dict[str, dict[str, dict[str, object]]]:
        run_ids = [row.id for row in store.find(Query("run"), 50)]
        found: dict[str, dict[str, dict[str, object]]] = {i: {"hyperparameters": {}, "metrics": {}} for i in run_ids}
        for run_id, section, key, value in store.values_of_many(run_ids):
            found[run_id][section][key] = value
        return found

    def one_by_one() -> list[object]:
        runs = itertools.islice(data.client.expt_runs, 50)
        return [(run.get_hyperparameters(), run.get_metrics()) for run in runs]

    assert ours() == floor(), "floor and product must find the same values"
    of = f"newest 50 of {len(data.run_ids):,} runs"
    yield bench.compare(floor, ours).result(f"{of}, all keys, as ls", "SQL by hand", at_most_ratio=2.0)
    yield bench.compare(floor, one_by_one).result(f"{of}, get_... of each", "SQL by hand", at_most_ratio=2.0)


def history(bench: Bench) -> Iterator[Result]:
    """One series: as columns, and as Verta's (value, local time, epoch)."""
    count = bench.sizes.points
    client = bench.client()
    client.set_project("benchmarks")
    run = client.set_experiment_run()
    start_ms = 1_795_349_701_000
    for number in range(count):
        run.log_observation("loss", number / 7, start_ms + number, number)
    client._store.seal()
    client._store.refresh()
    database = sqlite3.connect(bench.new_path("floor.sqlite"))
    database.execute("CREATE TABLE points (run TEXT, key TEXT, data BLOB, PRIMARY KEY (run, key)) WITHOUT ROWID")
    numbers = range(count)
    columns = (array("d", (n / 7 for n in numbers)), array("q", (start_ms + n for n in numbers)), array("q", numbers))
    with database:
        chunk = b"".join(column.tobytes() for column in columns)
        database.execute("INSERT INTO points VALUES (?, 'loss', ?)", (run.id, chunk))

    def read() -> tuple[array[float], array[int], array[int]]:
        sql = "SELECT data FROM points WHERE run = ? AND key = 'loss'"
        (data,) = database.execute(sql, (run.id,)).fetchone()
        values, stamps, epochs = array("d"), array("q"), array("q")
        values.frombytes(data[: 8 * count])
        stamps.frombytes(data[8 * count : 16 * count])
        epochs.frombytes(data[16 * count :])
        return values, stamps, epochs

    def tuples() -> list[tuple[float, str, int]]:
        text = datetime.fromtimestamp
        return [(value, str(text(stamp / 1000)), epoch) for value, stamp, epoch in zip(*read(), strict=True)]

    assert tuples() == run.get_observation("loss"), "floor and product must read the same points"
    of = f"history of {count:,} points"
    pairs = bench.compare(tuples, lambda: run.get_observation("loss"))
    yield pairs.result(f"{of}, Verta's tuples", "tuples by hand", at_most_ratio=2.0, amount=count)
    store = client._store
    if hasattr(store, "point_columns"):
        pairs = bench.compare(read, lambda: store.point_columns(run.id, "loss"))
        yield pairs.result(f"{of}, arrays", "reading the chunk", at_most_ratio=3.0, amount=count)
    else:
        pairs = bench.compare(read, lambda: store.points(run.id, "loss"))
        yield pairs.result(f"{of}, points (no arrays yet)", "reading the chunk", at_most_ratio=3.0, amount=count)
    database.close()


def dataframe(bench: Bench) -> Iterator[Result]:
    """All runs as a pandas frame, against the rows of a hand-written SELECT put into columns."""
    if importlib.util.find_spec("pandas") is None:
        yield Result("as_dataframe", skipped="pandas is not installed")
        return
    import pandas  # noqa: PLC0415 - optional

    data = searched(bench)

    def floor() -> object:
        rows = data.database.execute(
            "SELECT r.id, k.section || '.' || k.key, v.num FROM vals v JOIN runs r ON r.num = v.run"
            " JOIN keys k ON k.num = v.key"
        ).fetchall()
        return pandas.DataFrame(rows, columns=["id", "key", "value"]).pivot(index="id", columns="key", values="value")

    runs = data.client.expt_runs
    values = runs.as_dataframe().filter(regex=r"^(hpp|metric)\.")  # without status, times and tags, which cost us more
    assert values.shape == floor().shape, "floor and product must make the same frame"  # type: ignore[attr-defined]
    work = f"as_dataframe of {len(data.run_ids):,} runs x 40"
    pairs = bench.compare(floor, runs.as_dataframe)
    yield pairs.result(work, "SQL rows to pandas", at_most_ratio=0.4, amount=len(data.run_ids))

    def first() -> float:
        data.client._store.forget_derived()
        data.client._store.refresh()
        return seconds(runs.as_dataframe)

    pairs = bench.compare_own_clock(lambda: seconds(floor), first)
    yield pairs.result(f"{work}, after a rebuild", "SQL rows to pandas", at_most_ratio=0.4, amount=len(data.run_ids))

    def logged_one_by_one() -> float:
        data.client._store._index._open().execute("DELETE FROM packed")  # as if they had come to the index so
        return seconds(runs.as_dataframe)

    pairs = bench.compare_own_clock(lambda: seconds(floor), logged_one_by_one)
    yield pairs.result(f"{work}, none of them read before", "SQL rows to pandas", amount=len(data.run_ids))


def rebuild(bench: Bench) -> Iterator[Result]:
    """The whole index anew from one journal, against parsing its lines and `executemany` into a table."""
    client = bench.client()
    client.set_project("benchmarks")
    client.set_experiment("rebuild")
    for number in range(bench.sizes.runs_indexed):
        log_run(client.set_experiment_run(), number)
    store = client._store
    store.seal()
    (stem, suffix), *_ = journal.list_journals(store.root).items()
    source = Path(store.root, "journals", stem + suffix)
    record_count = source.read_bytes().count(b"\n") - 2  # without header and footer

    def floor() -> float:
        folder = bench.new_path("floor")
        folder.mkdir()
        took = seconds(lambda: _index_by_hand(source, folder / "floor.sqlite"))
        shutil.rmtree(folder)
        return took

    def ours() -> float:
        folder = bench.new_path("index")
        index = Index(store.root, store.id, str(folder / "index.sqlite"))
        took = seconds(index.refresh)
        assert index.run("SELECT count(*) FROM vals") == [(40 * bench.sizes.runs_indexed,)]
        index.close()
        shutil.rmtree(folder)
        return took

    pairs: Pairs = bench.compare_own_clock(floor, ours)
    work = f"index rebuild, per record of {record_count:,}"
    yield pairs.result(work, "json.loads + executemany", divide_by=record_count, at_most_ratio=2.0)


def rebuild_whole(bench: Bench) -> Iterator[Result]:
    """The index of a store of many runs, from few large journals and from many small ones; 100,000 within a minute."""
    count = bench.sizes.runs_found
    many = bench.client()._store
    experiment = many.create("experiment", many.create("project", None, "benchmarks").id, "rebuild").id
    runs_a_journal = 10
    with unsynced():
        for number in range(count):
            run = many.create("run", experiment, f"run {number}", is_fresh_name=True).id
            many.put_all(run, dict(sections_of_run(number, count)))
            if (number + 1) % runs_a_journal == 0:
                many.seal()
        many.seal()
    for store, of in ((searched(bench).client._store, "1 journal"), (many, f"{count // runs_a_journal:,} journals")):
        folder = bench.new_path("index")
        index = Index(store.root, store.id, str(folder / "index.sqlite"))
        took = seconds(index.refresh)
        assert index.run("SELECT count(*) FROM vals") == [(40 * count,)]
        index.close()
        shutil.rmtree(folder)
        work = f"index rebuild of {count:,} runs x 40 in {of}"
        yield Result(work, ours=took, at_most=60 * max(1.0, count / 100_000), amount=count, pairs=1)


def _index_by_hand(source: Path, target: Path) -> None:
    database = hand_written_tables(target)
    runs: dict[str, int] = {}
    updated: dict[str, int] = {}
    keys: dict[tuple[str, str], int] = {}
    rows = []
    with open(source, "rb") as lines:
        for line in lines:
            record = json.loads(line)
            if record["k"] == "entity":
                runs[record["e"]] = len(runs)
            elif record["k"] == "put":
                run = runs[record["e"]]
                updated[record["e"]] = record["h"]
                for key, value in record["v"].items():
                    number = keys.setdefault((record["s"], key), len(keys))
                    rows.append((run, number, value, None))
    with database:
        database.executemany("INSERT INTO runs VALUES (?, ?, ?)", ((n, i, updated.get(i)) for i, n in runs.items()))
        database.executemany("INSERT INTO keys VALUES (?, ?, ?)", ((n, *pair) for pair, n in keys.items()))
        database.executemany("INSERT INTO vals VALUES (?, ?, ?, ?)", rows)
    database.close()
