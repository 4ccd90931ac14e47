"""The deployment of a run's model, as in Verta's first clients."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from verta_store import ids
from verta_store.errors import StoreWriteError
from verta_store.records import DEPLOYMENTS, decode_value

from .entity_datasets import EntityWithDatasets
from .entity_model import EntityWithModel

if TYPE_CHECKING:
    from verta_store import Store
    from verta_store.query import EntityRow

    from .deployment import DeployedModel
    from .engines import ServingEngine


def deployed_here(store: Store) -> list[tuple[EntityRow, dict[str, Any]]]:
    """The runs and endpoints that the store notes as deployed on this host, oldest first, each with its note.

    A note is {"state", "url", "path", "settings", "at" (ms)}; it says what is wanted, not what runs. What another
    engine than the local one serves ("engine") is not among them: it does not end with this machine.
    """
    rows = store.select(
        "SELECT e.id, v.json FROM vals v JOIN keys k ON k.id = v.key JOIN entities e ON e.num = v.entity"
        " WHERE k.section = ? AND k.key = ? AND e.kind IN ('run', 'endpoint') AND e.deleted IS NULL",
        (DEPLOYMENTS, ids.host_id()),
    )
    notes = [(entity, decode_value(text)) for entity, text in rows if text is not None]
    found = [(store.entity(entity), note) for entity, note in notes if _is_served_here(note)]
    return sorted(found, key=lambda pair: int(pair[1].get("at", 0)))


def _is_served_here(note: dict[str, Any]) -> bool:
    return note.get("state") == "deployed" and "engine" not in note


class RunModel(EntityWithModel, EntityWithDatasets):
    """The part of `ExperimentRun` that is about serving its model."""

    def deploy(
        self,
        path: str | None = None,
        token: str | None = None,
        no_token: bool = False,
        wait: bool = False,
        *,
        canary: float | str | None = None,
        engine: str = "local",
        **settings: Any,
    ) -> dict[str, Any]:
        """Serves the model from a process of its own, which outlives this one. Returns the status.

        Args:
            path: the last part of the URL; the run's id by default.
            token: what callers must send as `Access-Token`; by default a random one.
            no_token: lets everybody on this machine call it.
            wait: returns when the model has answered its self-check, and raises its error at once.
            canary: the share of requests ("10%" or 0.1) that this model gets beside the one deployed at `path`.
            engine: "local", for this machine; "ray" (extra `verta-local[ray]`), for a Ray cluster; or one that
                another package offers, see `verta_local.engines`.
            settings: `replicas` (processes, 1), `threads` (predictions at a time in each, 4), `predict_timeout_s`
                (60), `queue_limit` (requests that may wait, 128).

        Returns:
            {"status": "deploying" | "deployed", "url", "token", "message"}. As in Verta, deploying what is deployed
            already is no error.

        Raises:
            RuntimeError: "unable to deploy due to missing artifact <key>"; with `wait`, "model deployment is
                failing;" and the model's own traceback.
        """
        spec = self.model_spec(for_deployment=True)
        from .engines import LOCAL, engine_named  # noqa: PLC0415 - start-up time

        serving = engine_named(engine)
        status = serving.deploy(spec, path=path, token=token, no_token=no_token, wait=wait, canary=canary, **settings)
        if canary is None:  # a canary is a trial: `verta-local serve --all` does not bring it back
            note = {"state": "deployed", "url": status.get("url"), "path": path, "settings": settings}
            self._record_deployment(note if engine == LOCAL else {**note, "engine": engine})
        return dict(status)

    def undeploy(self, wait: bool = False) -> dict[str, Any]:
        """Ends the deployment; requests in flight are answered. Not deployed: no error. Returns the status.

        What `verta-local serve` serves in the foreground goes on: Ctrl-C there ends it.
        """
        status = self._engine().undeploy(self._store.id, self._id, wait=wait)
        self._record_deployment({"state": "undeployed"})
        return dict(status)

    def get_deployment_status(self) -> dict[str, Any]:
        """{"status": "not deployed" | "deploying" | "deployed" | "error", "url", "token", "message"}, as of now.

        It asks the serving process, so it is true after a reboot or a kill too.
        """
        return dict(self._engine().status(self._store.id, self._id))

    def get_deployed_model(self) -> DeployedModel:
        """The deployed model, to call `predict` on.

        Raises:
            RuntimeError: "model is not currently deployed".
        """
        from .deployment import DeployedModel  # noqa: PLC0415 - start-up time
        from .errors import DeploymentError  # noqa: PLC0415

        status = self.get_deployment_status()
        if status["status"] not in ("deployed", "deploying"):
            raise DeploymentError(f"model is not currently deployed ({status['message']})")
        return DeployedModel.from_url(status["url"], status["token"])

    def _engine(self) -> ServingEngine:
        """The engine that the run was last deployed with on this host."""
        from .engines import LOCAL, engine_named  # noqa: PLC0415 - start-up time

        note = self._store.values(self._id, DEPLOYMENTS).get(ids.host_id()) or {}
        return engine_named(str(note.get("engine") or LOCAL))

    def _record_deployment(self, state: dict[str, Any]) -> None:
        """Notes it in the store, for the others; what is true on this host is asked from the serving process."""
        entry = {**state, "at": ids.now_ms()}
        try:
            self._store.put(self._id, DEPLOYMENTS, {ids.host_id(): entry}, overwrite=True)
            self._store.flush()
        except StoreWriteError as error:  # a store that may only be read serves all the same
            warnings.warn(f"the model is {state['state']}, but {error}", UserWarning, stacklevel=3)
