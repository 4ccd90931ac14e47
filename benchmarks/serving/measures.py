"""What is measured, of our server and of each of the others; every function gives lines for the tables."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from verta_local.run import ExperimentRun

from ..harness import Bench
from . import model, ours, peers
from .watched import Loaded, Target, Watched, load, running

CLIENTS = (1, 8, 64)
_START_LIMIT_S = 90.0
_BACK_LIMIT_S = 30.0
_SETTLE_S = 1.5


@dataclass(frozen=True)
class Row:
    """A server's figures; None where it was not measured. Seconds and bytes."""

    server: str
    cold_s: float | None = None
    memory_bytes: int | None = None
    loads: tuple[Loaded, ...] = ()
    back_s: float | None = None
    back_note: str = ""
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """One number of ours with its limit: `ours` in `unit`, `at_most` or `at_least` for the verdict."""

    what: str
    ours: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    against: str = ""
    theirs: float | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether the limit holds; None without one."""
        if self.at_most is not None:
            return self.ours <= self.at_most
        return self.ours >= self.at_least if self.at_least is not None else None


@dataclass(frozen=True)
class Plan:
    """How long and how large: seconds of one load, how often a start is timed, bytes and files of the artifacts."""

    seconds: float = 3.0
    starts: int = 3
    large_bytes: int = 1 << 30
    files: int = 5_000
    upgrades: int = 5


def our_server(bench: Bench, store: ours.OurStore, run: ExperimentRun, kind: str, plan: Plan) -> Row:
    """`verta-local serve` of one model: isolated, with a token, with its logs. `kind`: waitress or granian."""
    environment = {**bench.environment, "VERTA_LOCAL_HTTP_SERVER": kind}

    def start() -> tuple[list[str], Mapping[str, str], Path, Target]:
        port = ours.free_port()
        return store.command([run], port), environment, bench.folder, ours.target(run.id, port)

    return _measured(f"verta-local ({kind})", start, plan)


def their_server(bench: Bench, peer: peers.Peer, python: Path, plan: Plan) -> Row:
    """Another server of the same class."""
    environment = peers.environment_of(bench.environment, python)
    folder = bench.new_path(peer.name)
    folder.mkdir()
    peer.prepare(python, folder, environment)

    def start() -> tuple[list[str], Mapping[str, str], Path, Target]:
        port = ours.free_port()
        return list(peer.command(python, folder, port)), environment, folder, peer.target(port)

    return _measured(peer.name, start, plan)


Start = Callable[[], tuple[list[str], Mapping[str, str], Path, Target]]


def _measured(name: str, start: Start, plan: Plan) -> Row:
    """Cold starts; then, on the last one started: memory, loads, and a crash of the model's process."""
    cold: list[float] = []
    for number in range(plan.starts):
        command, environment, folder, target = start()
        with running(command, environment, folder) as server:
            waited = target.wait(_START_LIMIT_S)
            if waited is None:
                said = server.output().strip().splitlines() or ["nothing"]
                return Row(name, note=f"{name} gave no answer within {_START_LIMIT_S:.0f} s; it said: {said[-1][:200]}")
            cold.append(waited)
            if number + 1 < plan.starts:
                continue
            time.sleep(_SETTLE_S)
            memory = server.memory_bytes()
            loads = tuple(load(target, server, clients, plan.seconds) for clients in CLIENTS)
            back_s, note = _time_back(target, server)
    return Row(name, median(cold), memory, loads, back_s, note)


def _time_back(target: Target, server: Watched) -> tuple[float | None, str]:
    """Seconds until the next good answer after the process of the model was killed."""
    status, body = target.ask([model.PID])
    numbers = "".join(letter if letter.isdigit() or letter == "." else " " for letter in body.decode()).split()
    pids = [int(float(number)) for number in numbers if int(float(number)) in server.pids()]
    if status != 200 or not pids:
        return None, "its process was not found"
    os.kill(pids[0], signal.SIGKILL)
    back_s = target.wait(_BACK_LIMIT_S)
    if back_s is not None:
        return back_s, ""
    return None, "its server ended" if server.has_ended else f"not within {_BACK_LIMIT_S:.0f} s"


def work_that_waits(bench: Bench, store: ours.OurStore, run: ExperimentRun, plan: Plan) -> Iterator[Figure]:
    """The model that sleeps scales with threads, the one that computes with processes; on all cores."""
    for threads in (1, 4, 16):
        found = _rate_of_ours(bench, store, run, model.SLEEP, ("--threads", str(threads)), plan)
        ideal = threads / model.WORK_S
        yield Figure(f"asleep for 50 ms, {threads} threads", found, "/s", at_least=0.8 * ideal, theirs=ideal)
    cores = len(os.sched_getaffinity(0))
    alone = 0.0
    for replicas in (1, 2):
        found = _rate_of_ours(bench, store, run, model.COMPUTE, ("--replicas", str(replicas)), plan)
        alone = alone or found
        limit = 1.6 * alone if replicas == 2 and cores > 1 else None
        what = f"50 ms of processor, {replicas} process{'es' if replicas > 1 else ''}"
        yield Figure(what, found, "/s", at_least=limit, theirs=min(replicas, cores) / model.WORK_S)


def _rate_of_ours(
    bench: Bench, store: ours.OurStore, run: ExperimentRun, first: float, options: tuple[str, ...], plan: Plan
) -> float:
    port = ours.free_port()
    target = ours.target(run.id, port)
    with running(store.command([run], port, *options), bench.environment, bench.folder, core=None) as server:
        if target.wait(_START_LIMIT_S) is None:
            raise RuntimeError(f"our server did not start: {server.output()}")
        time.sleep(_SETTLE_S)
        return load(target, server, 32, plan.seconds, values=[first], core=None).rate


def memory_of_models(bench: Bench, store: ours.OurStore) -> Iterator[Figure]:
    """Proportional memory of a server with one model, and with ten of them, each in its process."""
    for count, limit in ((1, 50e6), (10, 170e6)):
        runs = [store.run(f"memory-{count}-{number}") for number in range(count)]
        port = ours.free_port()
        environment = {**bench.environment, "VERTA_LOCAL_HTTP_SERVER": "waitress"}
        with running(store.command(runs, port), environment, bench.folder, core=None) as server:
            for run in runs:
                if ours.target(run.id, port).wait(_START_LIMIT_S) is None:
                    raise RuntimeError(f"our server did not start: {server.output()}")
            time.sleep(_SETTLE_S)
            yield Figure(f"memory of {count} model{'s' * (count > 1)}", server.memory_bytes() / 1e6, "MB", limit / 1e6)


def deploying(bench: Bench, store: ours.OurStore, mlflow: Path | None, plan: Plan) -> Iterator[Figure]:
    """`run.deploy(wait=True)` without and with a server that runs; small, large and many files; MLflow beside."""
    small = ours.write_file(bench.new_path("small"), 1024)
    large = ours.write_file(bench.new_path("large"), plan.large_bytes)
    many = ours.write_folder(bench.new_path("many"), plan.files)
    kinds = {
        "1 KiB": small,
        f"{plan.large_bytes / (1 << 30):g} GiB": large,
        f"{plan.files:,} files": many,
    }
    cold: dict[str, float] = {}
    logged: dict[str, float] = {}
    for word, artifact in kinds.items():
        begin = time.perf_counter()
        run = store.run(f"deploy {word}", artifact)
        logged[word] = time.perf_counter() - begin
        before = _disk_bytes(bench.folder)
        cold[word] = median(_deploy_s(run) for _ in range(plan.starts))
        grown = _disk_bytes(bench.folder) - before
        is_first = word == "1 KiB"
        limit = None if is_first else 1.2 * cold["1 KiB"]
        yield Figure(f"deploy to ready, {word}", cold[word], "s", at_most=limit)
        if word == list(kinds)[1]:
            yield Figure("bytes on disk by that deploy", grown / 1e6, "MB", at_most=1.0)
    holder = store.run("holds the server")
    holder.deploy(wait=True)
    try:
        runs = [store.run(f"warm {number}") for number in range(5)]
        took = []
        for run in runs:
            begin = time.perf_counter()
            run.deploy(wait=True)
            took.append(time.perf_counter() - begin)
        yield Figure("deploy on a server that runs", median(took) * 1e3, "ms", at_most=60.0)
        for run in runs:
            run.undeploy(wait=True)
    finally:
        holder.undeploy(wait=True)
    if mlflow is not None:
        for word, artifact in list(kinds.items())[:2]:
            theirs = _mlflow_deploy_s(bench, mlflow, artifact)
            limit = 25.0 if artifact is large else None
            yield Figure(
                f"deploy {word}: times as fast",
                theirs / cold[word],
                "x",
                at_least=limit,
                against="mlflow",
                theirs=theirs,
            )
    shutil.rmtree(many)
    large.unlink()


def _deploy_s(run: ExperimentRun) -> float:
    begin = time.perf_counter()
    run.deploy(wait=True)
    took = time.perf_counter() - begin
    run.undeploy(wait=True)
    return took


def _mlflow_deploy_s(bench: Bench, python: Path, artifact: Path) -> float:
    """MLflow's way from a logged artifact to an answer: its model format holds a copy, then it is served."""
    environment = peers.environment_of(bench.environment, python)
    folder = bench.new_path("mlflow-deploy")
    folder.mkdir()
    saving_s = peers.save_for_mlflow(python, folder, environment, str(artifact))
    port = ours.free_port()
    with running(peers.mlflow_command(python, folder, port), environment, folder, core=None) as server:
        waited = peers.MLFLOW.target(port).wait(_START_LIMIT_S)
        if waited is None:
            raise RuntimeError(f"MLflow did not start: {server.output()}")
    shutil.rmtree(folder)
    return saving_s + waited


def upgrading(store: ours.OurStore, plan: Plan) -> Iterator[Figure]:
    """Requests lost while one run after another takes over at the same path, under load."""
    first = store.run("upgrade 0")
    status = first.deploy(path="upgraded", wait=True)
    target = ours.target_of_status(status)
    served = [first]

    def upgrade() -> None:
        for number in range(1, plan.upgrades + 1):
            run = store.run(f"upgrade {number}")
            run.deploy(path="upgraded", wait=True)
            served.append(run)

    try:
        found = load(target, None, 8, plan.seconds + plan.upgrades, core=None, meanwhile=upgrade)
    finally:
        with contextlib.suppress(OSError, http.client.HTTPException):
            served[-1].undeploy(wait=True)
    what = f"requests lost in {plan.upgrades} upgrades, of {found.answered + found.lost:,}"
    yield Figure(what, found.lost, "", at_most=0)


def _disk_bytes(folder: Path) -> int:
    """Blocks that are taken; a file with several names counts once."""
    found = {}
    for entry in folder.rglob("*"):
        if entry.is_file() and not entry.is_symlink():
            about = entry.stat()
            found[about.st_ino] = about.st_blocks * 512
    return sum(found.values())
