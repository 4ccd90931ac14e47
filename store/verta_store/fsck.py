"""Finding damage: every changed, missing, truncated or unknown byte of referenced objects and sealed journals.

What counts as damage and what as garbage is in `store/README.md`, section "Verify".
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import claims, drive, files, ids, journal, packs, records, sealed_journals
from . import digest as digests
from .description import read_description
from .errors import CorruptObject, MissingObject, StoreFormatError
from .folder_copy import LINK_FROM_BYTES
from .hashing import GONE, NO_FILE, hash_file, hash_many
from .listing import Listing
from .manifest import Entry, path_below
from .materialize import check_unpacked
from .roots import Roots
from .store import Store
from .trash import Part

_CLAIM_ADVICE = "the name stays taken, and nothing else depends on it; bring the file back from a copy of the store"
_LOST_ADVICE = (
    "bring the file back from a copy of the store; if there is none, accept that what it held is lost, with: "
    "verta-local verify --repair --accept-loss"
)
_JOURNAL_ADVICE = "bring the file back from a copy of the store"
_PACK_ADVICE = f"what is whole in it is read; {_JOURNAL_ADVICE}"
_ADVICE = "bring the file back from a copy of the store, or log the artifact again with overwrite=True"


@dataclass(frozen=True)
class Problem:
    """One piece of damage. `affects` names what refers to it, as `run 'name' (id) key 'key'`."""

    kind: str  # "missing", "changed", "journal", "claim", "description"
    path: str
    what: str
    affects: tuple[str, ...] = ()
    advice: str = ""

    def __str__(self) -> str:
        affected = f"; affects {', '.join(self.affects)}" if self.affects else ""
        advice = f". {self.advice[:1].upper()}{self.advice[1:]}" if self.advice else ""
        return f"{self.kind}: {self.path}: {self.what}{affected}{advice}"


@dataclass
class Report:
    """What a verification read and found."""

    is_deep: bool
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # garbage and torn tails: harmless, and no reason to worry
    journal_count: int = 0
    record_count: int = 0
    blob_count: int = 0
    tree_count: int = 0
    file_count: int = 0
    bytes_read: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing is damaged."""
        return not self.problems


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
    references = _Journals(report, root, store_id).read()
    try:
        lost = store.lost_journals()
    except OSError:
        lost = []  # a journal that cannot be read, of which it was told above, keeps the index from knowing
    told = {problem.path for problem in report.problems}
    for stem in lost:
        path = os.path.join(root, "journals", stem + journal.SEALED_SUFFIX)
        if path not in told:
            what = "it is gone: this host has read it before"
            report.problems.append(Problem("journal", path, what, advice=_LOST_ADVICE))
    for path, what in claims.damages(root):
        report.problems.append(Problem("claim", path, what, advice=_CLAIM_ADVICE))
    _check_referenced(store, report, references)
    if deep:
        _check_content(store, report, references)
    _note_garbage(report, root)
    return report


@dataclass
class _References:
    """Digest -> who refers to it; and the names of entities for the eye."""

    roots: Roots = field(default_factory=Roots)
    objects: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    entries: dict[str, list[Entry]] = field(default_factory=dict)  # of referenced trees, for a deep verification
    impossible: list[str] = field(default_factory=list)  # keys whose record names what no store can hold

    def drop_dead(self) -> None:
        """Leaves out what only deleted entities named, and what was overwritten: a collection may have taken it."""
        living = self.roots.living(ids.now_ms())
        for reference in [reference for reference in self.sizes if reference[1] not in living]:
            del self.sizes[reference]
            del self.objects[reference]

    def affected(self, kind: str, digest: str) -> tuple[str, ...]:
        found = []
        for reference in sorted(self.objects.get((kind, digest), ())):
            entity, _, key = reference.partition(":")
            kind = self.kinds.get(entity, "run").replace("_", " ")
            found.append(f"{kind} {self.names.get(entity, '?')!r} ({entity}) key {key!r}")
        return tuple(found)


class _Journals:
    """Reads every journal whole, for damage and for what it refers to."""

    def __init__(self, report: Report, root: str, store_id: str) -> None:
        self._report = report
        self._root = root
        self._store_id = store_id

    def read(self) -> _References:
        references = _References()
        named: dict[str, str] = {}  # stem -> the journal that names it as sealed before itself
        listing = Listing(self._root)
        journals = listing.journals(at_once=True)
        packed = self._packed(listing.packs)
        for stem, suffix in sorted(journals.items()):
            path = os.path.join(self._root, "journals", stem + suffix)
            try:
                found = journal.read_listed(self._root, stem, suffix, journal.Position(), whole=True)
            except OSError as error:
                what = f"it cannot be read: {error.strerror}"
                self._report.problems.append(Problem("journal", path, what, advice=_JOURNAL_ADVICE))
                continue
            if found is None and stem in packed:
                del journals[stem]  # a collection has deleted it meanwhile, and the pack counts
                continue
            if found is None:
                what = "it is gone, while the store was read"
                self._report.problems.append(Problem("journal", path, what, advice=_JOURNAL_ADVICE))
                continue
            path, part = found
            self._report.journal_count += 1
            self._report.record_count += len(part.lines)
            self._report.bytes_read += part.position.offset
            self._check(path, stem, suffix, part)
            for before in sealed_journals.named_before(part.lines[0]) if part.lines else ():
                named.setdefault(before, stem)
            references.roots.add(stem, part.lines)
            for record in part.lines:
                _collect(record, references)
        seen = set(journals)
        hurt = [each for name in listing.packs for each in self._read_pack(name, seen, references, named)]
        for path, stem, entities in hurt:
            affects = [f"run {references.names.get(entity, '?')!r} ({entity})" for entity in entities]
            what = f"the journal {stem} in it is damaged"
            if stem in journals:
                what += ", and has a file of its own still, which is read"
            self._report.problems.append(Problem("journal", path, what, tuple(affects), _PACK_ADVICE))
        for stem in sealed_journals.gone(self._root, named.keys() - seen - packed):
            path = os.path.join(self._root, "journals", stem + journal.SEALED_SUFFIX)
            what = f"it is gone: the journal {named[stem]} says that it was sealed before"
            self._report.problems.append(Problem("journal", path, what, advice=_LOST_ADVICE))
        references.drop_dead()
        if references.impossible:
            what = "records name objects that no store can hold; their writer was another program"
            self._report.problems.append(Problem("journal", self._root, what, tuple(references.impossible)))
        return references

    def _packed(self, names: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for name in names:
            try:
                found.update(packs.read_members(packs.path_of(self._root, name)))
            except OSError:
                continue  # of which it is told when it is read
        return found

    def _read_pack(
        self, name: str, seen: set[str], references: _References, named: dict[str, str]
    ) -> list[tuple[str, str, tuple[str, ...]]]:
        """Reads the journals of a pack that were not `seen`. Returns (path, stem, entities) of those that are hurt."""
        path = packs.path_of(self._root, name)
        try:
            pack = packs.read_pack(path)
        except OSError as error:
            what = f"it cannot be read: {error.strerror}"
            self._report.problems.append(Problem("journal", path, what, advice=_PACK_ADVICE))
            return []
        damages = list(pack.damages)
        if pack.header and pack.header.get("name") != name:
            damages.append(f"it says that it is {pack.header.get('name')!r}: swapped or renamed")
        elif pack.header and self._store_id and pack.header.get("store") != self._store_id:
            damages.append(f"it is of another store, {pack.header.get('store')!r}, or store.json was changed")
        for what in damages:
            self._report.problems.append(Problem("journal", path, what, advice=_PACK_ADVICE))
        self._report.bytes_read += sum(map(len, pack.journals.values()))
        hurt = pack.hurt()
        for stem, data in pack.journals.items():
            if stem in seen:
                continue
            if stem not in hurt:
                seen.add(stem)
            part = journal.parse_whole(data, path)
            for before in sealed_journals.named_before(part.lines[0]) if part.lines else ():
                named.setdefault(before, stem)
            self._report.journal_count += 1
            self._report.record_count += len(part.lines)
            references.roots.add(stem, part.lines)
            for record in part.lines:
                _collect(record, references)
        nobody = packs.Member("", 0, "", ())
        return [(path, stem, pack.members.get(stem, nobody).entities) for stem in hurt]

    def _check(self, path: str, stem: str, suffix: str, part: journal.JournalPart) -> None:
        advice = f"the other records of this journal are read; {_JOURNAL_ADVICE}"
        records_hurt = [damage for damage in part.damages if damage.what == "a damaged record"]
        for damage in records_hurt or part.damages:  # the footer's complaints say nothing more then
            where = f"{damage.what} at byte {damage.offset}"
            self._report.problems.append(Problem("journal", path, where, advice=advice))
        if suffix == journal.SEALED_SUFFIX and not part.position.is_sealed:
            what = "its footer is missing: it was cut off, or is empty"
            self._report.problems.append(Problem("journal", path, what, advice=advice))
        elif part.torn_bytes and not part.position.is_sealed:
            self._report.notes.append(
                f"{path} ends in {part.torn_bytes} bytes of a record that was never acknowledged (its writer died)"
            )
        header = part.lines[0] if part.lines else {}
        if part.lines and (header.get("k") != records.JOURNAL or header.get("name") != stem):
            self._report.problems.append(
                Problem("journal", path, f"it says that it is {header.get('name')!r}: swapped or renamed", (), advice)
            )
        elif part.lines and self._store_id and header.get("store") != self._store_id:
            what = f"it is of another store, {header.get('store')!r}, or store.json was changed"
            self._report.problems.append(Problem("journal", path, what, (), advice))


def _collect(record: dict[str, Any], references: _References) -> None:
    kind = record["k"]
    if kind == records.ENTITY:
        references.names.setdefault(record["e"], record["name"])
        references.kinds.setdefault(record["e"], str(record.get("type", "run")))
    elif kind == records.PUT:
        for section, entries in ((record["s"], record["v"]), *record.get("and", {}).items()):
            if section == records.FIELDS and "name" in entries:
                references.names[record["e"]] = str(entries["name"])
            if section != records.ARTIFACTS:
                continue
            for key, artifact in entries.items():
                if not isinstance(artifact, dict) or artifact.get("digest") is None:
                    continue
                kind, digest, size_bytes = (artifact.get(name) for name in ("kind", "digest", "size_bytes"))
                if kind not in ("blob", "tree") or not digests.is_digest(digest):
                    references.impossible.append(f"run {record['e']} key {key!r}")
                    continue
                reference = (str(kind), str(digest))
                references.objects.setdefault(reference, set()).add(f"{record['e']}:{key}")
                references.sizes[reference] = size_bytes if isinstance(size_bytes, int) else -1


def _check_referenced(store: Store, report: Report, references: _References) -> None:
    for (kind, digest), size_bytes in sorted(references.sizes.items()):
        affects = references.affected(kind, digest)
        if kind == "blob":
            path = store.object_path(digest)
            try:
                found = drive.of(store.root).look(path, os.lstat)
            except OSError:
                report.problems.append(Problem("missing", path, _FILE_GONE, affects, _ADVICE))
                continue
            if not stat.S_ISREG(found.st_mode):
                report.problems.append(Problem("changed", path, NO_FILE, affects, _ADVICE))
            elif found.st_size != size_bytes >= 0:
                what = f"it has {found.st_size} bytes instead of {size_bytes}"
                report.problems.append(Problem("changed", path, what, affects, _ADVICE))
            report.blob_count += 1
        else:
            report.tree_count += 1
            report.problems.extend(_check_tree(store, digest, affects, report, references))


def _check_tree(
    store: Store, digest: str, affects: tuple[str, ...], report: Report, references: _References
) -> Iterator[Problem]:
    """Presence and size of each file of a tree; when all is read anyway only its folders."""
    top = store.tree_path(digest)
    if not drive.of(store.root).has(top) or not os.path.isdir(top):
        yield Problem("missing", top, "the folder is gone", affects, _ADVICE)
        return
    try:
        entries = store.tree_entries(digest)
    except MissingObject:
        yield Problem("missing", f"{top}.manifest", "the manifest is gone", affects, _ADVICE)
        return
    except (CorruptObject, ValueError, OSError):
        yield Problem("changed", f"{top}.manifest", "the manifest does not match its digest", affects, _ADVICE)
        return
    if os.path.islink(f"{top}.manifest"):
        yield Problem("changed", f"{top}.manifest", NO_FILE, affects, _ADVICE)
    if report.is_deep:
        references.entries[digest] = entries
    for entry in entries:
        report.file_count += not entry.is_folder
        if report.is_deep and not entry.is_folder:
            continue
        path = path_below(top, entry.path)
        if entry.is_folder:
            if not os.path.isdir(path):
                yield Problem("missing", path, "the folder is gone", affects, _ADVICE)
            continue
        try:
            found = os.lstat(path)
        except OSError:
            yield Problem("missing", path, _FILE_GONE, affects, _ADVICE)
            continue
        if not stat.S_ISREG(found.st_mode):
            yield Problem("changed", path, NO_FILE, affects, _ADVICE)
        elif found.st_size != entry.size_bytes:
            yield Problem("changed", path, _other_size(found.st_size, entry.size_bytes), affects, _ADVICE)


def _other_size(found_bytes: int, expected_bytes: int) -> str:
    return f"it has {found_bytes} bytes instead of {expected_bytes}"


class _Part(NamedTuple):
    """A file whose bytes are known by their digest."""

    path: str
    expected: str
    kind: str  # of the object that it is or is a part of, "blob" or "tree"; "name" of a derived file
    digest: str  # of that object
    size_bytes: int = -1  # -1: not known, or checked before


def _check_content(store: Store, report: Report, references: _References) -> None:
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
            what = _FILE_GONE
        elif digests.is_digest(found):
            is_cut = part.size_bytes not in (-1, size_bytes)
            what = _other_size(size_bytes, part.size_bytes) if is_cut else "its bytes do not match its digest"
        affects = references.affected("blob" if part.kind == "name" else part.kind, part.digest)
        advice = "delete this derived file; it is made anew" if part.kind == "name" else _ADVICE
        kind = "missing" if what == _FILE_GONE else "changed"
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


# Said of a file that a record refers to.
_FILE_GONE = "the file is gone"


def _is_collected(store: Store, path: str, kind: str, digest: str, references: _References) -> bool:
    """Whether a file that has gone since it was listed is no loss: derived, named by nobody, or on its way back."""
    if kind == "name":
        return True
    if (kind, digest) not in references.sizes:
        return not os.path.lexists(Part(kind, digest).home(store.root))
    if kind == "blob":
        return os.path.lexists(store.object_path(digest))
    top = store.tree_path(digest)
    return os.path.lexists(path) or (os.path.isdir(top) and not path.startswith(top + os.sep))


def _in_trash(store: Store, report: Report, references: _References) -> Iterator[_Part]:
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


def _note_garbage(report: Report, root: str) -> None:
    leftovers = files.list_names(os.path.join(root, "tmp"))
    if leftovers:
        report.notes.append(f"{len(leftovers)} temporary folders of running or dead writers in {root}/tmp")
    aside = files.list_names(os.path.join(root, sealed_journals.QUARANTINE))
    if aside:
        what = f"what {len(aside)} repairs have put aside is in {root}/{sealed_journals.QUARANTINE}; delete it by hand"
        report.notes.append(what)
