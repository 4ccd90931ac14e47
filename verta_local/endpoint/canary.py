"""Takes a canary from its first share of the requests to all of them, or back to none where it breaks a rule."""

from __future__ import annotations

import re
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

from ..deployment import local
from ..deployment.connection import KeepAlive
from ..errors import DeploymentError
from .update import CanaryUpdateStrategy
from .update.rules import Served

_LINE = re.compile(
    r'verta_(requests_total|request_seconds_sum)\{route="([^"]*)",run="([^"]*)"(?:,status="(\d+)")?\} (\S+)'
)
_TIMEOUT_S = 10.0

# local.deploy with all but the share given: None is all of the requests.
Deploy = Callable[["float | None"], "dict[str, Any]"]


def roll_out(deploy: Deploy, spec: dict[str, Any], route: str, strategy: CanaryUpdateStrategy) -> dict[str, Any]:
    """Gives a model step by step more of the requests at a route; returns the status when it has them all.

    Raises:
        DeploymentError: it did not load, or broke a rule: the present model has all requests again.
    """
    share = strategy.step
    while share < 1 - 1e-9:
        status = deploy(share)
        before = served(status["url"], route, spec["run_id"])
        time.sleep(strategy.interval)
        found = served(status["url"], route, spec["run_id"]).since(before)
        canary = local.status(spec["store_id"], spec["run_id"]).get("canary")
        if canary is None or canary["run_id"] != spec["run_id"]:
            raise DeploymentError("the canary was ended: its process died again and again, or another update began")
        for rule in strategy.rules:
            if rule.is_broken(found):
                local.undeploy(spec["store_id"], spec["run_id"], wait=True)
                raise DeploymentError(
                    f"the new model broke the rule {rule!r}, with {rule.measure(found):g} in {found.answers} requests; "
                    "the present one has all requests again"
                )
        share += strategy.step
    return deploy(None)


def served(url: str, route: str, run_id: str) -> Served:
    """What a run's model has answered at a route, by the metrics of the server at `url`."""
    parts = urllib.parse.urlsplit(url)
    connection = KeepAlive(parts.scheme, parts.hostname or "", parts.port, _TIMEOUT_S, _TIMEOUT_S)
    try:
        text = connection.request("GET", "/metrics", b"", {}).body.decode("utf-8")
    finally:
        connection.close()
    count, seconds, server_errors, request_errors = 0, 0.0, 0, 0
    for name, found_route, found_run, status, value in _LINE.findall(text):
        if (found_route, found_run) != (route, run_id):
            continue
        if name == "request_seconds_sum":
            seconds = float(value)
            continue
        count += int(value)
        server_errors += int(value) if int(status) >= 500 else 0
        request_errors += int(value) if 400 <= int(status) < 500 else 0
    return Served(count, seconds, server_errors, request_errors)
