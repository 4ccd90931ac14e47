"""A part of the engine's own tests on the bad network drive; how to run all of them is in `engine_on_share.py`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.timeout(300)  # some 20 s where nothing else runs
def test_the_engines_tests_pass_on_a_bad_network_drive(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ["PYTHONPATH"]]),
        "VERTA_LOCAL_TEST_DRIVE": "shim",
    }
    tests = [str(HERE.parent / "store" / name) for name in ("test_tree.py", "test_leases.py", "test_gc.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "engine_on_share", "-p", "no:cacheprovider", *tests]
    command += ["-k", "not cannot_be_put_back and not may_not_be_moved"]  # they wait for renamings that never come
    if os.access("/dev/shm", os.W_OK):
        command += ["--basetemp", f"/dev/shm/{tmp_path.parent.name}-{tmp_path.name}"]
    done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, timeout=280)
    shutil.rmtree(f"/dev/shm/{tmp_path.parent.name}-{tmp_path.name}", ignore_errors=True)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and passed, done.stdout + done.stderr
    assert int(passed[1]) > 100
