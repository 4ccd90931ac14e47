"""What an open store is made of: its journal, leases, objects and index, each made when something needs it first."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import drive, ids
from .journal import JournalWriter
from .leases import Leases
from .listing import Listing
from .query import EntityRow

if TYPE_CHECKING:
    from .authors import Conflict
    from .claims import Claims
    from .contents import Contents
    from .index import Index
    from .manifest import Entry
    from .objects import Ref

_IN_MEMORY = ":memory:"

# SMB: the server has links, but a client does not open a file under one name while it has it open under another.
_WITHOUT_LINKS = ("cifs", "smb2", "smb3", "smbfs")

# A fork waits this long at most for another thread's query; a rebuild of a large index takes longer.
_FORK_WAITS_S = 10.0


class StoreParts:
    """The parts of one store, as this process uses it, and its objects. See `Store`."""

    def __init__(
        self, root: str, description: Mapping[str, Any], cache_dir: str, durability: str, *, was_created: bool = False
    ) -> None:
        self.root = root
        self.id: str = description["store_id"]
        self.format: int = description["format"]
        self.durability = durability
        self.cache_dir = cache_dir
        self.was_created = was_created
        capabilities = description.get("capabilities", {})
        self._is_case_sensitive = bool(capabilities.get("case_sensitive", True))
        sharing = description.get("sharing", "user")
        self.sharing: str = sharing if sharing in drive.SHARING else "user"
        kind = _network_type(root)
        has_links = bool(capabilities.get("hard_links", True)) and kind not in _WITHOUT_LINKS
        drive.register(drive.Drive(root, self.sharing, is_network=bool(kind), has_links=has_links))
        # What a user should be told once, each a sentence.
        self.notes: list[str] = []
        # Called once for each value of this process's that lost against another writer's, at the refresh that shows it.
        self.on_lost: Callable[[Conflict], None] | None = None
        self._told: set[tuple[str, str, str, str, int]] = set()
        folder = os.path.join(self._local_cache(cache_dir), "stores", self.id)
        self._clock = ids.HybridClock()
        self._journal = JournalWriter(
            root,
            self.id,
            self._clock,
            full_durability=durability == "full",
            sealed_path="" if folder.startswith(_IN_MEMORY) else os.path.join(folder, "sealed"),
        )
        self.leases = Leases(root)
        self._memories = "" if folder.startswith(_IN_MEMORY) else folder
        # A run of numbers needs neither the objects nor, in a new store, the index; and their libraries take longer
        # to import than such a run takes.
        self._made_contents: Contents | None = None
        self._made_index: Index | None = None
        self._made_claims: Claims | None = None
        # What this process knows to be logged, so that a log call needs no query: its own part, which the index need
        # not take in for that, and what it has asked for. Forgotten at each refresh that brought something of another
        # writer. (entity, section) -> key -> record time:
        self._known: dict[tuple[str, str], dict[str, int]] = {}
        self._epochs: dict[tuple[str, str], int] = {}
        # Entities that this process created: nothing can have been logged to them before.
        self._created: set[str] = set()
        # (kind, parent, name) -> what this process created, none of it renamed or deleted; None: the index must take
        # in all that this process has logged before it can be asked for a name.
        self._named: dict[tuple[str, str | None, str], EntityRow] | None = {} if was_created else None
        # Whether `_named` is all that there is: for as long as nobody else writes into a store that was just made.
        self._is_alone = was_created
        self._listing = Listing(root)  # for this question only
        # Entities that were there at the last look, so that something may be made below them.
        self._parents: set[str] = set()
        self._written_ids: set[str] = set()
        self._has_deleted = False
        self._lock = threading.RLock()
        # For creating and looking for a name in one step. Another one, because a look at a large store takes a while,
        # and a log call must not wait for it.
        self._name_lock = threading.RLock()

    def _local_cache(self, cache_dir: str) -> str:
        """The cache folder, or another one where that is no place for SQLite."""
        if not _network_type(cache_dir):
            return cache_dir
        from . import probe  # noqa: PLC0415 - start-up time

        found = probe.local_folder()
        self.notes.append(
            f"the cache folder {cache_dir} is on a network drive ({probe.file_system_of(cache_dir).type}), where an "
            f"index is not safe; it is kept in {found or 'memory'}. VERTA_LOCAL_CACHE names another folder"
        )
        return found or _IN_MEMORY

    @property
    def _contents(self) -> Contents:
        if self._made_contents is None:
            from .contents import Contents  # noqa: PLC0415 - start-up time

            with self._lock:
                if self._made_contents is None:
                    names = os.path.join(self.cache_dir, "stores", self.id, "names")
                    self._made_contents = Contents(
                        self.root, self.leases, self._memories, names, is_case_sensitive=self._is_case_sensitive
                    )
        return self._made_contents

    @property
    def _claims(self) -> Claims:
        if self._made_claims is None:
            from .claims import Claims  # noqa: PLC0415 - start-up time

            self._made_claims = Claims(self.root)
        return self._made_claims

    @property
    def _index(self) -> Index:
        if self._made_index is None:
            from . import index_file  # noqa: PLC0415 - start-up time
            from .index import Index  # noqa: PLC0415 - start-up time

            with self._lock:
                if self._made_index is None:
                    memories = self._memories
                    path = index_file.path_of(memories, self.root, self.id) if memories else _IN_MEMORY
                    self._made_index = Index(self.root, self.id, path, self._journal.stems)
        return self._made_index

    def flush(self) -> None:
        """Returns when everything logged so far survives a power cut. Raises StoreWriteError."""
        self._journal.flush()

    def seal(self) -> None:
        """Ends this process's journal with its footer, durable; a later record opens a new one."""
        self._journal.seal()

    def close(self) -> None:
        """Seals the journal and lets go of files. The store may be used again afterwards."""
        self._journal.seal()
        if self._made_contents is not None:
            self._made_contents.close()
        self.leases.close()
        if self._made_index is not None:
            self._made_index.close()

    def _before_fork(self) -> None:
        """Waits until no other thread is in the middle of something that the child would inherit half done.

        SQLite's own locks cannot be made anew in a child: one that a thread held at the fork is held for ever.
        """
        for lock in self._locks():
            lock.acquire(timeout=_FORK_WAITS_S)

    def _after_fork_in_parent(self) -> None:
        for lock in self._locks():
            try:
                lock.release()
            except RuntimeError:
                pass  # not acquired in time

    def _locks(self) -> tuple[Any, ...]:
        found = [self._name_lock, self._lock]
        if self._made_index is not None:
            found.append(self._made_index.lock)
        if self._made_contents is not None:
            found += [self._made_contents.verified.lock, self._made_contents.sources.lock]
        return (*found, self._journal.lock)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._name_lock = threading.RLock()
        # The parent goes on logging: what this process knew of its own is now what another one has logged.
        for known in (self._known, self._epochs, self._created, self._parents):
            known.clear()
        self._journal.forget_after_fork()
        self.leases.forget_after_fork()
        if self._made_contents is not None:
            self._made_contents.forget_after_fork()
        if self._made_index is not None:
            self._made_index.forget_after_fork()

    # -- objects ---------------------------------------------------------------------------------------------------

    def put_bytes(self, data: bytes) -> Ref:
        """Stores bytes as a blob; durable when this returns."""
        return self._stored(lambda: self._contents.objects.put_bytes(data))

    def bytes_being_written(self) -> int:
        """How large the unfinished copies of this process are now: how far a `put_file` or `put_tree` is."""
        return self._contents.temporary.size_bytes()

    def put_file(self, path: str | os.PathLike[str]) -> Ref:
        """Stores a copy of a file as a blob; durable when this returns.

        Raises:
            FileNotFoundError, PermissionError: the file cannot be opened.
            BadContent: it is not a regular file.
            StoreWriteError: the store's drive refused; nothing is half there.
        """
        return self._stored(lambda: self._contents.objects.put_file(os.fspath(path)))

    def put_stream(self, read: Callable[[int], bytes]) -> Ref:
        """Stores what `read(size in bytes)` returns until it returns nothing; durable when this returns."""
        return self._stored(lambda: self._contents.objects.put_stream(read))

    def put_tree(self, path: str | os.PathLike[str]) -> Ref:
        """Stores a copy of a folder as a tree; durable when this returns.

        Raises:
            FileNotFoundError, NotADirectoryError, PermissionError: the folder cannot be read.
            BadContent: something in it cannot be stored; the message names it.
            StoreWriteError: the store's drive refused; nothing is half there.
        """
        return self._stored(lambda: self._contents.trees.put_tree(os.fspath(path)))

    def _stored(self, put: Callable[[], Ref]) -> Ref:
        """Stores an object under this process's lease, which protects it until a record names it."""
        with self.leases.working() as generation:
            ref = put()
            self.leases.expect(ref.kind, ref.digest, generation)
        return ref

    def hold(self, digests: Iterable[str], purpose: str) -> bool:
        """Keeps objects from being collected for as long as this process lives, whatever is deleted meanwhile.

        For a process that serves them. `purpose` is for the eye. Returns False when the store cannot be written.
        """
        return self.leases.hold(digests, purpose)

    def path_of(self, kind: str, digest: str, name: str) -> str:
        """The read-only path of a blob (under `name`, made safe) or tree, straight in the store.

        Raises:
            MissingObject: the store does not hold it.
        """
        return self._contents.views.path_of(kind, digest, name)

    def unpacked_path_of(self, digest: str, name: str) -> str:
        """The folder that an archive was unpacked to, once. Raises MissingObject, BadContent."""
        return self._contents.views.unpacked_path_of(digest, name)

    def new_temporary_name(self) -> str:
        """A path in this process's folder in `tmp/` that nothing else uses. Raises StoreWriteError."""
        return self._contents.temporary.new_name()

    def read_verified(self, digest: str) -> bytes:
        """A whole blob in memory, its hash checked on these bytes. Raises MissingObject, CorruptObject."""
        return self._contents.objects.read_verified(digest)

    def check(self, kind: str, digest: str) -> None:
        """Returns when every byte is known to be whole, by this host's memory of an earlier check or by reading.

        Raises:
            MissingObject, CorruptObject
        """
        if kind == "tree":
            self._contents.trees.check(digest)
        else:
            self._contents.objects.check(digest)

    def begin_tree_check(self, digest: str) -> Callable[[], None]:
        """Begins `check` of a tree of thousands of files beside what this process does; what is returned waits for it,
        and raises what `check` raises. Raises MissingObject.
        """
        return self._contents.trees.begin_check(digest)

    def object_path(self, digest: str) -> str:
        """Where a blob is (in the trash, maybe), or would be; for reading what is there, whatever it is."""
        return self._contents.objects.find(digest)

    def tree_path(self, digest: str) -> str:
        """Where a tree's folder is (in the trash, maybe), or would be."""
        return self._contents.trees.find(digest)

    def tree_entries(self, digest: str) -> list[Entry]:
        """The verified manifest of a tree. Raises MissingObject, CorruptObject."""
        return self._contents.trees.entries(digest)


def _network_type(path: str) -> str:
    """The type of the network drive that a path is on, or would be; '' for a local disk."""
    while not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    # On Linux a local disk has a device number of its own; what has none (NFS, but also tmpfs) is looked up.
    # On macOS the user's own disk is that of `/private/var`.
    device = os.stat(path).st_dev
    if sys.platform == "linux" and os.major(device):
        return ""
    if sys.platform == "darwin" and device == os.stat("/private/var").st_dev:
        return ""
    from . import probe  # noqa: PLC0415 - start-up time

    found = probe.file_system_of(path)
    return found.type if found.is_network else ""
