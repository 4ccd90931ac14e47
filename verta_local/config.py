"""Settings, read once: argument > environment > config file > default; passed down as plain values."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

# Three folders of this user on this host. Written out here instead of taken from a library, because they are on
# the path of `Client()`: the library for it costs 24 ms of CPU to import where a whole first run is to cost 100.


def cache_dir() -> Path:
    """The folder of what can be deleted at any time (index, verified-object cache). `VERTA_LOCAL_CACHE` wins."""
    return _user_folder("VERTA_LOCAL_CACHE", "XDG_CACHE_HOME", ".cache", "Library/Caches", "Cache")


def state_dir() -> Path:
    """The folder of this host's deployments, tokens and logs; private to the user. `VERTA_LOCAL_STATE` wins."""
    return _user_folder("VERTA_LOCAL_STATE", "XDG_STATE_HOME", ".local/state", "Library/Application Support", "State")


def serving_dir() -> Path:
    """Where serving processes of this user on this host keep their state; homes may be shared between hosts."""
    name = re.sub(r"[^a-z0-9._-]", "_", socket.gethostname().lower())[:100] or "host"
    return state_dir() / "serving" / name


def data_dir() -> Path:
    """The folder of the user's default store. `VERTA_LOCAL_DATA` wins."""
    return _user_folder("VERTA_LOCAL_DATA", "XDG_DATA_HOME", ".local/share", "Library/Application Support", "Data")


def _user_folder(own_variable: str, xdg_variable: str, linux: str, macos: str, windows: str) -> Path:
    """Follows the XDG base directory specification on Linux, the platform's custom elsewhere."""
    own = os.environ.get(own_variable)
    if own:
        return Path(own).absolute()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
        return Path(local) / "verta_local" / windows
    if sys.platform == "darwin":
        return Path.home() / macos / "verta_local"
    base = os.environ.get(xdg_variable, "")
    # The specification: a relative path in these variables is to be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / linux) / "verta_local"


# A store's folder in a project of the user's, found from any folder below it.
STORE_FOLDER = ".verta_local"


def choose_store(argument: str | os.PathLike[str] | None = None) -> tuple[Path, str]:
    """Which folder holds the store, and why: (path, reason as a few words).

    The argument, else `VERTA_LOCAL_STORE`, else the nearest `.verta_local/` from the current folder upwards, else
    one in the user's data folder.
    """
    if argument is not None and os.fspath(argument) != "":
        return Path(argument).expanduser().absolute(), "named by the caller"
    named = os.environ.get("VERTA_LOCAL_STORE")
    if named:
        return Path(named).expanduser().absolute(), "named by VERTA_LOCAL_STORE"
    here = Path.cwd()
    for folder in (here, *here.parents):
        candidate = folder / STORE_FOLDER
        if (candidate / "store.json").is_file():
            return candidate, f"the nearest {STORE_FOLDER}"
    return data_dir() / "store", "your default store"


def choose_durability(argument: str | None = None) -> str:
    """ "normal" or "full": the argument, else `VERTA_LOCAL_DURABILITY`, else "normal".

    Raises:
        ValueError: another word.
    """
    chosen = argument or os.environ.get("VERTA_LOCAL_DURABILITY") or "normal"
    if chosen not in ("normal", "full"):
        raise ValueError(f"durability is 'normal' or 'full', not {chosen!r}; check VERTA_LOCAL_DURABILITY")
    return chosen
