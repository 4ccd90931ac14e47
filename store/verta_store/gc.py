"""Garbage collection beside writers on any number of hosts; no lock has to be trusted.

The protocol, and why it holds, is in `store/README.md`, sections "Leases" and "Garbage collection". In short: what no
journal and no lease names, and what is older than the grace and than every writer's lease, is renamed into the trash;
a later collection looks again, puts back what is named by then and deletes the rest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from . import digest as digests
from . import drive, files, ids, leases, manifest, packing, packs, trash
from .batches import DOOMED, Batches, delete
from .collected import Amount, Measure, Report, Share, files_in
from .damages import ACCEPT
from .errors import CollectionRefused
from .roots import RootReader
from .sealed_journals import QUARANTINE
from .store import Store
from .trash import FOLDER as TRASH
from .trash import Part
from .turn import Turn

DAY_S = 24 * 3600.0
DEFAULT_GRACE_S = 14 * DAY_S

_NS = 10**9


@dataclass(frozen=True)
class Rules:
    """The times of the protocol, in seconds, and the clock: what a test replaces. Nobody else does."""

    minimum_grace_s: float = DAY_S
    trash_wait_s: float = DAY_S
    silent_s: float = 600.0  # a process that is alive touches its lease every 60 s
    turn_s: float = 3600.0
    pack_after_s: float = packing.PACK_AFTER_S
    fewest_packed: int = packing.FEWEST_JOURNALS
    clock: Callable[[int], int] = field(default=lambda drive_ns: drive_ns)


def collect(
    store: Store,
    *,
    grace_s: float = DEFAULT_GRACE_S,
    is_alone: bool = False,
    is_dry_run: bool = False,
    pack: bool = True,
    rules: Rules | None = None,
) -> Report:
    """Moves garbage to the trash, and deletes what has waited there for 24 hours and is garbage still.

    Args:
        grace_s: what is younger stays; at least 24 hours, unless `is_alone`.
        is_alone: the caller's word that nobody else uses the store. With `grace_s=0` all is deleted at once.
        is_dry_run: only says what would go.
        pack: whether many small sealed journals become one file at the end.

    Raises:
        ValueError: a grace below 24 hours without `is_alone`, or below 0.
        CollectionRefused: a journal is damaged or cannot be read; somebody is at work although `is_alone`; another
            collection is running. Nothing was touched.
        StoreWriteError: the drive refused; the next collection goes on from there.
    """
    rules = rules or Rules()
    if not grace_s >= 0 or (grace_s < rules.minimum_grace_s and not is_alone):
        raise ValueError(
            f"the grace is at least {rules.minimum_grace_s / 3600:g} hours, not {grace_s / 3600:g}: a shorter one can "
            "take what another host is about to name; with --i-am-alone it may be 0"
        )
    collection = _Collection(store, grace_s, is_alone, is_dry_run, rules)
    if is_dry_run:
        return collection.run()
    turn = Turn(store.root, int(rules.turn_s * _NS), collection.drive_now_ns)
    with files.writing("into the trash", os.path.join(store.root, TRASH)):
        turn.take()
        try:
            report = collection.run()
            if pack and store.format >= packs.FORMAT:
                collection.pack()
            return report
        finally:
            turn.give_back()


@dataclass
class _Candidate:
    """A blob or tree in its place. The time of a tree is its manifest's, which nobody else has a reason to touch."""

    digest: str
    kind: str
    parts: list[Part]
    time_ns: int
    amount: Amount = field(default_factory=Amount)


class _Collection:
    """One run of the protocol."""

    def __init__(self, store: Store, grace_s: float, is_alone: bool, is_dry_run: bool, rules: Rules) -> None:
        self._store = store
        self._root = store.root
        self._grace_ns = int(grace_s * _NS)
        self._is_alone = is_alone
        self._is_dry_run = is_dry_run
        self.rules = rules
        self._wait_ns = 0 if is_alone and grace_s == 0 else int(rules.trash_wait_s * _NS)
        self._report = Report(is_dry_run, grace_s)
        self._batches = Batches(self._root, self._report, self._wait_ns, self.drive_now_ns)
        self._reader = RootReader(self._root)
        self._now_ns = 0
        self._cutoff_ns = 0
        self._kept: set[str] = set()  # digests that are named by a journal, a lease or a tree that is

    def run(self) -> Report:
        """The steps in their order; each may be the last one of a process that is killed."""
        self._store.flush()
        self._store.leases.advance()
        self._now_ns = self.drive_now_ns()
        self._report.now_ms = self._now_ns // 10**6
        # Leases before journals: a writer that gave its lease back has written its records before.
        living, dead = self._judge_leases()
        writers_ns = [lease.since_ns for lease in living if lease.kind == leases.WRITER]
        self._cutoff_ns = self._batches.cutoff_ns = min([self._now_ns - self._grace_ns, *writers_ns])
        self._read_journals()
        self._sweep_writers(dead)
        # A writer that slept, was taken for dead and wakes up looks for its lease before it names anything: what it
        # named while it had one is in the journals by now.
        self._mark()
        if not self._is_dry_run:
            # What gives space back comes before what needs some: a full disk is a reason to collect.
            self._sweep_temporary(living)
            self._batches.sweep(self._kept, self._sync_journals)
        candidates = self._candidates()
        self._share_out(candidates)
        if not self._is_dry_run:
            if candidates and not self._wait_ns and not self._batches.has_room():
                # Nobody else is here, and the drive is so full that it takes no folder: without the way round.
                self._sync_journals()
                for candidate in candidates:
                    self._batches.delete_at_once(self._paths(candidate))
                    self._report.trashed.add(candidate.amount)
                candidates = []
            for candidate in candidates:
                if self._batches.move(candidate.parts):
                    self._report.trashed.add(candidate.amount)
            self._batches.end_first_sweep(self._mark)
            self._sweep_names()
            if not self._wait_ns:
                self._batches.sweep(self._kept, self._sync_journals)
            self._batches.remove_own_if_empty()
        self._batches.report_waiting(self._kept, self._now_ns)
        return self._report

    def pack(self) -> None:
        """Packs small sealed journals, and deletes those that were packed long enough ago."""
        with files.writing("a pack of journals", os.path.join(self._root, "journals")):
            packed = packing.pack_journals(
                self._root,
                self._store.id,
                self._now_ns,
                after_s=min(self.rules.pack_after_s, self._wait_ns / _NS),
                fewest=self.rules.fewest_packed,
            )
            self._report.packed = packed
            packing.delete_packed(self._root, self.drive_now_ns(), self._wait_ns / _NS, packed)

    def drive_now_ns(self) -> int:
        """The drive's clock: the time that it gives to a file made now."""
        folder = os.path.join(self._root, "tmp")
        files.make_folder(folder, self._root)
        path = os.path.join(folder, f"clock-{ids.random_hex(16)}")
        with open(path, "xb") as file:
            now_ns = os.fstat(file.fileno()).st_mtime_ns
        files.remove_file(path)
        return self.rules.clock(now_ns)

    # -- who is at work, and what is named -------------------------------------------------------------------------

    def _judge_leases(self) -> tuple[list[leases.Lease], list[leases.Lease]]:
        """(living, dead) leases."""
        living, dead = [], []
        for lease in leases.read_leases(self._root):
            is_own = lease.name == self._store.leases.name
            if not is_own and not lease.is_alive(self._now_ns, self._silence_ns()):
                dead.append(lease)
                continue
            if self._is_alone and not is_own and lease.kind == leases.WRITER:
                raise CollectionRefused(
                    f"you are not alone: {lease.owner} is working with this store; end it first", path=lease.path
                )
            living.append(lease)
        return living, dead

    def _silence_ns(self) -> int:
        """How long a process of another machine may give no sign and count as living."""
        return int(self.rules.silent_s * _NS) if self._is_alone else self._grace_ns

    def _read_journals(self) -> None:
        # One that cannot be read keeps the index from knowing what is gone.
        problems = self._reader.catch_up() or [
            f"{stem}, which this host has read before, is gone" for stem in self._store.lost_journals()
        ]
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise CollectionRefused(
                "nothing is collected while a journal is damaged or gone, because what it named is not known: "
                f"{problems[0]}{more}; look with: verta-local verify. Bring the file back from a copy of the store; if "
                f"there is none, accept what is lost, with: {ACCEPT}"
            )

    def _mark(self) -> set[str]:
        """Finds out what is named, by the newest of the journals and leases."""
        self._read_journals()
        roots = self._reader.roots
        # A journal that a repair has put aside may have named what no other does.
        aside = (path for path in files_in(os.path.join(self._root, QUARANTINE)) if f"{os.sep}journals{os.sep}" in path)
        for path in (*files_in(os.path.join(self._root, "claims")), *aside):
            if not os.path.islink(path):
                roots.add_text(files.read_file(path))
        kept = roots.living(self._report.now_ms)
        for lease in leases.read_leases(self._root):
            kept |= lease.digests
        # The large files of a tree are objects as well: they cost nothing, and the next tree like it finds them.
        for digest in list(kept):
            kept.update(self._blobs_of(digest))
        self._kept = kept
        return kept

    def _blobs_of(self, digest: str) -> Iterator[str]:
        """The digests of a tree's files; none for a blob, or a manifest that cannot be read."""
        part = Part("tree", digest, True)
        try:
            with open(part.home(self._root), "rb") as file:
                data = file.read()
        except OSError:
            return
        try:
            if digests.digest_of_bytes(data) == digest:
                yield from (entry.digest for entry in manifest.read_manifest(data) if entry.digest)
        except ValueError:
            return  # the tree has bytes of its own

    def _candidates(self) -> list[_Candidate]:
        """What nothing names and what is old enough."""
        found: list[_Candidate] = []
        young = Measure()
        for candidate in self._objects():
            if candidate.digest in self._kept:
                continue
            if candidate.time_ns < self._cutoff_ns:
                found.append(candidate)
            else:
                self._report.kept.add(young.of(self._paths(candidate)))
        return found

    def _objects(self) -> Iterator[_Candidate]:
        for kind, top in (("blob", "objects"), ("tree", "trees")):
            for shard, names in self._shards(top):
                for rest in sorted({name.removesuffix(".manifest") for name in names}):
                    digest = f"{digests.ALGORITHM}:{shard}{rest}"
                    parts = [Part(kind, digest), Part(kind, digest, True)]
                    parts = [part for part in parts if os.path.basename(part.home(self._root)) in names]
                    try:
                        time_ns = os.lstat(parts[-1].home(self._root)).st_mtime_ns
                    except OSError:
                        continue  # another collection was faster
                    yield _Candidate(digest, kind, parts, time_ns)

    def _shards(self, top: str) -> Iterator[tuple[str, set[str]]]:
        """(two digits, names that are a digest's) of each shard folder."""
        base = os.path.join(self._root, top, digests.ALGORITHM)
        for shard in sorted(files.list_names(base)):
            names = {name for name in files.list_names(os.path.join(base, shard)) if _is_digest(shard, name, top)}
            if names:
                yield shard, names

    def _paths(self, candidate: _Candidate) -> list[str]:
        paths = [part.home(self._root) for part in candidate.parts]
        if candidate.kind == "blob":
            paths.append(os.path.join(self._root, "names", digests.shard(candidate.digest)))
        return paths

    def _share_out(self, candidates: list[_Candidate]) -> None:
        """Measures, and says whose the garbage was: the run's that named an object last, else nobody's."""
        owners: dict[str, tuple[str, str]] = {}
        for naming in self._reader.roots.namings(self._report.now_ms):
            owners[naming.digest] = (naming.entity, naming.reason)
        for candidate in candidates:
            if candidate.kind == "tree" and candidate.digest in owners:
                for digest in self._blobs_of(candidate.digest):
                    owners.setdefault(digest, owners[candidate.digest])
        shares: dict[tuple[str, str], Share] = {}
        measure = Measure()
        for candidate in candidates:
            candidate.amount = measure.of(self._paths(candidate))
            entity, reason = owners.get(candidate.digest, ("", "never logged"))
            name = self._reader.roots.names.get(entity, entity)
            shares.setdefault((entity, reason), Share(name, entity, reason)).amount.add(candidate.amount)
            if self._is_dry_run:
                self._report.trashed.add(candidate.amount)
        self._report.shares = sorted(shares.values(), key=lambda share: -share.amount.size_bytes)

    def _sync_journals(self) -> None:
        for path in self._reader.open_paths:
            try:
                descriptor = os.open(path, os.O_RDONLY | files.O_BINARY | files.O_CLOEXEC)
            except OSError:
                continue  # sealed meanwhile, which synced it
            try:
                files.sync_file(descriptor)
            finally:
                os.close(descriptor)

    # -- what is derived, and what the dead left -------------------------------------------------------------------

    def _sweep_names(self) -> None:
        """Names of blobs that are gone: those that a collection left which was killed."""
        for shard, rests in self._shards("names"):
            for rest in rests:
                digest = f"{digests.ALGORITHM}:{shard}{rest}"
                folder = os.path.join(self._root, "names", digests.shard(digest))
                if digest not in self._kept and _is_old(folder, self._cutoff_ns) and self._is_nowhere(digest):
                    self._batches.delete_names(digest)

    def _is_nowhere(self, digest: str) -> bool:
        part = Part("blob", digest)
        return not os.path.lexists(part.home(self._root)) and trash.find(self._root, part) is None

    def _sweep_writers(self, dead: list[leases.Lease]) -> None:
        """Takes away the folder in `tmp/` and then the lease of each process that is gone."""
        for lease in dead:
            folder = os.path.join(self._root, "tmp", lease.name)
            self._report.ended_writers.append(lease.owner)
            if self._is_dry_run:
                if os.path.lexists(folder):
                    self._report.freed.add(Measure().of([folder]))
                continue
            self._batches.doom(folder)
            files.remove_file(lease.path)

    def _sweep_temporary(self, living: list[leases.Lease]) -> None:
        """What lies in `tmp/` without a lease: of earlier versions, and of a crash between two steps."""
        # Their names first, so that a folder made since then is not taken for one without.
        top = os.path.join(self._root, "tmp")
        found = files.list_names(top)
        leased = {lease.name for lease in (*living, *leases.read_leases(self._root))} | {self._store.leases.name}
        for name in found:
            path = os.path.join(top, name)
            if name.startswith(DOOMED):
                self._report.freed.add(delete(path))
            elif name not in leased and _is_old(path, self._now_ns - self._silence_ns()):
                self._batches.doom(path)
        top = os.path.join(self._root, "journals")
        for folder in (top, *(os.path.join(top, name) for name in files.list_names(top))):
            for name in files.list_names(folder):
                path = os.path.join(folder, name)
                if name.startswith(drive.POKE) and _is_old(path, self._now_ns - self._silence_ns()):
                    files.remove_file(path)  # of a look that was killed


def _is_digest(shard: str, name: str, top: str) -> bool:
    rest = name.removesuffix(".manifest") if top == "trees" else name
    return re.fullmatch(r"[0-9a-f]{64}", shard + rest) is not None and len(shard) == 2


def _is_old(path: str, cutoff_ns: int) -> bool:
    try:
        return os.lstat(path).st_mtime_ns < cutoff_ns
    except OSError:
        return False
