"""Requirements as exact pins.

Source of the rules: `log_requirements` of Verta's first releases. Differs: an import name is found without
importing it, our own name is injected in place of `verta` (which names something unrelated on PyPI today),
`name @ address` is pinned to what is installed, and a line that is left out is said.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ._version import __version__
from .installed import OWN_CANONICAL_NAME, canonical, exact_version, parse, version_of

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OWN_NAME = "verta_local"


def pin_requirements(requirements: list[str] | str | os.PathLike[str]) -> list[str]:
    """Return requirements as exact pins (`name==version`), in the order given; two of ours come last.

    Args:
        requirements: a list of requirements, or the path of a requirements.txt. Comments and options are
            dropped, lines that only hold an address too (with a UserWarning), `-r` lines of a file are
            followed. A name may be an import name: `sklearn` becomes `scikit-learn`. What has no `==` is
            pinned to the version installed here, with a UserWarning.

    Example:
        >>> pin_requirements([])  # doctest: +SKIP
        ['verta_local==0.1.0', 'cloudpickle==3.1.2']

    Raises:
        TypeError: neither a list of str nor a path.
        FileNotFoundError: there is no such file.
        ValueError: a line that is no requirement, a name without version that is not installed, a name given
            twice with different versions, or another version of verta_local or cloudpickle than runs here.
    """
    return [*_pin_lines(_lines_of(requirements)), *own_pins()]


def own_pins() -> list[str]:
    """The two pins that every list of requirements ends with: this package, and what pickles models."""
    return [f"{OWN_NAME}=={__version__}", f"cloudpickle=={version_of('cloudpickle')}"]


def pin_or_keep(lines: Iterable[str]) -> list[str]:
    """Return requirements as exact pins, and as they are the lines that cannot be read; ours come last.

    For `environment.Python`. As in Verta's later clients: options and addresses are kept (differs: without the
    password that an address holds), and that a bare name gets the installed version is no warning.

    Raises:
        ValueError: as `pin_requirements`, but not for a line that is no requirement.
    """
    kept: list[str] = []
    readable: list[str] = []
    for line in (_without_comment(line) for line in lines):
        if line:
            (readable if is_requirement(line) else kept).append(_CREDENTIALS.sub("//", line))
    return [*_pin_lines(readable, says_bare_names=False), *kept, *own_pins()]


def is_requirement(line: str) -> bool:
    """Whether a line has the form of a requirement (PEP 508) rather than of an option or an address."""
    if line.startswith("-") or _ADDRESS.match(line):
        return False
    try:
        parse(_without_options(line))
    except ValueError:
        return False
    return True


def requirement_lines(path: str | os.PathLike[str], *, skip_options: bool = False) -> list[str]:
    """The lines of a pip file without comments and blank lines; with `skip_options` only the requirements.

    Raises:
        FileNotFoundError: no such file. ValueError: it is not text in UTF-8.
    """
    lines = [_without_comment(line) for line in re.sub(r"\s*\\\r?\n\s*", " ", _text_of(Path(path))).splitlines()]
    return [line for line in lines if line and (not skip_options or is_requirement(line))]


def installed_pins() -> list[str]:
    """A pin for every distribution installed here, by name, as `pip freeze` lists them."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata
        # A half-removed distribution has no name; of two with one name the first is what is imported.
        if metadata is not None and metadata["Name"]:
            found.setdefault(canonical(metadata["Name"]), f"{metadata['Name']}=={metadata['Version']}")
    return [found[name] for name in sorted(found)]


def _pin_lines(lines: Iterable[str], *, says_bare_names: bool = True) -> list[str]:
    pins: dict[str, str] = {}
    replaced: list[str] = []
    for line in lines:
        requirement = parse(_without_options(line))
        name = canonical(requirement.name)
        if name == "verta":
            warnings.warn(
                f"requirement {line!r} is left out: 'verta' on PyPI is another project today; "
                f"{OWN_NAME}=={__version__} is recorded instead",
                stacklevel=4,
            )
            continue
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue  # as pip does: not for this Python or platform
        if name not in (OWN_CANONICAL_NAME, "cloudpickle"):
            pin = _pin(requirement)
            if exact_version(requirement) is None and (says_bare_names or requirement.specifier):
                replaced.append(f"{line!r} to {pin}")
            _add(pins, pin)
        else:
            _check_injected(requirement, line)
    if replaced:
        warnings.warn(
            f"requirements without '==' are pinned to the installed version: {', '.join(replaced)}",
            stacklevel=4,
        )
    return list(pins.values())


# Reading what the user gave


_FOLLOWED_OPTION = re.compile(r"(?:-r\s*|--requirement[\s=]+)(?P<file>\S.*)")
_ADDRESS = re.compile(r"(?:-e\b|--editable\b|(?:git|hg|svn|bzr)\+|(?:https?|ftp|file):)", re.IGNORECASE)
_CREDENTIALS = re.compile(r"//(?!git@)[^/@\s]*@")  # `git@` is everybody's user name, not a secret


def _lines_of(requirements: object) -> Iterator[str]:
    if isinstance(requirements, (str, os.PathLike)):
        yield from _lines_of_file(Path(requirements), ())
    elif isinstance(requirements, (list, tuple)):
        for line in requirements:
            if not isinstance(line, str):
                raise TypeError(f"requirements must be a list of str; found {type(line).__name__}: {line!r}")
            yield from _requirements_in(line)
    else:
        raise TypeError(
            f"requirements must be a list of str or the path of a requirements.txt, not {type(requirements).__name__}"
        )


def _lines_of_file(path: Path, opened_from: tuple[Path, ...]) -> Iterator[str]:
    path = path.resolve()
    if path in opened_from:
        return
    text = _text_of(path)
    for line in re.sub(r"\s*\\\r?\n\s*", " ", text).splitlines():
        followed = _FOLLOWED_OPTION.fullmatch(_without_comment(line))
        if followed:
            yield from _lines_of_file(path.parent / followed["file"], (*opened_from, path))
        else:
            yield from _requirements_in(line)


def _text_of(path: Path) -> str:
    if path.is_dir():
        raise FileNotFoundError(f"requirements must be a file; {path} is a directory")
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no requirements file {path}; give the path of one, or a list of str"
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"the requirements file {path} is not text in UTF-8") from None


def _requirements_in(line: str) -> Iterator[str]:
    """The requirement in a line, if it holds one."""
    line = _without_comment(line)
    if _ADDRESS.match(line):
        # Dropped, as in Verta, but said: the model may need it. An address may hold a password.
        warnings.warn(
            f"requirement {_CREDENTIALS.sub('//', line)!r} is left out: it names no distribution; "
            "if the model needs it, add it as 'name==version'",
            stacklevel=5,
        )
    elif line and not line.startswith("-"):
        yield _without_options(line)


def _without_options(line: str) -> str:
    """Without `--hash=...` and other options of one requirement."""
    return re.sub(r"\s--[a-z-]+[\s=].*", "", line)


def _without_comment(line: str) -> str:
    return re.sub(r"(?:^|\s)#.*", "", line).strip()


# Names and versions


def _pin(requirement: Requirement) -> str:
    name = requirement.name
    installed = version_of(name)
    if installed is None:
        found = _distribution_of_import(name)
        if found is not None:
            name, installed = found
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    version = exact_version(requirement) or installed
    if version is None:
        if name in sys.stdlib_module_names:
            raise ValueError(f"requirement {name!r} is a part of Python's standard library; leave it out")
        raise ValueError(
            f"requirement {name!r} is given without '==' and is not installed here; "
            f"install it, or write it as '{name}==x.y.z'"
        )
    return f"{name}{extras}=={version}"


def _distribution_of_import(name: str) -> tuple[str, str] | None:
    """The (name, version) of the distribution that brings the top-level module `name`.

    Not `importlib.metadata.packages_distributions`: on Python 3.10 it only knows distributions that list
    their modules in top_level.txt, which scikit-learn no longer does.
    """
    found = {}
    for distribution in importlib.metadata.distributions():
        declared = distribution.read_text("top_level.txt")
        if declared is not None:
            modules = set(declared.split())
        else:
            modules = {file.parts[0].split(".")[0] for file in distribution.files or () if file.parts}
        if name in modules and distribution.metadata["Name"]:
            found[canonical(distribution.metadata["Name"])] = distribution
    if len(found) > 1:
        raise ValueError(
            f"requirement {name!r} is brought by several installed distributions, "
            f"{', '.join(sorted(found))}; name the one that is meant"
        )
    for distribution in found.values():
        return distribution.metadata["Name"], distribution.version
    return None


def _check_injected(requirement: Requirement, line: str) -> None:
    own = canonical(requirement.name) == OWN_CANONICAL_NAME
    running = __version__ if own else version_of("cloudpickle")
    # A range that the running version is not in is a contradiction just as another exact version is.
    if running is None or not requirement.specifier.contains(running, prereleases=True):
        raise ValueError(
            f"requirement {line!r} contradicts {requirement.name} {running}, which logs this run; "
            f"leave it out (it is recorded anyway) or install the version that is wanted"
        )


def _add(pins: dict[str, str], pin: str) -> None:
    name = canonical(re.split(r"[\[=]", pin, maxsplit=1)[0])
    if pins.setdefault(name, pin) != pin:
        raise ValueError(f"requirement {name!r} is given twice: as {pins[name]} and as {pin}")
