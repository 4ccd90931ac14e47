"""Measures verta_local against hand-written floors, in the same run: `python -m benchmarks`. See README.md."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# From a fresh clone, with nothing installed but the dependencies: the engine lies in a folder of its own.
if importlib.util.find_spec("verta_store") is None:
    sys.path.insert(0, str(ROOT / "store"))
