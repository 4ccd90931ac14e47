"""Credentials of a Verta server, kept for code that makes them; nothing here needs any. As `verta.credentials`."""

from __future__ import annotations

import os
from typing import ClassVar

from .client_settings import VARIABLES

_ORGANIZATION = ("organization_id", "organization_name")
_PREFIX = "Grpc-Metadata-"


class Credentials:
    """What the two kinds have in common. Two of the same kind and values are equal; `repr` shows no secret."""

    # Argument -> names of the headers, without their prefix.
    _HEADERS: ClassVar[dict[str, tuple[str, ...]]] = {}
    _SOURCE = "PythonClient"

    def headers(self) -> dict[str, str]:
        """The HTTP headers that Verta's servers take."""
        found = {f"{_PREFIX}source": self._SOURCE}
        for argument, names in self._HEADERS.items():
            found.update(dict.fromkeys((_PREFIX + name for name in names), getattr(self, argument)))
        found.update(
            {f"{_PREFIX}{name.replace('_', '-')}": getattr(self, name) for name in _ORGANIZATION if getattr(self, name)}
        )
        return found

    def export_env_vars_to_os(self) -> None:
        """Puts them into the environment variables of Verta."""
        for name, value in vars(self).items():
            if value is not None:
                os.environ[VARIABLES[name]] = value

    @staticmethod
    def load_from_os_env() -> Credentials | None:
        """Those of the environment variables of Verta, or None."""
        return load_from_os_env()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}=...' for name, value in vars(self).items() if value)})"


class EmailCredentials(Credentials):
    """An email address and a developer key."""

    _HEADERS: ClassVar[dict[str, tuple[str, ...]]] = {
        "email": ("email",),
        "dev_key": ("developer_key", "developer-key"),
    }

    def __init__(
        self, email: str, dev_key: str, organization_id: str | None = None, organization_name: str | None = None
    ) -> None:
        self.email, self.dev_key = email, dev_key
        self.organization_id, self.organization_name = organization_id, organization_name


class JWTCredentials(Credentials):
    """A JSON web token and its signature."""

    _SOURCE = "JWT"
    _HEADERS: ClassVar[dict[str, tuple[str, ...]]] = {
        "jwt_token": ("bearer_access_token",),
        "jwt_token_sig": ("bearer_access_token_sig",),
    }

    def __init__(
        self,
        jwt_token: str,
        jwt_token_sig: str,
        organization_id: str | None = None,
        organization_name: str | None = None,
    ) -> None:
        self.jwt_token, self.jwt_token_sig = jwt_token, jwt_token_sig
        self.organization_id, self.organization_name = organization_id, organization_name


def load_from_os_env() -> Credentials | None:
    """The credentials of the environment variables `VERTA_EMAIL` and `VERTA_DEV_KEY`, or `VERTA_JWT_TOKEN` and
    `VERTA_JWT_TOKEN_SIG`; None where neither pair is there."""
    organization = {name: os.environ.get(VARIABLES[name]) for name in _ORGANIZATION}
    email, dev_key, token, signature = (
        os.environ.get(VARIABLES[name]) for name in ("email", "dev_key", "jwt_token", "jwt_token_sig")
    )
    if email and dev_key:
        return EmailCredentials(email, dev_key, **organization)
    if token and signature:
        return JWTCredentials(token, signature, **organization)
    return None
