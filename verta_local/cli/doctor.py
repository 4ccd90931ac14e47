"""Looking at a store's drive and at what its users did to each other: `doctor` and `conflicts`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from verta_store import open_store

from .. import config
from ..plain_text import plain
from .terminal import print_json, print_table, show_size, show_time

if TYPE_CHECKING:
    from verta_store import Store
    from verta_store.probe import FileSystem, Finding


def doctor(options: argparse.Namespace) -> int:
    """`verta-local doctor [PATH]`: exit code 1 where something is lacking that a store cannot do without."""
    from verta_store import probe  # noqa: PLC0415 - start-up time

    folder = os.path.abspath(options.path) if options.path else str(config.choose_store(options.store)[0])
    store = _store_in(folder)
    if store is None and not os.path.isdir(folder):
        raise FileNotFoundError(f"there is no folder {folder}; name one that exists, or a store")
    file_system = probe.file_system_of(folder)
    findings = probe.examine(os.path.join(folder, "tmp") if store else folder)
    lacking = [finding for finding in findings if finding.found == "NO"]
    about = dict(_about(folder, store, file_system))
    if options.json:
        print_json({**about, "findings": [finding._asdict() for finding in findings], "is_usable": not lacking})
        return 1 if lacking else 0
    for name, text in about.items():
        print(f"{name.ljust(12)} {plain(str(text))}")
    print()
    _print_findings(findings)
    if lacking:
        print(f"\nNOT USABLE: a store cannot do without {', '.join(finding.what for finding in lacking)}")
    return 1 if lacking else 0


def _store_in(folder: str) -> Store | None:
    from verta_store.errors import StoreNotFound  # noqa: PLC0415 - start-up time

    try:
        return open_store(folder, config.cache_dir())
    except StoreNotFound:
        if os.path.isdir(folder) and not os.access(folder, os.X_OK):
            raise
        return None


def _about(folder: str, store: Store | None, file_system: FileSystem) -> Iterator[tuple[str, str]]:
    from verta_store import ids, probe  # noqa: PLC0415 - start-up time

    yield "store" if store else "folder", store.root if store else f"{folder} (no store yet)"
    if store:
        yield "id", f"{store.id}, format {store.format}"
        yield "sharing", "; ".join(describe_sharing(store)) or "private to its owner"
    kind = "a network drive" if file_system.is_network else "a disk of this host"
    source = f" {file_system.source}" if file_system.source else ""
    yield "drive", f"{file_system.type}{source} on {file_system.mount_point}, {kind}"
    yield "you", f"{ids.user_name()} on {ids.host_name()} ({ids.host_id()})"
    if store:
        state = store.index_state()
        place = "in memory"
        if state.path != ":memory:":
            below = probe.file_system_of(state.path)
            place = f"{state.path} ({below.type}), {show_size(state.size_bytes)}"
        yield "index", f"{place}; {state.record_count:,} records of {state.journal_count:,} journals, up to date"
        for number, note in enumerate(store.notes, 1):
            yield f"note {number}", note


def describe_sharing(store: Store) -> list[str]:
    """Who else may use a shared store, and what stands in their way, one sentence a line; nothing for a private one."""
    if store.sharing == "user":
        return []
    if store.sharing == "all":
        who = "everybody who can reach the folder may read and write"
    else:
        who = f"the members of the group {_group_of(store.root)} may read and write"
    lines = [f"{store.sharing}: {who}"]
    mode = os.stat(store.root).st_mode
    if os.name == "posix" and not mode & (0o010 if store.sharing == "group" else 0o001):
        lines.append(f"but the folder itself lets nobody else in; allow it with: chmod g+rx {store.root}")
    return lines


def _group_of(path: str) -> str:
    group = os.stat(path).st_gid
    try:
        import grp  # noqa: PLC0415 - absent on Windows

        return repr(grp.getgrgid(group).gr_name)
    except (ImportError, KeyError):
        return str(group)


def _print_findings(findings: list[Finding]) -> None:
    rows = [(finding.what, finding.found, "" if finding.is_good else "!", finding.meaning) for finding in findings]
    print_table(("THE DRIVE", "HERE", "", "FOR THE STORE"), rows)


def conflicts(options: argparse.Namespace) -> int:
    """`verta-local conflicts`"""
    from ..conflicts import show  # noqa: PLC0415 - start-up time

    path, _ = config.choose_store(options.store)
    store = open_store(path, config.cache_dir(), durability=config.choose_durability())
    found = store.conflicts()
    if options.json:
        print_json([conflict._asdict() for conflict in found])
        return 0
    if not found:
        print(f"no conflicts in {store.root}")
        return 0
    rows: list[tuple[str, ...]] = []
    for one in found:
        won = f"{show(one.winner_value)} by {one.winner}, {show_time(one.winner_time_ms)}"
        if one.winner_is_overwrite:
            won += " (overwrite)"
        rows.append(
            (
                one.entity[:8],
                plain(one.name),
                f"{one.section}.{plain(one.key)}",
                plain(show(one.value)),
                plain(f"{one.loser}, {show_time(one.time_ms)}"),
                plain(won),
            )
        )
    print_table(("ID", "NAME", "KEY", "LOST", "BY", "WON"), rows)
    return 0


__all__ = ["conflicts", "describe_sharing", "doctor"]
