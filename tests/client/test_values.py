"""Keys and values: what is accepted, what is refused with which error, and what library values become."""

from __future__ import annotations

import enum
import json
import math
import subprocess
import sys
import types
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from verta_local import values
from verta_local.values import check_attribute, check_key, check_scalar, to_builtin


class Colour(str, enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize("key", ["", "a", "A-b_c/9", "train/loss", "x" * 5000])
def test_a_key_of_the_alphabet_passes_each_time(key: str) -> None:
    """The second call takes the look-up of known keys, the first one the expression."""
    assert check_key(key) == key
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key",
    [
        "a b",
        "a.b",
        "é",
        "a\n",
        "\n",
        "a\0b",
        "../x",
        "C:x",
        "a\\b",
        "%2e",
        "#",
        "~",
        "\uff11",
        "\u202ex",
        "a" * 5000 + "!",
    ],
)
def test_any_other_character_is_a_value_error_that_shows_it(key: str) -> None:
    """Newlines at the end and digits outside ASCII are where regular expressions usually let keys slip."""
    with pytest.raises(ValueError, match="a key may hold ASCII letters"):
        check_key(key)


@pytest.mark.parametrize("key", [None, 1, b"a", ["a"], {"a": 1}, Path("a")])
def test_a_key_that_is_no_text_is_a_type_error(key: object) -> None:
    """Unhashable ones must not fail in the look-up of known keys."""
    with pytest.raises(TypeError, match="a key must be a str"):
        check_key(key)


def test_a_key_of_a_str_subclass_comes_back_as_plain_str() -> None:
    """A NumPy text is a str too, but no builtin."""
    assert type(check_key(np.str_("loss"))) is str
    assert check_key(Colour.RED) == "red" and type(check_key(Colour.RED)) is str


def test_the_look_up_of_known_keys_is_bounded() -> None:
    """A program that invents keys without end does not grow."""
    for number in range(values._MAX_KNOWN_GOOD_KEYS * 2):
        check_key(f"key-{number}")
    assert len(values._KNOWN_GOOD_KEYS) <= values._MAX_KNOWN_GOOD_KEYS


@pytest.mark.parametrize("value", [None, True, 1.0, 2**60 + 1, -0.0, "", "x\0é", math.inf, 1])
def test_builtin_scalars_come_back_as_the_same_object(value: object) -> None:
    """Exact round trip starts here: 1.0 stays a float, a large int keeps its digits."""
    assert check_scalar("k", value) is value
    assert check_attribute("k", value) is value
    assert to_builtin(value) is value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.float16(0.5), 0.5),
        (np.longdouble(0.5), 0.5),
        (np.int64(2**62), 2**62),
        (np.uint8(255), 255),
        (np.bool_(True), True),
        (np.str_("text"), "text"),
        (np.bytes_(b"text"), "text"),
        (np.array(3), 3),
        (np.array(1.5, dtype=np.longdouble), 1.5),
        (b"caf\xc3\xa9", "café"),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
    ],
)
def test_scalars_of_other_types_become_builtins(value: object, expected: object) -> None:
    """Equal is not enough: a NumPy float is equal to a float, but not JSON."""
    for convert in (check_scalar, check_attribute):
        result = convert("k", value)
        assert result == expected and type(result) is type(expected)
    assert type(to_builtin(value)) is type(expected)


def test_nan_stays_a_nan_float() -> None:
    """Verta made text of it."""
    for value in (math.nan, np.float32("nan")):
        result = check_scalar("k", value)
        assert type(result) is float and math.isnan(result)


@pytest.mark.parametrize("value", [[1], (1,), {1}, {"a": 1}, [], {}, np.array([1, 2]), range(3), iter([1])])
def test_a_collection_as_scalar_points_to_log_attribute(value: object) -> None:
    """The text that Verta used, with the key."""
    with pytest.raises(TypeError, match=r"'hidden'.*consider using log_attribute\(\)"):
        check_scalar("hidden", value)


def test_a_refused_generator_is_not_run() -> None:
    """To refuse it must not consume it."""
    numbers = iter([1, 2])
    with pytest.raises(TypeError):
        check_scalar("k", numbers)
    assert list(numbers) == [1, 2]


@pytest.mark.parametrize("value", [object(), 1j, Decimal("1"), Path("x"), len, np.datetime64("2020-01-01"), 5j])
def test_any_other_type_is_a_type_error_that_names_it(value: object) -> None:
    """Scalars and attributes alike."""
    with pytest.raises(TypeError, match="'k' must be"):
        check_scalar("k", value)
    with pytest.raises(TypeError, match="'k' must be"):
        check_attribute("k", value)


def test_bytes_that_are_no_text_are_a_value_error() -> None:
    """They have no exact form as a value."""
    with pytest.raises(ValueError, match="UTF-8"):
        check_scalar("k", b"\xff")


def test_attributes_take_nested_lists_and_dicts() -> None:
    """What comes back belongs to the caller: later changes of the argument do not reach it."""
    value: dict[str, Any] = {"layers": [64, 32, {"rate": None}], "names": ("a", np.str_("b"))}
    result = check_attribute("k", value)
    assert result == {"layers": [64, 32, {"rate": None}], "names": ["a", "b"]}
    value["layers"].append(1)
    assert result == {"layers": [64, 32, {"rate": None}], "names": ["a", "b"]}


@pytest.mark.parametrize("value", [{1: "a"}, {"a": {None: 1}}, [{("x",): 1}], {True: 1}])
def test_a_dict_key_that_is_no_text_is_a_type_error(value: object) -> None:
    """JSON would turn it into text and give something else back."""
    with pytest.raises(TypeError, match="dict keys in the value of 'k' must be str"):
        check_attribute("k", value)


def test_a_wrong_type_deep_inside_an_attribute_is_found() -> None:
    """Nothing half-checked is logged."""
    with pytest.raises(TypeError, match=r"'k'.*object"):
        check_attribute("k", {"a": [1, {"b": object()}]})


def test_a_value_that_holds_itself_is_one_clear_error() -> None:
    """Not a RecursionError with a thousand lines."""
    value: list[object] = []
    value.append(value)
    with pytest.raises(ValueError, match="holds itself or is nested too deeply"):
        check_attribute("k", value)


def test_to_builtin_walks_through_every_collection() -> None:
    """Sets come sorted, so that equal sets give equal lists."""
    value = {
        "a": (np.int32(1), {3, 1, 2}),
        "b": [b"x", frozenset({"q", "p"})],
        np.str_("c"): (i for i in range(2)),
    }
    result = to_builtin(value)
    assert result == {"a": [1, [1, 2, 3]], "b": ["x", ["p", "q"]], "c": [0, 1]}
    assert all(type(key) is str for key in result)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3),
        np.arange(3, dtype=np.float32),
        np.array(["a", "b"]),
        np.array([[True], [False]]),
        np.array([1.5, 2.5], dtype=np.longdouble),
        np.array([{"a": np.int8(1)}, None], dtype=object),
        np.array([b"a", b"bc"]),
        np.array([(1, 2.0)], dtype=[("x", "i4"), ("y", "f4")]),
    ],
)
def test_arrays_become_lists_without_numpy_inside(array: Any) -> None:
    """`json` is the judge: it refuses every NumPy type."""
    json.dumps(to_builtin(array))
    assert np.shape(to_builtin(array))[:1] == np.shape(array)[:1]


class TableLikePandas:
    """What the conversion looks at in a DataFrame; the real one is not part of the test environment."""

    def __init__(self, array: Any) -> None:
        self.values = array


def test_a_data_frame_becomes_a_list_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """pandas is found by its name in `sys.modules`, never imported."""
    pandas = types.ModuleType("pandas")
    pandas.DataFrame = TableLikePandas  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    assert to_builtin(TableLikePandas(np.array([[1, 0.5], [2, 1.5]]))) == [[1, 0.5], [2, 1.5]]


def test_real_pandas_values_become_lists() -> None:
    """Where pandas is installed."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "b": [0.5, 1.5]})
    assert to_builtin(frame) == [[1, 0.5], [2, 1.5]]
    assert to_builtin({"column": frame["a"], "index": frame.index}) == {"column": [1, 2], "index": [0, 1]}


def test_anything_that_speaks_the_array_protocol_becomes_a_list() -> None:
    """TensorFlow's and JAX's values do; one that cannot give its value stays as it is and is refused."""

    class Eager:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.array([1.0, 2.0])

    class Symbolic:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            raise NotImplementedError("symbolic")

    assert to_builtin([Eager()]) == [[1.0, 2.0]]
    with pytest.raises(TypeError, match="Symbolic"):
        check_scalar("k", Symbolic())


def test_no_library_is_imported_for_a_check() -> None:
    """A fresh interpreter that never saw NumPy must not see it here."""
    code = (
        "import sys; from verta_local.values import *\n"
        "check_key('a'); check_scalar('a', 1); check_attribute('a', [1]); to_builtin((1, {2}))\n"
        "assert not {'numpy', 'pandas', 'torch', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
