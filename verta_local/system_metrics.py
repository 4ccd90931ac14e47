"""The load of this machine and process, measured in the background and logged as observations of a run."""

from __future__ import annotations

import os
import threading
import warnings
from typing import TYPE_CHECKING, Any

from verta_store import ids

from . import values
from .errors import MissingExtra

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from verta_store import Store


class SystemMetrics:
    """Measures until `stop()`; made by `run.log_system_metrics()`."""

    def __init__(self, store: Store, run_id: str, interval_s: float, prefix: str) -> None:
        try:
            import psutil  # noqa: PLC0415 - optional
        except ImportError as error:
            raise MissingExtra("log_system_metrics() needs psutil; install it with: pip install psutil") from error
        if not interval_s > 0:
            raise ValueError(f"interval_s must be a positive number of seconds, not {interval_s!r}")
        self._store = store
        self._run_id = run_id
        self._interval_s = interval_s
        self._prefix = values.check_key(prefix)
        self._psutil = psutil
        self._process = psutil.Process()
        self._pid = os.getpid()
        self._epoch = store.newest_epoch(run_id, f"{prefix}/memory_percent") + 1
        self._first = self._counters()
        # Percents are of the time since the last question: these two only start the clock.
        psutil.cpu_percent()
        self._process.cpu_percent()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="verta_local system metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Takes a last measurement and ends. A second time nothing happens."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        if self._pid == os.getpid() and threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            self._log()
            while not self._stopped.wait(self._interval_s):
                self._log()
            self._log()
        except Exception as error:  # a full disk, a run that was deleted: a training must not end by its measuring
            warnings.warn(f"system metrics are logged no more: {error}", UserWarning, stacklevel=1)

    def _log(self) -> None:
        stamp = ids.now_ms()
        for name, value in self._measured().items():
            self._store.add_points(self._run_id, f"{self._prefix}/{name}", [(value, stamp, self._epoch)])
        self._epoch += 1

    def _measured(self) -> dict[str, Any]:
        found = {
            "cpu_percent": self._psutil.cpu_percent(),
            "memory_percent": self._psutil.virtual_memory().percent,
            "process_cpu_percent": self._process.cpu_percent(),
            "process_memory_bytes": self._process.memory_info().rss,
        }
        now = self._counters()
        return {**found, **{name: now[name] - first for name, first in self._first.items() if name in now}}

    def _counters(self) -> dict[str, int]:
        found: dict[str, int] = {}
        disk, network = self._psutil.disk_io_counters(), self._psutil.net_io_counters()
        if disk is not None:
            found.update(disk_read_bytes=disk.read_bytes, disk_written_bytes=disk.write_bytes)
        if network is not None:
            found.update(network_received_bytes=network.bytes_recv, network_sent_bytes=network.bytes_sent)
        return found
