"""Looking after a store: verification, repair, and the collection of garbage."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from ..plain_text import plain
from .commands import open_chosen_store
from .terminal import print_json, print_table, show_size, show_time

if TYPE_CHECKING:
    from verta_store.collected import Amount

# Rows of the table of what belonged to whom.
_SHOWN = 20
_UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0}


def duration_s(text: str) -> float:
    """Seconds of `14d`, `36h`, `90m`, `30s` or `0`; for argparse.

    Raises:
        argparse.ArgumentTypeError: something else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([dhms]?)", text.strip().lower())
    if found is None or (not found[2] and float(found[1])):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 14d, 36h, 90m or 0")
    return float(found[1]) * _UNITS_S[found[2]]


def gc(options: argparse.Namespace) -> int:
    """`verta-local gc [--dry-run] [--grace 14d] [--i-am-alone]`"""
    from dataclasses import asdict  # noqa: PLC0415 - start-up time

    from verta_store.gc import DEFAULT_GRACE_S, collect  # noqa: PLC0415 - start-up time

    store = open_chosen_store(options)
    grace_s = DEFAULT_GRACE_S if options.grace is None else options.grace
    report = collect(
        store, grace_s=grace_s, is_alone=options.i_am_alone, is_dry_run=options.dry_run, pack=not options.no_pack
    )
    if options.json:
        print_json(asdict(report))
        return 0
    if report.shares:
        rows = [
            (
                plain(share.name) or "(no run)",
                share.entity[:8],
                share.reason,
                str(share.amount.object_count),
                str(share.amount.file_count),
                show_size(share.amount.size_bytes),
            )
            for share in report.shares[:_SHOWN]
        ]
        print_table(("RUN", "ID", "WHY", "OBJECTS", "FILES", "SIZE"), rows)
    if len(report.shares) > _SHOWN:
        print(f"and {len(report.shares) - _SHOWN:,} smaller ones; --json shows all")
    would = "would be " if report.is_dry_run else ""
    for amount, what in ((report.trashed, "moved to the trash"), (report.freed, "deleted for good")):
        print(f"{would}{what}: {_show(amount)}")
    for waiting in report.waiting:
        print(f"waits in the trash until {show_time(waiting.until_ms)}: {_show(waiting.amount)}")
    if report.kept.object_count:
        print(f"younger than the grace, or than a writer at work: {_show(report.kept)}")
    if report.put_back_count:
        print(f"put back from the trash, because it is referenced again: {report.put_back_count}")
    packed = report.packed
    if packed.journal_count:
        sizes = f"{show_size(packed.size_bytes)} became {show_size(packed.packed_bytes)}"
        print(f"packed: {packed.journal_count:,} journals in {packed.pack_count:,} files, {sizes}")
    if packed.deleted_count:
        print(f"deleted, because packs hold them: {packed.deleted_count:,} journals, {show_size(packed.deleted_bytes)}")
    for owner in report.ended_writers:
        print(f"swept after a writer that died: {plain(owner)}")
    for note in report.notes:
        print(f"note: {plain(note)}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """`verta-local verify [--deep] [--repair]`: exit code 0 for a sound store, 1 for a damaged one."""
    from dataclasses import asdict  # noqa: PLC0415 - start-up time

    from verta_store.fsck import verify as verify_store  # noqa: PLC0415 - start-up time

    if options.accept_loss and not options.repair:
        raise ValueError("--accept-loss goes with --repair")
    store = open_chosen_store(options)
    repaired = None
    if options.repair:
        from verta_store.repair import repair  # noqa: PLC0415 - start-up time

        repaired = repair(store, accept_loss=options.accept_loss)
        report = repaired.after
    else:
        report = verify_store(store, deep=options.deep)
    if options.json:
        about = {**asdict(report), "is_clean": report.is_clean}
        if repaired is not None:
            about |= {
                "found": [asdict(problem) for problem in repaired.before.problems],
                "restored": repaired.restored,
                "set_aside": repaired.set_aside,
                "notes": [*report.notes, *repaired.notes],
            }
        print_json(about)
        return 0 if report.is_clean else 1
    if repaired is not None:
        for problem in repaired.before.problems:
            print(plain(f"found {problem}"))
        for path in repaired.set_aside:
            print(plain(f"put aside: {path}"))
        for path in repaired.restored:
            print(plain(f"restored: {path}"))
        for note in repaired.notes:
            print(f"note: {plain(note)}")
    for problem in report.problems:
        print(plain(f"{'still ' if repaired else ''}{problem}"))
    for note in report.notes:
        print(f"note: {plain(note)}")
    read = f"{report.journal_count} journals, {report.record_count:,} records, {report.blob_count} blobs"
    read += f", {report.tree_count} folders with {report.file_count:,} files"
    depth = f"every byte ({show_size(report.bytes_read)})" if report.is_deep else "sizes; --deep reads every byte"
    result = "sound" if report.is_clean else f"{len(report.problems)} PROBLEMS"
    print(f"{result}: {read}; checked {depth}")
    return 0 if report.is_clean else 1


def _show(amount: Amount) -> str:
    if not amount.file_count:
        return "nothing"
    files = "1 file" if amount.file_count == 1 else f"{amount.file_count:,} files"
    return f"{files}, {show_size(amount.size_bytes)}"
