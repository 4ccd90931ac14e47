"""Hosts on one bad network drive, each with its own name, its own cache, and its own view of the drive.

Or machines on a real one, which have this package installed and the drive mounted at the same path as here:

VERTA_LOCAL_TEST_SHARE=/mnt/team VERTA_LOCAL_TEST_HOSTS="ssh ant; ssh bee" pytest tests/share/test_two_hosts.py
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import MACHINES, PYTHON, SHARE, Host


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder that each host sees."""
    if not SHARE:
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="verta-local-test-", dir=SHARE))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder that each host has for itself; on a real drive it is on the host's own disk, and not made yet."""
    return Path(tempfile.gettempdir(), tmp_path.name) if SHARE else tmp_path


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """The mount point; the store of a test is `drive / "store"`."""
    (tmp_path / "drive").mkdir()
    return tmp_path / "drive"


@pytest.fixture
def new_host(own: Path, drive: Path) -> Iterator[Callable[..., Host]]:
    """Starts hosts on the drive, with the user's client at hand: `client` and `run` of the store."""
    started: list[Host] = []
    machines = itertools.cycle(MACHINES or [""])

    def start(name: str, *, environment: dict[str, str] | None = None, **share: Any) -> Host:
        variables = {
            **({} if SHARE else os.environ),
            "VERTA_LOCAL_HOST": name,
            "VERTA_LOCAL_CACHE": str(own / f"cache-{name}"),
            "USER": f"user-of-{name}",
            "LOGNAME": f"user-of-{name}",
            "VERTA_TEST_SHARE": json.dumps({"roots": [str(drive)], **share}),
            **(environment or {}),
        }
        started.append(Host(name, variables, shim=not SHARE, machine=next(machines), python=PYTHON))
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
from verta_store.journal import list_journals
client = Client({store!r})
store = client._store

def look():
    "Sees what other hosts have synced: without it, that takes up to a second."
    list_journals(store.root, at_once=True)

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
