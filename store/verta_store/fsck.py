"""Finding damage: every changed, missing, truncated or unknown byte of referenced objects and sealed journals.

What counts as damage and what as garbage is in `store/README.md`, section "Verify".
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from . import claims, drive, files, journal, sealed_journals
from .content_check import check_content
from .damages import ADVICE, FILE_GONE, LOST_ADVICE, Problem, Report, other_size
from .description import read_description
from .errors import CorruptObject, MissingObject, StoreFormatError
from .hashing import NO_FILE
from .journal_check import Journals, References
from .manifest import path_below
from .store import Store

_CLAIM_ADVICE = "the name stays taken, and nothing else depends on it; bring the file back from a copy of the store"


def verify(store: Store, *, deep: bool = False) -> Report:
    """Checks a store and changes nothing.

    Journals are always read whole. Objects are looked up with their sizes; with `deep` every byte of every object,
    referenced or not, is hashed again, by all cores.
    """
    report = Report(deep)
    root = store.root
    store_id = ""
    try:
        store_id = read_description(root)["store_id"]
    except (StoreFormatError, OSError) as error:
        report.problems.append(Problem("description", os.path.join(root, "store.json"), str(error)))
    references = Journals(report, root, store_id).read()
    try:
        lost = store.lost_journals()
    except OSError:
        lost = []  # a journal that cannot be read, of which it was told above, keeps the index from knowing
    told = {problem.path for problem in report.problems}
    for stem in lost:
        path = os.path.join(root, "journals", stem + journal.SEALED_SUFFIX)
        if path not in told:
            what = "it is gone: this host has read it before"
            report.problems.append(Problem("journal", path, what, (), LOST_ADVICE, is_loss=True))
    for path, what in claims.damages(root):
        report.problems.append(Problem("claim", path, what, advice=_CLAIM_ADVICE))
    _check_referenced(store, report, references)
    if deep:
        check_content(store, report, references)
    _note_garbage(report, root)
    return report


def _check_referenced(store: Store, report: Report, references: References) -> None:
    for (kind, digest), size_bytes in sorted(references.sizes.items()):
        affects = references.affected(kind, digest)
        if kind == "blob":
            path = store.object_path(digest)
            try:
                found = drive.of(store.root).look(path, os.lstat)
            except OSError:
                report.problems.append(Problem("missing", path, FILE_GONE, affects, ADVICE))
                continue
            if not stat.S_ISREG(found.st_mode):
                report.problems.append(Problem("changed", path, NO_FILE, affects, ADVICE))
            elif found.st_size != size_bytes >= 0:
                what = other_size(found.st_size, size_bytes)
                report.problems.append(Problem("changed", path, what, affects, ADVICE))
            report.blob_count += 1
        else:
            report.tree_count += 1
            report.problems.extend(_check_tree(store, digest, affects, report, references))


def _check_tree(
    store: Store, digest: str, affects: tuple[str, ...], report: Report, references: References
) -> Iterator[Problem]:
    """Presence and size of each file of a tree; when all is read anyway only its folders."""
    top = store.tree_path(digest)
    if not drive.of(store.root).has(top) or not os.path.isdir(top):
        yield Problem("missing", top, "the folder is gone", affects, ADVICE)
        return
    try:
        entries = store.tree_entries(digest)
    except MissingObject:
        yield Problem("missing", f"{top}.manifest", "the manifest is gone", affects, ADVICE)
        return
    except (CorruptObject, ValueError, OSError):
        yield Problem("changed", f"{top}.manifest", "the manifest does not match its digest", affects, ADVICE)
        return
    if os.path.islink(f"{top}.manifest"):
        yield Problem("changed", f"{top}.manifest", NO_FILE, affects, ADVICE)
    if report.is_deep:
        references.entries[digest] = entries
    for entry in entries:
        report.file_count += not entry.is_folder
        if report.is_deep and not entry.is_folder:
            continue
        path = path_below(top, entry.path)
        if entry.is_folder:
            if not os.path.isdir(path):
                yield Problem("missing", path, "the folder is gone", affects, ADVICE)
            continue
        try:
            found = os.lstat(path)
        except OSError:
            yield Problem("missing", path, FILE_GONE, affects, ADVICE)
            continue
        if not stat.S_ISREG(found.st_mode):
            yield Problem("changed", path, NO_FILE, affects, ADVICE)
        elif found.st_size != entry.size_bytes:
            yield Problem("changed", path, other_size(found.st_size, entry.size_bytes), affects, ADVICE)


def _note_garbage(report: Report, root: str) -> None:
    leftovers = files.list_names(os.path.join(root, "tmp"))
    if leftovers:
        report.notes.append(f"{len(leftovers)} temporary folders of running or dead writers in {root}/tmp")
    aside = files.list_names(os.path.join(root, sealed_journals.QUARANTINE))
    if aside:
        what = f"what {len(aside)} repairs have put aside is in {root}/{sealed_journals.QUARANTINE}; delete it by hand"
        report.notes.append(what)
