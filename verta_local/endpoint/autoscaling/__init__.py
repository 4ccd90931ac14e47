"""How many processes serve a model. As in Verta; here `min_replicas` of them run, and the rest is recorded."""

from __future__ import annotations

from typing import Any

from ..numbers import check_count, check_number
from .metrics import METRICS, AutoscalingMetric


class Autoscaling:
    """The least and the greatest number of processes, and what would add some.

    Args:
        min_replicas: processes that serve the model.
        max_replicas, min_scale, max_scale: recorded.

    Raises:
        TypeError: values of another type. ValueError: numbers that are not over 0; a scale over 1; a minimum over its
            maximum.

    Differs from Verta: one machine has no more processors to add, so `min_replicas` processes run all the time.
    """

    def __init__(
        self,
        min_replicas: int | None = None,
        max_replicas: int | None = None,
        min_scale: float | None = None,
        max_scale: float | None = None,
    ) -> None:
        self.min_replicas = None if min_replicas is None else check_count("min_replicas", min_replicas)
        self.max_replicas = None if max_replicas is None else check_count("max_replicas", max_replicas)
        self.min_scale = None if min_scale is None else check_number("min_scale", min_scale, most=1)
        self.max_scale = None if max_scale is None else check_number("max_scale", max_scale, most=1)
        for what, least, most in (
            ("replicas", self.min_replicas, self.max_replicas),
            ("scale", self.min_scale, self.max_scale),
        ):
            if least is not None and most is not None and least > most:
                raise ValueError(f"min_{what} ({least}) must not be over max_{what} ({most})")
        self._metrics: list[AutoscalingMetric] = []

    @property
    def metrics(self) -> list[AutoscalingMetric]:
        """What was added."""
        return list(self._metrics)

    def add_metric(self, metric: AutoscalingMetric) -> None:
        """Adds one of `verta_local.endpoint.autoscaling.metrics`. Raises TypeError for anything else."""
        if not isinstance(metric, AutoscalingMetric):
            raise TypeError(
                f"metric must be one of verta_local.endpoint.autoscaling.metrics, not {type(metric).__name__}"
            )
        self._metrics.append(metric)

    def to_record(self) -> dict[str, Any]:
        """What was said, as JSON values."""
        names = ("min_replicas", "max_replicas", "min_scale", "max_scale")
        found = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return {**found, "metrics": [{"metric": each.name, "target": each.target} for each in self._metrics]}

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> Autoscaling:
        """Autoscaling of a config file.

        Args:
            given: {"quantities": {"min_replicas" ...}, "metrics": [{"metric": name, "parameters": [{"name": "target",
                "value": ...}]}]}. As in Verta.

        Raises:
            ValueError: an unknown metric.
        """
        made = cls(**given.get("quantities", {}))
        for entry in given.get("metrics", ()):
            kind = METRICS.get(entry.get("metric"))
            if kind is None:
                raise ValueError(f"{entry.get('metric')!r} is no metric; use one of {', '.join(METRICS)}")
            targets = [each["value"] for each in entry.get("parameters", ()) if each.get("name") == "target"]
            made.add_metric(kind(float(targets[0]) if targets else entry.get("target")))
        return made


__all__ = ["Autoscaling"]
