"""Settings, read once: argument > environment > config file > default; passed down as plain values."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Three folders of this user on this host; as text where `Client()` needs them, because `pathlib` alone costs 8 ms
# to import. Written out here instead of taken from a library, because they are on
# the path of `Client()`: the library for it costs 24 ms of CPU to import where a whole first run is to cost 100.


def cache_dir() -> str:
    """The folder of what can be deleted at any time (index, verified-object cache). `VERTA_LOCAL_CACHE` wins."""
    return _user_folder("VERTA_LOCAL_CACHE", "XDG_CACHE_HOME", ".cache", "Library/Caches", "Cache")


def state_dir() -> Path:
    """The folder of this host's deployments, tokens and logs; private to the user. `VERTA_LOCAL_STATE` wins."""
    from pathlib import Path  # noqa: PLC0415 - start-up time

    return Path(
        _user_folder("VERTA_LOCAL_STATE", "XDG_STATE_HOME", ".local/state", "Library/Application Support", "State")
    )


def serving_dir() -> Path:
    """Where serving processes of this user on this host keep their state; homes may be shared between hosts."""
    import socket  # noqa: PLC0415 - start-up time

    name = re.sub(r"[^a-z0-9._-]", "_", socket.gethostname().lower())[:100] or "host"
    return state_dir() / "serving" / name


def data_dir() -> str:
    """The folder of the user's default store. `VERTA_LOCAL_DATA` wins."""
    return _user_folder("VERTA_LOCAL_DATA", "XDG_DATA_HOME", ".local/share", "Library/Application Support", "Data")


def _user_folder(own_variable: str, xdg_variable: str, linux: str, macos: str, windows: str) -> str:
    """Follows the XDG base directory specification on Linux, the platform's custom elsewhere."""
    own = os.environ.get(own_variable)
    if own:
        return os.path.abspath(own)
    if sys.platform != "win32" and os.path.expanduser("~") == "~":
        raise RuntimeError(
            f"this user has no home folder (HOME is not set); name a folder in the environment variable {own_variable}"
        )
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~\\AppData\\Local")
        return os.path.join(local, "verta_local", windows)
    if sys.platform == "darwin":
        return os.path.join(os.path.expanduser("~"), macos, "verta_local")
    base = os.environ.get(xdg_variable, "")
    # The specification: a relative path in these variables is to be ignored.
    return os.path.join(base if os.path.isabs(base) else os.path.join(os.path.expanduser("~"), linux), "verta_local")


# A store's folder in a project of the user's, found from any folder below it.
STORE_FOLDER = ".verta_local"


def choose_store(
    argument: str | os.PathLike[str] | None = None, configured: str | None = None, configured_by: str = ""
) -> tuple[str, str]:
    """Which folder holds the store, and why: (path, reason as a few words).

    The argument, else `VERTA_LOCAL_STORE`, else a `configured` folder, else the nearest `.verta_local/` from the
    current folder upwards, else one in the user's data folder.
    """
    if argument is not None and os.fspath(argument) != "":
        return os.path.abspath(os.path.expanduser(argument)), "named by the caller"
    named = os.environ.get("VERTA_LOCAL_STORE")
    if named:
        return os.path.abspath(os.path.expanduser(named)), "named by VERTA_LOCAL_STORE"
    if configured:
        return os.path.abspath(os.path.expanduser(configured)), configured_by
    try:
        folder = os.getcwd()
    except FileNotFoundError:  # the current folder was deleted
        folder = os.sep
    while True:
        candidate = os.path.join(folder, STORE_FOLDER)
        if os.path.isfile(os.path.join(candidate, "store.json")):
            return candidate, f"the nearest {STORE_FOLDER}"
        if os.path.dirname(folder) == folder:
            return os.path.join(data_dir(), "store"), "your default store"
        folder = os.path.dirname(folder)


def choose_durability(argument: str | None = None) -> str:
    """ "normal" or "full": the argument, else `VERTA_LOCAL_DURABILITY`, else "normal".

    Raises:
        ValueError: another word.
    """
    chosen = argument or os.environ.get("VERTA_LOCAL_DURABILITY") or "normal"
    if chosen not in ("normal", "full"):
        raise ValueError(f"durability is 'normal' or 'full', not {chosen!r}; check VERTA_LOCAL_DURABILITY")
    return chosen
