"""The status of a run: running, finished, failed or killed; when it began and ended.

The rule, in this order:

1. An end that was recorded counts: by `run.end()`, at the end of a `with` block, or, for the newest run of a process
   that ends by an exception that nobody caught ("failed"), by Ctrl-C or by SIGTERM ("killed"; an idle worker of a
   `multiprocessing.Pool` ends in order that way). So does a given `end_time`.
2. Else the process that created the run (or went on with it in a `with` block) decides: while it is there, "running";
   if it ended in order, "finished", at the last change of the run; if it ended without a word (SIGKILL, a power cut,
   memory that ran out), "killed".
3. Of a process on another host only that host knows whether it is there: without an end in order, "running" for a day
   after the last change of the run, "killed" then.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from verta_store import ids
from verta_store.records import FIELDS

if TYPE_CHECKING:
    from verta_store import Store
    from verta_store.writers import Birth

RUNNING, FINISHED, FAILED, KILLED = "running", "finished", "failed", "killed"
ENDS = (FINISHED, FAILED, KILLED)

# Keys of the section `fields`.
STATUS, START_TIME, END_TIME, ERROR, PROCESS, PARENT = "status", "start_time", "end_time", "error", "process", "parent"

# A run of another host counts as running for so long after its last change.
SILENT_AFTER_MS = 24 * 3600 * 1000

_LONGEST_ERROR = 2000  # characters


class Life(NamedTuple):
    """Status, begin and end (ms since 1970; None while it runs), and what made it fail."""

    status: str
    start_ms: int
    end_ms: int | None
    error: str | None


def lives_of(store: Store, fields: Mapping[str, Mapping[str, Any]]) -> dict[str, Life]:
    """Run id -> its life, by the section `fields` of each. The rule is above. Without those that were deleted."""
    births = store.births(list(fields))
    # Each process is looked for once, whatever the number of its runs.
    open_writers = {birth.writer for run_id, birth in births.items() if fields[run_id].get(STATUS) not in ENDS}
    states = {writer: writer.state() for writer in open_writers}
    return {run_id: _life(birth, fields[run_id], states.get(birth.writer, "")) for run_id, birth in births.items()}


def _life(birth: Birth, fields: Mapping[str, Any], state: str) -> Life:
    if not fields and state == "ended":
        return Life(FINISHED, birth.created_ms, birth.updated_ms, None)
    start_ms = fields.get(START_TIME, birth.created_ms)
    end_ms = fields.get(END_TIME)
    status = fields.get(STATUS)
    if status not in ENDS:
        status = FINISHED if end_ms is not None else _derived(birth, fields.get(PROCESS), state)
    if end_ms is None and status != RUNNING:
        end_ms = birth.updated_ms
    return Life(status, start_ms, end_ms, fields.get(ERROR))


def _derived(birth: Birth, process: Mapping[str, Any] | None, state: str) -> str:
    from verta_store.writers import process_runs  # noqa: PLC0415 - start-up time

    if process is not None:
        state = "elsewhere"
        if process.get("host") == ids.host_id():
            state = "running" if process_runs(int(process["pid"]), int(process["at"]) / 1000) else "died"
    if state == "elsewhere":
        return RUNNING if ids.now_ms() - birth.updated_ms < SILENT_AFTER_MS else KILLED
    return {"running": RUNNING, "ended": FINISHED, "died": KILLED}[state]


def this_process() -> dict[str, Any]:
    """Who goes on with a run."""
    return {"host": ids.host_id(), "pid": os.getpid(), "at": ids.now_ms()}


def end_by(error: BaseException | None) -> tuple[str, str | None]:
    """(status, error text) of a run that ends with an exception, or without one."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return FINISHED, None
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return KILLED if isinstance(error, KeyboardInterrupt) else FAILED, text[:_LONGEST_ERROR]


# The newest run that this process has created, with its store, until it has ended; what it is that ends with it.
_newest: tuple[int, Store, str] | None = None
_has_hooks = False


def note_created(store: Store, run_id: str) -> None:
    """Remembers the run that is to be marked when this process fails or is ended."""
    global _newest, _has_hooks
    _newest = (os.getpid(), store, run_id)
    if not _has_hooks:
        _has_hooks = True
        import atexit  # noqa: PLC0415 - start-up time

        from verta_store.termination import before_termination  # noqa: PLC0415 - start-up time

        atexit.register(_mark_at_exit)  # and so before the store's own, which seals
        before_termination(lambda: _mark(KILLED, "SIGTERM"))


def note_ended(run_id: str) -> None:
    """Forgets it: it has an end."""
    global _newest
    if _newest is not None and _newest[2] == run_id:
        _newest = None


def _mark_at_exit() -> None:
    # Set by Python for the exception that ends a script. Where somebody types (a prompt, a notebook) it is merely the
    # last mistake.
    error = getattr(sys, "last_value", None)
    if error is not None and not hasattr(sys, "ps1") and "IPython" not in sys.modules:
        _mark(*end_by(error))


def _mark(status: str, error: str | None) -> None:
    if _newest is None or _newest[0] != os.getpid():
        return
    _, store, run_id = _newest
    try:
        store.put_unseen(run_id, FIELDS, {STATUS: status, END_TIME: ids.now_ms(), ERROR: error})
    except (OSError, KeyError):
        pass  # a drive that refuses, or a run that was deleted: there is nobody left to tell
