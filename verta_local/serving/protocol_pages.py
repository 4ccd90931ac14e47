"""The Flask routes by which other protocols' clients look at a server: Open Inference Protocol v2, and MLflow's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, jsonify, request

from verta_local._version import __version__
from verta_local.serving.endpoint import DEPLOYED, Endpoint
from verta_local.serving.guard import token_refusal
from verta_local.serving.routes import name_and_version

if TYPE_CHECKING:
    from verta_local.serving.supervisor import Supervisor

_PLATFORM = "verta_local_python"
_DATATYPES = {"VertaFloat": "FP64", "VertaBool": "BOOL", "VertaString": "BYTES"}


def make_pages(supervisor: Supervisor) -> Blueprint:
    """The routes of one supervisor."""
    pages = Blueprint("protocols", __name__)
    table = supervisor.table

    @pages.get("/v2")
    @pages.get("/v2/")  # so it stands in the protocol's own OpenAPI description
    def server() -> Response:
        return jsonify(name="verta_local", version=__version__, extensions=["binary_tensor_data"])

    @pages.get("/v2/health/live")
    def live() -> Response:
        return jsonify(live=True)

    @pages.get("/v2/health/ready")
    def ready() -> tuple[Response, int]:
        is_ready = all(endpoint.state == DEPLOYED for endpoint in table.all())
        return jsonify(ready=is_ready), 200 if is_ready else 503

    @pages.get("/v2/models/<path:name>/ready")
    def model_ready(name: str) -> tuple[Response, int]:
        endpoint = _served(name)
        if endpoint is None:
            return _unknown()
        is_ready = endpoint.state == DEPLOYED
        return jsonify(name=name_and_version(name)[0], ready=is_ready), 200 if is_ready else 503

    @pages.get("/v2/models/<path:name>")
    def model(name: str) -> tuple[Response, int]:
        endpoint = _served(name)
        if endpoint is None:
            return _unknown()
        refusal = token_refusal(request.environ, endpoint)
        if refusal is not None:
            return jsonify(error=refusal), 401
        return jsonify(_metadata(endpoint, name_and_version(name)[0])), 200

    @pages.get("/ping")
    @pages.get("/health")
    def ping() -> Response:
        endpoint = table.only()
        is_ready = endpoint is not None and endpoint.state == DEPLOYED
        return Response("\n", status=200 if is_ready else 503, content_type="application/json")

    @pages.get("/version")
    def version() -> Response:
        return Response(__version__, content_type="text/plain; charset=utf-8")

    def _served(text: str) -> Endpoint | None:
        name, wanted = name_and_version(text)
        endpoint = table.get(name)
        return endpoint if endpoint is not None and (not wanted or endpoint.is_version(wanted)) else None

    return pages


def _unknown() -> tuple[Response, int]:
    return jsonify(error="no model is deployed under this name and version"), 404


def _metadata(endpoint: Endpoint, name: str) -> dict[str, Any]:
    """Without a model API nothing is known of a model's tensors; a size that is not known is -1."""
    spec = endpoint.program.spec
    api = spec.get("api") or {}
    return {
        "name": name,
        "versions": [str(spec["run_id"])],
        "platform": _PLATFORM,
        "inputs": _tensors(api.get("input"), "input-0"),
        "outputs": _tensors(api.get("output"), "output-0"),
    }


def _tensors(described: Any, name: str) -> list[dict[str, Any]]:
    """The tensors that a node of a model API stands for; [] for one that is no tensor."""
    if not isinstance(described, dict):
        return []
    if described.get("type") == "VertaJson":
        parts = [_tensor(member, str(member.get("name"))) for member in described.get("value") or ()]
    else:
        parts = [_tensor(described, name)]
    return [part for part in parts if part is not None]


def _tensor(node: dict[str, Any], name: str) -> dict[str, Any] | None:
    shape: list[int] = []
    while node.get("type") == "VertaList":
        members = node.get("value") or ()
        if not members:
            return None
        shape.append(len(members))
        node = members[0]
    datatype = _DATATYPES.get(str(node.get("type")))
    return {"name": name, "datatype": datatype, "shape": shape or [1]} if datatype else None
