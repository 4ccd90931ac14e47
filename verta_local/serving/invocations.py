"""MLflow's scoring protocol, in the model's process: what `/invocations` takes, and the answer's form.

The forms: https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/ - JSON with one of `dataframe_split`,
`dataframe_records`, `instances` and `inputs`, with `params` beside it, or CSV. `instances` and `inputs` go to the model
as they are; a table becomes a DataFrame, or a list of dicts where pandas is not installed.
"""

from __future__ import annotations

import csv
import importlib
import io
import sys
from dataclasses import dataclass
from typing import Any

from verta_local.serving import wire

_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")


@dataclass(frozen=True)
class Invocation:
    """What is asked of the model; `is_table`: `value` is a DataFrame."""

    value: Any
    params: dict[str, Any]
    is_table: bool = False


def read(body: bytes, content_type: str) -> Invocation:
    """The request of a body. Raises: BadBody (415 for another content type)."""
    kind, _, options = content_type.partition(";")
    kind = kind.strip().lower() or "application/json"
    if kind == "text/csv":
        return _table(_rows_of_csv(body), {})
    if kind != "application/json":
        raise wire.BadBody(f"the content type is application/json or text/csv, not {kind[:100]!r}", 415)
    if "charset" in options.lower() and "utf-8" not in options.lower():
        raise wire.BadBody("the body is text in UTF-8", 415)
    found = wire.parse(body)
    named = [form for form in _FORMS if isinstance(found, dict) and form in found]
    if len(named) != 1:
        how = f"one of {', '.join(_FORMS)}; found {', '.join(named) or 'none of them'}"
        raise wire.BadBody(f"the body of /invocations is a JSON object with exactly {how}")
    form, value, params = named[0], found[named[0]], found.get("params") or {}
    if not isinstance(params, dict):
        raise wire.BadBody("params is a JSON object")
    if form == "dataframe_split":
        if not isinstance(value, dict) or "data" not in value:
            raise wire.BadBody('dataframe_split is {"columns": [..], "data": [[..]]}')
        return _table(value, params)
    if form == "dataframe_records":
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise wire.BadBody('dataframe_records is a list of rows: [{"column": value, ..}, ..]')
        return _table(value, params)
    return Invocation(value, params)


def write(answer: Any) -> bytes:
    """The body of an answer. Raises: NotJson."""
    pandas = sys.modules.get("pandas")
    if pandas is not None:
        if isinstance(answer, pandas.DataFrame):
            wire.check_columns(answer)
            answer = answer.to_dict("records")
        elif isinstance(answer, pandas.Series):
            answer = answer.tolist()
    return wire.encode({"predictions": answer})


def table_of(value: dict[str, Any], where: str) -> Any:
    """The DataFrame of a `split` dict. Raises: BadBody, also without pandas."""
    try:
        pandas: Any = importlib.import_module("pandas")
    except ImportError:
        raise wire.BadBody(f"{where} needs pandas, which is not installed where the model runs") from None
    try:
        return pandas.DataFrame(value["data"], index=value.get("index"), columns=value.get("columns"))
    except (ValueError, TypeError, AssertionError) as error:
        raise wire.BadBody(f"the body of {where} is not a table: {error}") from None


def _table(value: Any, params: dict[str, Any]) -> Invocation:
    try:
        pandas: Any = importlib.import_module("pandas")
    except ImportError:
        return Invocation(_records_of(value), params)
    if isinstance(value, dict):
        return Invocation(table_of(value, "/invocations"), params, is_table=True)
    return Invocation(pandas.DataFrame(value), params, is_table=True)


def _records_of(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return value
    rows = value["data"]
    columns = value.get("columns")
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise wire.BadBody("the data of dataframe_split is a list of rows")
    names: list[Any] = columns if columns is not None else list(range(max(map(len, rows), default=0)))
    if any(len(row) != len(names) for row in rows):
        raise wire.BadBody(f"each row of dataframe_split has a value for each of the {len(names)} columns")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _rows_of_csv(body: bytes) -> list[dict[str, Any]]:
    """The rows of a CSV with a header line; what reads as a number is one."""
    try:
        lines = list(csv.reader(io.StringIO(body.decode("utf-8")), strict=True))
    except UnicodeDecodeError as error:
        raise wire.BadBody(f"the body is not UTF-8 text (byte {error.start})") from None
    except csv.Error as error:
        raise wire.BadBody(f"the body is not CSV: {error}") from None
    if not lines:
        raise wire.BadBody("the body is empty: send CSV with a header line")
    header, *rows = lines
    if any(len(row) != len(header) for row in rows):
        raise wire.BadBody(f"each line of the CSV has {len(header)} values, as its header has")
    return [dict(zip(header, map(_number_or_text, row), strict=True)) for row in rows]


def _number_or_text(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text if text else None
