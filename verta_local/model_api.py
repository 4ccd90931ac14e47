"""The model API: what a model takes and gives, as a tree of Verta's type names read from example data.

Format, as in Verta: {"version": "v1", "input": <type>, "output": <type>}, where a type is {"type": "VertaFloat" |
"VertaBool" | "VertaString" | "VertaNull" | "VertaList" | "VertaJson", "name": <text>} and the last two have a
"value": the list of their members' types.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from .values import to_builtin

_VERSION = "v1"


class ModelAPI:
    """What a model takes and gives, read from the first datum of `x` and of `y`.

    `x` and `y` are collections of data as they go into and come out of the model: lists, NumPy arrays, a pandas
    DataFrame or Series, tensors. A scalar or a dict is taken as one datum.

    >>> ModelAPI([[0.5, 1.5]], [{"label": "a"}]).to_dict()["output"]
    {'type': 'VertaJson', 'name': '', 'value': [{'type': 'VertaString', 'name': 'label'}]}

    Raises:
        TypeError: a datum that is not made of numbers, text, bool, None, lists and dicts.
        ValueError: no datum to read from, or two columns of one name.
    """

    def __init__(self, x: object, y: object) -> None:
        self._content: dict[str, Any] = {
            "version": _VERSION,
            "input": _type_of_data(x),
            "output": _type_of_data(y),
        }

    @classmethod
    def from_file(cls, f: str | os.PathLike[str] | IO[Any]) -> ModelAPI:
        """Read a model API from a JSON file, given as its path or opened.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a model API of version v1.
        """
        text = Path(f).read_bytes() if isinstance(f, (str, os.PathLike)) else f.read()
        try:
            content = json.loads(text)
        except ValueError:
            raise ValueError("a model API must be a JSON file; this one does not parse") from None
        if not isinstance(content, dict) or content.get("version") != _VERSION or "input" not in content:
            raise ValueError(f"a model API must hold 'version' {_VERSION!r}, 'input' and 'output'")
        api = cls.__new__(cls)
        api._content = content
        return api

    def to_file(self, target: str | os.PathLike[str] | IO[str]) -> None:
        """Write the model API as JSON to a path or an opened text file."""
        text = json.dumps(self._content, indent=2) + "\n"
        if isinstance(target, (str, os.PathLike)):
            Path(target).write_text(text, encoding="utf-8")
        else:
            target.write(text)

    def to_dict(self) -> dict[str, Any]:
        """Return the model API as JSON values; the caller owns them."""
        return copy.deepcopy(self._content)

    def __eq__(self, other: object) -> bool:
        return self._content == other._content if isinstance(other, ModelAPI) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by content, and the content is a dict

    def __repr__(self) -> str:
        return f"ModelAPI({json.dumps(self._content)})"


def _type_of_data(data: Any) -> dict[str, Any]:
    if hasattr(data, "iloc"):  # pandas, or what looks like it: rows by position
        if len(data) == 0:
            raise _no_datum()
        if hasattr(data, "columns"):
            return _type_of_table(data)
        return _type_of(to_builtin(data.iloc[0]), "" if data.name is None else str(data.name))
    if isinstance(data, (str, bytes, Mapping)) or getattr(data, "ndim", None) == 0:
        return _type_of(to_builtin(data), "")
    try:
        # Not data[0]: sets and generators have a first datum too. Only this one is converted, not a large array.
        first = next(iter(data))
    except TypeError:
        return _type_of(to_builtin(data), "")
    except StopIteration:
        raise _no_datum() from None
    return _type_of(to_builtin(first), "")


def _type_of_table(table: Any) -> dict[str, Any]:
    names = [str(name) for name in table.columns]
    if len(set(names)) < len(names):
        raise ValueError(f"column names must be unique to describe a model's data; found {names}")
    members = [
        _type_of(to_builtin(table.iloc[0, position]), name) for position, name in enumerate(names)
    ]  # by position: a name may be a tuple or a number
    return {"type": "VertaList", "name": "", "value": members}


def _type_of(datum: object, name: str) -> dict[str, Any]:
    if datum is None:
        return {"type": "VertaNull", "name": name}
    if isinstance(datum, bool):
        return {"type": "VertaBool", "name": name}
    if isinstance(datum, (int, float)):
        return {"type": "VertaFloat", "name": name}
    if isinstance(datum, str):
        return {"type": "VertaString", "name": name}
    if isinstance(datum, list):
        members = [_type_of(item, str(position)) for position, item in enumerate(datum)]
        return {"type": "VertaList", "name": name, "value": members}
    if isinstance(datum, dict):
        members = [_type_of(item, str(key)) for key, item in sorted(datum.items(), key=lambda pair: str(pair[0]))]
        return {"type": "VertaJson", "name": name, "value": members}
    raise TypeError(
        "a model API describes numbers, text, bool, None, lists and dicts; "
        f"found {type(datum).__module__}.{type(datum).__qualname__}"
    )


def _no_datum() -> ValueError:
    return ValueError("a model API is read from the first datum, but the data is empty; give one example at least")
