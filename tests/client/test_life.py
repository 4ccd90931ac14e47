"""The life of a run: its end, its status whatever became of its process, parents and children, notes, histories."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from verta_local import Client
from verta_local.errors import RunEnded
from verta_local.run import ExperimentRun
from verta_store.writers import Writer


@pytest.fixture
def run(client: Client) -> ExperimentRun:
    return client.set_experiment_run("r")


# -- the end -------------------------------------------------------------------------------------------------------


def test_a_with_block_ends_the_run_and_it_takes_no_more_values(client: Client) -> None:
    before = time.time() * 1000
    with client.set_experiment_run("r") as run:
        run.log_metric("m", 1)
        assert (run.status, run.end_time, run.error) == ("running", None, None)
    assert run.status == "finished" and run.end_time is not None
    assert before - 1 <= run.start_time <= run.end_time <= time.time() * 1000
    refused: list[Callable[[], Any]] = [
        lambda: run.log_metric("n", 1),
        lambda: run.log_metrics({"n": 1}),
        lambda: run.log_hyperparameter("n", 1),
        lambda: run.log_attribute("n", 1),
        lambda: run.log_observation("n", 1),
        lambda: run.log_artifact("n", b"x"),
        lambda: run.log_artifact_path("n", "x"),
        lambda: run.log_model(dict, custom_modules=[]),
        lambda: run.log_code(exec_path=__file__),
        lambda: run.log_requirements([], overwrite=True),
    ]
    for log in refused:
        with pytest.raises(RunEnded, match=r"get it again with client\.get_experiment_run\(id=run\.id\)"):
            log()
    assert run.get_metrics() == {"m": 1}
    run.log_tag("best")
    run.log_note("good")
    run.rename("renamed")
    assert (run.name, run.get_tags(), run.get_notes()[0].text) == ("renamed", ["best"], "good")
    assert pickle.loads(pickle.dumps(run)) == run
    client.get_experiment_run(id=run.id).log_metric("later", 2)
    assert run.get_metric("later") == 2


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ValueError("it went wrong"), "failed", "ValueError: it went wrong"),
        (KeyboardInterrupt(), "killed", "KeyboardInterrupt"),
        (SystemExit(0), "finished", None),
        (SystemExit(2), "failed", "SystemExit: 2"),
    ],
)
def test_an_exception_is_recorded_and_goes_on(
    client: Client, error: BaseException, status: str, text: str | None
) -> None:
    with pytest.raises(type(error)), client.set_experiment_run() as run:
        raise error
    assert (run.status, run.error) == (status, text)
    assert (client.expt_runs[0].status, client.expt_runs[0].error) == (status, text)


def test_end_says_how_and_only_once(run: ExperimentRun) -> None:
    with pytest.raises(ValueError, match="finished, failed or killed"):
        run.end("done")
    run.end("failed", "no data")
    run.end()
    assert (run.status, run.error) == ("failed", "no data")


def test_a_run_that_is_gone_on_with_runs_again(client: Client) -> None:
    with pytest.raises(ValueError), client.set_experiment_run("r"):
        raise ValueError("first try")
    with client.set_experiment_run("r") as run:
        assert (run.status, run.error, run.end_time) == ("running", None, None)
        run.log_metric("m", 1)
    assert (run.status, run.error) == ("finished", None)


def test_times_of_old_runs_are_kept(client: Client) -> None:
    run = client.set_experiment_run(start_time=1_500_000_000_000, end_time=1_500_000_060_000)
    assert (run.status, run.start_time, run.end_time) == ("finished", 1_500_000_000_000, 1_500_000_060_000)


# -- what became of the process ------------------------------------------------------------------------------------

_SCRIPT = """
import os, signal, sys, time
from verta_local import Client
client = Client({store!r})
first = client.set_experiment_run("first")
run = client.set_experiment_run("last")
run.log_metric("m", 1)
print("ready", flush=True)
{end}
"""


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        ("", "finished", None),
        ("raise ValueError('wrong')", "failed", "ValueError: wrong"),
        ("raise KeyboardInterrupt", "killed", "KeyboardInterrupt"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed", None),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", "killed", "SIGTERM"),
        ("run.end('failed'); raise ValueError('later')", "failed", None),
        ("client.query('SELECT 1'); os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", "killed", "SIGTERM"),
    ],
)
def test_the_status_says_how_the_process_ended(
    client: Client, python: Callable[..., Any], end: str, status: str, error: str | None
) -> None:
    python(_SCRIPT.format(store=client.store_path, end=end), check=False)
    last = client.expt_runs.find("name == last")[0]
    assert (last.status, last.error) == (status, error)
    assert last.end_time is not None and last.end_time >= last.start_time
    first = client.expt_runs.find("name == first")[0]
    assert first.status == ("killed" if "SIGKILL" in end else "finished"), "what was done before has not failed"


_POOL = """
import multiprocessing, os, signal, sys, time
import verta_local

def train(task):
    client, name, seconds = task
    client.set_experiment_run(name).log_metric("m", 1)
    time.sleep(seconds)

if __name__ == "__main__":
    client = verta_local.Client({store!r})
    client.set_experiment("e")
    context = multiprocessing.get_context("fork")
    for number in range(6):  # without the insistence, one of them did not end, in most tries
        with context.Pool(12) as pool:
            pool.map(train, [(client, f"{{number}}-{{k}}", 0) for k in range(24)])
    with context.Pool(1) as pool:
        pool.apply_async(train, [(client, "midway", 60)])
        while len(client.expt_runs) < 6 * 24 + 1:
            time.sleep(0.02)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="workers are not forked there, nor ended by signals")
def test_pools_end_and_what_their_workers_had_done_is_finished(client: Client, python: Callable[..., Any]) -> None:
    python(_POOL.format(store=client.store_path))
    statuses = {run.name: run.status for run in client.expt_runs}
    assert statuses.pop("midway") == "killed"
    assert len(statuses) == 6 * 24
    assert set(statuses.values()) == {"finished"}


_STUCK = """
import ctypes, multiprocessing
import verta_local

def work(client, ready):
    client.set_experiment_run("r")
    lock = ctypes.CDLL(None).pthread_mutex_lock
    mutex = ctypes.create_string_buffer(64)
    lock(mutex)
    ready.set()
    lock(mutex)  # native code that no signal calls back

if __name__ == "__main__":
    client = verta_local.Client({store!r})
    client.set_experiment("e")
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=work, args=(client, ready))
    process.start()
    ready.wait()
    process.terminate()
    process.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a mutex is Linux's")
def test_a_worker_in_native_code_does_not_outlive_its_end(client: Client, python: Callable[..., Any]) -> None:
    python(_STUCK.format(store=client.store_path))
    assert client.expt_runs[0].status == "killed"


def test_a_run_of_a_living_process_is_running_and_killed_once_that_is_gone(client: Client) -> None:
    code = _SCRIPT.format(store=client.store_path, end="time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "ready\n":
            pass
        last = client.expt_runs.find("name == last")[0]
        assert (last.status, last.end_time) == ("running", None)
        process.send_signal(signal.SIGKILL)
    assert last.status == "killed"


def _work(folder: str, name: str) -> None:
    Client(folder).set_experiment_run(name).log_metric("m", 1)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_runs_of_workers_that_end_in_order_are_finished(client: Client, method: str) -> None:
    client.set_experiment_run()
    process = multiprocessing.get_context(method).Process(target=_work, args=(client.store_path, method))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert client.expt_runs.find(f"name == {method}")[0].status == "finished"


def test_another_hosts_run_is_running_for_a_day_after_its_last_change(
    run: ExperimentRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERTA_LOCAL_HOST", "another")
    assert run.status == "running"
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns + 25 * 3600 * 10**9)
    assert run.status == "killed"


def test_a_process_number_that_was_given_again_is_another_process(run: ExperimentRun) -> None:
    writer = run._store.births([run.id])[run.id].writer
    assert writer.state() == "running" and writer.is_of_this_process()
    host, _, rest = writer.journal.partition("/")
    old = Writer(f"{host}/20200101t000000-{os.getpid()}-{rest[-8:]}", False)
    if sys.platform == "linux":
        assert old.state() == "died" and not old.is_of_this_process()
    assert Writer(f"{host}/odd", False).state() == Writer("x/odd", False).state() == "elsewhere"


# -- parents and children ------------------------------------------------------------------------------------------


def test_runs_can_be_parts_of_a_run(client: Client) -> None:
    search = client.set_experiment_run("search")
    parts = [client.set_experiment_run(f"part {number}", parent=search) for number in range(3)]
    client.set_experiment("another")
    parts.append(client.create_experiment_run("part 3", parent=search.id))
    assert {part.id for part in search.children} == {part.id for part in parts}
    assert repr(search.children) == "<ChildRuns containing 4 runs>"
    assert all(part.parent == search for part in parts) and search.parent is None
    assert len(client.proj.experiments.find("name == another")[0].expt_runs) == 0  # type: ignore[union-attr]
    search.delete()
    assert parts[0].parent is None and parts[0].name == "part 0"
    with pytest.raises(ValueError, match="not found"):
        client.set_experiment_run(parent="nothing")


# -- notes, histories, queries -------------------------------------------------------------------------------------


def test_notes_are_kept_with_their_time(client: Client) -> None:
    for entity in (client.set_project(), client.set_experiment(), client.set_experiment_run()):
        entity.log_note("# One")
        time.sleep(0.002)
        entity.log_note("two")
        notes = entity.get_notes()
        assert [note.text for note in notes] == ["# One", "two"]
        assert notes[0].at_ms <= notes[1].at_ms
        with pytest.raises(TypeError):
            entity.log_note(1)  # type: ignore[arg-type]


def test_a_history_is_arrays_that_numpy_takes_without_a_copy(run: ExperimentRun) -> None:
    for epoch, value in enumerate((0.5, 0.25, 0.125)):
        run.log_observation("loss", value, timestamp=1_500_000_000_000 + epoch)
        run.log_observation("mixed", value if epoch else "text", epoch_num=7)
    history = run.history("loss")
    values = np.asarray(history.values)
    assert values.dtype == float and values.tolist() == [0.5, 0.25, 0.125]
    assert list(history.epochs) == [0, 1, 2]
    assert np.asarray(history.timestamps_ms).tolist() == [1_500_000_000_000 + epoch for epoch in range(3)]
    assert list(run.history("mixed").values) == ["text", 0.25, 0.125]
    with pytest.raises(KeyError):
        run.history("absent")


def test_the_index_can_be_asked_in_sql_and_not_changed(client: Client, run: ExperimentRun) -> None:
    run.log_metric("m", 0.5)
    rows = client.query(
        "SELECT e.name, v.num AS value FROM entities e JOIN vals v ON v.entity = e.num WHERE e.kind = ?", ["run"]
    )
    assert {"name": "r", "value": 0.5} in rows
    for sql in ("DELETE FROM entities", "nonsense", "SELECT 1; SELECT 2"):
        with pytest.raises(ValueError, match="give one SELECT"):
            client.query(sql)
    assert len(client.expt_runs) == 1


# -- system metrics ------------------------------------------------------------------------------------------------


def test_the_load_of_the_machine_is_logged_until_the_run_ends(client: Client) -> None:
    pytest.importorskip("psutil")
    with client.set_experiment_run() as run:
        run.log_system_metrics(interval_s=0.02)
        time.sleep(0.1)
    found = run.get_observations()
    names = {"cpu_percent", "memory_percent", "process_cpu_percent", "process_memory_bytes"}
    assert {f"system/{name}" for name in names} <= set(found)
    points = found["system/process_memory_bytes"]
    assert len(points) >= 2 and all(value > 1_000_000 for value, _, _ in points)
    assert [epoch for _, _, epoch in points] == list(range(len(points)))
    time.sleep(0.05)
    assert len(run.get_observation("system/process_memory_bytes")) == len(points)


def test_measuring_can_be_stopped_and_goes_on_where_it_was(run: ExperimentRun) -> None:
    pytest.importorskip("psutil")
    with run.log_system_metrics(interval_s=60, prefix="load"):
        pass
    count = len(run.history("load/memory_percent").values)
    run.log_system_metrics(60, "load").stop()
    epochs = list(run.history("load/memory_percent").epochs)
    assert len(epochs) > count and epochs == sorted(set(epochs))
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="positive"):
            run.log_system_metrics(wrong)
    with pytest.raises(ValueError, match="key"):
        run.log_system_metrics(prefix="not a key")


def test_without_psutil_one_sentence_says_so(run: ExperimentRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(ImportError, match="pip install psutil"):
        run.log_system_metrics()


def test_measuring_that_cannot_log_does_not_end_the_training(run: ExperimentRun, client: Client) -> None:
    pytest.importorskip("psutil")
    metrics = run.log_system_metrics(interval_s=0.01)
    with pytest.warns(UserWarning, match="logged no more"):
        run.delete()
        deadline = time.monotonic() + 5
        while metrics._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert Path(client.store_path).is_dir()
