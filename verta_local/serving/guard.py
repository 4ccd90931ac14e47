"""Who may speak to the server: the Host and Origin rules against web pages of other sites, and the answer headers.

A page in the user's browser can send requests to 127.0.0.1. Two things give it away: the Host header still names the
page's own site when a name was re-bound to 127.0.0.1, and Origin or Sec-Fetch-Site name the page that sends.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any, Protocol

# On every answer, errors too.
SECURITY_HEADERS = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'none'; "
        "base-uri 'none'; form-action 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
]
# Of the statuses that we answer (`http.HTTPStatus` would be a start-up time of its own).
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    410: "Gone",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
}
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_SAME_SITE = frozenset({"same-origin", "none"})  # "none": typed into the address bar


class Guard:
    """The rules for a server on `host` and `port`; `extra_hosts` are further `name:port` for it, "*" is any.

    Any name is for servers behind a proxy, which have tokens: a page that re-binds its name does not know them.
    """

    def __init__(self, host: str, port: int, extra_hosts: tuple[str, ...] = ()) -> None:
        self._port = port
        self._open_to_network = not is_loopback(host)
        self._takes_any = "*" in extra_hosts
        names = {"127.0.0.1", "localhost", "[::1]"}
        names.add(f"[{host}]" if ":" in host else host)
        if self._open_to_network:
            names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._hosts = frozenset({f"{name.lower()}:{port}" for name in names} | {name.lower() for name in extra_hosts})
        self._origins = frozenset(f"http://{name}" for name in self._hosts)

    def refusal(self, environ: dict[str, Any]) -> str | None:
        """Why a request is refused with 403, or None when it may pass."""
        host = environ.get("HTTP_HOST", "")
        if host not in self._hosts and not self._is_allowed_host(host.lower()):
            return "this server is not reached by that Host name: use the URL that it printed"
        if environ["REQUEST_METHOD"] not in _SAFE_METHODS:
            origin = environ.get("HTTP_ORIGIN")
            if origin is not None and origin.lower() not in self._origins:
                return "a web page of another site may not send this"
            if environ.get("HTTP_SEC_FETCH_SITE", "none") not in _SAME_SITE:
                return "a web page of another site may not send this"
        return None

    def _is_allowed_host(self, host: str) -> bool:
        if host in self._hosts or self._takes_any:
            return True
        if not self._open_to_network:
            return False
        # Bound to the network on purpose: an address (unlike a name) cannot have been re-bound by a page.
        address, _, port = host.rpartition(":")
        if port != str(self._port):
            return False
        try:
            ipaddress.ip_address(address.strip("[]"))
        except ValueError:
            return False
        return True


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that is bound to `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class HasTokens(Protocol):
    """What is protected by tokens, each of which opens it, or by none."""

    @property
    def tokens(self) -> tuple[str, ...]: ...


def token_refusal(environ: dict[str, Any], protected: HasTokens) -> str | None:
    """Why a request is refused with 401, or None: it has the token in Access-Token, or as a bearer's."""
    wanted = protected.tokens
    if not wanted:
        return None
    given = _given_token(environ)
    if not given:
        return "the header Access-Token is missing"
    return None if _is_one_of(given, wanted) else "the Access-Token is not the one of this model"


def has_any_token(environ: dict[str, Any], tokens: Iterable[str]) -> bool:
    """Whether a request has one of the tokens: as for `token_refusal`, or as the password that a browser asks for."""
    given = _given_token(environ) or _given_password(environ)
    return bool(given) and _is_one_of(given, tokens)


def _given_token(environ: dict[str, Any]) -> str:
    given = str(environ.get("HTTP_ACCESS_TOKEN", ""))
    if given:
        return given
    scheme, _, bearer = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    return str(bearer).strip() if scheme.lower() == "bearer" else ""


def _given_password(environ: dict[str, Any]) -> str:
    scheme, _, credentials = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        text = base64.b64decode(credentials.strip(), validate=True).decode("utf-8")
    except ValueError:  # of base64, or of UTF-8
        return ""
    return text.partition(":")[2]


def _is_one_of(given: str, tokens: Iterable[str]) -> bool:
    return any([token_matches(given, each) for each in tokens])  # a list: all are compared


def token_matches(given: str, wanted: str) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode("utf-8"))
