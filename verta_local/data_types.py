"""Values with a shape of their own for attributes: matrices, histograms, lines, tables. As `verta.data_types`.

One is logged with `log_attribute` and comes back equal from `get_attribute`. In the store it is a plain dict, in the
form that Verta has: `{"type": "verta.line.v1", "line": {"x": [...], "y": [...]}}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from .values import to_builtin

_VERSION = "v1"


class DataType:
    """What all of them share. Two of the same type and content are equal."""

    _NAME: ClassVar[str] = ""
    # Argument of `__init__` (and attribute, behind an underscore) -> word in the dict.
    _FIELDS: ClassVar[dict[str, str]] = {}

    def _as_dict(self) -> dict[str, Any]:
        """The form that is logged."""
        content = {word: getattr(self, f"_{argument}") for argument, word in self._FIELDS.items()}
        return {"type": f"verta.{self._NAME}.{_VERSION}", self._NAME: content}

    @staticmethod
    def _from_dict(record: Mapping[str, Any]) -> DataType:
        """The value of a dict that `_as_dict` made. Raises ValueError for another one."""
        found = from_record(record)
        if not isinstance(found, DataType):
            raise ValueError(f"the dict is of none of the types of verta_local.data_types: {record!r}")
        return found

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._as_dict() == other._as_dict()

    __hash__ = None  # type: ignore[assignment]  # it holds lists

    def __repr__(self) -> str:
        content = ", ".join(f"{argument}={getattr(self, f'_{argument}')!r}" for argument in self._FIELDS)
        return f"{type(self).__name__}({content})"


class ConfusionMatrix(DataType):
    """How often each label was taken for each.

    Args:
        value: a square list of rows of numbers. labels: as many labels as rows.
    """

    _NAME = "confusionMatrix"
    _FIELDS: ClassVar[dict[str, str]] = {"value": "value", "labels": "labels"}

    def __init__(self, value: Any, labels: Iterable[Any]) -> None:
        self._value = _rows("value", value)
        self._labels = _list("labels", labels)
        if any(len(row) != len(self._value) for row in self._value):
            raise ValueError(
                f"a confusion matrix is square; found rows of {sorted(set(map(len, self._value)))} columns"
            )
        _require_same_length(value=self._value, labels=self._labels)


class DiscreteHistogram(DataType):
    """How often each of some values was seen.

    Args:
        buckets: the values. data: as many whole numbers.
    """

    _NAME = "discreteHistogram"
    _FIELDS: ClassVar[dict[str, str]] = {"buckets": "buckets", "data": "data"}

    def __init__(self, buckets: Iterable[Any], data: Iterable[int]) -> None:
        self._buckets = _list("buckets", buckets)
        self._data = _numbers("data", data, whole=True)
        _require_same_length(buckets=self._buckets, data=self._data)


class FloatHistogram(DataType):
    """How many numbers fell between each two limits.

    Args:
        bucket_limits: rising numbers. data: one whole number less than there are limits.
    """

    _NAME = "floatHistogram"
    _FIELDS: ClassVar[dict[str, str]] = {"bucket_limits": "bucketLimits", "data": "data"}

    def __init__(self, bucket_limits: Iterable[float], data: Iterable[int]) -> None:
        self._bucket_limits = _numbers("bucket_limits", bucket_limits)
        self._data = _numbers("data", data, whole=True)
        if len(self._bucket_limits) != len(self._data) + 1:
            raise ValueError(
                f"`bucket_limits` must have one number more than `data`; found {len(self._bucket_limits)} and "
                f"{len(self._data)}"
            )
        if sorted(self._bucket_limits) != self._bucket_limits:
            raise ValueError("`bucket_limits` must rise from one to the next")


class Line(DataType):
    """Points in the plane.

    Args:
        x, y: numbers, as many of each.
    """

    _NAME = "line"
    _FIELDS: ClassVar[dict[str, str]] = {"x": "x", "y": "y"}

    def __init__(self, x: Iterable[float], y: Iterable[float]) -> None:
        self._x = _numbers("x", x)
        self._y = _numbers("y", y)
        _require_same_length(x=self._x, y=self._y)

    @classmethod
    def from_tuples(cls, tuples: Iterable[tuple[float, float]]) -> Line:
        """A line of pairs (x, y)."""
        pairs = [tuple(pair) for pair in tuples]
        return cls([pair[0] for pair in pairs], [pair[1] for pair in pairs])


class Matrix(DataType):
    """Numbers in rows of one length.

    Args:
        value: a list of rows; a NumPy array will do.
    """

    _NAME = "matrix"
    _FIELDS: ClassVar[dict[str, str]] = {"value": "value"}

    def __init__(self, value: Any) -> None:
        self._value = _rows("value", value)


class NumericValue(DataType):
    """A number, with its unit.

    Args:
        value: a number. unit: a text, or None.
    """

    _NAME = "numericValue"
    _FIELDS: ClassVar[dict[str, str]] = {"value": "value", "unit": "unit"}

    def __init__(self, value: float, unit: str | None = None) -> None:
        self._value = _number("value", to_builtin(value))
        if unit is not None and not isinstance(unit, str):
            raise TypeError(f"`unit` must be a str, not {type(unit).__name__}")
        self._unit = unit


class StringValue(DataType):
    """A text.

    Args:
        value: the text.
    """

    _NAME = "stringValue"
    _FIELDS: ClassVar[dict[str, str]] = {"value": "value"}

    def __init__(self, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError(f"`value` must be a str, not {type(value).__name__}")
        self._value = value


class Table(DataType):
    """Rows under column names.

    Args:
        data: a list of rows. columns: as many names as each row has cells.
    """

    _NAME = "table"
    _FIELDS: ClassVar[dict[str, str]] = {"data": "rows", "columns": "header"}

    def __init__(self, data: Any, columns: Iterable[str]) -> None:
        self._data = _rows("data", data, are_numbers=False)
        self._columns = _list("columns", columns)
        for row in self._data:
            _require_same_length(columns=self._columns, row=row)

    @classmethod
    def from_pandas(cls, df: Any) -> Table:
        """A table of a pandas DataFrame, without its index."""
        return cls(df.values.tolist(), [str(column) for column in df.columns])


_TYPES: dict[str, type[DataType]] = {
    f"verta.{kind._NAME}.{_VERSION}": kind
    for kind in (
        ConfusionMatrix,
        DiscreteHistogram,
        FloatHistogram,
        Line,
        Matrix,
        NumericValue,
        StringValue,
        Table,
    )
}


def from_record(value: Any) -> Any:
    """What an attribute's logged value stands for: one of the types above, or the value itself."""
    if not isinstance(value, Mapping):
        return value
    kind = _TYPES.get(str(value.get("type")))
    content = value.get(kind._NAME) if kind is not None else None
    if kind is None or not isinstance(content, Mapping) or set(content) != set(kind._FIELDS.values()):
        return value
    try:
        return kind(**{argument: content[word] for argument, word in kind._FIELDS.items()})
    except (TypeError, ValueError):
        return value  # somebody's own dict that only looks like one


def _list(name: str, value: Any) -> list[Any]:
    found = to_builtin(value)
    if not isinstance(found, list):
        raise TypeError(f"`{name}` must be a list, not {type(value).__name__}")
    return found


def _numbers(name: str, value: Any, *, whole: bool = False) -> list[Any]:
    return [_number(name, item, whole=whole) for item in _list(name, value)]


def _number(name: str, value: Any, *, whole: bool = False) -> Any:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise TypeError(f"`{name}` must be made of {'whole ' if whole else ''}numbers, not of {type(value).__name__}")
    return value


def _rows(name: str, value: Any, *, are_numbers: bool = True) -> list[list[Any]]:
    rows = [_numbers(name, row) if are_numbers else _list(name, row) for row in _list(name, value)]
    if len(set(map(len, rows))) > 1:
        raise ValueError(f"the rows of `{name}` must be of one length; found {sorted(set(map(len, rows)))}")
    return rows


def _require_same_length(**lists: Sequence[Any]) -> None:
    if len(set(map(len, lists.values()))) > 1:
        found = " and ".join(f"{len(items)} in `{name}`" for name, items in lists.items())
        raise ValueError(f"there must be as many of each; found {found}")
