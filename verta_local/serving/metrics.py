"""Counts and times of predictions, and their text for Prometheus.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text, version 0.0.4).
"""

from __future__ import annotations

import bisect
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from verta_local._version import __version__

if TYPE_CHECKING:
    from verta_local.serving.accesslog import AccessLog
    from verta_local.serving.endpoint import Endpoint

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_MAX_ROUTES = 1000  # unknown routes are counted under one name; this bounds routes that come and go


class _Series:
    def __init__(self) -> None:
        self.by_status: dict[int, int] = {}
        self.buckets = [0] * (len(_BUCKETS_S) + 1)
        self.sum_s = 0.0
        self.used = 0  # a number that grows with each request: what was asked longest ago goes first


class Metrics:
    """All series of one server; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uses = 0
        self._series: dict[tuple[str, str], _Series] = {}  # (route, run id): a canary has the route of another run

    def count(self, route: str, run_id: str, status: int, seconds: float) -> None:
        """Adds one answered request."""
        if status == 404:
            route = ""  # any text can be asked for: it must not become a series of its own
        key = route, run_id
        with self._lock:
            series = self._series.get(key)
            if series is None:
                if len(self._series) >= _MAX_ROUTES:
                    del self._series[min(self._series, key=lambda each: self._series[each].used)]
                series = self._series[key] = _Series()
            self._uses += 1
            series.used = self._uses
            series.by_status[status] = series.by_status.get(status, 0) + 1
            series.buckets[bisect.bisect_left(_BUCKETS_S, seconds)] += 1
            series.sum_s += seconds

    def text(self, endpoints: Iterable[Endpoint], access_log: AccessLog) -> str:
        """The exposition text, with the present state of the endpoints."""
        lines = _head("requests_total", "counter", "Requests answered, by route, run and HTTP status.")
        with self._lock:
            for key, series in self._series.items():
                for status, count in sorted(series.by_status.items()):
                    lines.append(f'verta_requests_total{{{_labels(*key)},status="{status}"}} {count}')
            lines += _head("request_seconds", "histogram", "Time from the whole request to its answer.")
            for key, series in self._series.items():
                labels = _labels(*key)
                total = 0
                for bound, count in zip((*_BUCKETS_S, "+Inf"), series.buckets, strict=True):
                    total += count
                    lines.append(f'verta_request_seconds_bucket{{{labels},le="{bound}"}} {total}')
                lines.append(f"verta_request_seconds_sum{{{labels}}} {series.sum_s:.6f}")
                lines.append(f"verta_request_seconds_count{{{labels}}} {total}")
        found = list(endpoints)
        lines += _head("in_flight", "gauge", "Requests that wait or run.")
        lines += [f'verta_in_flight{{route="{_label(each.route)}"}} {each.in_flight}' for each in found]
        lines += _head("waiting", "gauge", "Requests that wait for a thread of the model.")
        lines += [f'verta_waiting{{route="{_label(each.route)}"}} {each.waiting}' for each in found]
        lines += _head("model_restarts_total", "counter", "Processes of a model that were replaced, by reason.")
        for each in found:
            for (run_id, reason), count in sorted(dict(each.restarts).items()):
                labels = f'{_labels(each.route, run_id)},reason="{reason}"'
                lines.append(f"verta_model_restarts_total{{{labels}}} {count}")
        shown = [(each.route, version) for each in found for version in each.versions()]
        lines += _head("model_up", "gauge", "1 where the model answers.")
        for route, version in shown:
            lines.append(f"verta_model_up{{{_labels(route, version.run_id)}}} {int(version.state == 'deployed')}")
        lines += _head("model_replicas", "gauge", "Processes of the model that serve.")
        for route, version in shown:
            lines.append(f"verta_model_replicas{{{_labels(route, version.run_id)}}} {len(version.pids)}")
        lines += _head("model_resident_bytes", "gauge", "Resident memory of the processes of the model.")
        for route, version in shown:
            resident = [size for pid in version.pids if (size := _resident_bytes(pid)) is not None]
            if resident:
                lines.append(f"verta_model_resident_bytes{{{_labels(route, version.run_id)}}} {sum(resident)}")
        lines += _head("slow_requests_total", "counter", "Requests that took as long as the limit for slow ones.")
        lines.append(f"verta_slow_requests_total {access_log.slow_count}")
        lines += _head("access_log_dropped_total", "counter", "Lines that the access log could not keep.")
        lines.append(f"verta_access_log_dropped_total {access_log.dropped_count}")
        own_bytes = _resident_bytes(os.getpid())
        if own_bytes is not None:
            lines += _head("supervisor_resident_bytes", "gauge", "Resident memory of the serving process itself.")
            lines.append(f"verta_supervisor_resident_bytes {own_bytes}")
        lines += _head("supervisor_cpu_seconds_total", "counter", "Processor time of the serving process itself.")
        lines.append(f"verta_supervisor_cpu_seconds_total {time.process_time():.3f}")
        lines += _head("build_info", "gauge", "The version that serves.")
        lines.append(f'verta_build_info{{version="{__version__}"}} 1')
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP verta_{name} {about}", f"# TYPE verta_{name} {kind}"]


def _labels(route: str, run_id: str) -> str:
    return f'route="{_label(route)}",run="{_label(run_id)}"'


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _resident_bytes(pid: int) -> int | None:
    try:
        for line in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # not Linux, or it has just ended
    return None
