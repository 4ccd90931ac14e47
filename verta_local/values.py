"""What may be logged as a key and as a value, and how library values become builtins.

Source of the rules: Verta's client; differs: integral floats stay floats, large integers keep every digit,
NaN and the infinities stay numbers. No library is imported here: a NumPy, pandas, PyTorch or TensorFlow value
can only exist when its library is in `sys.modules` already.
"""

from __future__ import annotations

import re
import sys
from typing import Any, TypeAlias

Scalar: TypeAlias = bool | int | float | str | None
Value: TypeAlias = "Scalar | list[Value] | dict[str, Value]"

_SCALAR_TYPES = frozenset({type(None), bool, int, float, str})

_OUTSIDE_ALPHABET = re.compile(r"[^A-Za-z0-9_\-/]")
# Keys repeat in every step of a training loop: with this look-up the check costs 0.08 us, with the expression
# alone 0.3. Bounded, because a program that invents keys without end must not grow here.
_KNOWN_GOOD_KEYS: set[str] = set()
_MAX_KNOWN_GOOD_KEYS = 10_000
_MAX_KNOWN_GOOD_LENGTH = 200


def check_key(key: object) -> str:
    """Return `key` if Verta's alphabet allows it: ASCII letters, digits, `_`, `-`, `/`; the empty key passes.

    >>> check_key("train/loss")
    'train/loss'

    Raises:
        TypeError: the key is not a str.
        ValueError: it holds any other character.
    """
    if type(key) is str and key in _KNOWN_GOOD_KEYS:
        return key
    if not isinstance(key, str):
        raise TypeError(f"a key must be a str, not {_type_name(key)}; found {key!r}")
    key = str.__str__(key)
    wrong = _OUTSIDE_ALPHABET.search(key)
    if wrong:
        raise ValueError(
            f"a key may hold ASCII letters, digits, '_', '-' and '/' only; found {wrong.group()!r} in {key[:200]!r}"
        )
    if len(key) <= _MAX_KNOWN_GOOD_LENGTH:
        if len(_KNOWN_GOOD_KEYS) >= _MAX_KNOWN_GOOD_KEYS:
            _KNOWN_GOOD_KEYS.clear()
        _KNOWN_GOOD_KEYS.add(key)
    return key


def check_scalar(key: str, value: object) -> Scalar:
    """Return `value` as exactly None, bool, int, float or str, for a hyperparameter, metric or observation.

    Scalars of NumPy, PyTorch and TensorFlow, arrays and tensors without dimensions, bytes in UTF-8 and
    subclasses of the builtins (enumerations with values of text or number) are converted.

    Raises:
        TypeError: a list, dict or anything else; `key` is named.
        ValueError: bytes that are not UTF-8.
    """
    if type(value) in _SCALAR_TYPES:
        return value  # type: ignore[return-value]  # the line above is the check; isinstance would cost twice
    if not isinstance(value, (list, dict, set, frozenset, tuple)):
        # Only what is a scalar already or comes from a library: a generator must not be run to be refused.
        value = _from_library(value)
        if type(value) in _SCALAR_TYPES:
            return value  # type: ignore[return-value]
    if isinstance(value, dict) or _is_iterable(value):
        raise TypeError(
            f"the value of {key!r} must be a number, text, bool or None, not {_type_name(value)}; "
            "consider using log_attribute() instead"
        )
    raise TypeError(f"the value of {key!r} must be a number, text, bool or None, not {_type_name(value)}")


def check_attribute(key: str, value: object) -> Value:
    """Return `value` as a builtin scalar, list or dict with str keys, nested at will, for an attribute.

    A value of `verta_local.data_types` becomes the dict that stands for it.
    What comes back is made of new lists and dicts: the caller owns it. Any other iterable becomes a list.

    Raises:
        TypeError: a dict key that is not a str, or a value of another type; `key` is named.
        ValueError: bytes that are not UTF-8, or a value that holds itself.
    """
    if type(value) in _SCALAR_TYPES:
        return value  # type: ignore[return-value]
    if type(value).__module__ == "verta_local.data_types":
        value = value._as_dict()  # type: ignore[attr-defined]
    builtin = to_builtin(value)
    _check_tree(key, builtin)
    return builtin  # type: ignore[no-any-return]


def to_builtin(value: object) -> Any:
    """Return `value` with library types replaced by builtins, through dicts, lists, tuples and sets.

    NumPy, PyTorch and TensorFlow scalars become numbers; arrays and tensors, a pandas Series, Index or
    DataFrame become (nested) lists; bytes become str; any iterable becomes a list (a set in sorted order
    where it can be sorted, so that equal sets give equal lists). What is none of these comes back as it is.

    >>> to_builtin({"shape": (2, 3), "names": {"b", "a"}})
    {'shape': [2, 3], 'names': ['a', 'b']}

    Raises:
        ValueError: bytes that are not UTF-8, or a value that holds itself.
    """
    if type(value) in _SCALAR_TYPES:
        return value
    try:
        return _to_builtin(value)
    except RecursionError:
        raise ValueError(f"a value of type {_type_name(value)} holds itself or is nested too deeply") from None


def _to_builtin(value: object) -> Any:
    if type(value) in _SCALAR_TYPES:
        return value
    if isinstance(value, dict):
        return {_from_library(name): _to_builtin(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_builtin(item) for item in value]
    if isinstance(value, (set, frozenset)):
        items = [_to_builtin(item) for item in value]
        try:
            return sorted(items)
        except TypeError:
            return items
    value = _from_library(value)
    if type(value) in _SCALAR_TYPES or type(value) is list:
        return value
    if _is_iterable(value):
        return [_to_builtin(item) for item in value]  # type: ignore[attr-defined]
    return value


def _from_library(value: object) -> Any:
    """Convert a subclass of str, int, float or bytes, or a known library's type; any other is handed back."""
    # The methods of the builtins themselves: an enumeration's own __str__ would give its name, not its value.
    # First, because NumPy's float64, the usual type of a loss, is a subclass of float.
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return value if isinstance(value, bool) else int.__int__(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            found = f"found {value[:40]!r}"
            raise ValueError(f"bytes must be text in UTF-8 to be logged as a value; {found}") from None
    if isinstance(value, _library_types("numpy", "generic")):
        return _from_numpy_scalar(value)
    if isinstance(value, _library_types("numpy", "ndarray")):
        return _from_array(value)
    if isinstance(value, _library_types("pandas", "DataFrame", "Series", "Index")):
        return _to_builtin(value.values.tolist())  # type: ignore[attr-defined]
    if isinstance(value, _library_types("torch", "Tensor")):
        return value.detach().cpu().tolist()  # type: ignore[attr-defined]
    if hasattr(type(value), "__array__"):  # TensorFlow, Keras, JAX and what else speaks NumPy's protocol
        return _from_array_like(value)
    return value


def _from_numpy_scalar(value: Any) -> Any:
    builtin = value.item()
    if type(builtin) in _SCALAR_TYPES:
        return builtin
    if isinstance(builtin, (bytes, list, tuple, dict)):
        return _to_builtin(builtin)
    if isinstance(builtin, _library_types("numpy", "floating")):  # longdouble.item() is a longdouble
        return float(value)
    return builtin


def _from_array(array: Any) -> Any:
    plain = array.tolist()
    # Of bool, int, text and floats up to 8 bytes, tolist() leaves no NumPy type: no second walk over these.
    kind = array.dtype.kind
    if kind in "biuU" or (kind == "f" and array.dtype.itemsize <= 8):
        return plain
    return _to_builtin(plain)


def _from_array_like(value: Any) -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is None or isinstance(value, type):
        return value
    try:
        # TensorFlow's own way first: its scalars of bfloat16 fail in the array protocol.
        array = value.numpy() if callable(getattr(value, "numpy", None)) else numpy.asarray(value)
    except (TypeError, ValueError, RuntimeError, AttributeError):
        # A symbolic tensor has no value, one on an accelerator may refuse: the caller says that the type is wrong.
        return value
    return value if type(array) is type(value) else _to_builtin(array)


def _library_types(library: str, *names: str) -> tuple[type, ...]:
    """The named classes of a library, () when it is not imported or only halfway."""
    module = sys.modules.get(library)
    if module is None:
        return ()
    return tuple(kind for name in names if isinstance(kind := getattr(module, name, None), type))


def _check_tree(key: str, value: object) -> None:
    if type(value) in _SCALAR_TYPES:
        return
    if isinstance(value, list):
        for item in value:
            _check_tree(key, item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if type(name) is not str:
                raise TypeError(f"the dict keys in the value of {key!r} must be str, not {_type_name(name)}: {name!r}")
            _check_tree(key, item)
    else:
        raise TypeError(
            f"the value of {key!r} must be made of numbers, text, bool, None, lists and dicts; "
            f"found {_type_name(value)}"
        )


def _is_iterable(value: object) -> bool:
    try:
        iter(value)  # type: ignore[call-overload]
    except TypeError:
        return False
    return True


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
