"""Time, randomness and names: the one room they come from, so that a test can replace the clock.

The rules of entity ids and of the clock are in `store/README.md`, sections "Ids" and "Order".
"""

from __future__ import annotations

import hashlib
import os
import re
import time

# A record's clock is milliseconds since 1970 shifted by this many bits, plus a counter: exact in a double, which is
# what other JSON tools read numbers into, until the year 2039; exact as an integer for ever.
CLOCK_BITS = 12

# A clock this far ahead of the wall is a broken one: its records wait, and they do not move our own clock.
FUTURE_LIMIT_MS = 24 * 3600 * 1000


def now_ms() -> int:
    """Milliseconds since 1970-01-01 UTC by this host's clock."""
    return time.time_ns() // 1_000_000


def random_hex(characters: int) -> str:
    """`characters` random hexadecimal digits, from the operating system's source."""
    return os.urandom((characters + 1) // 2).hex()[:characters]


def utc_stamp(at_ms: int) -> str:
    """`20261122t121501` for a time in milliseconds: sorts by time, legal in every file system's names."""
    return time.strftime("%Y%m%dt%H%M%S", time.gmtime(at_ms / 1000))


def entity_id(kind: str, parent: str | None, name: str, generation: int) -> str:
    """The id of an entity: the same on every host for the same kind, parent, name and generation.

    Returns a UUID in text form, version 8 (RFC 9562: custom, here the head of a SHA-256).
    """
    # NUL cannot be confused with a part of the text: each part carries its length in front.
    parts = (kind, parent or "", name, str(generation))
    seed = b"".join(b"%d:%s," % (len(p), p) for p in (part.encode("utf-8", "surrogatepass") for part in parts))
    return _uuid(hashlib.sha256(b"verta_local entity " + seed).digest(), version=8)


def random_uuid() -> str:
    """A random UUID in text form, version 4; the library `uuid` would bring `platform` to each first run."""
    return _uuid(os.urandom(16), version=4)


def _uuid(data: bytes, *, version: int) -> str:
    digits = bytearray(data[:16])
    digits[6] = digits[6] & 0x0F | version << 4
    digits[8] = digits[8] & 0x3F | 0x80
    text = digits.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def user_name() -> str:
    """The login name of the person who runs this process, or the numeric id, or 'unknown'."""
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        if os.environ.get(variable):
            return os.environ[variable]
    if hasattr(os, "getuid"):
        try:
            import pwd  # noqa: PLC0415 - absent on Windows

            return pwd.getpwuid(os.getuid()).pw_name
        except (ImportError, KeyError):
            return str(os.getuid())
    return "unknown"


def host_name() -> str:
    """This host's name, as the network knows it. `VERTA_LOCAL_HOST` wins: for containers, which get another name at
    each start and so would look like another host each time.
    """
    named = os.environ.get("VERTA_LOCAL_HOST")
    if named:
        return named
    if hasattr(os, "uname"):
        return os.uname().nodename or "unknown"
    import socket  # noqa: PLC0415 - start-up time

    return socket.gethostname() or "unknown"


def host_id() -> str:
    """A folder-name-safe id of (host, user): the host's name for the eye and eight digits against twins."""
    seed = f"{_machine_id()}\0{host_name()}\0{user_name()}".encode("utf-8", "surrogatepass")
    readable = re.sub(r"[^a-z0-9]+", "-", host_name().lower()).strip("-")[:40] or "host"
    return f"{readable}-{hashlib.sha256(seed).hexdigest()[:8]}"


def _machine_id() -> str:
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            with open(path, "rb") as file:
                return file.read().decode("ascii").strip()
        except (OSError, ValueError):
            continue
    return ""


class HybridClock:
    """Hands out strictly rising record times that never run behind what was seen of other writers.

    A hybrid logical clock (Kulkarni et al., 2014): the wall clock where it advances, else the last time plus one.
    """

    def __init__(self) -> None:
        self.last = 0

    def tick(self) -> tuple[int, int]:
        """Returns (record time, wall clock in ms). Not locked: the caller holds the journal's lock."""
        wall = time.time_ns() // 1_000_000
        time_now = wall << CLOCK_BITS
        if time_now <= self.last:
            time_now = self.last + 1
        self.last = time_now
        return time_now, wall

    def observe(self, seen: int) -> None:
        """Moves on to a record time read from another writer, unless it lies more than a day ahead."""
        if seen > self.last and not is_future(seen):
            self.last = seen


def is_future(record_time: int) -> bool:
    """Whether a record's time lies more than 24 h ahead of this host's wall clock."""
    return record_time >> CLOCK_BITS > now_ms() + FUTURE_LIMIT_MS


def milliseconds(record_time: int) -> int:
    """The wall part of a record's time, in milliseconds since 1970."""
    return record_time >> CLOCK_BITS
