"""The Open Inference Protocol v2 and MLflow's scoring protocol, by hand and with their real clients where they are.

The clients may be in another Python than the tests: its path is in the environment variable CLIENTS_PYTHON.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import struct
import subprocess
import sys
from typing import Any

import pytest

CLIENTS_PYTHON = os.environ.get("CLIENTS_PYTHON", sys.executable)


def _run_client(module: str, program: str, *arguments: str) -> Any:
    """Runs a program with a client library and returns the JSON that it prints; skips where there is no such library."""
    found = subprocess.run([CLIENTS_PYTHON, "-c", f"import {module}"], capture_output=True)
    if found.returncode:
        pytest.skip(f"{module} is not installed")
    done = subprocess.run([CLIENTS_PYTHON, "-W", "ignore", "-c", program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def _infer(server: Any, *inputs: dict[str, Any], **more: Any) -> Any:
    return server.request("POST", "/v2/models/run-1/infer", json.dumps({"inputs": list(inputs), **more}).encode())


def _tensor(data: Any, shape: list[int], datatype: str = "FP64", name: str = "x", **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data, **more}


# ---- Open Inference Protocol ----


def test_health_and_metadata(server: Any) -> None:
    api = {
        "version": "v1",
        "input": {"type": "VertaList", "name": "", "value": [{"type": "VertaFloat", "name": "0"}] * 3},
        "output": {"type": "VertaJson", "name": "", "value": [{"type": "VertaString", "name": "label"}]},
    }
    server.deploy("Echo", api=api)
    for path in ("/v2", "/v2/"):
        assert server.request("GET", path).json["extensions"] == ["binary_tensor_data"]
    assert server.request("GET", "/v2/health/live").json == {"live": True}
    assert server.request("GET", "/v2/health/ready").json == {"ready": True}
    assert server.request("GET", "/v2/models/run-1/ready").json == {"name": "run-1", "ready": True}
    assert server.request("GET", "/v2/models/run-1/versions/run-1/ready").status == 200
    found = server.request("GET", "/v2/models/run-1").json
    assert (found["name"], found["versions"]) == ("run-1", ["run-1"])
    assert found["inputs"] == [{"name": "input-0", "datatype": "FP64", "shape": [3]}]
    assert found["outputs"] == [{"name": "label", "datatype": "BYTES", "shape": [1]}]
    for path in ("/v2/models/none", "/v2/models/none/ready", "/v2/models/run-1/versions/2", "/v2/nothing"):
        reply = server.request("GET", path)
        assert reply.status == 404 and reply.json["error"]


def test_a_model_that_loads_is_live_and_not_ready(server: Any) -> None:
    server.deploy("SlowToLoad", wait=False, seconds=1)
    assert server.request("GET", "/v2/health/live").status == 200
    assert server.request("GET", "/v2/health/ready").status == 503
    assert server.request("GET", "/v2/models/run-1/ready").json["ready"] is False


def test_one_tensor_is_lists_and_several_are_a_dict(server: Any) -> None:
    server.deploy("Echo")
    reply = _infer(server, _tensor([1, 2, 3, 4, 5, 6], [2, 3]), id="my-id")
    assert reply.json == {
        "model_name": "run-1",
        "model_version": "run-1",
        "id": "my-id",
        "outputs": [{"name": "output-0", "datatype": "FP64", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}],
    }
    nested = _infer(server, _tensor([[1, 2], [3, 4]], [2, 2], "INT32"), _tensor(["a"], [1], "BYTES", "y"))
    assert nested.json["outputs"] == [
        {"name": "x", "datatype": "INT64", "shape": [2, 2], "data": [1, 2, 3, 4]},
        {"name": "y", "datatype": "BYTES", "shape": [1], "data": ["a"]},
    ]


@pytest.mark.parametrize(
    ("data", "shape", "datatype", "out"),
    [
        ([True, False], [2], "BOOL", ("BOOL", [2], [True, False])),
        ([2**63 - 1], [1], "INT64", ("INT64", [1], [2**63 - 1])),
        (["é", ""], [2, 1], "BYTES", ("BYTES", [2, 1], ["é", ""])),
        ([0.5], [], "FP32", ("FP64", [1], [0.5])),
        ([], [0], "FP64", None),
        ([1, 2.5], [2], "FP64", ("FP64", [2], [1.0, 2.5])),
    ],
)
def test_datatypes(server: Any, data: Any, shape: Any, datatype: str, out: Any) -> None:
    server.deploy("Echo")
    (found,) = _infer(server, _tensor(data, shape, datatype)).json["outputs"]
    if out is not None:
        assert (found["datatype"], found["shape"], found["data"]) == out


@pytest.mark.parametrize(
    ("tensor", "part"),
    [
        (_tensor([1, 2, 3], [2, 2]), "has 4 elements, not 3"),
        (_tensor([[1, 2, 3, 4]], [2, 2]), "nested otherwise"),
        (_tensor([1], [1], "FP8"), "datatype"),
        (_tensor([1], [1], ["FP32"]), "datatype"),
        (_tensor([1], [1], {}), "datatype"),
        (_tensor([1], [1], None), "datatype"),
        (_tensor([300], [1], "UINT8"), "no UINT8"),
        (_tensor([-1], [1], "UINT64"), "no UINT64"),
        (_tensor([1.5], [1], "INT32"), "no INT32"),
        (_tensor([True], [1], "FP32"), "no FP32"),
        (_tensor([1], [1], "BYTES"), "no BYTES"),
        (_tensor([float("nan")], [1]), "NaN"),
        (_tensor(1, [1]), "is a list"),
        (_tensor([1], "x"), "shape"),
        (_tensor([1], [-1]), "shape"),
        ({"shape": [1]}, "name"),
        (_tensor([1], [1], parameters={"shared_memory_region": "x"}), "shared_memory"),
        (_tensor([1], [1], parameters={"binary_data_size": 8}), "binary_data_size"),
    ],
)
def test_a_tensor_that_disagrees_with_itself_is_a_400(server: Any, tensor: Any, part: str) -> None:
    server.deploy("Echo")
    reply = _infer(server, tensor)
    assert reply.status == 400
    assert part in reply.json["error"]
    assert len(reply.json["error"]) < 300


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"inputs": []}', b'{"inputs": 1}', b"\xff", b"[" * 100_000])
def test_a_malformed_inference_is_a_400(server: Any, body: bytes) -> None:
    server.deploy("Echo")
    reply = server.request("POST", "/v2/models/run-1/infer", body)
    assert reply.status == 400 and reply.json["error"]


def test_a_number_that_json_cannot_say_is_a_400_and_goes_as_binary(server: Any) -> None:
    pytest.importorskip("numpy")
    server.deploy("Answers")
    for name in ("array with nan", "infinite", "nan"):
        reply = _infer(server, _tensor([name], [], "BYTES"))
        assert reply.status == 400, name
        assert "NaN or an infinity" in reply.json["error"]
    reply = _infer(server, _tensor(["array with nan"], [], "BYTES"), parameters={"binary_data_output": True})
    length = int(reply.headers["inference-header-content-length"])
    assert json.loads(reply.body[:length])["outputs"][0]["parameters"] == {"binary_data_size": 16}
    one, nan = struct.unpack("<2d", reply.body[length:])
    assert one == 1.0 and math.isnan(nan)
    assert reply.headers["content-type"] == "application/octet-stream"


def test_binary_tensors_go_in_and_out(server: Any) -> None:
    server.deploy("Echo")
    numbers, texts = struct.pack("<3f", 1, 2, 3), b"".join(len(t).to_bytes(4, "little") + t for t in (b"a", b"bc"))
    head = {
        "inputs": [
            {"name": "n", "shape": [3], "datatype": "FP32", "parameters": {"binary_data_size": len(numbers)}},
            {"name": "t", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(texts)}},
        ],
        "outputs": [{"name": "t", "parameters": {"binary_data": True}}, {"name": "n"}],
    }
    text = json.dumps(head).encode()
    body = text + numbers + texts
    length = {"Inference-Header-Content-Length": str(len(text))}
    for sent, headers in ((body, length), (gzip.compress(body), {**length, "Content-Encoding": "gzip"})):
        reply = server.request("POST", "/v2/models/run-1/infer", sent, headers)
        end = int(reply.headers["inference-header-content-length"])
        assert reply.body[end:] == texts
        shown = json.loads(reply.body[:end])["outputs"]
        assert [output["name"] for output in shown] == ["t", "n"]
        assert shown[1]["data"] == [1.0, 2.0, 3.0]
    for wrong in (str(len(body) + 1), "-1", "x"):
        headers = {"Inference-Header-Content-Length": wrong}
        assert server.request("POST", "/v2/models/run-1/infer", body, headers).status == 400
    assert server.request("POST", "/v2/models/run-1/infer", body + b"x", length).status == 400
    assert server.request("POST", "/v2/models/run-1/infer", body[:-1], length).status == 400


def test_an_answer_without_a_tensors_form_is_its_json(server: Any) -> None:
    server.deploy("Box")
    (found,) = _infer(server, _tensor([1], [1])).json["outputs"]
    assert (found["datatype"], found["shape"], found["parameters"]) == ("BYTES", [1], {"content_type": "json"})
    assert json.loads(found["data"][0]) == {"label": "é", "ragged": [[1], [2, 3]], "none": None}
    assert "no output 'y'" in _infer(server, _tensor([1], [1]), outputs=[{"name": "y"}]).json["error"]


def test_arrays_and_tables_for_the_asking(server: Any) -> None:
    pytest.importorskip("pandas")
    server.deploy("TypeName")
    ask = {"parameters": {"content_type": "np"}}
    assert _infer(server, _tensor([1], [1])).json["outputs"][0]["data"] == ["list"]
    assert _infer(server, _tensor([1], [1], **ask)).json["outputs"][0]["data"] == ["ndarray"]
    assert _infer(server, _tensor([1], [1]), parameters={"content_type": "pd"}).json["outputs"][0]["data"] == [
        "DataFrame"
    ]


def test_tokens_errors_and_methods_of_the_protocol(server: Any) -> None:
    server.deploy("Raises", token="secret")
    assert _infer(server, _tensor([1], [1])).status == 401
    assert server.request("GET", "/v2/models/run-1").status == 401
    body = json.dumps({"inputs": [_tensor([1], [1])]}).encode()
    for headers in ({"Access-Token": "secret"}, {"Authorization": "Bearer secret"}):
        reply = server.request("POST", "/v2/models/run-1/infer", body, headers)
        assert reply.status == 502 and "FileNotFoundError" in reply.json["error"]
        assert server.request("GET", "/v2/models/run-1", headers=headers).status == 200
    assert server.request("POST", "/v2/models/run-1/infer", body, {"Authorization": "Basic secret"}).status == 401
    assert server.request("POST", "/v2/models/none/infer", body).json["error"]
    good = {"Access-Token": "secret"}
    assert server.request("POST", "/v2/models/run-1/versions/7/infer", body, good).status == 404
    assert server.request("GET", "/v2/models/run-1/infer", headers=good).status == 405


_TRITON = """
import json, sys
import numpy as np
import tritonclient.http as http
client = http.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("run-1")
metadata = client.get_server_metadata(), client.get_model_metadata("run-1")
seen = {}
for kind in ("FP32", "INT64", "UINT8", "BOOL", "BYTES", "FP16"):
    dtype = {"FP32": "float32", "INT64": "int64", "UINT8": "uint8", "BOOL": "bool", "FP16": "float16"}.get(kind)
    given = np.array([["a", "é"], ["", "long" * 50]], dtype=object) if kind == "BYTES" else np.array([[0, 1], [1, 0]], dtype)
    for binary_in in (True, False):
        if kind == "FP16" and not binary_in:
            continue  # the client itself refuses
        for binary_out in (True, False):
            for compression in (None, "gzip"):
                tensor = http.InferInput("x", [2, 2], kind)
                tensor.set_data_from_numpy(given, binary_data=binary_in)
                wanted = [http.InferRequestedOutput("output-0", binary_data=binary_out)]
                result = client.infer("run-1", [tensor], outputs=wanted, request_compression_algorithm=compression)
                found = result.as_numpy("output-0")
                if kind == "BYTES":
                    found = np.vectorize(lambda b: b.decode() if isinstance(b, bytes) else b)(found)
                assert found.shape == (2, 2) and (found == given).all(), (kind, found)
tensor = http.InferInput("x", [2, 2], "FP32")
tensor.set_data_from_numpy(np.ones((2, 2), "float32"))
assert client.infer("run-1", [tensor]).as_numpy("output-0").sum() == 4
try:
    client.infer("none", [tensor])
except Exception as error:
    seen["error"] = error.message()
    seen["status"] = error.status()
print(json.dumps({**seen, "platform": metadata[1]["platform"]}))
"""


def test_tritons_client_is_served(server: Any) -> None:
    server.deploy("Echo")
    found = _run_client("tritonclient.http", _TRITON, f"127.0.0.1:{server.port}")
    assert found == {
        "error": "no model is deployed under this URL",
        "status": "404",
        "platform": "verta_local_python",
    }


# ---- MLflow ----


def _invoke(server: Any, body: Any, content_type: str = "application/json") -> Any:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.request("POST", "/invocations", sent, {"Content-Type": content_type})


def test_the_forms_of_an_invocation(server: Any) -> None:
    server.deploy("Echo")
    assert _invoke(server, {"inputs": {"a": [1, 2]}}).json == {"predictions": {"a": [1, 2]}}
    assert _invoke(server, {"instances": [[1, 2]]}).json == {"predictions": [[1, 2]]}
    records = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    split = {"columns": ["a", "b"], "data": [[1, "x"], [2, "y"]]}
    for body in (
        {"dataframe_records": records},
        {"dataframe_split": split},
        {"dataframe_split": {**split, "index": [0, 1]}},
    ):
        assert _invoke(server, body).json == {"predictions": records}
    assert _invoke(server, b"a,b\n1,x\n2,y\n", "text/csv").json == {"predictions": records}
    assert _invoke(server, {"inputs": 1}, "application/json; charset=utf-8").json == {"predictions": 1}
    assert server.request("GET", "/ping").status == 200
    assert server.request("GET", "/health").status == 200
    assert server.request("GET", "/version").body.decode()[0].isdigit()


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        ({}, "application/json", 400),
        ([], "application/json", 400),
        ({"inputs": 1, "instances": 2}, "application/json", 400),
        ({"dataframe_split": []}, "application/json", 400),
        ({"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}, "application/json", 400),
        ({"dataframe_records": {"a": 1}}, "application/json", 400),
        ({"inputs": 1, "params": 3}, "application/json", 400),
        ({"inputs": 1, "params": {"p": 3}}, "application/json", 400),
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"", "text/csv", 400),
        (b"a,b\n1\n", "text/csv", 400),
        (b"\xff\n", "text/csv", 400),
        ({"inputs": 1}, "application/x-python-pickle", 415),
        ({"inputs": 1}, "application/json; charset=latin-1", 415),
    ],
)
def test_a_wrong_invocation_is_refused_with_a_message(server: Any, body: Any, content_type: str, status: int) -> None:
    server.deploy("Echo")
    reply = _invoke(server, body, content_type)
    assert reply.status == status
    assert len(reply.message) < 300


def test_tables_go_to_batch_predict_and_params_to_who_takes_them(server: Any) -> None:
    pytest.importorskip("pandas")
    server.deploy("Table")
    assert _invoke(server, {"dataframe_records": [{"a": 2}]}).json == {"predictions": [{"a": 4}]}
    server.deploy("TakesParams")
    assert _invoke(server, {"inputs": [1], "params": {"p": 3}}).json == {"predictions": [[1], {"p": 3}]}


@pytest.mark.parametrize("columns", [["a", "a"], ["1", 1]])
def test_columns_of_one_name_are_refused_where_one_would_be_lost(server: Any, columns: list[Any]) -> None:
    pytest.importorskip("pandas")
    server.deploy("TwinColumns")
    reply = _invoke(server, {"inputs": columns})
    assert (reply.status, reply.message) == (
        502,
        f"the model's answer has 2 columns named '{columns[0]}': give each its own name",
    )
    if columns == ["a", "a"]:  # a tensor of text
        asked = {"name": "x", "shape": [2], "datatype": "BYTES", "data": columns}
        reply = _infer(server, asked)
        assert (reply.status, "2 columns named 'a'" in reply.json["error"]) == (502, True)
    assert server.predict(columns).json == [[1, 2]]


def test_invocations_are_for_a_server_of_one_model(server: Any) -> None:
    assert server.request("GET", "/ping").status == 503
    server.deploy("Echo", run_id="a")
    server.deploy("Echo", run_id="b")
    reply = _invoke(server, {"inputs": 1})
    assert reply.status == 404 and "/api/v1/predict/RUN_ID" in reply.message


_MLFLOW = """
import json, sys
import pandas as pd
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
client = ScoringServerClient("127.0.0.1", int(sys.argv[1]))
client.ping()
version = client.get_version()
table = client.invoke(pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})).get_predictions()
print(json.dumps({
    "version": str(version),
    "table": table.to_dict("records"),
    "inputs": client.invoke([1.0, 2.0]).get_predictions(predictions_format="ndarray").tolist(),
}))
"""


def test_mlflows_own_client_is_served(server: Any) -> None:
    server.deploy("Echo")
    found = _run_client("mlflow.pyfunc.scoring_server.client", _MLFLOW, str(server.port))
    assert found["table"] == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert found["inputs"] == [1.0, 2.0]


# ---- headers ----


def test_a_model_that_takes_headers_gets_them_without_tokens(server: Any) -> None:
    server.deploy("TakesHeaders", token="secret")
    sent = {"Access-Token": "secret", "Authorization": "Bearer secret", "Cookie": "c=1", "X-Tenant": "team"}
    reply = server.request("POST", "/api/v1/predict/run-1", b"1", sent)
    assert reply.json["x-tenant"] == "team"
    assert "secret" not in str(reply.json) and "cookie" not in reply.json


def test_an_upgrade_to_a_model_that_takes_headers_loses_no_request(server: Any, tools: Any) -> None:
    """A request that was taken for a model without them goes to the one with them."""
    server.deploy("SlowToLoad", wait=False, seconds=0.5, version=1)
    endpoint = server.supervisor.table.get("run-1")
    waiting = tools.in_background(lambda: server.predict(1))
    tools.eventually(lambda: endpoint.waiting == 1)
    assert not endpoint.wants_headers
    server.deploy("TakesHeaders")
    assert waiting().status == 200
    reply = endpoint.predict(1, "id", b"1")  # no headers at hand
    assert (reply.status, reply.body) == (200, b"{}")
