"""How a new model takes the place of the present one. As in Verta."""

from __future__ import annotations

from typing import Any

from ..numbers import check_count, check_number
from .rules import RULES, UpdateRule


class UpdateStrategy:
    """One of `DirectUpdateStrategy` and `CanaryUpdateStrategy`."""

    def to_record(self) -> dict[str, Any]:
        """The strategy as JSON values."""
        raise TypeError("give a DirectUpdateStrategy or a CanaryUpdateStrategy")


class DirectUpdateStrategy(UpdateStrategy):
    """The new model takes over when it has loaded; requests in flight are answered by the old one."""

    def to_record(self) -> dict[str, Any]:
        """The strategy as JSON values."""
        return {"strategy": "direct"}


class CanaryUpdateStrategy(UpdateStrategy):
    """The new model gets a growing share of the requests, and takes over when it gets all.

    Args:
        interval: seconds between two steps.
        step: by how much the share grows at each step, up to 1.

    At least one rule must be added: where the new model breaks one, the old one gets all requests again.

    Raises:
        TypeError: values of another type. ValueError: numbers that are not over 0; a step over 1.
    """

    def __init__(self, interval: int, step: float) -> None:
        self.interval = check_count("interval", interval)
        self.step = check_number("step", step, most=1)
        self._rules: list[UpdateRule] = []

    @property
    def rules(self) -> list[UpdateRule]:
        """What was added."""
        return list(self._rules)

    def add_rule(self, rule: UpdateRule) -> None:
        """Adds one of `verta_local.endpoint.update.rules`. Raises TypeError for anything else."""
        if not isinstance(rule, UpdateRule):
            raise TypeError(f"rule must be one of verta_local.endpoint.update.rules, not {type(rule).__name__}")
        self._rules.append(rule)

    def to_record(self) -> dict[str, Any]:
        """The strategy as JSON values. Raises RuntimeError without a rule."""
        if not self._rules:
            raise RuntimeError("a canary update strategy must have at least one rule; add one with add_rule()")
        rules = [{"rule": rule.name, "value": rule.value} for rule in self._rules]
        return {"strategy": "canary", "interval": self.interval, "step": self.step, "rules": rules}


def strategy_from_dict(given: dict[str, Any]) -> UpdateStrategy:
    """The strategy of a config file.

    Args:
        given: {"strategy": "direct"}, or {"strategy": "canary", "canary_strategy": {"progress_interval_seconds",
            "progress_step", "rules": [{"rule": name, "rule_parameters": [{"name": "threshold", "value": ...}]}]}}.

    Raises:
        ValueError: an unknown strategy or rule.
    """
    name = given.get("strategy", "direct")
    if name == "direct":
        return DirectUpdateStrategy()
    if name != "canary":
        raise ValueError(f"the strategy is 'direct' or 'canary', not {name!r}")
    details = given.get("canary_strategy", {})
    strategy = CanaryUpdateStrategy(details.get("progress_interval_seconds"), details.get("progress_step"))
    for entry in details.get("rules", ()):
        kind = RULES.get(entry.get("rule"))
        if kind is None:
            raise ValueError(f"{entry.get('rule')!r} is no rule; use one of {', '.join(RULES)}")
        values = [each["value"] for each in entry.get("rule_parameters", ())]
        strategy.add_rule(kind(float(values[0]) if values else entry.get("value")))
    return strategy


__all__ = ["CanaryUpdateStrategy", "DirectUpdateStrategy", "UpdateStrategy", "strategy_from_dict"]
