"""Counts and times of predictions, and their text for Prometheus.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text, version 0.0.4).
"""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_MAX_ROUTES = 1000  # unknown routes are counted under one name; this bounds routes that come and go


class _Series:
    def __init__(self) -> None:
        self.by_status: dict[int, int] = {}
        self.buckets = [0] * (len(_BUCKETS_S) + 1)
        self.sum_s = 0.0


class Timed:
    """The measurement of one request; set `status` before leaving the `with`."""

    __slots__ = ("_metrics", "_route", "_start", "status")

    def __init__(self, metrics: Metrics, route: str) -> None:
        self._metrics = metrics
        self._route = route
        self.status = 0

    def __enter__(self) -> Timed:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self._metrics.count(self._route, self.status, time.perf_counter() - self._start)


class Metrics:
    """All series of one server; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._series: dict[str, _Series] = {}

    def timed(self, route: str) -> Timed:
        """A context that counts one request on the route."""
        return Timed(self, route)

    def count(self, route: str, status: int, seconds: float) -> None:
        """Adds one answered request."""
        if status == 404:
            route = ""  # any text can be asked for: it must not become a series of its own
        with self._lock:
            series = self._series.get(route)
            if series is None:
                if len(self._series) >= _MAX_ROUTES:
                    self._series.pop(next(iter(self._series)))
                series = self._series[route] = _Series()
            series.by_status[status] = series.by_status.get(status, 0) + 1
            series.buckets[bisect.bisect_left(_BUCKETS_S, seconds)] += 1
            series.sum_s += seconds

    def text(self, statuses: Iterable[dict[str, Any]], in_flight: dict[str, int]) -> str:
        """The exposition text; `statuses` are the endpoints' status dicts, `in_flight` route -> requests."""
        lines = ["# TYPE verta_requests_total counter"]
        with self._lock:
            for route, series in self._series.items():
                for status, count in sorted(series.by_status.items()):
                    lines.append(f'verta_requests_total{{route="{_label(route)}",status="{status}"}} {count}')
            lines.append("# TYPE verta_request_seconds histogram")
            for route, series in self._series.items():
                label = _label(route)
                total = 0
                for bound, count in zip((*_BUCKETS_S, "+Inf"), series.buckets, strict=True):
                    total += count
                    lines.append(f'verta_request_seconds_bucket{{route="{label}",le="{bound}"}} {total}')
                lines.append(f'verta_request_seconds_sum{{route="{label}"}} {series.sum_s:.6f}')
                lines.append(f'verta_request_seconds_count{{route="{label}"}} {total}')
        lines.append("# TYPE verta_in_flight gauge")
        lines += [f'verta_in_flight{{route="{_label(route)}"}} {count}' for route, count in in_flight.items()]
        lines.append("# TYPE verta_model_restarts_total counter")
        found = list(statuses)
        lines += [f'verta_model_restarts_total{{route="{_label(s["route"])}"}} {s["restarts"]}' for s in found]
        lines.append("# TYPE verta_model_up gauge")
        lines += [f'verta_model_up{{route="{_label(s["route"])}"}} {int(s["status"] == "deployed")}' for s in found]
        lines.append("# TYPE verta_model_resident_bytes gauge")
        for shown in found:
            resident = _resident_bytes(shown["pid"])
            if resident is not None:
                lines.append(f'verta_model_resident_bytes{{route="{_label(shown["route"])}"}} {resident}')
        return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _resident_bytes(pid: int | None) -> int | None:
    if pid is None:
        return None
    try:
        for line in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # not Linux, or it has just ended
    return None
