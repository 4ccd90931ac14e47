"""Whether the process that writes a journal is still there: what the journal's name and end say of it."""

from __future__ import annotations

import os
import sys
import time
from typing import NamedTuple

from . import ids

# A journal's name has whole seconds, and a process's start is known to a hundredth.
_CLOCK_SLACK_S = 2


class Writer(NamedTuple):
    """The journal of a process: `<host id>/<utc>-<pid>-<random>`."""

    journal: str
    is_sealed: bool

    @property
    def host(self) -> str:
        """The id of its host (and user)."""
        return self.journal.partition("/")[0]

    def state(self) -> str:
        """What became of it: "ended" in order; "running", or "died", on this host; "elsewhere": only its host knows."""
        if self.is_sealed:
            return "ended"
        pid, began_s = self._process()
        if pid == 0 or self.host != ids.host_id():
            return "elsewhere"
        return "running" if process_runs(pid, began_s) else "died"

    def is_of_this_process(self) -> bool:
        """Whether this process writes it, or wrote it."""
        pid, began_s = self._process()
        return self.host == ids.host_id() and pid == os.getpid() and process_runs(pid, began_s)

    def _process(self) -> tuple[int, float]:
        """The number of the process, and when it began the journal; (0, 0) where the name is none of ours."""
        import calendar  # noqa: PLC0415 - start-up time: every index needs this module, few ask for this

        try:
            stamp, pid, _ = self.journal.partition("/")[2].split("-")
            return int(pid), calendar.timegm(time.strptime(stamp, "%Y%m%dt%H%M%S"))
        except ValueError:
            return 0, 0


class Birth(NamedTuple):
    """When an entity was created and last changed (ms since 1970), and who created it first."""

    created_ms: int
    updated_ms: int
    writer: Writer


def process_exists(pid: int) -> bool:
    """Whether there is a process of this number on this host, be it another user's. On Windows always."""
    if pid <= 0 or sys.platform == "win32":  # there, `kill` with 0 ends the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's
    return True


def process_runs(pid: int, since_s: float) -> bool:
    """Whether a process of this host that ran at `since_s` (seconds since 1970) still does. On Windows always."""
    if not process_exists(pid):
        return False
    started_s = _started_s(pid)
    # One that started later only has the number of the one that was meant.
    return started_s is None or started_s <= since_s + _CLOCK_SLACK_S


def _started_s(pid: int) -> float | None:
    """When a process started, in seconds since 1970; None where that is not told (Linux tells it)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        with open("/proc/stat", "rb") as file:
            boot_s = next(int(line.split()[1]) for line in file if line.startswith(b"btime "))
        return boot_s + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return None
