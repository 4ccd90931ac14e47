"""The deep part of a verification: every byte of every object hashed again, referenced or not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from . import digest as digests
from . import files
from .damages import ADVICE, FILE_GONE, Problem, Report, other_size
from .errors import CorruptObject
from .folder_copy import LINK_FROM_BYTES
from .hashing import GONE, hash_file, hash_many
from .journal_check import References
from .manifest import Entry, path_below
from .materialize import check_unpacked
from .store import Store
from .trash import Part


class _Part(NamedTuple):
    """A file whose bytes are known by their digest."""

    path: str
    expected: str
    kind: str  # of the object that it is or is a part of, "blob" or "tree"; "name" of a derived file
    digest: str  # of that object
    size_bytes: int = -1  # -1: not known, or checked before


def check_content(store: Store, report: Report, references: References) -> None:
    """Hashes every object of the store, referenced or not, and every tree's files; a shared file only once."""
    known = {problem.path for problem in report.problems}
    work: list[_Part] = []
    for digest, path in objects_in(os.path.join(store.root, "objects")):
        work.append(_Part(path, digest, "blob", digest))
    for digest, path in objects_in(os.path.join(store.root, "trees")):
        if path.endswith(".manifest"):
            continue
        try:
            entries = references.entries.get(digest) or store.tree_entries(digest)
        except (CorruptObject, ValueError, OSError):
            if not os.path.isdir(path):
                continue  # collected since it was listed
            if f"{path}.manifest" in known or ("tree", digest) in references.sizes:
                continue
            if os.path.lexists(f"{path}.manifest"):
                what = "the manifest does not match its digest"
                report.problems.append(Problem("changed", f"{path}.manifest", what))
            else:
                # Of a writer whose power was cut between the two names, before any record; a collection takes it.
                report.notes.append(f"{path} has no manifest, and nothing refers to it")
            continue
        work += _parts(path, digest, entries)
    for digest, path in names_in(os.path.join(store.root, "names")):
        work.append(_Part(path, digest, "name", digest))
    for digest, path in _unpacked_in(os.path.join(store.root, "names")):
        what = check_unpacked(path)
        if what:
            advice = "delete this derived folder; it is made anew"
            affects = references.affected("blob", digest)
            report.problems.append(Problem("changed", path, what, affects, advice))
    work.extend(_in_trash(store, report, references))
    for part, (found, size_bytes) in _hash_all(work, report):
        if found == part.expected or part.path in known:
            continue
        is_gone = found == GONE
        if is_gone and _is_collected(store, part.path, part.kind, part.digest, references):
            continue
        what = found
        if is_gone and (part.kind, part.digest) in references.sizes:
            what = FILE_GONE
        elif digests.is_digest(found):
            is_cut = part.size_bytes not in (-1, size_bytes)
            what = other_size(size_bytes, part.size_bytes) if is_cut else "its bytes do not match its digest"
        affects = references.affected("blob" if part.kind == "name" else part.kind, part.digest)
        advice = "delete this derived file; it is made anew" if part.kind == "name" else ADVICE
        kind = "missing" if what == FILE_GONE else "changed"
        report.problems.append(Problem(kind, part.path, what, affects, advice))


def _parts(top: str, digest: str, entries: list[Entry]) -> Iterator[_Part]:
    """The files of a tree."""
    for entry in entries:
        if not entry.is_folder:
            yield _Part(path_below(top, entry.path), entry.digest, "tree", digest, entry.size_bytes)


def _hash_all(work: list[_Part], report: Report) -> Iterator[tuple[_Part, tuple[str, int]]]:
    """Yields each file with its digest, or what is wrong with it, and its size; by all cores, a shared file once."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - start-up time

    small = [part for part in work if part.kind == "tree" and part.size_bytes < LINK_FROM_BYTES]
    found = dict(hash_many([part.path for part in small]))
    report.bytes_read += sum(size_bytes for _, size_bytes in found.values())
    # Below that size no file has a second name; the others are looked at by their inodes.
    by_file: dict[tuple[int, int], list[str]] = {}
    for part in work:
        if part.path not in found:
            try:
                status = os.lstat(part.path)
                by_file.setdefault((status.st_dev, status.st_ino), []).append(part.path)
            except FileNotFoundError:
                found[part.path] = GONE, 0
            except OSError as error:
                found[part.path] = f"it cannot be read: {error.strerror}", 0
    # hashlib lets go of the interpreter lock for large buffers, so threads use all cores.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for paths, one in zip(
            by_file.values(), pool.map(hash_file, [paths[0] for paths in by_file.values()]), strict=True
        ):
            report.bytes_read += one[1]
            found.update(dict.fromkeys(paths, one))
    return ((part, found[part.path]) for part in work)


def _is_collected(store: Store, path: str, kind: str, digest: str, references: References) -> bool:
    """Whether a file that has gone since it was listed is no loss: derived, named by nobody, or on its way back."""
    if kind == "name":
        return True
    if (kind, digest) not in references.sizes:
        return not os.path.lexists(Part(kind, digest).home(store.root))
    if kind == "blob":
        return os.path.lexists(store.object_path(digest))
    top = store.tree_path(digest)
    return os.path.lexists(path) or (os.path.isdir(top) and not path.startswith(top + os.sep))


def _in_trash(store: Store, report: Report, references: References) -> Iterator[_Part]:
    """The files of referenced objects that wait in the trash, where the next look at them brings them back."""
    count = 0
    for kind, digest in references.sizes:
        path = store.tree_path(digest) if kind == "tree" else store.object_path(digest)
        if path == Part(kind, digest).home(store.root):
            continue
        count += 1
        if kind == "blob":
            yield _Part(path, digest, kind, digest)
            continue
        try:
            yield from _parts(path, digest, store.tree_entries(digest))
        except (CorruptObject, ValueError, OSError):
            continue  # said when the references were checked
    if count:
        report.notes.append(f"{count} referenced objects are in the trash; they come back when they are read")


def objects_in(top: str) -> Iterator[tuple[str, str]]:
    """(digest, path) of everything below `objects/` or `trees/` that is named like an object."""
    base = os.path.join(top, digests.ALGORITHM)
    for shard in sorted(files.list_names(base)):
        for name in sorted(files.list_names(os.path.join(base, shard))):
            rest = name.removesuffix(".manifest")
            if len(shard) == 2 and len(rest) == 62:
                yield f"{digests.ALGORITHM}:{shard}{rest}", os.path.join(base, shard, name)


def names_in(top: str) -> Iterator[tuple[str, str]]:
    """(digest, path) of single files under their users' names."""
    for digest, folder in objects_in(top):
        for name in sorted(files.list_names(folder)):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not name.endswith(".dir.manifest"):
                yield digest, path


def _unpacked_in(top: str) -> Iterator[tuple[str, str]]:
    """(digest of the archive, folder) of unpacked archives."""
    for digest, folder in objects_in(top):
        for name in sorted(files.list_names(folder)):
            path = os.path.join(folder, name)
            if name.endswith(".dir") and os.path.isdir(path):
                yield digest, path
