"""What this Python environment has installed, and what it lacks of a list of pins.

Asked for every model that is loaded to be served, so it costs little where nothing is lacking: a listing of the folders
on the path in place of `importlib.metadata` (11 ms to import) and `packaging` (20 ms).
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OWN_CANONICAL_NAME = "verta-local"


class UnmetPin(NamedTuple):
    """A pin that this environment does not satisfy; `installed` is the version that is there, or None."""

    pin: str
    installed: str | None

    def __str__(self) -> str:
        return f"{self.pin} ({self.installed} is installed)" if self.installed else f"{self.pin} (not installed)"


def unmet_pins(pins: Iterable[str]) -> list[UnmetPin]:
    """Return the pins that this environment does not satisfy, in their order.

    Two pins are ours, not the user's, and are read with tolerance. `verta_local` is always met: what loads
    the model is verta_local, and a store of a format too new is refused by the engine. `cloudpickle` is met
    by any version that is not older: it reads what its earlier versions wrote.
    """
    unmet = []
    listed: dict[str, str] | None = None
    for pin in pins:
        plain = _PLAIN_PIN.fullmatch(pin)
        if plain:
            name = canonical(plain["name"])
            if name == OWN_CANONICAL_NAME:
                continue
            if listed is None:
                listed = _listed()
            if _is_certain(listed.get(name, ""), plain["version"]) or version_of(name) == plain["version"]:
                continue
        found = _unmet_pin(pin)
        if found is not None:
            unmet.append(found)
    return unmet


_PLAIN_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9._+!-]+)")


def _listed() -> dict[str, str]:
    """Canonical name -> the folder that an installer left of it; '' where only `importlib.metadata` can tell.

    As there, the first folder of the path that has something of a name counts.
    """
    found: dict[str, str] = {}
    if any(hasattr(finder, "find_distributions") and finder is not PathFinder for finder in sys.meta_path):
        return found
    for place in sys.path:
        if place.lower().endswith(".egg"):
            break
        try:
            names = os.listdir(place or ".")
        except NotADirectoryError:  # an archive: what is in it comes before what is in later folders
            break
        except OSError:
            continue
        here: dict[str, str] = {}
        for name in names:
            stem, _, kind = name.rpartition(".")
            if kind.lower() in ("dist-info", "egg-info"):
                project = canonical(stem.partition("-")[0])
                is_plain = kind == "dist-info" and project not in here
                here[project] = os.path.join(place, name) if is_plain else ""
        for project, folder in here.items():
            found.setdefault(project, folder)
    return found


def _is_certain(folder: str, version: str) -> bool:
    """Whether a folder's name says that this version is installed; else its metadata has to be read."""
    stem = os.path.basename(folder).removesuffix(".dist-info")
    return stem.partition("-")[2] == version and os.path.isfile(os.path.join(folder, "METADATA"))


def _unmet_pin(pin: str) -> UnmetPin | None:
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415 - start-up time

    requirement = parse(pin)
    name = canonical(requirement.name)
    if name == OWN_CANONICAL_NAME or (requirement.marker is not None and not requirement.marker.evaluate()):
        return None
    installed = version_of(requirement.name)
    if installed is None and name == "cloudpickle":
        # A served model's own environment has no cloudpickle: it is lent that of the server.
        installed = getattr(importlib.import_module(name), "__version__", None)
    if installed is None:
        return UnmetPin(pin, None)
    exact = exact_version(requirement)
    try:
        met = requirement.specifier.contains(installed, prereleases=True)
        if name == "cloudpickle" and exact is not None:
            met = Version(installed) >= Version(exact)
    except InvalidVersion:  # a version of before PEP 440: only equal text is known to be equal
        met = installed == exact
    return None if met else UnmetPin(pin, installed)


def missing_requirements(pins: Iterable[str]) -> list[str]:
    """Return a text for each pin that this environment does not satisfy: the pin, and what is there instead.

    Example:
        >>> missing_requirements(["no-such-thing==1.0"])
        ['no-such-thing==1.0 (not installed)']
    """
    return [str(each) for each in unmet_pins(pins)]


def parse(line: str) -> Requirement:
    """The requirement of a line. Raises: ValueError."""
    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415 - start-up time

    try:
        return Requirement(line)
    except InvalidRequirement:
        raise ValueError(f"{line!r} is not a requirement; write it as 'name==version' or 'name'") from None


def canonical(name: str) -> str:
    """The form of a name that PEP 503 compares by."""
    return re.sub(r"[-_.]+", "-", name).lower()


def version_of(name: str) -> str | None:
    """The version of a distribution that is installed, or None."""
    from importlib import metadata  # noqa: PLC0415 - start-up time

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def exact_version(requirement: Requirement) -> str | None:
    """The version of `==` or `===`, None where the requirement leaves a choice."""
    for clause in requirement.specifier:
        if clause.operator in ("==", "===") and not clause.version.endswith("*"):
            return clause.version
    return None
