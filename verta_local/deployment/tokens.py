"""The tokens of this user's deployments on this host, kept so that a model has the same one after a restart.

One private file (mode 0600, in the user's own state folder, never in the store): "<store id>/<run id>", or
"<store id>/<project id>/<path>", -> token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from verta_local import config
from verta_local.private_file import write_private

_FILE = "tokens.json"


def kept_token(spec: dict[str, Any], path: str | None) -> str | None:
    """The token that the deployment of a model spec at a path (or at its run's id) has, or had last; None without."""
    return _read().get(_name(spec, path))


def keep_token(spec: dict[str, Any], path: str | None, token: str | None) -> None:
    """Remembers a token; None forgets it. Call with the start lock held. Raises: OSError."""
    tokens = _read()
    before = dict(tokens)
    if token is None:
        tokens.pop(_name(spec, path), None)
    else:
        tokens[_name(spec, path)] = token
    if tokens == before:
        return
    write_private(_path(), json.dumps(tokens).encode("ascii"))


def _name(spec: dict[str, Any], path: str | None) -> str:
    place = spec["run_id"] if path is None else f"{spec.get('project_id')}/{path.strip('/')}"
    return f"{spec.get('store_id')}/{place}"


def _path() -> Path:
    return config.serving_dir() / _FILE


def _read() -> dict[str, str]:
    try:
        found = json.loads(_path().read_bytes())
        return {str(key): str(token) for key, token in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}  # none yet, or damaged: then new ones are made
