"""Whether imported modules still are what their files say: what travels with a model is the file, what ran is not."""

from __future__ import annotations

import importlib.machinery
import inspect
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from .local_modules import Located


def warn_of_edits(local: Mapping[str, Located]) -> None:
    """Warns the caller of `modules.find_modules` of the modules that were edited after they were imported."""
    edited = [name for name, located in local.items() if located.file and is_edited(name, located.file)]
    if edited:
        warnings.warn(
            f"{', '.join(sorted(edited))} changed on disk after the import; the present text is logged, "
            "not what ran here: import again to try what is logged",
            stacklevel=5,
        )


def is_edited(name: str, file: Path) -> bool:
    """Whether a function of an imported module is no longer what its file says; moved lines do not count."""
    module = sys.modules.get(name)
    # Another loader than Python's own may have rewritten the code (pytest does): nothing to compare with.
    if module is None or type(getattr(module, "__loader__", None)) is not importlib.machinery.SourceFileLoader:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return True
    codes = dict(_codes_by_name(compiled, ""))
    for function in _functions_of(module):
        code = function.__code__
        # A decorator's wrapper carries the name of what it wraps, but not in its code.
        if code.co_filename != compiled.co_filename or code.co_name != function.__qualname__.rpartition(".")[2]:
            continue
        versions = codes.get(function.__qualname__, [])
        if "<locals>" not in function.__qualname__ and not any(_same_code(code, each) for each in versions):
            return True
    return False


def _codes_by_name(code: types.CodeType, prefix: str) -> dict[str, list[types.CodeType]]:
    """Qualified name -> the code of each function so named (there may be two, in `if` and `else`)."""
    found: dict[str, list[types.CodeType]] = {}
    for const in code.co_consts:
        if not isinstance(const, types.CodeType):
            continue
        if const.co_flags & inspect.CO_OPTIMIZED:  # a function; a class body is not
            found.setdefault(prefix + const.co_name, []).append(const)
        else:
            for name, codes in _codes_by_name(const, f"{prefix}{const.co_name}.").items():
                found.setdefault(name, []).extend(codes)
    return found


def _functions_of(module: types.ModuleType) -> Iterator[types.FunctionType]:
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, types.FunctionType):
            yield value
        elif isinstance(value, type):
            for member in list(vars(value).values()):
                member = getattr(member, "__func__", member)  # of classmethod and staticmethod
                if isinstance(member, types.FunctionType) and member.__module__ == module.__name__:
                    yield member


def _same_code(one: types.CodeType, other: types.CodeType) -> bool:
    if (one.co_code, one.co_names, one.co_varnames) != (other.co_code, other.co_names, other.co_varnames):
        return False
    if len(one.co_consts) != len(other.co_consts):
        return False
    for left, right in zip(one.co_consts, other.co_consts, strict=True):
        if isinstance(left, types.CodeType) and isinstance(right, types.CodeType):
            if not _same_code(left, right):
                return False
        elif type(left) is not type(right) or (left != right and repr(left) != repr(right)):
            return False
    return True
