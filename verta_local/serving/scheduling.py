"""How the system is to share out its processors among the threads and processes of a server."""

from __future__ import annotations

import os


def work_in_batches() -> None:
    """Asks that a thread which becomes able to run does not interrupt the one that woke it; for its children too.

    A request passes three threads and two processes. By default each hand-over may interrupt the giver, so that every
    request is carried through alone; when the giver goes on to the end of what it has, several go in one piece (with
    8 clients 92 against 108 us of processor time a request). Linux only; a policy that somebody chose is left.
    """
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        try:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        except OSError:
            pass  # a container may forbid it
