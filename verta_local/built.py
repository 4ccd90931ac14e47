"""A model as a folder that serves without its store: made by `verta-local build`, served by the `serve.py` in it.

    serve.py              serves the model: python serve.py
    spec.json             what is to be loaded, by digest
    store/                the model, its modules and artifacts, as objects of a store, checked against their digests
    lib/                  this package
    requirements.txt      the model's pinned requirements, and those of this package
    Dockerfile, kserve.yaml, README.md

No value of an environment variable, no token and no path of the machine is in it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verta_store import Store, open_store

from . import config
from .built_files import SPEC_FILE, STORE_FOLDER, dockerfile, kserve_manifest, readme, serve_program
from .installed import canonical
from .trust import own_author

_KEPT_OF_STORE = ("store.json", "objects", "trees")
_VERSION = 1
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_OWN_PACKAGES = ("verta_local", "verta_store")
_NEVER_PINNED = ("pip", "setuptools")  # they install, and are there
_OWN_NEEDS = ("cloudpickle", "filelock", "flask", "packaging", "sqlite-utils", "waitress")


def build(store: Store, spec: Mapping[str, Any], target: str | os.PathLike[str]) -> Path:
    """Writes the folder of a model spec, whole or not at all; returns its path.

    Raises:
        FileExistsError: there is something at `target` already.
        MissingObject, CorruptObject: the store does not hold what was logged.
        OSError: the folder cannot be written.
    """
    folder = Path(target).absolute()
    if folder.exists():
        raise FileExistsError(f"{folder} exists already: give a new folder, or remove that one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.parent / f".{folder.name}-{secrets.token_hex(8)}"
    made.mkdir()  # and no tempfile.mkdtemp: its mode is that of any folder that this user makes
    try:
        _write_objects(store, spec, made)
        content = _portable(spec)
        (made / SPEC_FILE).write_text(json.dumps(content, indent=1) + "\n")
        (made / "requirements.txt").write_text("".join(f"{line}\n" for line in _requirements(spec)))
        for name in _OWN_PACKAGES:
            source = Path(importlib.import_module(name).__file__ or "").parent
            shutil.copytree(source, made / "lib" / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        (made / "serve.py").write_text(serve_program())
        (made / "Dockerfile").write_text(dockerfile(content))
        (made / "kserve.yaml").write_text(kserve_manifest(content))
        (made / "README.md").write_text(readme(content))
        _make_readable(made)
        made.rename(folder)
    except BaseException:
        _remove(made)
        raise
    return folder


def built_by_this_user(folder: str | os.PathLike[str]) -> bool:
    """Whether the folder's files belong to the user of this process: code in it runs as that user."""
    return not hasattr(os, "getuid") or os.stat(os.path.join(folder, SPEC_FILE)).st_uid == os.getuid()


def read_spec(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The model spec of a folder, for the loader. Whoever calls this trusts the folder: its code is run.

    Raises: ValueError for what is no such folder, or one of a newer version.
    """
    try:
        content = json.loads((Path(folder) / SPEC_FILE).read_bytes())
        version = content.pop("built_version")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder} is no folder that `verta-local build` made ({error})") from None
    if version != _VERSION:
        raise ValueError(f"{folder} was built in version {version}, and this verta_local reads version {_VERSION}")
    unset = [name for name in content.pop("env_names") if name not in os.environ]
    if unset:
        raise ValueError(f"the model was logged with environment variables that are not set here: {', '.join(unset)}")
    own = own_author()
    for part in ("custom_modules", "setup_script"):
        if content.get(part):
            content[part]["author"] = own
    return {
        **content,
        "author": own,
        "installs": [],
        "env_vars": {},
        "store": os.path.realpath(Path(folder) / STORE_FOLDER),
        "cache_dir": os.fspath(config.cache_dir()),
    }


def _portable(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec without what belongs to this machine, its user, or his secrets."""
    left_out = {"store", "cache_dir", "author", "installs", "env_vars"}
    content = {name: value for name, value in spec.items() if name not in left_out}
    for part in ("custom_modules", "setup_script"):
        if content.get(part):
            content[part] = {name: value for name, value in content[part].items() if name != "author"}
    for part in ("requirements", "install_lines", "constraints"):
        content[part] = [_CREDENTIALS.sub("", line) for line in content.get(part) or ()]
    names = sorted(spec.get("env_vars") or {})
    return {"built_version": _VERSION, **content, "env_names": names}


def _write_objects(store: Store, spec: Mapping[str, Any], made: Path) -> None:
    """Copies the model, its modules, script and artifacts into a store of their own, whole and checked."""
    parts = [dict(spec["model"])]
    parts += [{**part, "name": "part"} for part in (spec.get("custom_modules"), spec.get("setup_script")) if part]
    parts += list(spec["artifacts"].values())
    with tempfile.TemporaryDirectory(prefix="verta_local-build-") as cache:
        own = open_store(made / STORE_FOLDER, cache, create=True)
        try:
            for part in parts:
                kind, digest = part.get("kind", "blob"), part["digest"]
                if kind not in ("blob", "tree"):
                    continue  # only the text of a path was logged
                store.check(kind, digest)
                path = store.path_of(kind, digest, part["name"])
                copied = own.put_tree(path) if kind == "tree" else own.put_file(path)
                if copied.digest != digest:
                    raise RuntimeError(f"the copy of {digest} came out as {copied.digest}")
        finally:
            own.close()
    for name in os.listdir(made / STORE_FOLDER):
        if name not in _KEPT_OF_STORE:  # leases and the like, which name this machine; made again where needed
            shutil.rmtree(made / STORE_FOLDER / name)


def _make_readable(folder: Path) -> None:
    """Lets everybody read what is in the folder: a container runs as some user whom nobody here knows.

    (Who may enter the folder itself on this machine, its own mode says. A store's folders are private otherwise.)
    """
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = os.path.join(place, name)
            mode = os.stat(path).st_mode
            os.chmod(path, mode | (0o555 if mode & 0o100 else 0o444))


def _requirements(spec: Mapping[str, Any]) -> list[str]:
    """The model's pins; then what this package needs, as it is installed here, where the model does not pin it."""
    pins = list(spec.get("requirements") or ())
    named = {_plain_name(pin) for pin in pins}
    pins += [pin for name, pin in sorted(_own_pins().items()) if name not in named]
    lines = [*(spec.get("install_lines") or ()), *(pin for pin in pins if _plain_name(pin) != "verta-local")]
    return [_CREDENTIALS.sub("", line) for line in lines]


def _own_pins() -> dict[str, str]:
    """Plain name -> pin of all that this package needs to serve, and of what that needs: next year's are others."""
    from packaging.requirements import Requirement  # noqa: PLC0415 - start-up time

    found: dict[str, str] = {}
    wanted = list(_OWN_NEEDS)
    while wanted:
        name = _plain_name(wanted.pop())
        if name in found or name in _NEVER_PINNED:
            continue
        distribution = importlib.metadata.distribution(name)
        found[name] = f"{name}=={distribution.version}"
        needs = map(Requirement, distribution.requires or ())
        wanted += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def _plain_name(requirement: str) -> str:
    return canonical(re.split(r"[\s\[=<>!~;@]", requirement, maxsplit=1)[0])


def _remove(folder: Path) -> None:
    for place, folders, _ in os.walk(folder):
        for name in (".", *folders):
            os.chmod(os.path.join(place, name), 0o700)  # the folders of a store may be read-only
    shutil.rmtree(folder, ignore_errors=True)
