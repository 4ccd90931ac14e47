"""Hosts on one bad network drive: each is a process with its own name, its own cache, and its own view of the drive."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


class HostError(Exception):
    """What a host's statement raised, as its traceback."""


class Host:
    """A process that does what it is told. `warnings` holds (class, text, file) of all that it was warned of."""

    def __init__(self, name: str, environment: dict[str, str], shim: bool) -> None:
        self.name = name
        self.warnings: list[tuple[str, str, str]] = []
        program = [str(HERE / "shim.py"), str(HERE / "host.py")] if shim else [str(HERE / "host.py")]
        self.process = subprocess.Popen(
            [sys.executable, *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def start(self, **told: str) -> None:
        """Tells it something without waiting, so that several hosts work at the same time."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()

    def wait(self) -> Any:
        """The answer to the oldest thing told. Raises HostError."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the host {self.name} is dead: {self.process.wait()}"
        answer = json.loads(line)
        self.warnings += [tuple(one) for one in answer["warnings"]]
        if answer["error"]:
            raise HostError(answer["error"])
        return answer["value"]

    def do(self, statements: str) -> None:
        """Runs statements."""
        self.start(do=statements)
        self.wait()

    def tell(self, expression: str) -> Any:
        """The value of an expression, as JSON has it."""
        self.start(tell=expression)
        return self.wait()

    def end(self) -> None:
        """Ends it as a script ends."""
        assert self.process.stdin is not None and self.process.stdout is not None
        if not self.process.stdin.closed:
            self.process.stdin.close()
        assert self.process.wait(30) == 0
        self.process.stdout.close()

    def kill(self) -> None:
        """Ends it as a power switch does."""
        self.process.kill()
        self.process.wait(30)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """The mount point; the store of a test is `drive / "store"`."""
    (tmp_path / "drive").mkdir()
    return tmp_path / "drive"


@pytest.fixture
def new_host(tmp_path: Path, drive: Path) -> Iterator[Callable[..., Host]]:
    """Starts hosts on the drive, with the user's client at hand: `client` and `run` of the store."""
    started: list[Host] = []

    def start(name: str, *, shim: bool = True, environment: dict[str, str] | None = None, **share: Any) -> Host:
        variables = {
            **os.environ,
            "VERTA_LOCAL_HOST": name,
            "VERTA_LOCAL_CACHE": str(tmp_path / f"cache-{name}"),
            "USER": f"user-of-{name}",
            "LOGNAME": f"user-of-{name}",
            "VERTA_TEST_SHARE": json.dumps({"roots": [str(drive)], **share}),
            **(environment or {}),
        }
        started.append(Host(name, variables, shim))
        return started[-1]

    yield start
    for host in started:
        if host.process.poll() is None:
            host.kill()


@pytest.fixture
def hosts(new_host: Callable[..., Host], drive: Path) -> tuple[Host, Host]:
    """Two hosts with a client each; the store is new, and `sharing` is "group"."""
    pair = new_host("ant"), new_host("bee")
    for host in pair:
        host.start(do=OPEN.format(store=str(drive / "store")))
    for host in pair:
        host.wait()
    return pair


# What every host begins with. Both at once: the store is made by one of them, without links.
OPEN = """
import os, time
from verta_store import open_store
from verta_local import Client, config
open_store({store!r}, config.cache_dir(), create=True, sharing="group")
client = Client({store!r})
store = client._store

def begin(name, experiment="experiment"):
    client.set_project("project")
    client.set_experiment(experiment)
    return client.set_experiment_run(name)

def view():
    "All that the store holds, as this host sees it."
    found = {{}}
    for run in client.expt_runs:
        observations = {{key: [(p.value, p.timestamp_ms, p.epoch, p.time) for p in store.points(run.id, key)]
                        for key in store.point_keys(run.id)}}
        found[run.id] = [run.name, run.get_metrics(), run.get_hyperparameters(), run.get_attributes(),
                         run.get_tags(), observations, store.values(run.id, "artifacts"), str(run.author)]
    return found
"""
