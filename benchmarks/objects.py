"""Rows about bytes: a large file, a folder of many, both again, and verifying them.

The floors of the durable rows are `cp` and `sync -f`, as a careful user would copy by hand.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import multiprocessing.pool
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from verta_local.run import ExperimentRun
from verta_store import fsck

from .harness import Bench, Pairs, Result, seconds
from .table import is_in_memory

_FILE_BYTES = 4096
_FILES_A_FOLDER = 500
_COPY_BYTES = 1 << 20


def new_run(bench: Bench) -> ExperimentRun:
    """A run in a new store."""
    client = bench.client()
    client.set_project("benchmarks")
    return client.set_experiment_run()


def large_file(bench: Bench) -> Path:
    """A file of random bytes; made once."""
    return bench.keep("large file", lambda: make_file(bench.new_path("source.bin"), bench.sizes.file_bytes))


def make_file(path: Path, size_bytes: int) -> Path:
    """A file of random bytes, in the page cache and on the disk."""
    with open(path, "wb") as file:
        while size_bytes > 0:
            size_bytes -= file.write(os.urandom(min(_COPY_BYTES, size_bytes)))
        file.flush()
        os.fsync(file.fileno())
    return path


def many_files(bench: Bench) -> Path:
    """A folder of 4 KiB files, 500 in each sub-folder; made once."""
    return bench.keep("many files", lambda: make_files(bench.new_path("source"), bench.sizes.files))


def make_files(top: Path, count: int) -> Path:
    """A folder of different files of 4 KiB."""
    for number in range(count):
        if number % _FILES_A_FOLDER == 0:
            folder = top / f"part-{number // _FILES_A_FOLDER:03d}"
            folder.mkdir(parents=True)
        (folder / f"file-{number:05d}.bin").write_bytes(os.urandom(_FILE_BYTES))
    return top


def has_copy_tools() -> bool:
    """Whether `cp -r` and `sync -f` are there for the floor."""
    return os.name == "posix" and shutil.which("cp") is not None and shutil.which("sync") is not None


def copy_by_hand(source: Path, target: Path) -> None:
    """`cp -r` and `sync -f`."""
    subprocess.run(["cp", "-r", source, target], check=True)
    subprocess.run(["sync", "-f", target], check=True)


def copy_by_two(source: Path, target: Path) -> None:
    """The same for the folders in a folder, by two `cp` at once."""
    target.mkdir()
    parts = sorted(source.iterdir())
    halves = [parts[: len(parts) // 2], parts[len(parts) // 2 :]]
    for each in [subprocess.Popen(["cp", "-r", "-t", target, *half]) for half in halves if half]:
        if each.wait() != 0:
            raise OSError(f"cp could not copy {source} to {target}")
    subprocess.run(["sync", "-f", target], check=True)


def _compare_with_copy(bench: Bench, source: Path, beside: Callable[[], object] = lambda: None) -> Pairs:
    """Pairs of copying by hand and logging for the first time, each time in a new store.

    `beside` is called once in each pair, outside of both times.
    """
    # Thousands of files are not removed between samples: where an ext4 has no journal, it passes over inodes that
    # were freed in the last minutes one by one, and creating a file then costs ten times as much, for both sides.
    is_removed = source.is_file()

    def floor() -> float:
        target = bench.new_path("copy")
        bench.settle()
        took = seconds(lambda: copy_by_hand(source, target))
        if is_removed:
            target.unlink()
        beside()
        return took

    def ours() -> float:
        run = new_run(bench)
        bench.settle()
        took = seconds(lambda: run.log_artifact("artifact", str(source)))
        if is_removed:
            shutil.rmtree(os.path.join(run._store.root, "objects"))
        return took

    return bench.compare_own_clock(floor, ours)


def one_file(bench: Bench) -> Iterator[Result]:
    """A file into the store, durable, with its record: beside a copy, and beside the hash that the store needs.

    Where the drive is faster than one core's SHA-256, the hash is what bounds us, and the second ratio is near 1.
    """
    amount = bench.sizes.file_bytes / (1 << 20)
    work = f"a file of {amount:g} MiB, durable"
    if not has_copy_tools():
        yield Result(work, skipped="no cp and sync")
        return
    source = large_file(bench)
    hashing: list[float] = []
    pairs = _compare_with_copy(bench, source, lambda: hashing.append(seconds(lambda: hash_by_hand(str(source)))))
    yield pairs.result(work, "cp + sync -f", at_most_ratio=1.1, amount=amount)
    beside_hash = Pairs(hashing[1:], pairs.ours)  # without the warm-up
    yield beside_hash.result(f"{work}, beside its hash", "SHA-256 of it, one core", amount=amount)


def folder(bench: Bench) -> Iterator[Result]:
    """A folder of small files into the store, durable, with its record: beside one copy, and beside two halves at once.

    Two `cp` on two cores are what the file system allows, without a hash of anything.
    """
    count = bench.sizes.files
    work = f"{count:,} files x 4 KiB, durable"
    if not has_copy_tools():
        yield Result(work, skipped="no cp and sync")
        return
    source = many_files(bench)
    by_two: list[float] = []

    def beside() -> None:
        target = bench.new_path("halves")
        bench.settle()
        by_two.append(seconds(lambda: copy_by_two(source, target)))

    pairs = _compare_with_copy(bench, source, beside)
    limit = 1.0 if is_in_memory(bench.folder) else 0.8
    yield pairs.result(work, "cp -r + sync -f", at_most_ratio=limit, amount=count)
    beside_two = Pairs(by_two[1:], pairs.ours)  # without the warm-up
    yield beside_two.result(f"{work}, beside two halves", "two cp -r at once + sync -f", amount=count)


def _stat_all(top: str) -> int:
    count = 0
    with os.scandir(top) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                count += _stat_all(entry.path)
            else:
                entry.stat(follow_symlinks=False)
                count += 1
    return count


def folder_again(bench: Bench) -> Iterator[Result]:
    """The same folder, unchanged, logged a second time."""
    run = new_run(bench)
    source = str(many_files(bench))
    run.log_artifact("artifact", source)
    time.sleep(2.1)  # what was changed within two seconds is not remembered
    run.log_artifact("artifact", source, overwrite=True)
    count = bench.sizes.files
    pairs = bench.compare(lambda: _stat_all(source), lambda: run.log_artifact("artifact", source, overwrite=True))
    work = f"the same {count:,} files again"
    yield pairs.result(work, "stat of each", at_most_ratio=3.0, at_most=0.5, amount=count)


def hash_by_hand(path: str) -> str:
    """SHA-256 of a file, read at once or by the megabyte."""
    state = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size < _COPY_BYTES:
            return hashlib.sha256(file.read()).hexdigest()
        buffer = bytearray(_COPY_BYTES)
        view = memoryview(buffer)
        while count := file.readinto(buffer):
            state.update(view[:count])
    return state.hexdigest()


def _bytes_written() -> int | None:
    """What this process made the disk write so far, or None where the system does not say."""
    try:
        with open("/proc/self/io", encoding="ascii") as file:
            return int(dict(line.split(": ") for line in file)["write_bytes"])
    except (OSError, KeyError):
        return None


def file_again(bench: Bench) -> Iterator[Result]:
    """The same file a second time: it need not be copied, and with its digest remembered not even read."""
    run = new_run(bench)
    source = str(large_file(bench))
    size = f"{bench.sizes.file_bytes / (1 << 20):g} MiB"
    run.log_artifact("artifact", source)
    before = _bytes_written()
    os.utime(source)
    run.log_artifact("artifact", source, overwrite=True)
    after = _bytes_written()

    def log_a_touched_one() -> None:
        os.utime(source)  # so that nothing is remembered of it
        run.log_artifact("artifact", source, overwrite=True)

    pairs = bench.compare(lambda: hash_by_hand(source), log_a_touched_one)
    amount = bench.sizes.file_bytes / (1 << 20)
    yield pairs.result(
        f"the same file of {size} again, not remembered", "SHA-256 of it", at_most_ratio=1.3, amount=amount
    )
    if hasattr(os, "sync"):
        os.sync()
    time.sleep(2.1)  # what was changed within two seconds is not remembered
    run.log_artifact("artifact", source, overwrite=True)
    pairs = bench.compare(lambda: os.stat(source), lambda: run.log_artifact("artifact", source, overwrite=True))
    yield pairs.result(f"the same file of {size} again, remembered", "stat", at_most=0.010, amount=0)
    if before is not None and after is not None:
        # The record and the caches of this user may be written: 64 KiB are far from a copy.
        work = f"bytes written by it, a file of {size}"
        yield Result(work, ours=after - before, at_most=64 << 10, unit="B", amount=0)


def verify_deep(bench: Bench) -> Iterator[Result]:
    """Every byte of large and of small files, against hashing them by hand in a process a core."""
    cores = os.cpu_count() or 1
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        part_count = 8
        size_bytes = bench.sizes.file_bytes // part_count
        run = new_run(bench)
        sources = [make_file(bench.new_path("part.bin"), size_bytes) for _ in range(part_count)]
        for number, source in enumerate(sources):
            run.log_artifact(f"part_{number}", str(source))
            source.unlink()
        work = f"verify --deep of {bench.sizes.file_bytes / (1 << 20):g} MiB in {part_count} files"
        amount = bench.sizes.file_bytes / (1 << 20)
        yield _verify_row(bench, run, pool, work, amount, None)
        run = new_run(bench)
        run.log_artifact("many", str(many_files(bench)))
        work = f"verify --deep of {bench.sizes.files:,} files x 4 KiB"
        yield _verify_row(bench, run, pool, work, bench.sizes.files, 0.8)


def _verify_row(
    bench: Bench,
    run: ExperimentRun,
    pool: multiprocessing.pool.Pool,
    work: str,
    amount: float,
    at_most_s: float | None,
) -> Result:
    store = run._store
    found = [
        os.path.join(top, name)
        for kind in ("objects", "trees")
        for top, _, names in os.walk(os.path.join(store.root, kind))
        for name in names
    ]
    share = max(1, len(found) // (8 * (os.cpu_count() or 1)))

    def ours() -> None:
        report = fsck.verify(store, deep=True)
        assert report.is_clean and report.bytes_read > 0

    pairs = bench.compare(lambda: pool.map(hash_by_hand, found, share), ours)
    return pairs.result(work, "SHA-256, all cores", at_most_ratio=1.3, at_most=at_most_s, amount=amount)
