"""The tables that are printed, and the same numbers as JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from .harness import Result

# The cost of one unit may look this much higher in a hundred times the work, by noise and caches, and still be flat.
GROWTH_ALLOWED = 1.5


def describe_machine(folder: Path) -> str:
    """One line: Python, cores, load, and what the scratch folder lies on."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    python = f"Python {platform.python_version()}"
    return f"{python}, {os.cpu_count()} cores{load}, scratch on {file_system(folder)} ({folder.parent})"


def file_system(folder: Path) -> str:
    """The type of the file system under a folder as /proc/mounts has it, or the platform's name."""
    best = ("", sys.platform)
    try:
        mounts = Path("/proc/mounts").read_text()
    except OSError:
        return best[1]
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split()
        inside = point == "/" or str(folder) == point or str(folder).startswith(point + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def is_in_memory(folder: Path) -> bool:
    """Whether a folder lies in memory: on a tmpfs, or on the image of a disk that lies on one (`mount -o loop`)."""
    if file_system(folder) == "tmpfs":
        return True
    device = os.stat(folder).st_dev if hasattr(os, "major") else 0
    try:
        image = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/loop/backing_file").read_text().strip()
    except (OSError, AttributeError):
        return False
    return file_system(Path(image)) == "tmpfs"


def show(value: float | None, unit: str) -> str:
    """A number with three digits and a unit for the eye."""
    if value is None:
        return "-"
    if unit == "files":
        return f"{value:.3g} files"
    if unit == "B":
        for size, name in ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return f"{value:.0f} B"
    for size, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if abs(value) >= size:
            return f"{value / size:.3g} {name}"
    return f"{value * 1e9:.0f} ns"


def verdict(result: Result) -> str:
    """ "ok", "MISS", "-" without a limit, or why nothing was measured."""
    if result.failed:
        return "FAILED"
    if result.skipped:
        return f"skipped: {result.skipped}"
    if result.is_met is None:
        return "-"
    return ("ok" if result.is_met else "MISS") + (" (noisy)" if result.is_noisy else "")


def print_results(results: Sequence[Result]) -> None:
    """work | floor | ours | ratio | at most | verdict"""
    rows = []
    for result in results:
        limits = [f"{result.at_most_ratio:g}x"] if result.at_most_ratio is not None else []
        limits += [f"<= {show(result.at_most, result.unit)}"] if result.at_most is not None else []
        ratio = "-" if result.ratio is None else f"{result.ratio:.2f}x"
        if result.spread is not None and result.pairs > 1:
            ratio += f" ({result.spread[0]:.2f}-{result.spread[1]:.2f})"
        floor = f"{result.floor_name}: {show(result.floor, result.unit)}" if result.floor is not None else "-"
        ours = show(result.ours, result.unit)
        rows.append((result.work, floor, ours, ratio, ", ".join(limits) or "-", verdict(result)))
    _print_columns(("work", "floor (same run)", "ours", "ratio (middle half)", "at most", "verdict"), rows)
    _print_failures(results)


def print_growth(factors: Sequence[float], columns: Sequence[Sequence[Result]]) -> None:
    """What one unit of work costs at each size; `columns` holds the results of one size each."""
    names = [f"{factor / factors[0]:g}x" for factor in factors]
    # By the row and the place in it: a row that failed at one size has fewer lines there.
    numbered = [{(each.row, _place(column, each)): each for each in column} for column in columns]
    rows = []
    for key in numbered[-1]:
        same = [column[key] for column in numbered if key in column]
        costs = [each.ours / each.amount for each in same if each.ours is not None and each.amount]
        if len(costs) != len(factors):
            continue
        # Fixed costs make small work dear a unit, so growth is judged against the cheaper of the smaller sizes.
        growth = costs[-1] / min(costs[:-1])
        shown = [show(cost, each.unit) for cost, each in zip(costs, same, strict=True)]
        rows.append((same[-1].work, *shown, f"{growth:.2f}", "flat" if growth <= GROWTH_ALLOWED else "GROWS"))
    _print_columns(("cost of one unit", *names, "growth", "verdict"), rows)
    _print_failures([result for column in columns for result in column])


def _place(column: Sequence[Result], result: Result) -> int:
    return [each for each in column if each.row == result.row].index(result)


def _print_failures(results: Sequence[Result]) -> None:
    for result in results:
        if result.failed:
            print(f"FAILED {result.work}: {result.failed}")


def _print_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    for row in (head, ["-" * width for width in widths], *rows):
        print(" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def to_json(machine: str, results: Sequence[Result]) -> str:
    """Every field of every row, with what was decided."""
    rows = [{**asdict(result), "is_met": result.is_met, "is_noisy": result.is_noisy} for result in results]
    return json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n"
