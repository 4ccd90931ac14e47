"""The example with scikit-learn and Annoy: accurate on digits that were never used, over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.examples
def test_digits_are_recognized_over_http(
    run_python: Callable[..., object], examples: Path, assert_nothing_runs: Callable[[], None]
) -> None:
    pytest.importorskip("annoy")
    pytest.importorskip("sklearn")
    output = run_python(examples / "digits_neighbors.py")
    # One tree alone is right for 94 %; labels out of step with the index for about 10 %.
    assert output.number(r"accuracy over HTTP on 400 test digits: ([\d.]+)%") >= 96
    assert output.number(r"(?m)^ +50 +[\d.]+% +([\d.]+)%") >= 97  # recall of the true neighbours
    assert_nothing_runs()
