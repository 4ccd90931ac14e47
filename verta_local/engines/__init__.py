"""What models are served by: the plug point `ServingEngine`, and the two engines that come with this package.

`local` is this machine's background server; `ray` puts the same class on a Ray cluster. Another package adds one by
an entry point of the group `verta_local.engines`: its name is the engine's, its object a class without arguments.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from verta_local.errors import DeploymentError

ENTRY_POINTS = "verta_local.engines"
LOCAL = "local"
_BUILT_IN = {
    LOCAL: "verta_local.engines.local_engine:LocalEngine",
    "ray": "verta_local.engines.ray_engine:RayEngine",
}


@runtime_checkable
class ServingEngine(Protocol):
    """Serves the models of runs at `.../api/v1/predict/<run id>`, or `.../predict/<project id>/<path>`.

    All methods return a status dict with at least {"status": "not deployed" | "deploying" | "deployed" | "error",
    "url", "token", "message"}. `verta_local.engine_contract.EngineContract` are the tests that
    every engine has to pass.
    """

    def deploy(
        self,
        spec: dict[str, Any],
        *,
        path: str | None = None,
        token: str | None = None,
        no_token: bool = False,
        wait: bool = False,
        canary: float | str | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """Serves a model spec; what is deployed already stays as it is, another run at its path takes over.

        Settings: `replicas`, `threads`, `predict_timeout_s`, `queue_limit`, and the engine's own.
        Raises: DeploymentError ("model deployment is failing;" and the model's own traceback), ValueError.
        """

    def undeploy(self, store_id: str, run_id: str, wait: bool = False) -> dict[str, Any]:
        """Takes a run's model down when its requests are answered; no error when it is not deployed."""

    def status(self, store_id: str, run_id: str) -> dict[str, Any]:
        """What a run's deployment is doing now."""


def engine_named(name: str) -> ServingEngine:
    """The engine of a name. Raises: ValueError for one that nobody offers; DeploymentError for one that fails."""
    from importlib import import_module  # noqa: PLC0415 - start-up time

    place = _BUILT_IN.get(name)
    if place is not None:
        module, _, made = place.partition(":")
        engine: ServingEngine = getattr(import_module(module), made)()
        return engine
    from importlib.metadata import entry_points  # noqa: PLC0415 - start-up time

    offered = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in offered:
        names = ", ".join([*_BUILT_IN, *sorted(offered)])
        raise ValueError(f"there is no engine {name!r:.100}; installed are: {names}")
    try:
        found: ServingEngine = offered[name].load()()
    except Exception as error:
        raise DeploymentError(f"the engine {name!r} ({offered[name].value}) does not load: {error}") from error
    return found
