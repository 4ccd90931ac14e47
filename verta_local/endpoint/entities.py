"""Endpoints in a store. Names and behaviour are Verta's."""

from __future__ import annotations

import os
import re
import threading
import warnings
from typing import TYPE_CHECKING, Any

from verta_store import ids
from verta_store.errors import StoreWriteError
from verta_store.query import Query
from verta_store.records import ARTIFACTS, DEPLOYMENTS

from .. import creation
from ..config_files import parse_json, parse_yaml
from ..deployment import DeployedModel, local
from ..deployment.tokens import kept_token
from ..entity_attributes import EntityWithAttributes
from ..errors import DeploymentError
from ..lazy_list import LazyList
from ..registry.entities import RegisteredModelVersion
from ..run import ExperimentRun
from .autoscaling import Autoscaling
from .canary import roll_out
from .resources import Resources
from .update import CanaryUpdateStrategy, DirectUpdateStrategy, UpdateStrategy, strategy_from_dict

if TYPE_CHECKING:
    from verta_store import Store

_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_URL_PREFIX = "/api/v1/predict"
_UPDATES_SECTION = "updates"
_NEVER_UPDATED = "inactive"


class Endpoint(EntityWithAttributes):
    """A path under which models are served on this machine. Made by `Client.set_endpoint`.

    The endpoint is in the store, for all who use it; what it serves is told for this machine and user.
    """

    _kind = "endpoint"

    def _describe(self) -> str:
        lines = [f"path: {self.path}", f"id: {self._id}", f"description: {self.get_description()}"]
        return "\n".join([*lines, f"last update: {self._last_update() or 'none'}"])

    @property
    def path(self) -> str:
        """The path, with a slash in front."""
        return self.name

    def rename(self, name: str) -> None:
        """An endpoint has its path for a name, and callers know it. Raises: ValueError."""
        raise ValueError("the path of an endpoint cannot be changed; make another endpoint")

    # -- updating --------------------------------------------------------------------------------------------------

    def update(
        self,
        model_reference: ExperimentRun | RegisteredModelVersion,
        strategy: UpdateStrategy | None = None,
        wait: bool = False,
        resources: Resources | None = None,
        autoscaling: Autoscaling | None = None,
        env_vars: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Serves a model here, in place of the present one; no request is lost. Returns the status.

        Args:
            model_reference: a run or a registered model version, with a model and an environment.
            strategy: `verta_local.endpoint.update.DirectUpdateStrategy()` by default, or a `CanaryUpdateStrategy`,
                which takes effect where a model is served already. Without `wait` a canary goes on for as long as
                this program lives, and stays at the share that it has then.
            wait: returns when the model answers (with a canary: all requests), and raises its error.
            resources: a `Resources`: recorded, see there.
            autoscaling: an `Autoscaling`: `min_replicas` processes serve the model.
            env_vars: set in the model's processes. Their names are recorded, not their values.

        Raises:
            TypeError: arguments of other types.
            RuntimeError: "unable to deploy due to missing artifact <key>"; a canary without rules; with `wait`,
                "endpoint update failed;" and the model's own traceback. The present model goes on then.
        """
        strategy = strategy or DirectUpdateStrategy()
        record = _checked_update(model_reference, strategy, resources, autoscaling, env_vars)
        spec = self._spec(model_reference, env_vars or {})
        replicas = (autoscaling.min_replicas if autoscaling else None) or 1

        def deploy(share: float | None, *, is_waiting: bool = True) -> dict[str, Any]:
            return local.deploy(spec, path=self.path, wait=is_waiting, canary=share, replicas=replicas)

        present = self._served()
        if isinstance(strategy, CanaryUpdateStrategy) and present is not None and present["status"] != "error":
            canary = strategy

            def drive() -> None:
                roll_out(deploy, spec, self._route, canary)
                self._record(spec, record)

            if wait:
                _failing_as_update(drive)
            else:
                threading.Thread(target=_in_background, args=(self.path, drive), daemon=True).start()
        else:
            _failing_as_update(lambda: deploy(None, is_waiting=wait))
            self._record(spec, record)
        return self.get_status()

    def update_from_config(self, filepath: str | os.PathLike[str], wait: bool = False) -> dict[str, Any]:
        """Updates as a JSON or YAML file says; returns the status.

        Its keys: `run_id` or `model_version_id`; `strategy` ("direct" or "canary") with `canary_strategy`;
        `autoscaling`; `resources`; `env_vars`. As in Verta.

        Raises:
            ValueError: neither or both ids; another file type; unknown names. Else as `update`.
        """
        found = _read_config(os.fspath(filepath))
        run_id, version_id = found.get("run_id"), found.get("model_version_id")
        if (run_id is None) == (version_id is None):
            raise ValueError(f"{os.fspath(filepath)} must have one of run_id and model_version_id")
        reference: ExperimentRun | RegisteredModelVersion
        if run_id is not None:
            reference = creation.by_id(self._store, ExperimentRun, None, run_id)
        else:
            reference = creation.by_id(self._store, RegisteredModelVersion, None, str(version_id))
        return self.update(
            reference,
            strategy_from_dict(found),
            wait,
            Resources.from_dict(found["resources"]) if found.get("resources") else None,
            Autoscaling.from_dict(found["autoscaling"]) if found.get("autoscaling") else None,
            found.get("env_vars"),
        )

    def undeploy(self, wait: bool = True) -> dict[str, Any]:
        """Serves nothing here any more; requests in flight are answered. Returns the status. Not in Verta."""
        found = self._served()
        if found is not None:
            if found.get("canary"):
                local.undeploy(self._store.id, found["canary"]["run_id"], wait=wait)
            local.undeploy(self._store.id, found["run_id"], wait=wait)
            self._note({"state": "undeployed"})
        return self.get_status()

    def delete(self) -> None:
        """Takes the model down, on this machine, and deletes the endpoint. Durable on return."""
        self.undeploy()
        super().delete()

    # -- looking ---------------------------------------------------------------------------------------------------

    def get_status(self) -> dict[str, Any]:
        """What is served here now, asked from the serving process.

        Returns:
            {"status": "inactive" | "creating" | "updating" | "active" | "error", "id", "path", "url" (None unless
            served), "message", "date_created", "date_updated" (ms since 1970), "components": one dict a model, with
            "status", "message", "ratio" (its share of the requests), "run_id" or "model_version_id"}.
        """
        found = self._served()
        status: dict[str, Any] = {
            "status": _NEVER_UPDATED if found is None else _word_of(found),
            "id": self._id,
            "path": self.path,
            "url": found["url"] if found else None,
            "message": found["message"] if found else "no model is served at this endpoint: update() serves one",
            "date_created": self.get_date_created(),
            "date_updated": self.get_date_updated(),
            "components": [],
        }
        if found is not None:
            canary = found.get("canary")
            share = canary["share"] if canary else 0.0
            status["components"].append(self._component(found, 1.0 - share))
            if canary:
                status["components"].append(self._component(canary, share))
        return status

    def get_update_status(self) -> dict[str, Any]:
        """{"update_request": what the last update asked for, or None, "status": as `get_status`}."""
        return {"update_request": self._last_update(), "status": self.get_status()["status"]}

    def get_url(self) -> str:
        """The URL that predictions go to; only its path, `/api/v1/predict/...`, while nothing is served."""
        found = self._served()
        return str(found["url"]) if found else f"{_URL_PREFIX}{self.path}"

    def get_deployed_model(self) -> DeployedModel:
        """The model that is served here, to call `predict` on. Raises RuntimeError where there is none."""
        found = self._served()
        if found is None or found["status"] not in ("deployed", "deploying"):
            word = _NEVER_UPDATED if found is None else _word_of(found)
            raise DeploymentError(f"model is not currently deployed: the endpoint {self.path!r} is {word}")
        return DeployedModel.from_url(found["url"], found["token"])

    def get_logs(self) -> list[str]:
        """The lines that the model has printed, oldest first; [] where nothing is served."""
        found = self._served()
        if found is None:
            return []
        try:
            with open(found["log"], encoding="utf-8", errors="replace") as file:
                return file.read().splitlines()
        except FileNotFoundError:
            return []  # it has not printed anything yet

    def last_served(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The model spec and the settings of the last update, to be served again at `path`, as after a restart.

        The values of `env_vars` are not recorded: they are taken from this process's environment.

        Raises:
            ValueError: there was no update, or an environment variable is not set here.
        """
        update = self._last_update()
        if update is None:
            raise ValueError(f"the endpoint {self.path!r} was never updated, so there is nothing to serve")
        names = update.get("env_vars") or []
        missing = [name for name in names if name not in os.environ]
        if missing:
            raise ValueError(f"the endpoint {self.path!r} was updated with env_vars; set these first: {missing}")
        kind = ExperimentRun if "run_id" in update else RegisteredModelVersion
        reference = kind(self._store, self._store.entity(update.get("run_id") or update["model_version_id"]))
        replicas = (update.get("autoscaling") or {}).get("min_replicas") or 1
        return self._spec(reference, {name: os.environ[name] for name in names}), {"replicas": replicas}

    # -- tokens ----------------------------------------------------------------------------------------------------

    def create_access_token(self, token: str) -> None:
        """Sets what callers must send as `Access-Token`, on this machine; a model that is served takes it at once.

        Args:
            token: printable ASCII without blanks.

        Raises:
            TypeError: not a text. ValueError: a text that no header can carry.

        Differs from Verta: an endpoint has one token, so the one before ends; and where none was created, `update`
        makes a random one, so that not everybody on this machine can predict.
        """
        if not isinstance(token, str):
            raise TypeError(f"token must be a str, not {type(token).__name__}")
        found = self._served()
        local.set_token(self._place(), self.path, token, found["run_id"] if found else None)

    def get_access_token(self) -> str | None:
        """What callers must send as `Access-Token`; None before the first update, unless one was created."""
        return kept_token(self._place(), self.path)

    def get_access_tokens(self) -> list[str]:
        """The token as a list, [] for none."""
        token = self.get_access_token()
        return [] if token is None else [token]

    # -- inner -----------------------------------------------------------------------------------------------------

    @property
    def _route(self) -> str:
        return self.path.strip("/")

    def _place(self) -> dict[str, Any]:
        """The part of a model spec that says where it is served: at the path itself, below no project."""
        return {"store_id": self._store.id, "project_id": ""}

    def _spec(self, reference: ExperimentRun | RegisteredModelVersion, env_vars: dict[str, str]) -> dict[str, Any]:
        spec = reference.model_spec(for_deployment=True)
        # Of its own, so that the same run may be deployed by itself, or at another endpoint.
        run_id = f"{self._id}~{reference.id}"
        return {**spec, **self._place(), "run_id": run_id, "env_vars": {**spec["env_vars"], **env_vars}}

    def _served(self) -> dict[str, Any] | None:
        for found in local.list_deployments():
            if found["store_id"] == self._store.id and found["route"] == self._route:
                return found
        return None

    def _component(self, found: dict[str, Any], share: float) -> dict[str, Any]:
        model_id = str(found["run_id"]).rpartition("~")[2]
        updates = self._values(_UPDATES_SECTION).values()
        is_version = any(update.get("model_version_id") == model_id for update in updates)
        if not is_version:
            try:
                is_version = self._store.entity(model_id).kind == RegisteredModelVersion._kind
            except KeyError:
                pass  # deleted since
        key = "model_version_id" if is_version else "run_id"
        return {"status": found["status"], "message": found["message"], "ratio": share, key: model_id}

    def _last_update(self) -> dict[str, Any] | None:
        updates = self._values(_UPDATES_SECTION)
        return max(updates.values(), key=lambda update: int(update["at"]), default=None)

    def _record(self, spec: dict[str, Any], record: dict[str, Any]) -> None:
        """Notes the update, and names what is served, so that it stays although the run may be deleted."""
        at_ms = ids.now_ms()
        update = {**record, "at": at_ms, "host": ids.host_id()}
        named = {f"served/{number}": entry for number, entry in enumerate(_objects_of(spec))}
        stale = [key for key in self._values(ARTIFACTS) if key not in named]
        sections: dict[str, dict[str, Any]] = {_UPDATES_SECTION: {f"{at_ms}-{ids.random_hex(8)}": update}}
        sections[ARTIFACTS] = named
        sections[DEPLOYMENTS] = {ids.host_id(): {"state": "deployed", "at": at_ms}}
        self._write(sections, {ARTIFACTS: stale} if stale else None)

    def _note(self, state: dict[str, Any]) -> None:
        self._write({DEPLOYMENTS: {ids.host_id(): {**state, "at": ids.now_ms()}}}, None)

    def _write(self, sections: dict[str, dict[str, Any]], drop: dict[str, list[str]] | None) -> None:
        try:
            self._store.put_all(self._id, sections, overwrite=True, drop=drop)
            self._store.flush()
        except StoreWriteError as error:  # a store that may only be read serves all the same
            warnings.warn(f"the endpoint {self._name!r} was updated, but {error}", UserWarning, stacklevel=4)


class Endpoints(LazyList[Endpoint]):
    """The endpoints of a store. `find` takes id, path, attributes.*, description, date_created, date_updated."""

    _noun = "endpoints"

    def __init__(self, store: Store, query: Query | None = None) -> None:
        super().__init__(store, query or Query(Endpoint._kind), Endpoint)


def check_path(path: object) -> str:
    """A path with a slash in front. Raises TypeError for no text, ValueError for what no URL path can be."""
    if not isinstance(path, str):
        raise TypeError(f"the path of an endpoint must be a str, not {type(path).__name__}")
    whole = path if path.startswith("/") else f"/{path}"
    if not _PATH.fullmatch(whole) or {".", ".."} & set(whole.split("/")) or len(whole) > 500:
        raise ValueError(
            "the path of an endpoint is made of letters, digits, '.', '_', '~' and '-', parts separated by '/', "
            f"not {path!r:.200}"
        )
    return whole


def _checked_update(
    reference: object,
    strategy: object,
    resources: object,
    autoscaling: object,
    env_vars: object,
) -> dict[str, Any]:
    """What an update asks for, as JSON values. Raises TypeError, RuntimeError as `Endpoint.update`."""
    if not isinstance(reference, (ExperimentRun, RegisteredModelVersion)):
        raise TypeError(
            f"model_reference must be an ExperimentRun or a RegisteredModelVersion, not {type(reference).__name__}"
        )
    for name, value, kind in (
        ("strategy", strategy, UpdateStrategy),
        ("resources", resources, Resources),
        ("autoscaling", autoscaling, Autoscaling),
    ):
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name} must be one of verta_local.endpoint.{name}, not {type(value).__name__}")
    if env_vars is not None and not (
        isinstance(env_vars, dict)
        and all(isinstance(key, str) and isinstance(value, str) for key, value in env_vars.items())
    ):
        raise TypeError("env_vars must be a dict of str keys and str values")
    assert isinstance(strategy, UpdateStrategy)
    key = "run_id" if isinstance(reference, ExperimentRun) else "model_version_id"
    return {
        key: reference.id,
        "name": reference.name,
        "strategy": strategy.to_record(),
        "resources": resources.to_record() if isinstance(resources, Resources) else None,
        "autoscaling": autoscaling.to_record() if isinstance(autoscaling, Autoscaling) else None,
        "env_vars": sorted(env_vars or ()),
    }


def _objects_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The blobs and trees of a spec, as artifact records."""
    parts = [spec["model"], *([spec["custom_modules"]] if spec["custom_modules"] else ()), *spec["artifacts"].values()]
    names = ("kind", "digest", "size_bytes", "name")
    found = [{name: part[name] for name in names if name in part} for part in parts]
    return [{"kind": "blob", **entry} for entry in found if entry.get("kind", "blob") in ("blob", "tree")]


def _word_of(found: dict[str, Any]) -> str:
    """Verta's word for the state of a deployment."""
    if found["status"] == "error":
        return "error"
    if found["status"] == "deploying":
        return "creating"
    return "updating" if found.get("canary") or found.get("is_replacing") else "active"


def _failing_as_update(act: Any) -> None:
    try:
        act()
    except DeploymentError as error:
        text = str(error).removeprefix("model deployment is failing;").lstrip("\n")
        raise DeploymentError(f"endpoint update failed;\n{text}") from None


def _in_background(path: str, drive: Any) -> None:
    try:
        drive()
    except DeploymentError as error:
        warnings.warn(f"the canary update of the endpoint {path!r} failed: {error}", UserWarning, stacklevel=2)


def _read_config(path: str) -> dict[str, Any]:
    found: object
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if path.endswith(".json"):
        found = parse_json(text, path)
    elif path.endswith((".yaml", ".yml")):
        found = parse_yaml(text, path)
    else:
        raise ValueError(f"{path} must be a .json or .yaml file")
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a mapping of keys")
    return found
