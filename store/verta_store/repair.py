"""Mending a store: rebuilds what is derived, restores what has a twin, puts the damaged aside, and deletes nothing.

What is put aside and what comes back is in `store/README.md`, section "Repair". Each step is one rename or one new
file, so a repair that is killed has done a part, and the next one goes on.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from . import digest as digests
from . import drive, files, ids, journal, manifest, packs, records, sealed_journals
from .collected import files_in
from .content_check import names_in, objects_in
from .damages import Problem
from .damages import Report as Verification
from .errors import StoreError
from .file_copy import copy_in
from .fsck import verify
from .journal_damage import accept, damages_of
from .listing import PACK_SUFFIX, Listing, is_stem
from .store import Store
from .trash import Part, bring_back_object, parse_name


@dataclass
class Report:
    """What a repair did. `after` is a deep verification of what there is now."""

    before: Verification
    after: Verification
    restored: list[str] = field(default_factory=list)  # paths that hold again what belongs there
    set_aside: list[str] = field(default_factory=list)  # where what was damaged is now, below `quarantine/`
    notes: list[str] = field(default_factory=list)


def repair(store: Store, *, accept_loss: bool = False) -> Report:
    """Mends what a deep verification finds, and makes this user's index and caches anew.

    What is damaged is moved to `quarantine/`, under the path that it had. In its place comes what the store holds a
    second time: a file of a tree that is a blob too, a manifest that its folder still gives, the sound records of a
    journal. What has no twin is missing from then on; log it again, or bring it back from a copy of the store.

    Args:
        accept_loss: journals that are gone, and what of others cannot be read, are damage no longer, and collections
            go on without what they named.

    Raises:
        StoreWriteError: the drive refused; what was done until then is done.
    """
    mending = _Mending(store)
    found: list[Verification] = []
    with store.leases.working(), files.writing("a repaired store", store.root):
        # What comes back may show more: the files of a tree are known only by its manifest.
        while not found or mending.mend(found[-1].problems):
            found.append(verify(store, deep=True))
        if accept_loss and mending.give_up(found[-1].problems):
            found.append(verify(store, deep=True))
    store.forget_derived()
    return Report(found[0], found[-1], mending.restored, mending.set_aside, mending.notes)


class _Mending:
    """One run."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._root = store.root
        self._drive = drive.of(store.root)
        self._batch = os.path.join(
            self._root, sealed_journals.QUARANTINE, f"{ids.utc_stamp(ids.now_ms())}-{ids.random_hex(8)}"
        )
        self._twins: dict[str, list[str]] | None = None
        self.restored: list[str] = []
        self.set_aside: list[str] = []
        self.notes: list[str] = []

    def mend(self, problems: list[Problem]) -> bool:
        """Goes through what was found; a thing is looked at again just before it is touched. Whether any was moved."""
        paths = dict.fromkeys(problem.path for problem in problems)
        before = len(self.restored), len(self.set_aside)
        self._twins = None
        self.notes = []
        # Journals first: what they name counts for more than what nobody names.
        for path in [path for path in paths if self._top_of(path) == "journals"]:
            self._mend_journal(path)
        # Two that were swapped: each finds its name free once both are out of the way. Also those that a repair has
        # put aside which was killed then.
        for aside in files_in(os.path.join(self._root, sealed_journals.QUARANTINE)):
            self._bring_journal_home(aside)
        for path in sorted(paths, key=lambda path: not path.endswith(".manifest")):
            top = self._top_of(path)
            if top in ("objects", "trees", "trash"):
                self._mend_object(path)
            elif top == "names":
                self._set_aside(path)
                if path.endswith(".dir"):
                    self._set_aside(path + ".manifest")
                self.restored.append(path)  # derived: made at the next use
            elif top != "journals":
                self.notes.append(f"{path} cannot be mended here; bring it back from a copy of the store")
        return (len(self.restored), len(self.set_aside)) != before

    def _top_of(self, path: str) -> str:
        return os.path.relpath(path, self._root).split(os.sep)[0]

    # -- objects -----------------------------------------------------------------------------------------------------

    def _mend_object(self, path: str) -> None:
        part, inside = self._part_of(path)
        if part is None:
            self.notes.append(f"{path} is not of this store's making and was left alone")
            return
        bring_back_object(self._root, part.kind, part.digest)
        home = part.home(self._root)
        if part.kind == "blob":
            self._mend_file(home, part.digest, is_executable=False)
        elif part.is_manifest:
            self._mend_manifest(part)
        else:
            self._mend_tree(part, inside)

    def _part_of(self, path: str) -> tuple[Part | None, str]:
        """What a path in `objects/`, `trees/` or `trash/` is a part of, and the rest of the path below that."""
        top, *names = os.path.relpath(path, self._root).split(os.sep)
        if top == "trash":
            return (parse_name(names[1]) if len(names) > 1 else None), os.sep.join(names[2:])
        if len(names) < 3:
            return None, ""
        algorithm, shard, rest = names[:3]
        is_manifest = top == "trees" and rest.endswith(".manifest")
        digest = f"{algorithm}:{shard}{rest.removesuffix('.manifest') if is_manifest else rest}"
        if not digests.is_digest(digest):
            return None, ""
        return Part("blob" if top == "objects" else "tree", digest, is_manifest), os.sep.join(names[3:])

    def _mend_tree(self, part: Part, inside: str) -> None:
        try:
            entries = {entry.path: entry for entry in self._store.tree_entries(part.digest)}
        except (StoreError, ValueError):
            return  # its manifest is another problem
        home = part.home(self._root)
        if not inside:
            if os.path.lexists(home):
                return  # it has come back from the trash
            # A folder that is gone as a whole: it is built elsewhere, so that nobody meets half of it.
            self._build_tree(part.digest, list(entries.values()), home)
            return
        entry = entries.get(inside.replace(os.sep, "/"))
        if entry is None:
            return
        path = os.path.join(home, inside)
        if entry.is_folder:
            if not os.path.isdir(path):
                self._set_aside(path)
                self._drive.make_own_folder(path)
                files.sync_folder(os.path.dirname(path))
                self.restored.append(path)
            return
        self._mend_file(path, entry.digest, is_executable=entry.is_executable)

    def _build_tree(self, digest: str, entries: list[manifest.Entry], home: str) -> None:
        draft = self._store.new_temporary_name()
        self._drive.make_own_folder(draft)
        try:
            for entry in entries:
                target = os.path.join(draft, *entry.path.split("/"))
                if entry.is_folder:
                    self._drive.make_own_folder(target)
                elif not self._copy_twin(entry.digest, target, is_executable=entry.is_executable):
                    return
            for folder, _, _ in os.walk(draft, topdown=False):
                files.sync_folder(folder)
            files.make_folder(os.path.dirname(home), self._root)
            if files.publish(draft, home):
                self.restored.append(home)
            files.sync_folder(os.path.dirname(home))
        finally:
            files.remove_folder(draft)

    def _mend_file(self, path: str, digest: str, *, is_executable: bool) -> None:
        """Puts the damaged file aside and a whole one in its place, if the store has another."""
        if _is_whole(path, digest):
            return  # mended meanwhile, by whoever logged it again
        draft = self._store.new_temporary_name()
        is_found = self._copy_twin(digest, draft, is_executable=is_executable)
        self._set_aside(path)
        if is_found:
            files.make_folder(os.path.dirname(path), self._root)
            self._drive.rename(draft, path, replace=True)
            files.sync_folder(os.path.dirname(path))
            self.restored.append(path)

    def _copy_twin(self, digest: str, target: str, *, is_executable: bool) -> bool:
        """A copy of bytes that the store holds elsewhere, hashed as it is made. Returns whether there are any."""
        for twin in self._twins_of(digest):
            if not stat.S_ISREG(_mode_of(twin)):
                continue
            try:
                found = copy_in(twin, target, is_executable=is_executable).digest
            except (FileNotFoundError, PermissionError):
                continue
            if found == digest:
                return True
            files.remove_file(target)
        return False

    def _twins_of(self, digest: str) -> list[str]:
        """Every path below `objects/`, `trees/` and `names/` that should hold these bytes."""
        if self._twins is None:
            self._twins = {}
            for other, path in objects_in(os.path.join(self._root, "trees")):
                if path.endswith(".manifest"):
                    continue
                try:
                    entries = self._store.tree_entries(other)
                except (StoreError, ValueError):
                    continue
                for part, expected in manifest.parts_of(path, entries):
                    self._twins.setdefault(expected, []).append(part)
            for other, path in names_in(os.path.join(self._root, "names")):
                self._twins.setdefault(other, []).append(path)
        return [Part("blob", digest).home(self._root), *self._twins.get(digest, ())]

    def _mend_manifest(self, part: Part) -> None:
        """A manifest is what its folder says, as long as nothing was added to the folder and nothing is damaged."""
        path = part.home(self._root)
        top = path.removesuffix(".manifest")
        if not os.path.isdir(top):
            self._set_aside(path)
            return
        try:
            entries = manifest.folder_entries(top)
        except OSError as error:
            self.notes.append(f"{top} cannot be read: {error.strerror}")
            return
        # A drive without modes says of every file that it may be executed, or of none.
        guesses = [entries]
        for is_all in (False, True):
            guesses.append([entry._replace(is_executable=is_all and not entry.is_folder) for entry in entries])
        texts = [manifest.write_manifest(guess) for guess in guesses]
        self._set_aside(path)
        for text in texts:
            if digests.digest_of_bytes(text) == part.digest:
                files.create_exclusive(path, text, self._store.new_temporary_name())
                self.restored.append(path)
                return

    # -- journals ----------------------------------------------------------------------------------------------------

    def _mend_journal(self, path: str) -> None:
        """Puts aside what is no journal of this store under its own name, and what the store holds whole elsewhere.

        Another damaged one stays for its sound records.
        """
        try:
            data = files.read_file(path)
        except (FileNotFoundError, IsADirectoryError):
            self._set_aside(path)  # a folder, or a link that leads nowhere; or it has gone meanwhile
            return
        except OSError as error:
            self.notes.append(f"{path} cannot be read: {error.strerror}; it was left in its place")
            return
        if path.endswith(PACK_SUFFIX):
            self._mend_pack(path)
            return
        part = journal.parse_whole(data, path)
        home = self._home_of(part)
        if home and path not in (home + journal.OPEN_SUFFIX, home + journal.SEALED_SUFFIX):
            self._set_aside(path)
        elif part.lines and not home and part.lines[0]["k"] == records.JOURNAL:
            self._set_aside(path)  # of another store
        elif path.endswith(journal.OPEN_SUFFIX) or not damages_of(path, part):
            return
        elif self._stem_of(path) in self._packed():
            self._set_aside(path)

    def _mend_pack(self, path: str) -> None:
        """Puts a damaged pack aside if each journal that it held has a file of its own, or is in another pack."""
        pack = packs.read_pack(path)
        own = Listing(self._root).journals(at_once=True)
        others = self._packed(but=path)
        for stem, member in pack.members.items():
            if stem in others:
                continue
            source = os.path.join(self._root, "journals", stem + own.get(stem, journal.SEALED_SUFFIX))
            if not _is_whole(source, f"{digests.ALGORITHM}:{member.sha256}"):
                return
        if pack.members and not pack.journals.keys() - pack.members.keys():
            self._set_aside(path)

    def _packed(self, but: str = "") -> set[str]:
        """The journals that the packs hold whole."""
        listing = Listing(self._root)
        listing.journals(at_once=True)
        found: set[str] = set()
        for path in {packs.path_of(self._root, name) for name in listing.packs} - {but}:
            try:
                pack = packs.read_pack(path)
            except OSError:
                continue
            found.update(pack.journals.keys() - set(pack.hurt()))
        return found

    def give_up(self, problems: list[Problem]) -> bool:
        """Notes that what is lost of the journals may be. Returns whether anything was."""
        paths = dict.fromkeys(problem.path for problem in problems if problem.is_loss)
        for path in paths:
            stem = self._stem_of(path)
            # What may still grow is never moved, nor is what has something to read.
            is_kept = path.endswith((PACK_SUFFIX, journal.OPEN_SUFFIX))
            if os.path.lexists(path) and (is_kept or journal.read_journal(path, journal.Position()).lines):
                accept(self._root, path, self._batch, self._store.new_temporary_name())
                self.notes.append(f"accepted that the damaged part of it is lost: {path}")
            elif is_stem(stem):
                note = os.path.join(self._batch, "journals", *stem.split("/")) + sealed_journals.GIVEN_UP
                files.make_folder(os.path.dirname(note), self._root)
                files.create_exclusive(note, b"", self._store.new_temporary_name())
                self._set_aside(path)  # what is there has nothing for anybody to read
                self.notes.append(f"given up: {path}")
        return bool(paths)

    def _stem_of(self, path: str) -> str:
        stem = os.path.relpath(path, os.path.join(self._root, "journals")).replace(os.sep, "/")
        return stem.partition(".")[0]

    def _home_of(self, part: journal.JournalPart) -> str:
        """The path that a journal of this store says it has, without its end; '' where it says nothing."""
        header = part.lines[0] if part.lines else {}
        stem = header.get("name")
        if header.get("k") != records.JOURNAL or header.get("store") != self._store.id or not is_stem(stem):
            return ""
        return os.path.join(self._root, "journals", *str(stem).split("/"))

    def _bring_journal_home(self, aside: str) -> None:
        """Renames a sound journal to the name that it states, if that is free."""
        if f"{os.sep}journals{os.sep}" not in aside or not stat.S_ISREG(_mode_of(aside)):
            return
        part = journal.read_journal(aside, journal.Position(), whole=True)
        home = self._home_of(part)
        if part.damages or not home or os.path.lexists(home + journal.OPEN_SUFFIX):
            return
        if not part.position.is_sealed and self._stem_of(home) in self._packed():
            return  # it was cut off, and is whole there
        home += journal.SEALED_SUFFIX if part.position.is_sealed else journal.OPEN_SUFFIX
        if not os.path.lexists(home):
            files.make_folder(os.path.dirname(home), self._root)
            self._drive.rename(aside, home)
            files.sync_folder(os.path.dirname(home))
            if aside in self.set_aside:
                self.set_aside.remove(aside)
            self.restored.append(home)

    # -- putting aside -----------------------------------------------------------------------------------------------

    def _set_aside(self, path: str) -> str:
        """Moves something to the quarantine, under the path that it had. Returns where it is; '' if there is none."""
        if not os.path.lexists(path):
            return ""
        target = os.path.join(self._batch, os.path.relpath(path, self._root))
        while os.path.lexists(target):
            target += "+"
        files.make_folder(os.path.dirname(target), self._root)
        self._drive.rename(path, target)
        files.sync_folder(os.path.dirname(target))
        files.sync_folder(os.path.dirname(path))
        self.set_aside.append(target)
        return target


def _mode_of(path: str) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0


def _is_whole(path: str, digest: str) -> bool:
    if not stat.S_ISREG(_mode_of(path)):
        return False
    try:
        return digests.digest_of_file(path)[0] == digest
    except OSError:
        return False
