"""The page about datasets, the registry and endpoints, run as it stands."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "datasets-registry-endpoints.md"


def test_every_block_of_the_page_runs_and_says_what_it_means(tmp_path: Path, python: Callable[..., Any]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text("1,2\n")
    script = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    lines = python(script).stdout.splitlines()
    assert lines[1:] == ["1 data/train.csv", "True", "v1", "HELLO! True", "active"]
