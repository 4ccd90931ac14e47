"""`verta_config.yaml` and `verta_config.json`: found upwards from the current folder and merged. As in Verta."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from .errors import MissingExtra, VertaLocalError

FILE_NAMES = ("verta_config.yaml", "verta_config.json")
# Non-empty: no config file is looked for.
DISABLE_VARIABLE = "VERTA_DISABLE_CLIENT_CONFIG"


class ConfigError(VertaLocalError, ValueError):
    """A config file that cannot be read as one; `path` names it."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message, path)
        self.path = path


def read_config() -> dict[str, Any]:
    """The merged content of every config file that counts here; {} without one.

    As in Verta: every folder from the current one up to the root, then `~/.verta`. A value of a nearer file wins;
    dicts are merged key by key, lists are joined, the nearer one's items first. In one folder the YAML file counts
    before the JSON file. A file or folder that may not be read is passed over.

    Raises:
        ValueError: a file that is no YAML or JSON, or holds something else than keys and values.
        ImportError: a YAML file, and PyYAML is not installed.
    """
    if os.environ.get(DISABLE_VARIABLE):
        return {}
    merged: dict[str, Any] = {}
    for path in find_config_files():
        merged = _merged(merged, _read(path))
    return merged


def find_config_files() -> Iterator[str]:
    """The paths of the config files that count here, the nearest first."""
    for folder in _folders():
        for name in FILE_NAMES:
            path = os.path.join(folder, name)
            if os.access(path, os.R_OK) and os.path.isfile(path):
                yield path


def _folders() -> Iterator[str]:
    try:
        folder = os.getcwd()
    except FileNotFoundError:  # it was deleted
        folder = ""
    while folder:
        yield folder
        above = os.path.dirname(folder)
        folder = above if above != folder else ""
    yield os.path.join(os.path.expanduser("~"), ".verta")


def _read(path: str) -> Mapping[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError:
        return {}
    except UnicodeDecodeError as error:
        raise ConfigError(f"the config file {path} is not text in UTF-8 ({error}); write it anew", path) from None
    found = parse_yaml(text, path) if path.endswith(".yaml") else parse_json(text, path)
    if found is None:
        return {}  # an empty YAML file
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ConfigError(f"the config file {path} must hold keys and values such as `project: name`", path)
    return found


def parse_json(text: str, path: str) -> object:
    """What a text of JSON holds. Raises ConfigError, naming `path`."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the config file {path} is not JSON ({error}); correct it, or delete it", path) from None


def parse_yaml(text: str, path: str) -> object:
    """What a text of YAML holds. Raises ConfigError, naming `path`; ImportError without PyYAML."""
    try:
        import yaml  # noqa: PLC0415 - start-up time: only where there is such a file
    except ImportError as error:
        raise MissingExtra(
            f"the config file {path} needs PyYAML; install it with: pip install pyyaml, or write the file as "
            f"verta_config.json, or set {DISABLE_VARIABLE}=1"
        ) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"the config file {path} is not YAML ({reason}); correct it, or delete it", path) from None


def _merged(nearer: Mapping[str, Any], farther: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(nearer)
    for key, value in farther.items():
        ours = merged.get(key)
        if ours is None:
            merged[key] = value
        elif isinstance(ours, dict) and isinstance(value, dict):
            merged[key] = _merged(ours, value)
        elif isinstance(ours, list) and isinstance(value, list):
            merged[key] = [*ours, *value]
    return merged
