"""The copy of a folder that becomes a tree: durable, large files shared with blobs of the same bytes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from . import digest as digests
from . import drive, files
from .beside import Beside
from .copying import CopiedFiles, copy_names
from .file_copy import copy_in
from .manifest import file_line, folder_line, join_lines, path_below
from .objects import Objects
from .walking import Folder, look_of, signature_of

if TYPE_CHECKING:
    from .workers import Workers

# From this size on a file in a tree is a hard link to a blob, so that the shards of checkpoints are stored once.
LINK_FROM_BYTES = 64 * 1024

# Up to this many files each is synced by itself; above it one barrier for the file system is cheaper (objects.md).
_SYNC_EACH_UP_TO = 8

# What `open` says where there are too many files or too little memory.
_NOTHING_LEFT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}

# From this many files on worker processes copy them: below, starting those takes longer than what they save.
WORKERS_FROM = 2000
_TASK_FILES = 250


class _Part:
    """What became of the files of one folder that was walked through, by name: see `Copied`.

    A dict for each field: an object for each of 50,000 files costs half of what a process does beside its workers.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.digests: dict[str, str] = {}
        self.sizes_bytes: dict[str, int] = {}
        self.are_executable: dict[str, bool] = {}
        self.source_looks: dict[str, bytes] = {}
        self.stored_looks: dict[str, bytes] = {}

    def take(self, copied: CopiedFiles) -> None:
        """Notes what was copied."""
        names = copied.names
        self.digests.update(zip(names, copied.digests, strict=True))
        self.sizes_bytes.update(zip(names, copied.sizes_bytes, strict=True))
        self.are_executable.update(zip(names, copied.are_executable, strict=True))
        self.source_looks.update(zip(names, copied.source_looks, strict=True))
        self.stored_looks.update(zip(names, copied.stored_looks, strict=True))

    def large_names(self) -> list[str]:
        """Of the files that become links to blobs."""
        return [
            name
            for name, size_bytes in self.sizes_bytes.items()
            if size_bytes >= LINK_FROM_BYTES and not self.are_executable[name]
        ]

    def path_in(self, target: str, name: str) -> str:
        """Where the copy of a file is."""
        return path_below(target, self.folder.below(name))


class FolderCopy(NamedTuple):
    """What became of a folder."""

    manifest: bytes
    digest: str
    size_bytes: int
    file_count: int
    source_signature: str  # of a walk through the folder while it was read; '' where it must not be remembered
    stored_signature: str  # of a walk through the copy
    shared: set[str]  # digests of the files that are blobs too


class Copiers:
    """Worker processes for `copy_folder`: none until so many files are expected that they pay. To be used with `with`.

    They get ready beside what is done meanwhile.
    """

    def __init__(self, root: str) -> None:
        self._expected = 0
        self._may_start = not drive.of(root).is_careful
        self.pool: Workers | None = None

    def expect(self, count: int) -> None:
        """So many more files will be copied."""
        self._expected += count
        if self._may_start and self._expected >= WORKERS_FROM:
            self._may_start = False
            from . import workers  # noqa: PLC0415 - start-up time

            worker_count = workers.worker_count()
            if worker_count:
                self.pool = workers.Workers(worker_count)  # noted before it starts: Ctrl-C may come between
                self.pool.__enter__()

    def __enter__(self) -> Copiers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.__exit__()


def copy_folder(
    objects: Objects,
    root: str,
    found: list[Folder],
    target: str,
    trusted_device: int | None,
    pool: Workers | None,
) -> FolderCopy:
    """Copies what a walk has found into `target`, an empty folder in the store `root`; durable when this returns.

    Args:
        trusted_device: the device whose files may be remembered (see `source_memory`), or None.
        pool: see `Copiers`.

    Raises:
        BadContent, OSError: as `file_copy.copy_in`.
    """
    for folder in found[1:]:
        path = path_below(target, folder.path)
        with files.writing("a folder", path):
            drive.of(root).make_own_folder(path)
    parts = [_Part(folder) for folder in found]
    count = sum(len(folder.names) + len(folder.links) for folder in found)
    is_careful = drive.of(root).is_careful
    early = _EarlySync(target, 0 if is_careful else count)
    try:
        _copy_files(parts, target, trusted_device, count, pool, early, is_careful=is_careful)
        return _finish(objects, target, parts, count, early, is_careful=is_careful)
    finally:
        early.wait()  # its threads have the folder open, which is removed when this has failed


def _finish(
    objects: Objects, target: str, parts: list[_Part], count: int, early: _EarlySync, *, is_careful: bool
) -> FolderCopy:
    """Makes a copy durable, and describes it."""
    large = [(part, name, part.path_in(target, name)) for part in parts for name in part.large_names()]
    blobs = [(part.digests[name], path) for part, name, path in large]
    # While the drive works; of a few files in less time than a thread takes.
    description = Beside(lambda: _describe(parts)) if count >= WORKERS_FROM else None
    with files.writing("a folder", target):
        try:
            shared = _make_durable(objects, target, parts, blobs, count, early, is_careful=is_careful)
        finally:
            if description is not None:
                description.wait()
        copy = description.result() if description is not None else _describe(parts)
        for part, name, path in large:  # links move the ctime
            part.stored_looks[name] = look_of(os.lstat(path))
    return copy._replace(stored_signature=_stored_signature(parts), shared=shared) if large else copy


def _describe(parts: list[_Part]) -> FolderCopy:
    """What is told of a copy, but for what becomes of its large files."""
    lines = {part.folder.path: folder_line(part.folder.path) for part in parts[1:]}
    for part in parts:
        prefix = part.folder.below("")
        for name, digest in part.digests.items():
            path = prefix + name
            lines[path] = file_line(path, part.are_executable[name], part.sizes_bytes[name], digest)
    manifest = join_lines(lines)
    return FolderCopy(
        manifest,
        digests.digest_of_bytes(manifest),
        sum(sum(part.sizes_bytes.values()) for part in parts),
        sum(len(part.digests) for part in parts),
        _source_signature(parts),
        _stored_signature(parts),
        set(),
    )


def _source_signature(parts: list[_Part]) -> str:
    """What a walk through the source would have given while it was read; '' where that is not known."""
    folders = [
        part.folder._replace(looks=list(map(part.source_looks.__getitem__, part.folder.names))) for part in parts
    ]
    # What a link leads to is a file of the folder too, and was read twice: it must have been the same both times.
    linked = {part.source_looks[name] for part in parts for name in part.folder.links}
    if linked and not linked <= {look for folder in folders for look in folder.looks}:
        return ""
    return signature_of(folders)


def _stored_signature(parts: list[_Part]) -> str:
    """What a walk through the copy would give, without one."""
    folders = []
    for part in parts:
        names = sorted(part.stored_looks)
        folders.append(Folder(part.folder.path, "", names, list(map(part.stored_looks.__getitem__, names)), {}))
    return signature_of(folders)


class _EarlySync:
    """Syncs what there is while the rest is copied: then the sync at the end, which one core does alone, is short.

    Measured: a tenth of the time for 50,000 small files on two cores (ext4); more often than this gave no more.
    """

    _AT = (0.3, 0.6, 0.8)

    def __init__(self, target: str, count: int) -> None:
        self._target = target
        self._at = [count * part for part in self._AT] if count >= WORKERS_FROM else []
        self._begun: list[Beside[bool]] = []

    def grown_to(self, count: int) -> None:
        """So many files have been copied."""
        if self._at and count >= self._at[0] and not (self._begun and self._begun[-1].is_running()):
            del self._at[0]
            self._begun.append(Beside(self._sync))

    def _sync(self) -> bool:
        try:
            return files.sync_file_system(self._target)
        except OSError as error:
            if error.errno in _NOTHING_LEFT:
                return False  # it was not even begun
            raise

    def wait(self) -> None:
        """Returns when none is running."""
        for one in self._begun:
            one.wait()

    def finish(self) -> None:
        """To be called after the last sync, which would not be told again of an error. Raises the first: OSError."""
        for one in self._begun:
            one.result()


def _copy_files(
    parts: list[_Part],
    target: str,
    trusted_device: int | None,
    count: int,
    pool: Workers | None,
    early: _EarlySync,
    *,
    is_careful: bool,
) -> None:
    copied_count = 0
    if count > _SYNC_EACH_UP_TO and not is_careful:
        for part, names, answer in _copy_small_files(parts, target, trusted_device, pool):
            if answer is not None:
                part.take(answer)
                copied_count += len(names)
                early.grown_to(copied_count)
                continue
            for name in names:  # of a worker that died: half a file may be there
                files.remove_file(part.path_in(target, name))
    for part in parts:
        folder = part.folder
        left = [(name, os.path.join(folder.origin, name)) for name in folder.names if name not in part.digests]
        late = []
        for name, origin in (*left, *folder.links.items()):
            one = copy_in(
                origin,
                part.path_in(target, name),
                is_executable=None,
                sync=count <= _SYNC_EACH_UP_TO,
                follow_links=False,
                trusted_device=trusted_device,
            )
            late.append((name, *one))
        part.take(CopiedFiles.of(late))


def _copy_small_files(
    parts: list[_Part], target: str, trusted_device: int | None, pool: Workers | None
) -> Iterator[tuple[_Part, list[str], CopiedFiles | None]]:
    """Yields (part, names, what `copy_names` returned for them, or None when nobody did it)."""
    tasks: list[tuple[tuple[_Part, list[str]], list[Any]]] = []
    for part in parts:
        folder = part.folder
        path = path_below(target, folder.path)
        for begin in range(0, len(folder.names), _TASK_FILES):
            names = folder.names[begin : begin + _TASK_FILES]
            tasks.append(((part, names), ["copy", folder.origin, path, names, trusted_device]))
    if pool is None:
        for (part, names), (_, *arguments) in tasks:
            yield part, names, copy_names(*arguments)
        return
    for (part, names), answer in pool.do(tasks):
        try:
            copied = CopiedFiles.unpacked(answer) if answer is not None else None
        except (TypeError, ValueError):
            copied = None  # no answer of ours
        yield part, names, copied


def _make_durable(
    objects: Objects,
    target: str,
    parts: list[_Part],
    large: list[tuple[str, str]],
    count: int,
    early: _EarlySync,
    *,
    is_careful: bool,
) -> set[str]:
    """Syncs the copy, and makes blobs of its large files. Returns their digests."""
    shared: set[str] = set()
    unshared: list[tuple[str, str]] = []
    for digest, path in large:
        if objects.link_over(digest, path):
            shared.add(digest)
        else:
            unshared.append((digest, path))
    is_barred = False
    if count > _SYNC_EACH_UP_TO:
        is_barred = not is_careful and files.sync_file_system(target)
        early.finish()
        paths = (part.path_in(target, name) for part in parts for name in part.digests)
        # syncfs(2) told of no errors before Linux 5.8: the sync of one file does.
        _sync_all([next(paths)] if is_barred else list(paths))
    # Only now: what has an object's name is taken for durable by every other writer.
    for digest, path in unshared:
        if objects.link_in(digest, path) or objects.link_over(digest, path):
            shared.add(digest)
    if not is_barred or unshared:
        for part in parts:
            files.sync_folder(path_below(target, part.folder.path))
    return shared


def _sync_all(paths: list[str]) -> None:
    """Makes files durable: write-back of all, and a wait for each."""
    if hasattr(os, "posix_fadvise"):
        # POSIX_FADV_DONTNEED starts the write-back of dirty pages on Linux, so that the waits below overlap.
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY | files.O_CLOEXEC)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | files.O_BINARY | files.O_CLOEXEC)
        try:
            files.sync_file(descriptor)
        finally:
            os.close(descriptor)
