"""What a canary must keep to. As in Verta."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from ..numbers import check_number


class Served(NamedTuple):
    """What a model has answered: how many requests, in how many seconds, and how many of them with which errors."""

    answers: int = 0
    seconds: float = 0.0
    server_errors: int = 0  # 500 and above: the model, or its process, failed
    request_errors: int = 0  # 400 to 499

    def since(self, before: Served) -> Served:
        """What was answered since an earlier look."""
        return Served(
            self.answers - before.answers,
            self.seconds - before.seconds,
            self.server_errors - before.server_errors,
            self.request_errors - before.request_errors,
        )


class UpdateRule:
    """One of the rules below.

    Args:
        value: the limit: seconds, or a part of the requests (0.1 for a tenth).
    """

    name: ClassVar[str] = ""
    _most: ClassVar[float | None] = None

    def __init__(self, value: float) -> None:
        if not self.name:
            raise TypeError("make one of the classes below UpdateRule")
        self.value = check_number("value", value, most=self._most)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value})"

    def measure(self, served: Served) -> float:
        """What the rule looks at. Only called where something was answered."""
        raise NotImplementedError

    def is_broken(self, served: Served) -> bool:
        """Whether what was answered is over the limit; nothing is, where nothing was answered."""
        return served.answers > 0 and self.measure(served) > self.value


class MaximumAverageLatencyThresholdRule(UpdateRule):
    """The average time of an answer, in seconds."""

    name = "latency_avg_max"

    def measure(self, served: Served) -> float:
        """Seconds an answer."""
        return served.seconds / served.answers


class MaximumServerErrorPercentageThresholdRule(UpdateRule):
    """The part of the requests whose answer was an error of the model: status 500 and above."""

    name = "error_5xx_rate"
    _most = 1

    def measure(self, served: Served) -> float:
        """The part of the answers."""
        return served.server_errors / served.answers


class MaximumRequestErrorPercentageThresholdRule(UpdateRule):
    """The part of the requests whose answer was an error of the caller: status 400 to 499."""

    name = "error_4xx_rate"
    _most = 1

    def measure(self, served: Served) -> float:
        """The part of the answers."""
        return served.request_errors / served.answers


RULES: dict[str, type[UpdateRule]] = {
    each.name: each
    for each in (
        MaximumAverageLatencyThresholdRule,
        MaximumServerErrorPercentageThresholdRule,
        MaximumRequestErrorPercentageThresholdRule,
    )
}
