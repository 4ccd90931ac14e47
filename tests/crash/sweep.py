"""Runs the workload once for each point and plan, in forked processes, and checks what is left.

A point is the k-th call of a run that touches the store. After each run three things must hold: every promise was kept
and `verify` finds nothing; the index that the dead process left gives the same answers as a new one; and the workload
runs through on the survivor.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from expectation import Expectation
from interposer import BLOCK_BYTES, CALLS, Interposer, Plan
from power import KINDS, cut_power
from workload import Writer, make_sources

from verta_store import close_all, files, open_store
from verta_store.errors import StoreError, StoreWriteError
from verta_store.fsck import verify
from verta_store.gc import collect
from verta_store.query import Query

ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EACCES", "ESTALE")
# The index is derived, and SQLite has its own crash tests: of its statements, every so many is a point.
_SQL_EVERY = 10
# A run takes 0.1 s; one that takes this long hangs.
_PATIENCE_S = 60.0


@dataclass
class Result:
    """The tally of one sweep."""

    title: str
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {count}" for name, count in sorted(self.outcomes.items()))
        lines = [f"{self.title}: {sum(self.outcomes.values())} points: {parts}"]
        return "\n".join(lines + [f"  FAILED {failure}" for failure in self.failures[:20]])


class Sweep:
    """All plans over one workload, with their folders below `folder`."""

    def __init__(self, folder: Path, *, durability: str = "normal", seed: int = 0) -> None:
        self._folder = folder
        self._durability = durability
        self._seed = seed
        self._sources = folder / "sources"
        make_sources(self._sources)
        self.calls = self._count_calls()

    def plans(self, modes: tuple[str, ...], budget: int | None) -> list[Plan]:
        """Every plan of these modes, or a sample of them that does not change from run to run."""
        found = []
        if modes == ("full",):
            found = [Plan("full", blocks) for blocks in range(1, self.blocks() + 8)]
        for number, name in enumerate(self.calls if not found else (), 1):
            if name == "sql" and number % _SQL_EVERY:
                continue
            for mode in modes:
                if mode in ("part then kill", "short") and name != "write":
                    continue
                if mode in ("error", "errors from here", "part then error"):
                    if mode != "part then error" or name == "write":
                        found.extend(Plan(mode, number, e) for e in ERRORS if e in CALLS[name].split())
                else:
                    found.append(Plan(mode, number))
        if budget is not None and len(found) > budget:
            found = random.Random(self._seed).sample(found, budget)
        return found

    def run(self, title: str, plans: list[Plan], *, power: str = "", late: bool = False, jobs: int = 1) -> Result:
        """One sweep. `power` is a kind of power cut; `late` cuts it only after a second run on the survivor."""
        workers = []
        for job in range(jobs):
            reader, writer = os.pipe()
            child = os.fork()
            if not child:
                os.close(reader)
                with os.fdopen(writer, "w", encoding="utf-8") as out:
                    for number, plan in list(enumerate(plans))[job::jobs]:
                        outcome, why = self._one(f"{title} {number}", plan, power, late)
                        out.write(json.dumps([number, outcome, why]) + "\n")
                os._exit(0)
            os.close(writer)
            workers.append((child, reader))
        result = Result(title)
        for child, reader in workers:
            with os.fdopen(reader, encoding="utf-8") as lines:
                for line in lines:
                    number, outcome, why = json.loads(line)
                    result.outcomes[outcome] += 1
                    if outcome not in ("ok", "refused, ok", "not reached"):
                        plan = plans[number]
                        call = self.calls[plan.at - 1] if plan.mode != "full" else "blocks"
                        where = f"{call} #{plan.at} {plan.mode} {plan.error} {power}"
                        result.failures.append(f"{where}: {outcome}\n    {why.strip()[-1500:]}")
            os.waitpid(child, 0)
        if sum(result.outcomes.values()) != len(plans):
            result.failures.append(f"only {sum(result.outcomes.values())} of {len(plans)} points were run")
        return result

    def _one(self, name: str, plan: Plan, power: str, late: bool) -> tuple[str, str]:
        top = self._folder / re.sub(r"\W+", "-", name)
        top.mkdir()
        try:
            return self._outcome(top, plan, power, late)
        finally:
            shutil.rmtree(top, ignore_errors=True)

    def _outcome(self, top: Path, plan: Plan, power: str, late: bool) -> tuple[str, str]:
        status, why = self._write(top, "a", plan)
        reached = status == -signal.SIGKILL or plan.mode in ("short", "error", "errors from here", "part then error")
        reached |= (top / "was full").exists()
        if status not in (0, -signal.SIGKILL):
            return "hung" if status == -signal.SIGALRM else "failed by itself", why
        if not reached:
            return "not reached", ""
        is_refused = (top / "refused").exists()
        if power and late:
            status, why = self._write(top, "b", Plan())
            if status:
                return "cannot go on", why
        if power:
            cut_power(str(top / "store"), str(top / "state"), power, random.Random(f"{self._seed} {plan} {power}"))
            (top / "state").unlink(missing_ok=True)
        cut = "" if not power else "ab" if late else "a"
        for cache in ("cache", "fresh-cache"):
            status, why = self._in_child(top, lambda cache=cache: self._check(top, cache, cut))
            if status:
                return f"wrong with {cache}", why
        status, why = self._write(top, "c", Plan())
        if status:
            return "cannot go on", why
        status, why = self._in_child(top, lambda: self._check(top, "cache", cut))
        if plan.mode == "full" and not status:
            status, why = self._in_child(top, lambda: self._make_room(top, plan.at))
        return ("refused, ok" if is_refused else "ok", "") if not status else ("wrong after going on", why)

    def _check(self, top: Path, cache: str, cut: str) -> None:
        """Raises when a promise was broken. The power was cut after the writers in `cut`."""
        expectation = Expectation(
            ((top / f"said {turn}").read_text().splitlines(keepends=True), turn in cut)
            for turn in "abc"
            if (top / f"said {turn}").exists()
        )
        try:
            store = open_store(top / "store", top / cache)
        except StoreError:
            assert not expectation.is_promised(), "the store is gone"
            return
        wrong = expectation.check(store)
        assert not wrong, "\n".join(wrong)

    def _write(self, top: Path, turn: str, plan: Plan) -> tuple[int, str]:
        def work() -> None:
            with open(top / f"said {turn}", "w", encoding="utf-8") as out:
                interposer = Interposer(str(top / "store"), plan, str(top / "state"))
                interposer.install()
                writer = Writer(top / "store", top / "cache", self._sources, turn, out, self._durability)
                writer.run()
            interposer.save_state()
            if interposer.was_full:
                (top / "was full").touch()
            if writer.refusals:
                (top / "refused").write_text("\n".join(writer.refusals))
            (top / "calls").write_text("\n".join(interposer.calls))
            (top / "blocks").write_text(str(interposer.used_blocks()))
            (top / "modules").write_text("\n".join(sys.modules))

        return self._in_child(top, work)

    def _make_room(self, top: Path, blocks: int) -> None:
        """On a full drive: deleting runs and collecting them gives the space back, and logging goes on."""
        interposer = Interposer(str(top / "store"), Plan("full", blocks), str(top / "state"))
        interposer.fill_up(but_blocks=1)  # for the records of the deletions
        interposer.install()
        store = open_store(top / "store", top / "cache")
        deleted = 0
        for row in store.find(Query("run")):
            try:
                store.delete(row.id)
                deleted += 1
            except StoreWriteError:
                pass  # there is no room for the record of it
        close_all()
        interposer.fill_up()  # also what the end of the process gave back
        used = interposer.used_blocks()
        report = collect(store, grace_s=0, is_alone=True)
        left = interposer.used_blocks()
        if deleted:
            assert report.freed.object_count and left < used, f"{used} blocks became {left}: {report}"
            store.create("project", None, "there is room again")
            store.put_bytes(b"x" * BLOCK_BYTES)
        wrong = verify(store, deep=True).problems
        assert not wrong, wrong

    def blocks(self) -> int:
        """The size of the drive, in blocks, that the workload just fits on."""
        top = self._folder / "blocks"
        top.mkdir()
        status, why = self._write(top, "a", Plan())
        assert not status, why
        found = int((top / "blocks").read_text())
        shutil.rmtree(top)
        return found

    def _count_calls(self) -> list[str]:
        top = self._folder / "count"
        top.mkdir()
        status, why = self._write(top, "a", Plan())
        assert not status, why
        status, why = self._in_child(top, lambda: self._check(top, "fresh-cache", ""))
        assert not status, why
        calls = (top / "calls").read_text().split("\n")
        for name in (top / "modules").read_text().split("\n"):
            if name not in sys.modules:
                importlib.import_module(name)  # or each of ten thousand children would, in a quarter of its time
        shutil.rmtree(top)
        return calls

    def _in_child(self, top: Path, work: Callable[[], None]) -> tuple[int, str]:
        """Runs `work` in a fork. Returns (status, negative for a signal; what it wrote when it failed)."""
        log = top / "log"
        log.write_text("")
        child = os.fork()
        if not child:
            status = 1
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(int(_PATIENCE_S))
                # What is durable is decided by `power.py`; waiting for the real device would cost half of the time.
                os.fsync = os.fdatasync = lambda _: None
                files.sync_file_system = lambda _: True
                work()
                status = 0
            except BaseException:
                log.write_text(traceback.format_exc())
            finally:
                sys.stdout.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), log.read_text()


def full_sweep(folder: Path, budget: int | None, seed: int, jobs: int) -> list[Result]:
    """Every kind of sweep, each with at most `budget` points; tells of each when it has ended."""
    results = []
    for durability in ("normal", "full"):
        sweep = Sweep(folder / durability, durability=durability, seed=seed)
        print(f"durability {durability}: {len(sweep.calls)} calls, of which {sweep.calls.count('sql')} of SQLite")
        for title, modes, power, is_late in _kinds(durability):
            began = time.monotonic()
            plans = sweep.plans(modes, budget)
            results.append(sweep.run(f"{durability}, {title}", plans, power=power, late=is_late, jobs=jobs))
            print(f"{results[-1]} ({time.monotonic() - began:.0f} s)", flush=True)
    return results


def _kinds(durability: str) -> Iterator[tuple[str, tuple[str, ...], str, bool]]:
    """(title, modes of a plan, kind of power cut, whether it comes after further work)."""
    yield "kill", ("kill before", "kill after", "part then kill"), "", False
    for power in KINDS:
        yield f"power cut, {power}", ("kill after", "part then kill"), power, False
    yield "kill, work, power cut", ("kill after", "part then kill"), "both", True
    if durability == "normal":
        yield "an error once", ("error",), "", False
        yield "errors from there on", ("errors from here",), "", False
        yield "part of a write, then an error", ("part then error",), "", False
        yield "a write that takes a part", ("short",), "", False
        yield "a drive that is full, for each 4 KiB", ("full",), "", False
