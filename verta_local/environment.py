"""What a model needs around it: `environment.Python` and `environment.Docker`, to be given to `log_environment`.

Names and behaviour are those of Verta's later clients (`verta.environment`). Differs: our own name is injected into
the requirements in place of `verta`, which names something unrelated on PyPI today, and a password in an address is
not recorded.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from . import requirements as rules

# As Debian writes the names of packages, with an optional version as apt-get takes it.
_APT_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(?:[=/:][A-Za-z0-9.+:~-]+)*")
_IMAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")
_IMAGE_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_IMAGE_DIGEST = re.compile(r"(?:sha256:)?[0-9a-f]{64}")


class PythonVersion(NamedTuple):
    """A version of Python as three numbers."""

    major: int
    minor: int
    micro: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.micro}"


class _Environment:
    """What both kinds have in common: environment variables, equality by content, a record."""

    _kind = ""

    def __init__(self, env_vars: object) -> None:
        self._env_vars = _check_env_vars(env_vars)

    @property
    def env_vars(self) -> dict[str, str] | None:
        """Name -> value of the recorded environment variables; None where none were given."""
        return dict(self._env_vars) or None

    def to_record(self) -> dict[str, Any]:
        """The environment as JSON values, for a journal."""
        return {"kind": self._kind, **({"env_vars": dict(self._env_vars)} if self._env_vars else {})}

    def __eq__(self, other: object) -> bool:
        return self.to_record() == other.to_record() if isinstance(other, _Environment) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by content, and the content is a dict


class Python(_Environment):
    """A Python environment: requirements, constraints, environment variables, packages of the system.

    Args:
        requirements: a list of requirements. A name may be an import name: `sklearn` becomes `scikit-learn`. What
            has no `==` is pinned to the version installed here. A line that is no requirement (an option, an
            address) is kept as it is. None: all that is installed here.
        constraints: a list of lines as in pip's constraints file, kept as they are. They, and the lines that are no
            requirements, are given to the installer where a model needs an environment of its own.
        env_vars: a list of names, whose values are taken from this process, or a dict of names and values. They are
            set where the model is served, before it is loaded. They are stored as plain text: no secrets.
        apt_packages: names of system packages. Recorded, and never installed by us.

    The version of Python that runs now is recorded too.

    >>> Python([]).requirements  # doctest: +SKIP
    ['verta_local==0.1.0', 'cloudpickle==3.1.2']

    Raises:
        TypeError: something else than lists of str, and a list or dict of str.
        ValueError: a requirement without version that is not installed, or one given twice with different
            versions; an environment variable that is not set, or has a bad name; a bad package name.
    """

    _kind = "python"

    def __init__(
        self,
        requirements: list[str] | None = None,
        constraints: list[str] | None = None,
        env_vars: list[str] | dict[str, str] | None = None,
        apt_packages: list[str] | None = None,
    ) -> None:
        lines = self.read_pip_environment() if requirements is None else _check_lines("requirements", requirements)
        super().__init__(env_vars)
        self._requirements = rules.pin_or_keep(lines)
        self._constraints = [line.strip() for line in _check_lines("constraints", constraints or []) if line.strip()]
        self._apt_packages = _check_lines("apt_packages", apt_packages or [])
        for name in self._apt_packages:
            if not _APT_PACKAGE.fullmatch(name):
                raise ValueError(f"apt_packages contains {name!r}, which is no name of a system package")
        self._python_version = PythonVersion(*sys.version_info[:3])

    @staticmethod
    def read_pip_file(filepath: str | os.PathLike[str], skip_options: bool = False) -> list[str]:
        """The lines of a requirements file, without comments and blank lines, for `requirements` or `constraints`.

        Args:
            skip_options: leaves out options and addresses.

        Raises:
            FileNotFoundError: there is no such file. ValueError: it is not text in UTF-8.
        """
        return rules.requirement_lines(filepath, skip_options=skip_options)

    @staticmethod
    def read_pip_environment(skip_options: bool = False) -> list[str]:
        """A pin for every distribution that is installed here, by name.

        Differs from Verta: pip is not run, so it takes milliseconds, and there are no options to skip: what was
        installed from an address is given by its version, too.
        """
        return rules.installed_pins()

    @property
    def requirements(self) -> list[str]:
        """The requirements, pinned; those lines that could not be read as they are."""
        return list(self._requirements)

    @property
    def constraints(self) -> list[str]:
        """The constraints, as given."""
        return list(self._constraints)

    @property
    def apt_packages(self) -> list[str]:
        """The names of system packages."""
        return list(self._apt_packages)

    @property
    def python_version(self) -> PythonVersion:
        """(major, minor, micro) of the Python that this was made by."""
        return self._python_version

    @property
    def pins(self) -> list[str]:
        """Those of the requirements that can be checked against an environment."""
        return [line for line in self._requirements if rules.is_requirement(line)]

    def to_record(self) -> dict[str, Any]:
        """The environment as JSON values, for a journal."""
        return {
            **super().to_record(),
            "python": str(self._python_version),
            "requirements": list(self._requirements),
            "constraints": list(self._constraints),
            "apt_packages": list(self._apt_packages),
        }

    def __repr__(self) -> str:
        return _listing(
            "Python environment",
            {
                "Python version": [str(self._python_version)],
                "requirements": self._requirements,
                "constraints": self._constraints,
                "environment variables": _assignments(self._env_vars),
                "apt packages": self._apt_packages,
            },
        )


class Docker(_Environment):
    """A container image that a model needs around it. Recorded and checked for form; never pulled or run by us.

    Args:
        repository: the image's repository, such as "registry.example/models/search".
        tag, sha: which image of the repository; one of the two at least. `sha` is a SHA-256 in hexadecimal, with or
            without "sha256:" before it.
        env_vars: as in `Python`.

    Raises:
        TypeError, ValueError: a part of another form.
    """

    _kind = "docker"

    def __init__(
        self,
        repository: str,
        tag: str | None = None,
        sha: str | None = None,
        env_vars: list[str] | dict[str, str] | None = None,
    ) -> None:
        super().__init__(env_vars)
        if tag is None and sha is None:
            raise ValueError("a Docker environment needs a tag or a sha, so that it names one image")
        for name, value, form in (
            ("repository", repository, _IMAGE_NAME),
            ("tag", tag, _IMAGE_TAG),
            ("sha", sha, _IMAGE_DIGEST),
        ):
            if value is None and name != "repository":
                continue
            if not isinstance(value, str):
                raise TypeError(f"{name} must be a str, not {type(value).__name__}")
            if not form.fullmatch(value):
                raise ValueError(f"{name} {value!r} does not have the form of a container image's {name}")
        self._image = {"repository": repository, "tag": tag, "sha": sha}

    @property
    def repository(self) -> str:
        """The image's repository."""
        return str(self._image["repository"])

    @property
    def tag(self) -> str | None:
        """The image's tag, or None."""
        return self._image["tag"]

    @property
    def sha(self) -> str | None:
        """The image's digest, or None."""
        return self._image["sha"]

    def to_record(self) -> dict[str, Any]:
        """The environment as JSON values, for a journal."""
        return {**super().to_record(), **{name: value for name, value in self._image.items() if value is not None}}

    def __repr__(self) -> str:
        parts = {name: [value] for name, value in self._image.items() if value is not None}
        return _listing("Docker environment", {**parts, "environment variables": _assignments(self._env_vars)})


def from_record(record: Mapping[str, Any]) -> Python | Docker:
    """The environment of a record, exactly as it was logged: nothing is pinned or checked again.

    Raises:
        ValueError: a kind that only a later version knows.
    """
    kind = record.get("kind")
    made: Python | Docker
    if kind == Docker._kind:
        made = Docker.__new__(Docker)
        made._image = {name: record.get(name) for name in ("repository", "tag", "sha")}
    elif kind == Python._kind:
        made = Python.__new__(Python)
        made._requirements = list(record.get("requirements", ()))
        made._constraints = list(record.get("constraints", ()))
        made._apt_packages = list(record.get("apt_packages", ()))
        major, minor, micro = (int(part) for part in str(record["python"]).split("."))
        made._python_version = PythonVersion(major, minor, micro)
    else:
        raise ValueError(f"an environment of the kind {kind!r}: upgrade verta_local to read it")
    made._env_vars = dict(record.get("env_vars", {}))
    return made


def check_environment(env: object) -> Python | Docker:
    """Return what may be given to `log_environment`. Raises TypeError for anything else."""
    if isinstance(env, (Python, Docker)):
        return env
    raise TypeError(
        f"`env` must be a verta_local.environment.Python or Docker, not {type(env).__name__}; "
        "for a list of requirements: Python([...])"
    )


def _check_lines(name: str, lines: object) -> list[str]:
    if not isinstance(lines, (list, tuple)) or not all(isinstance(line, str) for line in lines):
        found = type(lines).__name__ if not isinstance(lines, (list, tuple)) else repr(lines)
        raise TypeError(f"`{name}` must be a list of str; found {found}")
    return list(lines)


def _check_env_vars(env_vars: object) -> dict[str, str]:
    if env_vars is None:
        return {}
    if isinstance(env_vars, Mapping):
        found = dict(env_vars)
    elif isinstance(env_vars, (list, tuple)):
        unset = [name for name in env_vars if isinstance(name, str) and name not in os.environ]
        if unset:
            raise ValueError(f"`env_vars` names what is not set here: {', '.join(unset)}; set it, or give a dict")
        found = {name: os.environ[name] if isinstance(name, str) else "" for name in env_vars}
    else:
        raise TypeError(f"`env_vars` must be a list of names or a dict, not {type(env_vars).__name__}")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"`env_vars` must hold str only; found {name!r}: {type(value).__name__}")
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"{name!r} cannot be set as an environment variable")
    return found


def _assignments(env_vars: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in env_vars.items()]


def _listing(title: str, parts: Mapping[str, list[str | None] | list[str]]) -> str:
    lines = [title]
    for name, values in parts.items():
        if values:
            lines += [f"{name}:", *(f"    {value}" for value in values)]
    return "\n".join(lines)
