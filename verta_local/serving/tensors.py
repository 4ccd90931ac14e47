"""The Open Inference Protocol's tensors, in the model's process: a request to the model's input, its answer to tensors.

Source: https://github.com/kserve/open-inference-protocol (REST), with the binary tensor data extension of Triton. A
model gets what it gets on every other route: one tensor as nested lists, several as a dict of them by name; the
parameter `"content_type": "np"` (of the request or of a tensor) asks for NumPy arrays, "pd" for a DataFrame whose
columns are the tensors. An answer that has no tensor's form goes out as one BYTES tensor that holds its JSON.
"""

from __future__ import annotations

import array
import importlib
import json
import math
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from verta_local.serving import wire

# Name -> struct code of one little-endian element. BYTES has a length before each.
_CODES = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
_NUMPY_NAMES = {name: name.lower().replace("fp", "float") for name in _CODES}
_OF_NUMPY = {numpy_name: name for name, numpy_name in _NUMPY_NAMES.items()}
_MAX_DIMENSIONS = 64
_FLOATS = ("FP16", "FP32", "FP64")


@dataclass(frozen=True)
class InferRequest:
    """`value` is for predict(); `wanted` output names with whether each is to be binary, None for all as `binary`."""

    value: Any
    id: str | None
    wanted: dict[str, bool] | None
    binary: bool


def read_request(body: bytes, json_bytes: int | None) -> InferRequest:
    """The request of a body, whose first `json_bytes` are JSON and the rest binary tensors. Raises: BadBody."""
    if json_bytes is not None and not 0 <= json_bytes <= len(body):
        raise wire.BadBody("Inference-Header-Content-Length is not within the body")
    found = wire.parse(body if json_bytes is None else body[:json_bytes])
    rest = memoryview(b"" if json_bytes is None else body)[json_bytes or 0 :]
    if not isinstance(found, dict) or not isinstance(found.get("inputs"), list) or not found["inputs"]:
        raise wire.BadBody('an inference request is {"inputs": [{"name", "shape", "datatype", "data"}, ..]}')
    parameters = _parameters_of(found)
    inputs: dict[str, Any] = {}
    position = 0
    for tensor in found["inputs"]:
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise wire.BadBody("each input is an object with a name")
        name = tensor["name"]
        if name in inputs:
            raise wire.BadBody(f"the input {name!r} is given twice")
        own = {**parameters, **_parameters_of(tensor)}
        shape, datatype = _shape_of(tensor), _datatype_of(tensor)
        size = own.get("binary_data_size")
        if size is not None:
            if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest) - position:
                raise wire.BadBody(f"binary_data_size of input {name!r} does not fit the {len(rest)} binary bytes")
            flat = _from_binary(rest[position : position + size], datatype, shape, name)
            position += size
        else:
            flat = _from_json(tensor.get("data"), datatype, shape, name)
        inputs[name] = _shaped(flat, shape, datatype, own.get("content_type") == "np")
    if position != len(rest):
        raise wire.BadBody(f"{len(rest) - position} binary bytes belong to no input")
    value = next(iter(inputs.values())) if len(inputs) == 1 else inputs
    if parameters.get("content_type") == "pd":
        value = _frame(inputs)
    binary = bool(parameters.get("binary_data_output"))
    request_id = found.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise wire.BadBody("the id of a request is text")
    return InferRequest(value, request_id, _wanted(found, binary), binary)


def write_response(answer: Any, asked: InferRequest, model: str, version: str) -> tuple[bytes, int | None]:
    """The body of an answer, and how many of its bytes are JSON, None for all. Raises: BadBody, NotJson."""
    outputs = _outputs_of(answer)
    if asked.wanted is not None:
        unknown = [name for name in asked.wanted if name not in outputs]
        if unknown:
            raise wire.BadBody(f"the model has no output {unknown[0]!r}; it answered with {', '.join(outputs)}")
        outputs = {name: outputs[name] for name in asked.wanted}
    shown: list[dict[str, Any]] = []
    binary = bytearray()
    for name, tensor in outputs.items():
        entry: dict[str, Any] = {"name": name, "datatype": tensor.datatype, "shape": tensor.shape}
        parameters: dict[str, Any] = {"content_type": "json"} if tensor.is_json else {}
        if asked.wanted[name] if asked.wanted is not None else asked.binary:
            content = _to_binary(tensor)
            parameters["binary_data_size"] = len(content)
            binary += content
        else:
            if tensor.datatype in _FLOATS and not all(map(math.isfinite, tensor.flat)):
                raise wire.BadBody(
                    f"the model's answer holds NaN or an infinity in output {name!r}, which JSON cannot say: "
                    "ask for that output with binary_data"
                )
            entry["data"] = list(tensor.flat)
        if parameters:
            entry["parameters"] = parameters
        shown.append(entry)
    head: dict[str, Any] = {"model_name": model, "model_version": version}
    if asked.id is not None:
        head["id"] = asked.id
    text = wire.encode({**head, "outputs": shown})
    return (text + bytes(binary), len(text)) if binary else (text, None)


# ---- in ----


def _parameters_of(holder: dict[str, Any]) -> dict[str, Any]:
    found = holder.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise wire.BadBody("parameters is a JSON object")
    for refused in ("shared_memory_region", "classification"):
        if refused in found:
            raise wire.BadBody(f"this server does not offer {refused}")
    return found


def _wanted(found: dict[str, Any], binary: bool) -> dict[str, bool] | None:
    outputs = found.get("outputs")
    if not outputs:
        return None
    if not isinstance(outputs, list) or not all(
        isinstance(o, dict) and isinstance(o.get("name"), str) for o in outputs
    ):
        raise wire.BadBody("outputs is a list of objects with a name")
    return {output["name"]: bool(_parameters_of(output).get("binary_data", binary)) for output in outputs}


def _shape_of(tensor: dict[str, Any]) -> list[int]:
    shape = tensor.get("shape")
    is_shape = isinstance(shape, list) and len(shape) <= _MAX_DIMENSIONS
    if not is_shape or any(isinstance(size, bool) or not isinstance(size, int) or size < 0 for size in shape or ()):
        raise wire.BadBody(f"the shape of input {tensor['name']!r} is a list of whole numbers from 0")
    return list(shape or ())


def _datatype_of(tensor: dict[str, Any]) -> str:
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or (datatype not in _CODES and datatype != "BYTES"):
        known = ", ".join((*_CODES, "BYTES"))
        raise wire.BadBody(f"the datatype of input {tensor['name']!r} is one of {known}, not {datatype!r:.50}")
    return datatype


def _from_binary(content: memoryview, datatype: str, shape: list[int], name: str) -> list[Any]:
    count = math.prod(shape)
    if datatype == "BYTES":
        found, position = [], 0
        while position < len(content):
            end = position + 4
            length = int.from_bytes(content[position:end], "little") if end <= len(content) else len(content)
            if end + length > len(content):
                raise wire.BadBody(f"the binary data of input {name!r} ends within an element")
            found.append(_text_or_bytes(bytes(content[end : end + length])))
            position = end + length
        if len(found) != count:
            raise _other_size(name, shape, len(found))
        return found
    code = _CODES[datatype]
    size = struct.calcsize(f"<{code}")
    if len(content) != count * size:
        raise wire.BadBody(
            f"input {name!r} of shape {shape} and datatype {datatype} has {count * size} bytes, not {len(content)}"
        )
    if code in "e?":
        return list(struct.unpack(f"<{count}{code}", content))
    numbers = array.array({"i": "i", "I": "I", "q": "q", "Q": "Q"}.get(code, code))
    numbers.frombytes(content)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def _text_or_bytes(content: bytes) -> Any:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content


def _from_json(data: Any, datatype: str, shape: list[int], name: str) -> list[Any]:
    if not isinstance(data, list):
        raise wire.BadBody(f"the data of input {name!r} is a list")
    flat = list(_flattened(data, name))
    if len(flat) != math.prod(shape):
        raise _other_size(name, shape, len(flat))
    if data and isinstance(data[0], list) and not _has_shape(data, shape):
        raise wire.BadBody(f"the data of input {name!r} is nested otherwise than its shape {shape} says")
    return [_checked(value, datatype, name) for value in flat]


def _flattened(data: Any, name: str, depth: int = 0) -> Iterator[Any]:
    if depth > _MAX_DIMENSIONS:
        raise wire.BadBody(f"the data of input {name!r} is nested too deeply")
    for value in data:
        if isinstance(value, list):
            yield from _flattened(value, name, depth + 1)
        else:
            yield value


def _has_shape(data: Any, shape: list[int]) -> bool:
    if not shape:
        return not isinstance(data, list)
    return isinstance(data, list) and len(data) == shape[0] and all(_has_shape(each, shape[1:]) for each in data)


def _checked(value: Any, datatype: str, name: str) -> Any:
    """One JSON element as its datatype. Raises: BadBody."""
    if datatype == "BYTES":
        is_fit = isinstance(value, str)
    elif datatype == "BOOL":
        is_fit = isinstance(value, bool)
    elif datatype in _FLOATS:
        is_fit = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_fit:
            try:
                value = float(value)
            except OverflowError:
                is_fit = False
        if is_fit and not math.isfinite(value):
            raise wire.BadBody(f"input {name!r} holds NaN or an infinity: send such numbers as binary data")
    else:
        bits = int(datatype.lstrip("UINT"))
        low, high = (0, 2**bits) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
        is_fit = isinstance(value, int) and not isinstance(value, bool) and low <= value < high
    if not is_fit:
        raise wire.BadBody(f"input {name!r} holds {value!r:.50}, which is no {datatype}")
    return value


def _other_size(name: str, shape: list[int], count: int) -> wire.BadBody:
    return wire.BadBody(f"input {name!r} of shape {shape} has {math.prod(shape)} elements, not {count}")


def _shaped(flat: list[Any], shape: list[int], datatype: str, as_array: bool) -> Any:
    if as_array:
        numpy = _library("numpy")
        kind = object if datatype == "BYTES" else _NUMPY_NAMES[datatype]
        return numpy.array(flat, dtype=kind).reshape(shape)
    if not shape:
        return flat[0]
    for size in reversed(shape[1:]):
        if size == 0:
            return _empty(shape)
        flat = [flat[start : start + size] for start in range(0, len(flat), size)]
    return flat


def _empty(shape: list[int]) -> Any:
    return [] if len(shape) == 1 or not shape[0] else [_empty(shape[1:]) for _ in range(shape[0])]


def _frame(inputs: dict[str, Any]) -> Any:
    try:
        return _library("pandas").DataFrame(inputs)
    except (ValueError, TypeError) as error:
        raise wire.BadBody(f"the inputs are no columns of a table: {error}") from None


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise wire.BadBody(f"this content_type needs {name}, which is not installed where the model runs") from None


# ---- out ----


@dataclass(frozen=True)
class _Tensor:
    datatype: str
    shape: list[int]
    flat: list[Any]
    is_json: bool = False


def _outputs_of(answer: Any) -> dict[str, _Tensor]:
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(answer, pandas.DataFrame):
        wire.check_columns(answer)
        answer = {str(name): answer[name].tolist() for name in answer.columns}
    if isinstance(answer, dict) and answer and all(isinstance(name, str) for name in answer):
        found = {name: _tensor_of(value) for name, value in answer.items()}
        tensors = {name: tensor for name, tensor in found.items() if tensor is not None}
        if len(tensors) == len(answer):
            return tensors
    tensor = _tensor_of(answer)
    if tensor is None:
        text = wire.encode(answer).decode("utf-8")
        try:
            json.dumps(json.loads(text), allow_nan=False)
        except ValueError:
            raise wire.BadBody("the model's answer holds NaN or an infinity, which JSON cannot say") from None
        tensor = _Tensor("BYTES", [1], [text], is_json=True)
    return {"output-0": tensor}


def _tensor_of(value: Any) -> _Tensor | None:
    """The tensor of an array, of nested lists of one kind and length, or of one scalar; None for anything else."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        datatype = _OF_NUMPY.get(str(value.dtype))
        if datatype is not None:
            return _Tensor(datatype, list(value.shape) or [1], value.reshape(-1).tolist())
        value = value.tolist()
    try:
        value = json.loads(wire.encode(value))
    except wire.NotJson:
        return None  # `wire.encode` says it again for the whole answer, with the place
    shape: list[int] = []
    level = value
    while isinstance(level, list):
        shape.append(len(level))
        if not level or len(shape) > _MAX_DIMENSIONS:
            break
        level = level[0]
    if not shape:
        return _Tensor(kind, [1], [value]) if (kind := _kind_of([value])) else None
    if not _has_shape(value, shape):
        return None
    flat = list(_flattened(value, "answer"))
    kind = _kind_of(flat)
    if kind == "FP64":
        flat = [float(each) for each in flat]
    return _Tensor(kind, shape, flat) if kind else None


def _kind_of(flat: list[Any]) -> str:
    kinds = {type(each) for each in flat}
    if kinds <= {bool} and kinds:
        return "BOOL"
    if kinds == {int}:
        return "INT64" if all(-(2**63) <= each < 2**63 for each in flat) else ""
    if kinds <= {int, float}:
        return "FP64"
    return "BYTES" if kinds == {str} else ""


def _to_binary(tensor: _Tensor) -> bytes:
    if tensor.datatype == "BYTES":
        encoded = [str(each).encode("utf-8", "surrogatepass") for each in tensor.flat]
        return b"".join(len(each).to_bytes(4, "little") + each for each in encoded)
    return struct.pack(f"<{len(tensor.flat)}{_CODES[tensor.datatype]}", *tensor.flat)
