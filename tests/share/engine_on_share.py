"""Runs tests of the engine on the bad network drive: `VERTA_LOCAL_TEST_DRIVE=shim pytest -p engine_on_share tests/store`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import shim

import verta_store

ENGINE = str(Path(verta_store.__file__).parent)
share = shim.Share(keeps_appends=False, only_for=ENGINE).install()


@pytest.fixture(autouse=True)
def drive(tmp_path: Path) -> Iterator[None]:
    """The test's store lies on the drive; what it logs and its index do not."""
    share.roots[:] = [str(tmp_path / "store")]
    yield
    share.roots[:] = []
