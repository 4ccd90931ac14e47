"""What a `Client` was told: argument, else environment, else config file. The names are Verta's.

Of the server's address and of the credentials nothing is used: there is no server. They are read, checked and kept,
so that a notebook runs unchanged.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from .config_files import read_config

# What notebooks gave as `host`: an address, never a folder.
_ADDRESS = (
    r"(?i)[a-z][a-z0-9+.-]+://.*|\[?[\w.:-]+\]?:\d+|localhost|\d+\.\d+\.\d+\.\d+"
    r"|([\w-]+\.)+(verta\.ai|com|org|net|edu|gov|io|ai|cloud|internal|local|lan|corp)/?"
)

# Argument -> environment variable.
VARIABLES = {
    "host": "VERTA_HOST",
    "email": "VERTA_EMAIL",
    "dev_key": "VERTA_DEV_KEY",
    "jwt_token": "VERTA_JWT_TOKEN",
    "jwt_token_sig": "VERTA_JWT_TOKEN_SIG",
    "organization_id": "VERTA_ORG_ID",
    "organization_name": "VERTA_ORG_NAME",
    "workspace": "VERTA_WORKSPACE",
}
# Put into the environment when they came from elsewhere, as in Verta: other objects and processes find them there.
_EXPORTED = ("email", "dev_key", "jwt_token", "jwt_token_sig", "organization_id", "organization_name")


class ClientSettings(NamedTuple):
    """The settings of one client. `folder` is the store's, where one was named; `address` that of a server."""

    folder: str | None = None
    reason: str = ""
    address: str | None = None
    workspace: str | None = None
    config: Mapping[str, Any] = {}

    def default_name(self, kind: str) -> str | None:
        """The name of the project, experiment, dataset ... that the config file gives, or None."""
        found = self.config.get(kind)
        return None if found is None else str(found)


def read_settings(arguments: Mapping[str, Any], port: object = None) -> ClientSettings:
    """Looks up each argument that is None in the environment, then in the config file.

    Args:
        arguments: of `VARIABLES`, by name.

    Raises:
        ValueError: only one of email and dev_key; a config file that cannot be read.
        TypeError: an argument that is no text.
    """
    config = read_config()
    found: dict[str, str | None] = {}
    origins: dict[str, str] = {}
    for name, variable in VARIABLES.items():
        given = arguments.get(name)
        if given is not None and not isinstance(given, (str, os.PathLike)):
            raise TypeError(f"{name} must be a str, not {type(given).__name__}")
        origins[name] = "named by the caller"
        if given is None and os.environ.get(variable):
            given, origins[name] = os.environ[variable], f"named by {variable}"
        if given is None and config.get(name) is not None:
            given, origins[name] = str(config[name]), "named by a config file"
        found[name] = None if given is None else os.fspath(given)
    if (found["email"] is None) != (found["dev_key"] is None):
        alone, other = ("email", "dev_key") if found["email"] else ("dev_key", "email")
        raise ValueError(
            f"`{alone}` was given without `{other}`; give both or, since verta_local has no server, neither "
            f"(see also {VARIABLES['email']}, {VARIABLES['dev_key']} and the config file)"
        )
    for name in _EXPORTED:
        if found[name] is not None:
            os.environ[VARIABLES[name]] = str(found[name])
    host = found["host"]
    if port is not None:
        warnings.warn(
            "`port` (the second argument) will be removed; write host:port as `host`", FutureWarning, stacklevel=3
        )
        host = f"{host or 'localhost'}:{port}"
    folder, address = (None, host) if host and _is_address(host, origins["host"]) else (host or None, None)
    return ClientSettings(folder, origins["host"], address, found["workspace"], config)


def _is_address(host: str, origin: str) -> bool:
    if os.path.isdir(host) or os.path.isabs(host):
        return False
    if re.fullmatch(_ADDRESS, host):
        return True
    # Only the caller's own word may be the name of a new folder beside him: what was set up for a server may not.
    return origin != "named by the caller" and not re.match(r"[~./\\]|[A-Za-z]:[\\/]", host)
