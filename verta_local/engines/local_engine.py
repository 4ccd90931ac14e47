"""The engine `local`: the background server of this user on this machine."""

from __future__ import annotations

from typing import Any

from verta_local.deployment import local


class LocalEngine:
    """See `engines.ServingEngine`."""

    def deploy(self, spec: dict[str, Any], **settings: Any) -> dict[str, Any]:
        """As `deployment.local.deploy`."""
        return local.deploy(spec, **settings)

    def undeploy(self, store_id: str, run_id: str, wait: bool = False) -> dict[str, Any]:
        """As `deployment.local.undeploy`."""
        return local.undeploy(store_id, run_id, wait=wait)

    def status(self, store_id: str, run_id: str) -> dict[str, Any]:
        """As `deployment.local.status`."""
        return local.status(store_id, run_id)
