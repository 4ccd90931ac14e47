"""The command: `python -m benchmarks [--only ROW,ROW] [--large] [--growth] [--json FILE] [--scratch FOLDER]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from . import finding, objects, processes, table, writing
from .harness import Bench, Result, Sizes

Row = Callable[[Bench], Iterator[Result]]

# In the order of the table; a word may be a part of one for --only.
ROWS: dict[str, Row] = {
    "import": processes.imports,
    "first-run": processes.first_run,
    "create": writing.create,
    "log": writing.log_one,
    "full": writing.log_durable,
    "batch": writing.log_batch,
    "runs": writing.whole_runs,
    "find": finding.find,
    "catch-up": finding.catch_up,
    "newest": finding.newest,
    "history": finding.history,
    "dataframe": finding.dataframe,
    "rebuild": finding.rebuild,
    "rebuild-whole": finding.rebuild_whole,
    "file": objects.one_file,
    "memory": processes.memory,
    "folder": objects.folder,
    "folder-again": objects.folder_again,
    "file-again": objects.file_again,
    "path": processes.paths,
    "verify": objects.verify_deep,
    "disk": processes.disk,
}

_GROWTH = (0.01, 0.1, 1.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs rows and prints the table. Returns 0; 1 for a failure, and with --strict for a missed limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="ROW,ROW", help=f"some rows: {', '.join(ROWS)}")
    parser.add_argument(
        "--large", action="store_true", help="the sizes of the issue: 100,000 runs, 2 GiB, 50,000 files"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the work (default 1)")
    parser.add_argument("--growth", action="store_true", help="1x, 10x and 100x of the work: what one unit costs")
    parser.add_argument("--pairs", type=int, default=8, help="pairs of measurements a row (default 8)")
    parser.add_argument("--budget", type=float, default=20.0, metavar="S", help="seconds a measurement (default 20)")
    parser.add_argument("--scratch", metavar="FOLDER", help="where to work; the disk matters (default: temporary)")
    parser.add_argument("--json", metavar="FILE", help="writes the numbers to a file, too")
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a limit is missed")
    options = parser.parse_args(arguments)
    chosen = options.only.split(",") if options.only else list(ROWS)
    unknown = [word for word in chosen if word not in ROWS]
    if unknown:
        parser.error(f"no row {unknown[0]!r}; there are: {', '.join(ROWS)}")
    sizes = (Sizes.large() if options.large else Sizes()).scaled(options.scale)
    factors = _GROWTH if options.growth else (1.0,)
    columns = []
    for factor in factors:
        with Bench(sizes.scaled(factor), options.pairs, options.budget, options.scratch) as bench:
            machine = table.describe_machine(bench.folder)
            columns.append(_run(bench, chosen, f" ({factor / factors[0]:g}x)" if options.growth else ""))
    print(machine)
    if options.growth:
        table.print_growth(factors, columns)
    else:
        table.print_results(columns[0])
    rows = [row for column in columns for row in column]
    if options.json:
        Path(options.json).write_text(table.to_json(machine, rows))
    return int(any(row.failed or (options.strict and row.is_met is False) for row in rows))


def _run(bench: Bench, chosen: Sequence[str], note: str) -> list[Result]:
    results = []
    for word in chosen:
        begin = time.perf_counter()
        print(f"{word}{note} ...", end="", file=sys.stderr, flush=True)
        try:
            results += [replace(result, row=word) for result in ROWS[word](bench)]
        except Exception as error:  # one row that breaks must not cost the table of all others
            results.append(Result(word, row=word, failed=f"{type(error).__name__}: {error}"))
        print(f" {time.perf_counter() - begin:.1f} s", file=sys.stderr)
    return results


if __name__ == "__main__":
    sys.exit(main())
