"""Fair timing: balanced pairs of floor and product in one run, medians, a scratch folder that is cleaned up.

A fixed order of two measurements misled by a factor of 1.8 (warm caches, write-back of the other's bytes), so
pairs alternate: floor, product, product, floor; the first pair warms up and is dropped.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from types import TracebackType
from typing import TypeVar

import verta_store
import verta_store.files
from verta_local import Client

from . import ROOT

Sample = TypeVar("Sample")

# Below this many pairs a median says nothing.
_FEWEST_PAIRS = 2


@dataclass(frozen=True)
class Sizes:
    """How much work one measurement does. The defaults end within minutes; `large()` is what the issue names."""

    calls: int = 2_000  # log calls in a block
    runs_logged: int = 1_000  # runs of 20 + 20 values in a block
    runs_found: int = 10_000  # runs in the store that is searched
    journals: int = 10_000
    points: int = 10_000
    runs_indexed: int = 1_000  # runs of 42 records in the journal that is indexed anew
    file_bytes: int = 256 << 20
    files: int = 5_000

    def scaled(self, factor: float) -> Sizes:
        """The same work, `factor` times as much of it."""
        return Sizes(
            calls=max(20, round(self.calls * factor)),
            runs_logged=max(2, round(self.runs_logged * factor)),
            runs_found=max(100, round(self.runs_found * factor)),
            journals=max(1, round(self.journals * factor)),
            points=max(10, round(self.points * factor)),
            runs_indexed=max(2, round(self.runs_indexed * factor)),
            file_bytes=max(4096, round(self.file_bytes * factor)),
            files=max(10, round(self.files * factor)),
        )

    @staticmethod
    def large() -> Sizes:
        """The sizes of the issue."""
        return Sizes(runs_found=100_000, runs_indexed=10_000, file_bytes=2 << 30, files=50_000)


@dataclass(frozen=True)
class Result:
    """One line of the table. `floor`, `ours` and `limit` are in `unit`: seconds, bytes or files."""

    work: str
    floor_name: str = ""
    floor: float | None = None
    ours: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None  # the middle half of the ratios of the single pairs
    at_most_ratio: float | None = None
    at_most: float | None = None
    unit: str = "s"
    amount: float = 1  # how many units of work `ours` paid for, for the table of growth; 0: does not grow
    pairs: int = 0
    skipped: str = ""  # why there is nothing to measure
    failed: str = ""  # the error that ended the row
    row: str = ""  # the word for --only, filled in by whoever runs the row

    @property
    def is_met(self) -> bool | None:
        """Whether both limits hold; None where there is none, or nothing was measured."""
        checks = [False] if self.failed else []
        if self.ratio is not None and self.at_most_ratio is not None:
            checks.append(self.ratio <= self.at_most_ratio)
        if self.ours is not None and self.at_most is not None:
            checks.append(self.ours <= self.at_most)
        return all(checks) if checks else None

    @property
    def is_noisy(self) -> bool:
        """Whether the limit lies within the middle half of the single ratios: another run may decide otherwise."""
        if self.spread is None or self.at_most_ratio is None:
            return False
        return self.spread[0] <= self.at_most_ratio <= self.spread[1]


@dataclass(frozen=True)
class Pairs:
    """Numbers of floor and product; the two at the same place were measured side by side."""

    floor: list[float]
    ours: list[float]

    def result(self, work: str, floor_name: str, *, divide_by: float = 1, **more: object) -> Result:
        """The line for the table; `divide_by` turns a block into one call.

        The ratio is the median of the ratios of the pairs, not the ratio of the medians: when the machine is busy
        for half of the time, the two sides of a pair are slow together.
        """
        ratios = [ours / floor for floor, ours in zip(self.floor, self.ours, strict=True) if floor]
        quarters = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else [*ratios] * 3
        floor, ours = median(self.floor), median(self.ours)
        return Result(
            work,
            floor_name,
            floor / divide_by,
            ours / divide_by,
            median(ratios) if ratios else None,
            (quarters[0], quarters[2]) if quarters else None,
            pairs=len(ratios),
            **more,  # type: ignore[arg-type]
        )


class Bench:
    """What a row needs: sizes, a scratch folder, stores in it, and the measuring itself."""

    def __init__(self, sizes: Sizes, pairs: int, budget_s: float, scratch: str | None = None) -> None:
        self.sizes = sizes
        self.pairs = pairs
        self.budget_s = budget_s
        self.folder = Path(tempfile.mkdtemp(prefix="verta-benchmarks-", dir=scratch))
        self.cache = self.folder / "cache"
        self._made = 0
        self._kept: dict[str, object] = {}
        # For the processes that rows start, and for the clients of this one: nothing of the user's is touched.
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("VERTA_")}
        paths = [str(ROOT), str(ROOT / "store"), os.environ.get("PYTHONPATH", "")]
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        # Compiled modules are there for whoever has started a program before; where writing them is switched off
        # (in containers, often) each process would compile the package anew, which is not what is to be measured.
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.environment["PYTHONPYCACHEPREFIX"] = str(self.folder / "bytecode")
        for name in ("CACHE", "STATE", "DATA"):
            self.environment[f"VERTA_LOCAL_{name}"] = str(self.folder / name.lower())
        os.environ.update({name: value for name, value in self.environment.items() if name.startswith("VERTA_")})

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        verta_store.close_all()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_path(self, word: str) -> Path:
        """A path in the scratch folder that nothing uses yet."""
        self._made += 1
        return self.folder / f"{word}-{self._made}"

    def client(self, path: Path | None = None, durability: str = "normal") -> Client:
        """A client of a store, by default a new one; what it says is not shown."""
        with contextlib.redirect_stdout(io.StringIO()):
            return Client(path or self.new_path("store"), durability=durability)

    def keep(self, name: str, make: Callable[[], Sample]) -> Sample:
        """What `make` returned the first time: for data that several rows use."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]  # type: ignore[return-value]

    # -- measuring -------------------------------------------------------------------------------------------------

    def interleave(self, floor: Callable[[], Sample], ours: Callable[[], Sample]) -> tuple[list[Sample], list[Sample]]:
        """Runs both in turn: the samples of the floor and of the product, without the warm-up pair.

        Ends after `pairs` pairs, or at the first even number of pairs behind `budget_s`.
        """
        floor(), ours()
        samples: tuple[list[Sample], list[Sample]] = ([], [])
        begin = time.perf_counter()
        for number in range(self.pairs):
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                gc.collect()
                samples[which].append((floor, ours)[which]())
            done = number + 1
            if done % 2 == 0 and done >= _FEWEST_PAIRS and time.perf_counter() - begin > self.budget_s:
                break
        return samples

    def compare(self, floor: Callable[[], object], ours: Callable[[], object]) -> Pairs:
        """Times both, whole calls, in seconds."""
        return Pairs(*self.interleave(lambda: seconds(floor), lambda: seconds(ours)))

    def compare_own_clock(self, floor: Callable[[], float], ours: Callable[[], float]) -> Pairs:
        """As `compare`, of functions that return their own number: what they prepare is not measured."""
        return Pairs(*self.interleave(floor, ours))

    def settle(self) -> None:
        """Waits until the scratch disk has nothing left to write, so that no sample pays for the one before."""
        if hasattr(os, "sync"):
            subprocess.run(["sync", "-f", self.folder], check=False, stderr=subprocess.DEVNULL)


def seconds(work: Callable[[], object]) -> float:
    """How long one call took."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def each_call(call: Callable[[int], object], count: int) -> tuple[float, float]:
    """(median, 99th percentile) of `call(0)` ... `call(count - 1)`, in seconds."""
    clock = time.perf_counter_ns
    took = []
    for number in range(count):
        begin = clock()
        call(number)
        took.append(clock() - begin)
    took.sort()
    return took[count // 2] * 1e-9, took[min(count - 1, count * 99 // 100)] * 1e-9


@contextlib.contextmanager
def unsynced() -> Iterator[None]:
    """Lets the engine prepare thousands of journals without waiting for the device. Never inside a measurement."""
    module = verta_store.files
    kept = module.sync_file, module.sync_folder
    module.sync_file = lambda *_, **__: None
    module.sync_folder = lambda *_: None
    try:
        yield
    finally:
        module.sync_file, module.sync_folder = kept
