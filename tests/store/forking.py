"""A fork of the test's own process."""

from __future__ import annotations

import os
import warnings


def fork() -> int:
    """`os.fork()` without the warning of Python 3.12 and later of a fork with threads: ours only wait."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return os.fork()
