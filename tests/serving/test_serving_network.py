"""A server that is open to the network: who has no token learns nothing of what it serves."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from verta_local.deployment import DeployedModel
from verta_local.serving.admin import make_app

_SECRET = "the-token-of-one-model"
_OPEN = {"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/ping", "/health"}
_ASKED = ["/", "/try/run-1", "/try/unknown", "/openapi.json", "/metrics", "/v2", "/v2/", "/version", "/nothing"]
_ASKED += ["/v2/models/run-1", "/v2/models/run-1/ready", "/v2/models/unknown", "/v2/models/run-1/versions/run-1"]


@pytest.fixture
def open_server(make_server: Callable[..., Any]) -> Any:
    server = make_server(host="0.0.0.0")
    server.deploy("Echo", token=_SECRET, run_name="a secret name")
    server.deploy("Echo", run_id="run-2", token="the-token-of-the-other")
    return server


@pytest.mark.parametrize("path", _ASKED)
def test_without_a_token_nothing_is_told(open_server: Any, path: str) -> None:
    basic = base64.b64encode(b"user:wrong").decode()
    for headers in (
        {},
        {"Access-Token": "wrong"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {basic}"},
        {"Authorization": "Basic \xff"},
        {"Authorization": "Basic " + base64.b64encode(b"\xff").decode()},
        {"Authorization": "Bearer"},
        {"Verta-Local-Admin": "wrong"},
    ):
        reply = open_server.request("GET", path, headers=headers)
        assert reply.status == 401, (headers, reply.body)
        assert reply.headers["www-authenticate"].startswith("Basic ")
        assert "Access-Token" in reply.json["error" if path.startswith("/v2") else "message"]
        assert b"secret" not in reply.body and b"run-" not in reply.body


def test_every_route_is_either_for_probes_or_wants_a_token(open_server: Any) -> None:
    """A route that is added later is asked here too."""
    rules = [rule for rule in make_app(open_server.supervisor).url_map.iter_rules() if "GET" in (rule.methods or ())]
    paths = {rule.rule.replace("<path:name>", "run-1").replace("<path:route>", "run-1") for rule in rules}
    asked = {path for path in paths if "<" not in path and path not in _OPEN} | {"/admin/v1/deployments"}
    assert {"/metrics", "/", "/openapi.json", "/v2/models/run-1", "/admin/v1/deployments"} <= asked
    assert {path: open_server.request("GET", path).status for path in asked} == dict.fromkeys(asked, 401)


@pytest.mark.parametrize("path", sorted(_OPEN))
def test_probes_need_no_token_and_learn_no_name(make_server: Callable[..., Any], path: str) -> None:
    server = make_server(host="0.0.0.0")
    server.deploy("Echo", token=_SECRET)
    reply = server.request("GET", path)
    assert reply.status == 200
    assert b"run-" not in reply.body
    if path == "/health/ready":
        assert server.request("GET", path, headers={"Access-Token": _SECRET}).json["models"] == {"run-1": "deployed"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Access-Token": _SECRET},
        {"Authorization": f"Bearer {_SECRET}"},  # Prometheus: authorization: {credentials: ...}
        {"Authorization": "Basic " + base64.b64encode(f"anybody:{_SECRET}".encode()).decode()},  # a browser's question
        {"Access-Token": "the-token-of-the-other"},
        {"Access-Token": "the admin token"},
    ],
)
def test_the_token_of_any_model_or_the_admins_opens_pages_and_metrics(
    open_server: Any, headers: dict[str, str]
) -> None:
    for path in ("/", "/try/run-1", "/openapi.json", "/metrics", "/v2", "/version", "/v2/models/run-1/ready"):
        assert open_server.request("GET", path, headers=headers).status == 200, path
    assert open_server.request("GET", "/nothing", headers=headers).status == 404
    assert 'verta_model_up{route="run-1"' in open_server.request("GET", "/metrics", headers=headers).body.decode()


def test_a_model_itself_wants_its_own_token_whatever_opens_the_pages(open_server: Any) -> None:
    password = {"Authorization": "Basic " + base64.b64encode(f"u:{_SECRET}".encode()).decode()}
    for headers in ({"Access-Token": "the-token-of-the-other"}, {"Access-Token": "the admin token"}, password):
        assert open_server.request("GET", "/v2/models/run-1", headers=headers).status == 401
        assert open_server.request("POST", "/api/v1/predict/run-1", b"1", headers).status == 401
    assert open_server.request("GET", "/v2/models/run-1", headers={"Access-Token": _SECRET}).status == 200


def test_a_replaced_token_opens_nothing_after_its_grace(open_server: Any, tools: Any) -> None:
    open_server.supervisor.table.get("run-1").change_token("another-token", grace_s=0.3)
    assert open_server.request("GET", "/metrics", headers={"Access-Token": _SECRET}).status == 200
    tools.eventually(lambda: open_server.request("GET", "/metrics", headers={"Access-Token": _SECRET}).status == 401)


def test_the_description_says_that_the_metrics_want_a_token(open_server: Any, server: Any) -> None:
    found = open_server.request("GET", "/openapi.json", headers={"Access-Token": _SECRET}).json
    assert found["paths"]["/metrics"]["get"]["security"] == [{"token": []}]
    assert "security" not in server.request("GET", "/openapi.json").json["paths"]["/metrics"]["get"]


def test_a_server_for_this_machine_shows_them_to_everybody_on_it(server: Any) -> None:
    server.deploy("Echo", token=_SECRET)
    for path in ("/", "/try/run-1", "/openapi.json", "/metrics", "/v2", "/version", "/v2/models/run-1/ready"):
        assert server.request("GET", path).status == 200
    assert server.request("GET", "/health/ready").json["models"] == {"run-1": "deployed"}


@pytest.mark.parametrize("host", ["0.0.0.0", "*"])
def test_the_printed_url_is_one_that_this_machine_reaches(make_server: Callable[..., Any], host: str) -> None:
    server = make_server(host=host)
    endpoint = server.deploy("Echo", token=_SECRET)
    assert DeployedModel(server.supervisor.url_of(endpoint), _SECRET).predict(1) == 1
