"""Opening a store, one object a folder and process; and what becomes of open stores when the process forks or ends."""

from __future__ import annotations

import atexit
import copyreg
import os
import sys
import threading

from . import description as descriptions
from . import drive, termination
from .description import read_description
from .errors import StoreFormatError, StoreNotFound
from .store import Store

# One Store a folder and process, so that all users of it in a process share one journal and one picture of the keys.
_open_stores: dict[str, Store] = {}
_open_lock = threading.Lock()


def open_store(
    root: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str],
    *,
    create: bool = False,
    durability: str = "normal",
    sharing: str = "user",
) -> Store:
    """The store in a folder; the same object for every call of this process.

    Args:
        root: the folder that holds `store.json`.
        cache_dir: a folder on a local disk for what can be rebuilt.
        create: make the store when there is none.
        durability: "normal" (a power cut loses at most the last second) or "full" (nothing).
        sharing: of a new store: "user" (private), "group" or "all". One that exists keeps its own.

    Raises:
        StoreNotFound: no store there, and `create` is False; or it is a private one of somebody else.
        StoreFormatError: made by a newer version, or no store.
        StoreWriteError: the folder cannot be written.
        ValueError: another durability or sharing.
    """
    if durability not in ("normal", "full"):
        raise ValueError(f"durability is 'normal' or 'full', not {durability!r}")
    if sharing not in drive.SHARING:
        raise ValueError(f"sharing is one of {', '.join(drive.SHARING)}, not {sharing!r}")
    path = os.path.realpath(root)
    with _open_lock:
        store = _open_stores.get(path)
        if store is not None and not _is_still(store):
            # Another store stands in its place: what this process still had of the old one is let go.
            del _open_stores[path]
            store.close()
            store = None
        is_there = descriptions.is_there(path)
        if store is not None and is_there:
            return store
        was_created = False
        if not is_there:
            if not create:
                raise StoreNotFound(f"there is no store in {path}; make one with Client({path!r})", path=path)
            was_created = descriptions.create(path, sharing)
        store = Store(path, read_description(path), os.path.abspath(cache_dir), durability, was_created=was_created)
        if was_created and sharing == "user" and drive.of(path).is_careful:
            store.notes.append(
                f"{path} is on a network drive and private to you; for a team: verta-local init PATH --shared"
            )
        _open_stores[path] = store
        _install_hooks()
        return store


def _is_still(store: Store) -> bool:
    try:
        return bool(read_description(store.root)["store_id"] == store.id)
    except (FileNotFoundError, StoreFormatError):
        return True  # gone, or damaged: the next call on it says so


def _reopen(root: str, cache_dir: str, durability: str) -> Store:
    """What a pickled Store becomes, in whatever process."""
    return open_store(root, cache_dir, durability=durability)


def _reduce(store: Store) -> tuple[object, ...]:
    return _reopen, (store.root, store.cache_dir, store.durability)


copyreg.pickle(Store, _reduce)  # type: ignore[arg-type]


def close_all() -> None:
    """Seals the journals of every store that this process has open; runs at the end of the process by itself."""
    for store in list(_open_stores.values()):
        store.close()


_has_hooks = False


def _install_hooks() -> None:
    global _has_hooks
    if _has_hooks:
        return
    _has_hooks = True
    atexit.register(_close_at_end)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
        )
    termination.seal_at_sigterm(_seal_all)
    if "multiprocessing.process" in sys.modules:
        _seal_at_end_of_worker()


def _seal_at_end_of_worker() -> None:
    """Has the journals sealed at the end of a process of `multiprocessing`, which passes over `atexit`."""
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, _close_at_end, exitpriority=10)
        termination.insist_in_worker()


def _close_at_end() -> None:
    termination.end_in_order(close_all)


def _seal_all() -> None:
    for store in list(_open_stores.values()):
        store.seal()


# The stores whose locks are held over a fork; another thread may open one meanwhile.
_forking: list[Store] = []


def _before_fork() -> None:
    _forking[:] = _open_stores.values()
    for store in _forking:
        store._before_fork()
    termination.before_fork()


def _after_fork_in_parent() -> None:
    termination.after_fork()
    for store in _forking:
        store._after_fork_in_parent()


def _after_fork_in_child() -> None:
    global _open_lock
    _open_lock = threading.Lock()
    for store in list(_open_stores.values()):
        store._after_fork()
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        # What is registered here runs once `multiprocessing` has forgotten the parent's finalizers.
        util.register_after_fork(_in_child, lambda _: _seal_at_end_of_worker())
    termination.after_fork()


class _Key:
    """`multiprocessing` holds what it calls after a fork by a weak reference to an object."""


_in_child = _Key()
