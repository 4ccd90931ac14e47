"""The soak: minutes at full load with deploys, upgrades and crashes; nothing lost, memory flat, nothing left behind.

    python -m benchmarks.soak [--minutes 10] [--clients 16] [--json FILE]

Three models are deployed on one background server. `steady` is never touched, `upgraded` is a path that one run after
another takes over, and `crashing` is killed now and then, from outside and by its own hand; meanwhile others are
deployed and undeployed. All are loaded at once. Counted are the requests without a good answer, by model: those of
`crashing` may lose what was in flight when it died, the others nothing. A second figure is the memory of the server
and of the steady model: the last third of the time against the first.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from verta_local.deployment.supervisor import StateFile
from verta_local.run import ExperimentRun

from .harness import Bench, Sizes
from .serving import model, ours
from .serving.watched import Target, marked_processes, pss_bytes

_LOAD = Path(__file__).parent / "serving" / "load.py"
_SAMPLE_EVERY_S = 2.0
_WARM_UP_S = 20.0  # until the threads, buffers and pages that a load needs are there
_GROWTH_ALLOWED = 1.10
_GROWTH_ALLOWED_BYTES = 4e6
_END_S = 20.0


@dataclass
class _Found:
    answered: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    longest_s: dict[str, float] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    memory: list[tuple[float, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class _Load:
    """One load, in its process, until it is ended by its time."""

    def __init__(self, name: str, target: Target, clients: int, seconds: float) -> None:
        self.name = name
        plan = {
            "host": "127.0.0.1",
            "port": target.port,
            "request": target.request([float(number) + 0.5 for number in range(64)]),
            "clients": clients,
            "seconds": seconds,
            "warm_up_s": 0,
            "core": None,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-S", str(_LOAD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(plan))
        self._process.stdin.close()

    def result(self) -> dict[str, Any]:
        """What it found; waits for its end."""
        assert self._process.stdout is not None
        lines = self._process.stdout.read().splitlines()
        self._process.stdout.close()
        self._process.wait()
        return dict(json.loads(lines[-1]))


class _Soak:
    def __init__(self, bench: Bench, minutes: float, clients: int, seed: int) -> None:
        self._bench = bench
        self._store = ours.OurStore(bench.client(), bench.folder)
        self._seconds = minutes * 60
        self._clients = clients
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._made = 0
        self.found = _Found()

    def run(self) -> _Found:
        """All of it; the server is gone at the end."""
        steady = self._store.run("steady")
        upgraded = [self._store.run("upgraded 0")]
        crashing = self._store.run("crashing")
        statuses = {
            "steady": steady.deploy(wait=True),
            "upgraded": upgraded[0].deploy(path="upgraded", wait=True, replicas=2),
            "crashing": crashing.deploy(wait=True, replicas=2),
        }
        targets = {name: ours.target_of_status(status) for name, status in statuses.items()}
        loads = [_Load(name, target, self._clients, self._seconds) for name, target in targets.items()]
        end = time.monotonic() + self._seconds
        watch = threading.Thread(target=self._watch, args=(steady,))
        watch.start()
        works = [
            threading.Thread(target=self._repeat, args=(end, 4.0, "upgrades", lambda: self._upgrade(upgraded))),
            threading.Thread(target=self._repeat, args=(end, 15.0, "crashes", lambda: self._crash(crashing, targets))),
            threading.Thread(target=self._repeat, args=(end, 6.0, "deploys", self._deploy_another)),
        ]
        for work in works:
            work.start()
        for load in loads:
            result = load.result()
            good = result["statuses"].get("200", 0)
            self.found.answered[load.name] = result["answered"]
            self.found.lost[load.name] = result["answered"] - good + sum(result["lost"].values())
            self.found.longest_s[load.name] = result["longest_s"] or 0.0
            said = (result["fault"].strip().splitlines() or [""])[-1]  # the body
            self.found.faults[load.name] = said[:300] or ", ".join(result["lost"])
        for work in works:
            work.join()
        self._over.set()
        watch.join()
        for run in (crashing, upgraded[-1], steady):
            run.undeploy(wait=True)
        return self.found

    def _repeat(self, end: float, every_s: float, name: str, work: Any) -> None:
        while True:
            time.sleep(self._random.uniform(0.5, 1.5) * every_s)
            if time.monotonic() > end - 3.0:
                return
            try:
                work()
            except Exception as error:
                self.found.problems.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
            self.found.events[name] = self.found.events.get(name, 0) + 1

    def _new_run(self, name: str) -> ExperimentRun:
        self._made += 1
        return self._store.run(f"{name} {self._made}")

    def _upgrade(self, upgraded: list[ExperimentRun]) -> None:
        run = self._new_run("upgraded")
        run.deploy(path="upgraded", wait=True, replicas=2)
        upgraded.append(run)

    def _deploy_another(self) -> None:
        run = self._new_run("another")
        status = run.deploy(wait=True)
        if ours.target_of_status(status).ask([1.0])[0] != 200:
            self.found.problems.append("a model that was just deployed gave no good answer")
        run.undeploy(wait=True)

    def _crash(self, crashing: ExperimentRun, targets: dict[str, Target]) -> None:
        if self._random.random() < 0.5:
            with contextlib.suppress(OSError, http.client.HTTPException):
                targets["crashing"].ask([model.EXIT])  # its own exit
            return
        pids = crashing.get_deployment_status().get("pids") or []
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._random.choice(pids), signal.SIGKILL)

    def _watch(self, steady: ExperimentRun) -> None:
        """Memory of the server's own process and of the steady model's."""
        status = steady.get_deployment_status()
        serving = StateFile.read()
        assert serving is not None
        begin = time.monotonic()
        while not self._over.wait(_SAMPLE_EVERY_S):
            size = sum(pss_bytes(pid) for pid in (serving.pid, status["pid"]))
            self.found.memory.append((time.monotonic() - begin, size))


def _growth(memory: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """(median of the first third behind the warm-up, of the last third), in bytes."""
    sizes = [size for at_s, size in memory if at_s > _WARM_UP_S] or [size for _, size in memory]
    third = max(1, len(sizes) // 3)
    return median(sizes[:third]), median(sizes[-third:])


def _left_behind(bench: Bench) -> list[int]:
    """Processes of this state folder that outlive the last deployment."""
    mark = f"VERTA_LOCAL_STATE={bench.environment['VERTA_LOCAL_STATE']}".encode()
    deadline = time.monotonic() + _END_S
    while (left := [pid for pid in marked_processes(mark) if pid != os.getpid()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the soak and prints what it found. Returns 0, or 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=16, help="of each of the three loads (16)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", metavar="FOLDER", help="where to work (default: temporary)")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args(arguments)
    with Bench(Sizes(), 2, 0.0, options.scratch) as bench:
        found = _Soak(bench, options.minutes, options.clients, options.seed).run()
        left = _left_behind(bench)
    first, last = _growth(found.memory)
    grew = last > first * _GROWTH_ALLOWED and last - first > _GROWTH_ALLOWED_BYTES
    for name in found.answered:
        fault = f" ({found.faults[name]})" if found.lost[name] else ""
        print(
            f"{name:9} {found.answered[name]:>10,} answers, {found.lost[name]} lost, "
            f"the longest took {found.longest_s[name]:.2f} s{fault}"
        )
    print(", ".join(f"{count} {name}" for name, count in found.events.items()))
    print(f"memory of the server and a model: {first / 1e6:.1f} MB at first, {last / 1e6:.1f} MB at last")
    print(f"processes left behind: {len(left)}")
    for problem in found.problems:
        print(f"problem: {problem}")
    if options.json:
        numbers = {**found.__dict__, "first_bytes": first, "last_bytes": last, "left": left}
        Path(options.json).write_text(json.dumps(numbers))
    is_broken = grew or left or found.problems or found.lost["steady"] or found.lost["upgraded"]
    print("a promise was broken" if is_broken else "all promises held")
    return int(bool(is_broken))


if __name__ == "__main__":
    sys.exit(main())
