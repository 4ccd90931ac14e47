"""A server under measurement: starts it on one core, asks it, loads it, and sums what its processes take.

All processes of one server are found by a variable in their environment, so that a helper that left the process
group counts too. Linux only: /proc, pinning, proportional memory.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SERVER_CORE = 0
LOAD_CORE = 1
_MARK = "VERTA_BENCHMARKS_SERVER"
_TICKS = os.sysconf("SC_CLK_TCK")
_LOAD = Path(__file__).with_name("load.py")
_PINNED = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); os.execvp(sys.argv[2], sys.argv[2:])"


@dataclass(frozen=True)
class Target:
    """Where a server is asked, and how: `body_of` makes a request's body of a list of numbers."""

    port: int
    path: str
    body_of: Callable[[list[float]], bytes]
    headers: Mapping[str, str] = field(default_factory=dict)

    def request(self, values: list[float]) -> str:
        """The bytes of a whole request, as Latin-1 text."""
        body = self.body_of(values)
        headers = {"Host": f"127.0.0.1:{self.port}", "Content-Type": "application/json", **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {self.path} HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
        return head + body.decode("latin-1")

    def ask(self, values: list[float], timeout_s: float = 10.0) -> tuple[int, bytes]:
        """Status and body of one answer, on a connection of its own. Raises: OSError, HTTPException."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(
                "POST", self.path, self.body_of(values), {"Content-Type": "application/json", **self.headers}
            )
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def wait(self, within_s: float, values: Sequence[float] = (1.0, 2.0)) -> float | None:
        """Seconds until the first good answer; None when there is none in that time."""
        begin = time.perf_counter()
        while (waited := time.perf_counter() - begin) < within_s:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask(list(values), timeout_s=max(0.5, min(10.0, within_s - waited)))[0] == 200:
                    return time.perf_counter() - begin
            time.sleep(0.002)
        return None


class Watched:
    """The processes of one server, from its start to its end."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path, core: int | None = SERVER_CORE
    ) -> None:
        self._mark = secrets.token_hex(8)
        self._log = (folder / f"server-{self._mark}.log").open("wb+")
        pinned = [sys.executable, "-S", "-c", _PINNED, str(core), *command] if core is not None else list(command)
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            pinned,
            cwd=folder,
            env={**environment, _MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def output(self) -> str:
        """The last of what the server wrote."""
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")[-3000:]

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def pids(self) -> list[int]:
        """All its processes."""
        return marked_processes(f"{_MARK}={self._mark}".encode())

    def cpu_s(self) -> float:
        """Processor seconds that its processes have taken."""
        return sum(_cpu_s(pid) for pid in self.pids())

    def memory_bytes(self) -> int:
        """Proportional set size: shared pages are divided among those who share them."""
        return sum(pss_bytes(pid) for pid in self.pids())

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ends it and all that it left."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(20)
        self._log.close()


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, core: int | None = SERVER_CORE
) -> Iterator[Watched]:
    """A server for a `with` block."""
    server = Watched(command, environment, folder, core)
    try:
        yield server
    finally:
        server.stop()


@dataclass(frozen=True)
class Loaded:
    """What one load found; times in seconds, `cpu_s` of all the server's processes for one answer."""

    clients: int
    rate: float
    p50_s: float
    p99_s: float
    longest_s: float
    cpu_s: float
    answered: int
    lost: int
    fault: str


def load(
    target: Target,
    server: Watched | None,
    clients: int,
    seconds: float,
    *,
    values: Sequence[float] = tuple(float(number) + 0.5 for number in range(64)),
    warm_up_s: float = 0.5,
    core: int | None = LOAD_CORE,
    meanwhile: Callable[[], object] | None = None,
) -> Loaded:
    """Sends requests from so many connections for so long; `meanwhile` is called once they are under way.

    Every request without a good answer counts as lost.
    """
    plan = {
        "host": "127.0.0.1",
        "port": target.port,
        "request": target.request(list(values)),
        "clients": clients,
        "seconds": seconds,
        "warm_up_s": warm_up_s,
        "core": core,
    }
    with subprocess.Popen([sys.executable, "-S", str(_LOAD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(plan).encode())
        process.stdin.close()
        process.stdout.readline()
        before = server.cpu_s() if server is not None else 0.0
        if meanwhile is not None:
            meanwhile()
        line = process.stdout.readline()
        after = server.cpu_s() if server is not None else 0.0
    found: dict[str, Any] = json.loads(line)
    good = found["statuses"].get("200", 0)
    return Loaded(
        clients=clients,
        rate=found["in_time"] / found["seconds"],
        p50_s=found["p50_s"] or 0.0,
        p99_s=found["p99_s"] or 0.0,
        longest_s=found["longest_s"] or 0.0,
        cpu_s=(after - before) / max(1, found["answered"]),
        answered=found["answered"],
        lost=found["answered"] - good + sum(found["lost"].values()),
        fault=found["fault"] or ", ".join(found["lost"]),
    )


def marked_processes(variable: bytes) -> list[int]:
    """Ids of the processes that were started with `NAME=value` in their environment; no zombies."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if variable in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def pss_bytes(pid: int) -> int:
    """The proportional set size of a process; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS
