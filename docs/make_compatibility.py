"""Makes verta-compatibility.md from verta-names.txt, and says where the table is not what the code has.

python docs/make_compatibility.py          writes the page
python docs/make_compatibility.py --check  prints what is wrong in the table; exit code 1 if anything is
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
NAMES = HERE / "verta-names.txt"
PAGE = HERE / "verta-compatibility.md"
STATES = ("done", "differs", "not done")

_HEAD = """# Verta's names here

Which names of Verta's client there are, and what is not the same. The first clients (0.14) are matched for deployment
and `log_requirements`, the last ones (0.24) for everything else. Names are below `verta`, and have the same place below
`verta_local`. This page is made from [verta-names.txt](verta-names.txt) by `make_compatibility.py`; a test looks each
name and its arguments up in the code, in both directions.

"""


class Name(NamedTuple):
    """A line of the table; `arguments` is None for what is not called; `is_of_instances`: only objects have it."""

    section: str
    verta: str
    ours: str
    arguments: tuple[str, ...] | None
    state: str
    note: str
    is_of_instances: bool


def read_names(text: str) -> list[Name]:
    """The lines of the table. Raises ValueError for one that cannot be read."""
    found = []
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("== "):
            section = line[3:].strip()
        elif line.strip() and not line.startswith("#"):
            parts = [part.strip() for part in line.split("|", 3)]
            if len(parts) != 4 or parts[2] not in STATES:
                raise ValueError(f"line {number} of {NAMES.name}: wanted 'name | arguments | status | note': {line!r}")
            verta, _, ours = (part.strip() for part in parts[0].partition("->"))
            arguments = None if parts[1] in ("-", "@") else tuple(parts[1].split())
            found.append(Name(section, verta, ours or verta, arguments, parts[2], parts[3], parts[1] == "@"))
    return found


def resolve(name: str) -> object:
    """What `verta_local.<name>` is. Raises LookupError when there is no such thing."""
    found: object = importlib.import_module("verta_local")
    path = "verta_local"
    for part in name.split("."):
        path = f"{path}.{part}"
        try:
            found = inspect.getattr_static(found, part) if isinstance(found, type) else getattr(found, part)
        except AttributeError:
            if not inspect.ismodule(found):
                raise LookupError(f"{path} does not exist") from None
            try:
                found = importlib.import_module(path)
            except ModuleNotFoundError as error:
                if error.name != path:
                    raise  # the module is there, and what it imports is not
                raise LookupError(f"{path} does not exist") from None
    return found


def faults(name: Name) -> list[str]:
    """What the table says and the code does not have, as sentences. Raises ImportError without an optional library."""
    if name.is_of_instances:
        return []  # the test makes one
    try:
        found = resolve(name.ours)
    except LookupError as error:
        return [] if name.state == "not done" else [f"{name.verta} is said to be {name.state}, but {error}"]
    if name.state == "not done":
        return [f"{name.verta} is said to be not done, but verta_local.{name.ours} is there"]
    if name.arguments is None:
        return []
    if isinstance(found, (staticmethod, classmethod)):
        found = found.__func__
    parameters = inspect.signature(found).parameters  # type: ignore[arg-type]
    takes_any = any(each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL) for each in parameters.values())
    missing = [argument for argument in name.arguments if argument not in parameters and not takes_any]
    if missing:
        return [f"{name.verta} does not take {', '.join(missing)}; it takes {', '.join(parameters)}"]
    places = [list(parameters).index(argument) for argument in name.arguments if argument in parameters]
    return (
        []
        if places == sorted(places)
        else [f"{name.verta} takes its arguments in another order: {', '.join(parameters)}"]
    )


def page(names: list[Name]) -> str:
    """The page as Markdown."""
    counts = {state: sum(name.state == state for name in names) for state in STATES}
    lines = [_HEAD + ", ".join(f"{count} {state}" for state, count in counts.items()) + f", of {len(names)} names.\n"]
    for section in dict.fromkeys(name.section for name in names):
        lines += [f"## {section}\n", "| name | | what is not the same, or why |", "|---|---|---|"]
        for name in (each for each in names if each.section == section):
            call = "" if name.arguments is None else f"({', '.join(name.arguments)})"
            ours = "" if name.ours == name.verta else f"here `{name.ours}`. "
            lines.append(f"| `{name.verta}{call}` | {name.state} | {ours}{name.note} |")
        lines.append("")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Writes the page, or checks the table."""
    names = read_names(NAMES.read_text(encoding="utf-8"))
    if arguments == ["--check"]:
        found = []
        for name in names:
            try:
                found += faults(name)
            except ImportError as error:
                print(f"not looked up: {name.verta} ({error})", file=sys.stderr)
        print("\n".join(found))
        return 1 if found else 0
    PAGE.write_text(page(names), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
