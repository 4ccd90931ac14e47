"""The journals and packs of a store, read whole: for damage, and for what they refer to.

Which reading counts where a journal is damaged is in `store/README.md`, section "Verify".
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Any

from . import digest as digests
from . import files, ids, journal, journal_damage, packs, records, sealed_journals
from .damages import ACCEPT, LOST_ADVICE, Problem, Report
from .listing import OPEN_SUFFIX, PACK_SUFFIX, Listing
from .manifest import Entry
from .roots import Roots

_JOURNAL_ADVICE = "bring the file back from a copy of the store"
_UNREADABLE_ADVICE = (
    f"{_JOURNAL_ADVICE}; if there is none, and it is not a right that is missing, move it out of the store and accept "
    f"what is lost, with: {ACCEPT}"
)
_HURT_ADVICE = f"the other records of this journal are read; {LOST_ADVICE}"
_PACK_ADVICE = f"what is whole in it is read; {LOST_ADVICE}"


@dataclass
class References:
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
        """The keys that refer to an object, as a problem names them."""
        found = []
        for reference in sorted(self.objects.get((kind, digest), ())):
            entity, _, key = reference.partition(":")
            found.append(f"{self.called(entity)} key {key!r}")
        return tuple(found)

    def called(self, entity: str) -> str:
        """How a problem names an entity."""
        return f"{self.kinds.get(entity, 'run').replace('_', ' ')} {self.names.get(entity, '?')!r} ({entity})"


class Journals:
    """Reads every journal whole, for damage and for what it refers to."""

    def __init__(self, report: Report, root: str, store_id: str) -> None:
        self._report = report
        self._root = root
        self._store_id = store_id
        # Path -> what is damaged of that journal or pack, each with the entities that it was about.
        self._losses: dict[str, list[tuple[str, Iterable[str]]]] = {}

    def read(self) -> References:
        """Adds what is damaged to the report, and returns what the living records refer to."""
        references = References()
        named: dict[str, str] = {}  # stem -> the journal that names it as sealed before itself
        listing = Listing(self._root)
        journals = listing.journals(at_once=True)
        packed = self._packed(listing.packs)
        for stem, suffix in sorted(journals.items()):
            if suffix == OPEN_SUFFIX and stem in packed:
                del journals[stem]  # a copy of the time before it was sealed: the pack holds all of it
                continue
            path = os.path.join(self._root, "journals", stem + suffix)
            try:
                found = journal.read_listed(self._root, stem, suffix, journal.Position(), whole=True)
            except OSError as error:
                what = f"it cannot be read: {error.strerror}"
                self._report.problems.append(Problem("journal", path, what, advice=_UNREADABLE_ADVICE))
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
            self._check(path, stem, part)
            for before in sealed_journals.named_before(part.lines[0]) if part.lines else ():
                named.setdefault(before, stem)
            references.roots.add(stem, part.lines)
            for record in part.lines:
                _collect(record, references)
        seen = set(journals)
        for name in listing.packs:
            self._read_pack(name, journals, seen, references, named)
        self._tell_of_losses(references)
        for stem in sealed_journals.gone(self._root, named.keys() - seen - packed):
            path = os.path.join(self._root, "journals", stem + journal.SEALED_SUFFIX)
            what = f"it is gone: the journal {named[stem]} says that it was sealed before"
            self._report.problems.append(Problem("journal", path, what, (), LOST_ADVICE, is_loss=True))
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
        self, name: str, own: Container[str], seen: set[str], references: References, named: dict[str, str]
    ) -> None:
        """Reads the journals of a pack that were not `seen`; those in `own` have files of their own."""
        path = packs.path_of(self._root, name)
        try:
            pack = packs.read_pack(path)
        except OSError as error:
            what = f"it cannot be read: {error.strerror}"
            self._report.problems.append(Problem("journal", path, what, advice=_UNREADABLE_ADVICE))
            return
        losses: list[tuple[str, Iterable[str]]] = [(what, ()) for what in pack.damages]
        what = ""
        if pack.header and pack.header.get("name") != name:
            what = f"it says that it is {pack.header.get('name')!r}: swapped or renamed"
        elif pack.header and self._store_id and pack.header.get("store") != self._store_id:
            what = f"it is of another store, {pack.header.get('store')!r}, or store.json was changed"
        if what:
            self._report.problems.append(Problem("journal", path, what, advice=_JOURNAL_ADVICE))
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
        for stem in hurt:
            more = ", and has a file of its own still, which is read" if stem in own else ""
            entities = pack.members.get(stem, nobody).entities
            losses.append((f"the journal {stem} in it is damaged{more}", entities))
        if losses:
            self._losses[path] = losses

    def _check(self, path: str, stem: str, part: journal.JournalPart) -> None:
        if damages := journal_damage.damages_of(path, part):
            try:
                data = files.read_file(path)
            except OSError:
                data = b""  # then nobody knows what the records were about
            pieces = [data[damage.offset : damage.offset + damage.size_bytes] for damage in damages]
            self._losses[path] = [
                (damage.what, journal_damage.entities_in([piece]))
                for damage, piece in zip(damages, pieces, strict=True)
            ]
        elif part.tail and not part.position.is_sealed:
            self._report.notes.append(
                f"{path} ends in {len(part.tail)} bytes of a record that was never acknowledged (its writer died)"
            )
        advice = f"the records of this journal are read; {_JOURNAL_ADVICE}"
        header = part.lines[0] if part.lines else {}
        if what := journal_damage.other_name_of(stem, part):
            self._report.problems.append(Problem("journal", path, what, (), advice))
        elif header.get("k") == records.JOURNAL and self._store_id and header.get("store") != self._store_id:
            what = f"it is of another store, {header.get('store')!r}, or store.json was changed"
            self._report.problems.append(Problem("journal", path, what, (), advice))

    def _tell_of_losses(self, references: References) -> None:
        for path, losses in self._losses.items():
            if journal_damage.is_accepted(self._root, path):
                more = f", and {len(losses) - 1} more" if len(losses) > 1 else ""
                self._report.notes.append(f"{path}: {losses[0][0]}{more}: that was accepted as lost")
                continue
            advice = _PACK_ADVICE if path.endswith(PACK_SUFFIX) else _HURT_ADVICE
            for what, entities in losses:
                affects = tuple(map(references.called, entities))
                self._report.problems.append(Problem("journal", path, what, affects, advice, is_loss=True))


def _collect(record: dict[str, Any], references: References) -> None:
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
