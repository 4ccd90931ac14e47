"""Python environments of their own for models whose requirements the serving environment does not meet.

One a set of (Python, pins), made once and used by every model that needs the same: `<cache>/environments/<key>/`,
complete when it has `ready.json`. Made by uv where it is installed (from its cache first, then from the index that
is configured), else by venv and pip. The models there get this package itself from where the server has it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from verta_local import config
from verta_local.interpreter import Interpreter
from verta_store.files import make_private_folder

_MARKER = "ready.json"
_LIMIT_S = 1800.0  # for one step of an installer: a GPU build of PyTorch over a slow line
_TELLING_LIMIT_S = 60.0
_PIP_WITH_PYTHON_OPTION = (22, 3)
_LENT = ("verta-local", "cloudpickle")  # the model has these from the server's environment


class CannotPrepare(Exception):
    """The environment cannot be made; the message says what is missing, and is for the user."""


def environment_for(
    wanted: dict[str, Any],
    base: Interpreter,
    requirements: Sequence[str],
    say: Callable[[str], None],
    constraints: Sequence[str] = (),
    lines: Sequence[str] = (),
) -> Interpreter:
    """The interpreter of an environment with these pinned requirements, made now unless it is there already.

    `constraints` and `lines` are those of pip's files: what `environment.Python` was given, options and addresses.
    `wanted` is what the model's process reported: {"missing": [pin and what is there instead, ...], "python": "3.11"
    or ""}. `say` is given a line for the model's log now and then. Takes a second to many minutes.
    Raises: CannotPrepare.
    """
    from filelock import FileLock  # noqa: PLC0415 - start-up time, and seldom needed

    pins = sorted(pin for pin in requirements if _name_of(pin) not in _LENT)
    python = _find_python(str(wanted.get("python") or ""), base)
    version = wanted.get("python") or _version_of(base.executable)
    more = {"constraints": list(constraints), "lines": list(lines)} if constraints or lines else None
    parts = [version, platform.machine(), *pins, *([more] if more else [])]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    parent = Path(config.cache_dir()) / "environments"
    folder = parent / key
    try:
        make_private_folder(parent)
        with FileLock(parent / f"{key}.lock"):
            if not (folder / _MARKER).exists():
                say(f"making an environment for {', '.join(pins)}")
                start = time.monotonic()
                _make(folder, python, pins, wanted, base, more or {})
                say(f"the environment is ready after {time.monotonic() - start:.1f} s")
    except OSError as error:
        raise CannotPrepare(
            f"cannot make the model's environment in {parent} ({error.strerror or error}): make room, or set "
            "VERTA_LOCAL_CACHE to another folder"
        ) from None
    scripts = folder / ("Scripts" if sys.platform == "win32" else "bin")
    environment = {name: value for name, value in base.environment.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment["VIRTUAL_ENV"] = str(folder)
    environment["PATH"] = os.pathsep.join([str(scripts), *filter(None, [base.environment.get("PATH")])])
    return base._replace(executable=str(_python_in(folder)), environment=environment, is_own=True)


def _make(
    folder: Path, python: str, pins: list[str], wanted: dict[str, Any], base: Interpreter, more: dict[str, list[str]]
) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of a maker that was killed
    installer = _Uv(folder, python, base) if shutil.which("uv") else _Pip(folder, python, base)
    try:
        installer.make()
        for name, option in (("constraints", "-c"), ("lines", "-r")):
            if more.get(name):
                file = folder / f"{name}.txt"
                file.write_text("\n".join(more[name]) + "\n", encoding="utf-8")
                installer.options += [option, str(file)]
        said = installer.install(pins)
        if said is not None:
            raise CannotPrepare(_why(installer, pins, wanted, said))
        content = json.dumps({"pins": pins, "python": python, "made_at": time.time()})
        temporary = folder / f".{_MARKER}"
        temporary.write_text(content)
        os.replace(temporary, folder / _MARKER)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _why(installer: _Installer, pins: list[str], wanted: dict[str, Any], said: str) -> str:
    """One sentence that names all that cannot be had: asks for each pin alone, an installer names only the first."""
    deadline = time.monotonic() + _TELLING_LIMIT_S
    lacking = []
    for pin in pins:
        if time.monotonic() > deadline or installer.install([pin], alone=True) is not None:
            lacking.append(pin)
    needs = f"the model needs what is not installed here: {', '.join(wanted.get('missing') or pins)}"
    if not lacking:
        return f"{needs}; an environment of its own cannot be made, because its requirements contradict:\n{said}"
    return (
        f"{needs}; an environment of its own cannot be made, because these cannot be had: {', '.join(lacking)}; "
        "connect to the package index once, or name a folder of wheels in PIP_FIND_LINKS (UV_FIND_LINKS for uv)"
    )


class _Installer:
    def __init__(self, folder: Path, python: str, base: Interpreter) -> None:
        self._folder = folder
        self._python = python
        self._base = base
        self.options: list[str] = []

    def make(self) -> None:
        """An empty environment. Raises: CannotPrepare."""
        raise NotImplementedError

    def install(self, pins: list[str], alone: bool = False) -> str | None:
        """Installs, with what the pins need unless `alone`; None, or the installer's last words."""
        raise NotImplementedError

    def _run(self, command: list[str]) -> str | None:
        environment = {**self._base.environment, "UV_PYTHON_DOWNLOADS": "never", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        environment.pop("PYTHONPATH", None)
        try:
            done = subprocess.run(
                command,
                cwd=self._folder.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            return f"it did not end within {_LIMIT_S:.0f} s"
        if done.returncode == 0:
            return None
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
        return "\n".join(lines[-8:]) or f"it ended with exit code {done.returncode}"

    def _must(self, command: list[str]) -> None:
        said = self._run(command)
        if said is not None:
            raise CannotPrepare(f"cannot make an environment for the model:\n{said}")


class _Uv(_Installer):
    """Links from its cache: a fraction of a second where the wheels were used before."""

    def make(self) -> None:
        self._must(["uv", "venv", "--quiet", "--no-project", "--python", self._python, str(self._folder)])

    def install(self, pins: list[str], alone: bool = False) -> str | None:
        command = ["uv", "pip", "install", "--quiet", "--python", str(_python_in(self._folder))]
        more = [*(["--no-deps"] if alone else []), *self.options, *pins]
        if self._run([*command, "--offline", *more]) is None:
            return None
        return self._run([*command, *more])


class _Pip(_Installer):
    """The pip of the serving environment, or where it has none (or an old one) a pip in the new one."""

    def make(self) -> None:
        self._outer = _pip_version(self._base) >= _PIP_WITH_PYTHON_OPTION
        more = ["--without-pip"] if self._outer else []
        self._must([self._python, "-m", "venv", *more, str(self._folder)])

    def install(self, pins: list[str], alone: bool = False) -> str | None:
        inside = str(_python_in(self._folder))
        pip = [self._base.executable, "-m", "pip", "--python", inside] if self._outer else [inside, "-m", "pip"]
        options = ["install", "--quiet", "--no-input", "--retries", "1", *(["--no-deps", "--dry-run"] if alone else [])]
        wanted = [*self.options, *pins]
        return self._run([*pip, *options, *wanted]) if wanted else None


def _pip_version(base: Interpreter) -> tuple[int, ...]:
    try:
        done = subprocess.run(
            [base.executable, "-m", "pip", "--version"],
            capture_output=True,
            text=True,
            timeout=60,
            env=base.environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.match(r"pip (\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else ()


def _find_python(version: str, base: Interpreter) -> str:
    """The program of a Python of that minor version; '' asks for the one of `base`. Raises: CannotPrepare."""
    if not version or version == _version_of(base.executable):
        return base.executable
    on_path = shutil.which(f"python{version}", path=base.environment.get("PATH"))
    if on_path is not None:
        return on_path
    if shutil.which("uv"):
        environment = {**base.environment, "UV_PYTHON_DOWNLOADS": "never"}
        command = ["uv", "python", "find", "--no-project", version]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip()
    raise CannotPrepare(
        f"the model was logged by Python {version} with the bytecode of its functions, and no Python {version} is "
        "installed here: install it, or define the model in a module file and log it again"
    )


def _version_of(executable: str) -> str:
    if executable == sys.executable:
        return f"{sys.version_info[0]}.{sys.version_info[1]}"
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([executable, "-c", code], capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


def _python_in(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _name_of(pin: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[=<>!~;@]", pin, maxsplit=1)[0]).lower()
