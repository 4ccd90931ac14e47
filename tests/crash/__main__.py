"""The crash sweeps from the command line: `python tests/crash` for every point, `--budget 20` for a sample."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

if importlib.util.find_spec("verta_store") is None:  # not installed: the engine of this tree
    sys.path.append(str(Path(__file__).parents[2] / "store"))

from sweep import full_sweep


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/crash", description=__doc__)
    parser.add_argument("--budget", type=int, help="at most so many points of each sweep; every one by default")
    parser.add_argument("--seed", type=int, default=0, help="chooses the sample and what a power cut takes")
    parser.add_argument("--jobs", type=int, default=1, help="so many points at a time")
    parser.add_argument("--folder", type=Path, help="where the stores are made; a temporary folder by default")
    arguments = parser.parse_args()
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="crash-", dir=arguments.folder))
    try:
        results = full_sweep(folder, arguments.budget, arguments.seed, arguments.jobs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    points = sum(sum(result.outcomes.values()) for result in results)
    failures = sum(len(result.failures) for result in results)
    print(f"{points} points, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
