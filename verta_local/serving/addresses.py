"""Whether a server can be told to listen on a host and port, said in a sentence of ours."""

from __future__ import annotations

import socket


def check_address(host: str, port: int) -> None:
    """Raises ValueError for what is no host or port.

    The system takes a port modulo 65536, and waitress says 'Invalid host/port specified.' of all else.
    """
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise ValueError(f"a port is a whole number from 0 (any free one) to 65535, not {port!r:.100}")
    try:
        if not host.strip():
            raise ValueError
        if host != "*":
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError):  # ValueError: no text at all, a null character, a name that no DNS can hold
        raise ValueError(
            f"no host is known by the name {host!r:.300}: give 127.0.0.1, or an address of this machine"
        ) from None
