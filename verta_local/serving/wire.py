"""What JSON means on the prediction routes: bytes in to a value, a model's answer out to bytes.

orjson where it is installed (nine times faster on 64 floats), with the standard library wherever the two differ in
what the user would see: NaN and Infinity stay as they are in both directions (orjson: an error in, `null` out),
integers beyond 64 bits stay exact (orjson: a float in, an error out), lone surrogates pass.
NumPy, pandas and others are recognised through `sys.modules`: a model that does not use them pays nothing.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import enum
import gzip
import importlib
import io
import json
import sys
import uuid
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

try:
    _orjson: Any = importlib.import_module("orjson")
except ImportError:  # it comes with the extra verta-local[fast]
    _orjson = None

_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
_LONG_INTEGER = b"0" * 19  # the shortest run of digits that may not fit into 64 bits
_SCALARS = (str, int, float, bool, type(None))


class BadBody(Exception):
    """The request's body cannot be read; `status` is the HTTP status that says so."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class NotJson(Exception):
    """The model's answer holds something that has no JSON form; the message names its type and place."""


def check_columns(table: Any) -> None:
    """Raises NotJson for a DataFrame whose columns cannot be keys: one of two that have a name would be lost."""
    names = Counter(map(str, table.columns))
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise NotJson(
            f"the model's answer has {names[twice[0]]} columns named {twice[0]!r:.100}: give each its own name"
        )


def unzip(body: bytes, limit_bytes: int) -> bytes:
    """The content of a gzipped body. Raises: BadBody (413 when it grows over `limit_bytes`, else 400)."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as stream:
            content = stream.read(limit_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadBody(f"the body says Content-Encoding: gzip but is not valid gzip ({error})") from None
    if len(content) > limit_bytes:
        raise BadBody(f"the body is larger than the limit of {limit_bytes} bytes once it is unzipped", 413)
    return content


def parse(body: bytes) -> Any:
    """The value of a JSON body. Raises: BadBody."""
    if _orjson is not None and _LONG_INTEGER not in body.translate(_DIGITS_TO_ZERO):
        try:
            return _orjson.loads(body)
        except ValueError:
            pass  # perhaps NaN or a surrogate: the standard library decides
    if not body.strip():
        raise BadBody("the body is empty: send the input of predict() as JSON")
    try:
        return json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadBody(f"the body is not UTF-8 text (byte {error.start}): send the input as JSON") from None
    except RecursionError:
        raise BadBody("the body is nested too deeply to be read as JSON") from None
    except ValueError as error:
        raise BadBody(f"the body is not JSON: {error}") from None


def encode(answer: Any) -> bytes:
    """The JSON of a model's answer. Raises: NotJson."""
    if _orjson is not None:
        option = _orjson.OPT_PASSTHROUGH_DATETIME | _orjson.OPT_PASSTHROUGH_DATACLASS
        if "numpy" in sys.modules:  # with this option orjson imports NumPy by itself
            option |= _orjson.OPT_SERIALIZE_NUMPY
        try:
            encoded: bytes = _orjson.dumps(answer, _replacement, option)
        except (TypeError, ValueError, RecursionError):
            pass  # an integer over 64 bits, keys that are not text, a surrogate, or truly not JSON
        else:
            if b"null" not in encoded:  # else it may be a NaN, which must not become null
                return encoded
    try:
        return _encode_by_standard_library(answer)
    except RecursionError:
        raise NotJson("the model's answer is nested too deeply, or contains itself") from None
    except (TypeError, ValueError, OverflowError) as error:
        place = _place_of_foreign(answer)
        if place is not None:
            raise NotJson(f"the model's answer is not JSON: {place}") from None
        raise NotJson(f"the model's answer is not JSON: {error}") from None


def _encode_by_standard_library(answer: Any) -> bytes:
    try:
        return json.dumps(answer, default=_replacement, separators=(",", ":")).encode("ascii")
    except TypeError:
        # Keys such as numpy.int64(1) or a date never reach `default`: rebuild the answer with keys as text.
        return json.dumps(_plain(answer, 0), separators=(",", ":")).encode("ascii")


def _replacement(value: Any) -> Any:
    """The JSON-ready stand-in of a value that JSON does not know, one level deep. Raises: TypeError."""
    modules = sys.modules
    numpy = modules.get("numpy")
    if numpy is not None:
        if isinstance(value, (numpy.datetime64, numpy.timedelta64)):
            return str(value)
        if isinstance(value, (numpy.ndarray, numpy.generic)):
            plain = value.tolist()
            if plain is value:  # longdouble and void scalars give themselves back
                raise TypeError(_type_name(value))
            return plain
    pandas = modules.get("pandas")
    if pandas is not None:
        if isinstance(value, pandas.DataFrame):
            return value.values.tolist()
        if isinstance(value, (pandas.Series, pandas.Index)):
            return value.tolist()
        if value is pandas.NaT or value is getattr(pandas, "NA", None):
            return None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (set, frozenset)):
        try:
            return sorted(value)
        except TypeError:
            return list(value)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, tuple):  # a named tuple, which orjson does not take
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    for library in ("torch", "tensorflow", "jax"):  # tensors: .tolist() or .numpy().tolist()
        if library in modules and type(value).__module__.partition(".")[0].startswith(library):
            if hasattr(value, "tolist"):
                return value.tolist()
            if hasattr(value, "numpy"):
                return value.numpy().tolist()
    raise TypeError(_type_name(value))


def _plain(value: Any, depth: int) -> Any:
    """A copy of `value` of lists, dicts and scalars only, keys as text. Raises: TypeError, RecursionError."""
    if depth > 500:
        raise RecursionError
    if isinstance(value, dict):
        return {_key(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, _SCALARS):
        return value
    return _plain(_replacement(value), depth + 1)


def _key(key: Any) -> Any:
    if isinstance(key, _SCALARS):
        return key  # the standard library turns these into text
    stand_in = _replacement(key)
    if isinstance(stand_in, _SCALARS):
        return stand_in
    raise TypeError(f"a key of type {_type_name(key)}")


def _place_of_foreign(value: Any, place: str = "answer", depth: int = 0) -> str | None:
    """Where the first value without a JSON form sits, as a sentence's part; None when there is none."""
    if depth > 500 or isinstance(value, _SCALARS):
        return None
    if isinstance(value, dict):
        for key, item in value.items():
            try:
                _key(key)
            except TypeError:
                return f"{place} has a key of type {_type_name(key)}"
            found = _place_of_foreign(item, f"{place}[{key!r:.60}]", depth + 1)
            if found:
                return found
        return None
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            found = _place_of_foreign(item, f"{place}[{index}]", depth + 1)
            if found:
                return found
        return None
    try:
        stand_in = _replacement(value)
    except TypeError:
        return f"{place} is of type {_type_name(value)}"
    return _place_of_foreign(stand_in, place, depth + 1)


def _type_name(value: Any) -> str:
    kind = type(value)
    return (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
