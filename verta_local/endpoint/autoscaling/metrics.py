"""What autoscaling looks at. As in Verta; recorded."""

from __future__ import annotations

from typing import ClassVar

from ..numbers import check_number


class AutoscalingMetric:
    """One of `CpuUtilizationTarget`, `MemoryUtilizationTarget` and `RequestsPerWorkerTarget`.

    Args:
        target: the value to keep to, over 0.
    """

    name: ClassVar[str] = ""

    def __init__(self, target: float) -> None:
        if not self.name:
            raise TypeError("make one of the classes below AutoscalingMetric")
        self.target = check_number("target", target)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.target})"


class CpuUtilizationTarget(AutoscalingMetric):
    """The part of a processor that each process uses."""

    name = "cpu_utilization"


class MemoryUtilizationTarget(AutoscalingMetric):
    """The part of its memory that each process uses."""

    name = "memory_utilization"


class RequestsPerWorkerTarget(AutoscalingMetric):
    """Requests at a time in each process."""

    name = "requests_per_worker"


METRICS: dict[str, type[AutoscalingMetric]] = {
    each.name: each for each in (CpuUtilizationTarget, MemoryUtilizationTarget, RequestsPerWorkerTarget)
}
