"""`verta-local gc` and `verify --repair`, as a shell runs them."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import verta_store
from verta_local import Client
from verta_local.cli.maintenance import duration_s


def gc(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "verta_local", "gc", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=50)


@pytest.fixture
def store(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a deleted run of 1.0 MiB and a living one; everything in it is three weeks old."""
    client.set_project("Text search")
    client.set_experiment("Baselines")
    (tmp_path / "large").write_bytes(b"x" * 2**20)
    dead = client.set_experiment_run("a failure \x1b[31m")
    dead.log_artifact("index", str(tmp_path / "large"))
    dead.delete()
    client.set_experiment_run("kept").log_metric("recall", 0.9)
    root = Path(client.store_path)
    verta_store.close_all()
    age(root, days=21)
    monkeypatch.setenv("VERTA_LOCAL_STORE", str(root))
    return root


def age(folder: Path, days: float) -> None:
    for path in folder.rglob("*"):
        status = path.stat()
        os.utime(path, (status.st_atime, status.st_mtime - days * 86400))


def blobs(store: Path) -> list[Path]:
    return [path for path in store.joinpath("objects").rglob("*") if path.is_file()]


def test_a_dry_run_says_what_would_go_and_whose_it_was(store: Path) -> None:
    done = gc("--dry-run")
    assert done.returncode == 0, done.stderr
    table, *rest = done.stdout.split("would be ")
    assert table.splitlines()[0].split() == ["RUN", "ID", "WHY", "OBJECTS", "FILES", "SIZE"]
    assert "a failure" in table and "deleted" in table and "1.0 MiB" in table
    assert "\x1b" not in done.stdout
    assert rest == ["moved to the trash: 1 file, 1.0 MiB\n", "deleted for good: nothing\n"]
    assert len(blobs(store)) == 1


def test_garbage_waits_in_the_trash_and_then_goes(store: Path) -> None:
    done = gc()
    assert "moved to the trash: 1 file, 1.0 MiB\n" in done.stdout
    assert "waits in the trash until " in done.stdout
    assert not blobs(store)
    age(store / "trash", days=2)
    assert "deleted for good: 1 file, 1.0 MiB\n" in gc().stdout
    assert gc().stdout == "moved to the trash: nothing\ndeleted for good: nothing\n"


def test_of_many_runs_the_largest_are_shown(client: Client, tmp_path: Path) -> None:
    client.set_project("Text search")
    client.set_experiment("Baselines")
    for number in range(23):
        run = client.set_experiment_run(f"run {number}")
        run.log_artifact("text", io.BytesIO(b"x" * (number + 1)))
        run.delete()
    verta_store.close_all()
    lines = gc("--store", client.store_path, "--i-am-alone", "--grace", "0").stdout.splitlines()
    assert [line.split()[1] for line in lines[1:21]] == [str(number) for number in range(22, 2, -1)]
    assert lines[21] == "and 3 smaller ones; --json shows all"


def test_alone_all_goes_at_once(store: Path) -> None:
    report = json.loads(gc("--i-am-alone", "--grace", "0", "--json").stdout)
    assert report["freed"] == {"object_count": 1, "file_count": 1, "size_bytes": 2**20}
    assert report["waiting"] == []


def test_a_short_grace_is_refused_in_one_sentence(store: Path) -> None:
    done = gc("--grace", "1h")
    assert done.returncode == 1
    assert done.stderr.startswith("verta-local: the grace is at least 24 hours, not 1: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_damaged_journal_is_a_reason_to_refuse(store: Path) -> None:
    (path,) = store.glob("journals/*/*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"Baselines", b"baselines"))
    done = gc()
    assert done.returncode == 1
    assert "nothing is collected while a journal is damaged" in done.stderr
    assert len(blobs(store)) == 1


@pytest.mark.parametrize(
    ("text", "seconds"), [("14d", 14 * 86400), ("36h", 36 * 3600), ("90m", 5400), ("1.5D", 129600), ("0", 0), ("7s", 7)]
)
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "14", "d", "-1d", "1w", "1d2h", "nan"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write 14d"):
        duration_s(text)


def test_a_repair_says_what_it_found_restored_and_put_aside(client: Client, tmp_path: Path) -> None:
    client.set_project("Text search")
    client.set_experiment("Baselines")
    run = client.set_experiment_run("first")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "shard").write_bytes(b"w" * 70_000)
    run.log_artifact("checkpoint", str(tmp_path / "folder"))
    run.log_artifact("shard", str(tmp_path / "folder" / "shard"))
    (damaged,) = (path for path in Path(client.store_path, "trees").rglob("shard"))
    damaged.unlink()
    damaged.write_bytes(b"x" * 70_000)
    environment = {**os.environ, "VERTA_LOCAL_STORE": client.store_path}

    def verify(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "verta_local", "verify", *options]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    assert verify("--deep").returncode == 1
    done = verify("--repair")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "found changed" in done.stdout and "key 'checkpoint'" in done.stdout
    assert f"restored: {damaged}" in done.stdout and "put aside: " in done.stdout and "sound: " in done.stdout
    assert damaged.read_bytes() == b"w" * 70_000
    found = json.loads(verify("--repair", "--json").stdout)
    assert found["is_clean"] and found["found"] == [] and "quarantine" in found["notes"][-1]
