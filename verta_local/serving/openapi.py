"""The OpenAPI description of a server's prediction routes, and JSON schemas and examples from a model API.

Source: https://spec.openapis.org/oas/v3.1.0 (its schemas are JSON Schema 2020-12).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from verta_local._version import __version__
from verta_local.serving.routes import BATCH_PREDICT_PREFIX, INFERENCE_PREFIX, PREDICT_PREFIX

if TYPE_CHECKING:
    from verta_local.serving.endpoint import Endpoint

_SCALARS = {"VertaFloat": "number", "VertaBool": "boolean", "VertaString": "string", "VertaNull": "null"}
_EXAMPLES: dict[str, Any] = {"VertaFloat": 0.0, "VertaBool": False, "VertaString": "text", "VertaNull": None}
_ERRORS = {
    "400": "The body, or a header, cannot be read.",
    "401": "The token is missing or wrong.",
    "404": "No model is deployed under this URL.",
    "410": "The model was undeployed.",
    "413": "The body is larger than the limit.",
    "502": "The model raised an exception, or its process ended or did not answer in time.",
    "503": "The model is loading, or too many requests wait: try again after Retry-After seconds.",
}


def describe(endpoints: Iterable[Endpoint], *, wants_token: bool = False) -> dict[str, Any]:
    """The OpenAPI document of the models that are served now, as JSON values; `wants_token`: the metrics do too."""
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        api = endpoint.program.spec.get("api") or {}
        name = str(endpoint.program.spec.get("run_name") or endpoint.route)
        wanted, given = schema_of(api.get("input")), schema_of(api.get("output"))
        secured: list[Any] = [{"token": []}] if endpoint.token is not None else []
        paths[PREDICT_PREFIX + endpoint.route] = {
            "post": _operation(f"Ask the model {name}", "predict", endpoint.route, wanted, given, secured)
        }
        paths[BATCH_PREDICT_PREFIX + endpoint.route] = {
            "post": _operation(
                f"Ask the model {name} for a table", "batch_predict", endpoint.route, _TABLE, _TABLE, secured
            )
        }
        paths[f"{INFERENCE_PREFIX}{endpoint.route}/infer"] = {
            "post": _operation(f"Ask the model {name} by tensors", "infer", endpoint.route, _INFERENCE, {}, secured)
        }
    for path, text in (
        ("/health/live", "Whether the server runs."),
        ("/health/ready", "Whether all models answer."),
        ("/metrics", "Counts and times, for Prometheus."),
    ):
        paths[path] = {"get": {"summary": text, "responses": {"200": {"description": text}}}}
    if wants_token:
        paths["/metrics"]["get"]["security"] = [{"token": []}]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Models served by verta_local", "version": __version__},
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "apiKey", "in": "header", "name": "Access-Token"}},
            "schemas": {"Error": {"type": "object", "properties": {"message": {"type": "string"}}}},
        },
    }


def schema_of(node: Any) -> dict[str, Any]:
    """The JSON schema of a node of a model API; {} (anything) where there is none."""
    kind = node.get("type") if isinstance(node, dict) else None
    if kind in _SCALARS:
        return {"type": _SCALARS[kind]}
    members = list(node.get("value") or ()) if isinstance(node, dict) else []
    if kind == "VertaList":
        schemas = [schema_of(member) for member in members]
        # The API was read from one example: its length is no rule, and members of one kind are one.
        if all(schema == schemas[0] for schema in schemas[1:]):
            return {"type": "array", **({"items": schemas[0]} if schemas else {})}
        return {"type": "array", "prefixItems": schemas}
    if kind == "VertaJson":
        names = [str(member.get("name")) for member in members]
        properties = {name: schema_of(member) for name, member in zip(names, members, strict=True)}
        return {"type": "object", "properties": properties, "required": names}
    return {}


def example_of(node: Any) -> Any:
    """A value that fits a node of a model API; None where there is none."""
    kind = node.get("type") if isinstance(node, dict) else None
    if kind == "VertaList":
        return [example_of(member) for member in node.get("value") or ()]
    if kind == "VertaJson":
        return {str(member.get("name")): example_of(member) for member in node.get("value") or ()}
    return _EXAMPLES.get(str(kind))


_TABLE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "columns": {"type": "array"},
        "index": {"type": "array"},
        "data": {"type": "array", "items": {"type": "array"}},
    },
    "required": ["columns", "data"],
}
_INFERENCE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "inputs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "datatype": {"type": "string"},
                    "data": {"type": "array"},
                },
                "required": ["name", "shape", "datatype"],
            },
        },
    },
    "required": ["inputs"],
}


def _operation(
    summary: str, verb: str, route: str, wanted: dict[str, Any], given: dict[str, Any], secured: list[Any]
) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "summary": summary,
        "operationId": f"{verb}_{''.join(each if each.isalnum() else f'_{ord(each):x}_' for each in route)}",
        "requestBody": {"required": True, "content": {"application/json": {"schema": wanted}}},
        "responses": {
            "200": {"description": "The model's answer.", "content": {"application/json": {"schema": given}}},
            **{status: {"description": about, "content": error} for status, about in _ERRORS.items()},
        },
        "security": secured,
    }
