"""The copy of a folder that becomes a tree: durable, large files shared with blobs of the same bytes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from . import drive, files
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
        self.source_looks: dict[str, str] = {}
        self.stored_looks: dict[str, str] = {}

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
    size_bytes: int
    file_count: int
    source: list[Folder]  # with the look of each file while it was read, '' where it must not be remembered
    stored_signature: str  # of a walk through the copy
    shared: set[str]  # digests of the files that are blobs too


def copiers(root: str, found: list[Folder]) -> AbstractContextManager[Workers | None]:
    """Worker processes for `copy_folder`, ready soon after; none where the folder is small, or nobody can be one."""
    if drive.of(root).is_careful or _file_count(found) < WORKERS_FROM:
        return nullcontext()
    from . import workers  # noqa: PLC0415 - start-up time

    count = workers.worker_count()
    return workers.Workers(count) if count else nullcontext()


def _file_count(found: list[Folder]) -> int:
    return sum(len(folder.names) + len(folder.links) for folder in found)


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
        pool: see `copiers`.

    Raises:
        BadContent, OSError: as `file_copy.copy_in`.
    """
    for folder in found[1:]:
        path = path_below(target, folder.path)
        with files.writing("a folder", path):
            drive.of(root).make_own_folder(path)
    parts = [_Part(folder) for folder in found]
    count = _file_count(found)
    is_careful = drive.of(root).is_careful
    _copy_files(parts, target, trusted_device, count, pool, is_careful=is_careful)
    large = [(part, name, part.path_in(target, name)) for part in parts for name in part.large_names()]
    blobs = [(part.digests[name], path) for part, name, path in large]
    # While the drive works; of a few files in less time than a thread takes.
    description = _Beside(lambda: _describe(parts)) if count >= WORKERS_FROM else None
    with files.writing("a folder", target):
        shared = _make_durable(objects, target, parts, blobs, count, is_careful=is_careful)
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
    return FolderCopy(
        join_lines(lines),
        sum(sum(part.sizes_bytes.values()) for part in parts),
        sum(len(part.digests) for part in parts),
        [part.folder._replace(looks=list(map(part.source_looks.__getitem__, part.folder.names))) for part in parts],
        _stored_signature(parts),
        set(),
    )


def _stored_signature(parts: list[_Part]) -> str:
    """What a walk through the copy would give, without one."""
    folders = []
    for part in parts:
        names = sorted(part.stored_looks)
        folders.append(Folder(part.folder.path, "", names, list(map(part.stored_looks.__getitem__, names)), {}))
    return signature_of(folders)


class _Beside:
    """Works something out in a thread of its own, or at once where there is none to be had."""

    def __init__(self, work: Callable[[], FolderCopy]) -> None:
        self._work = work
        self._found: FolderCopy | None = None
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = threading.Thread(target=self._run, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # at the end of the interpreter, or too many
            self._thread = None
            self._run()

    def _run(self) -> None:
        try:
            self._found = self._work()
        except BaseException as error:
            self._failure = error

    def result(self) -> FolderCopy:
        """What was found. Raises what the work raised."""
        if self._thread is not None:
            self._thread.join()
        if self._found is None:
            assert self._failure is not None, "one of the two is there when it has ended"
            raise self._failure
        return self._found


def _copy_files(
    parts: list[_Part],
    target: str,
    trusted_device: int | None,
    count: int,
    pool: Workers | None,
    *,
    is_careful: bool,
) -> None:
    if count > _SYNC_EACH_UP_TO and not is_careful:
        for part, names, answer in _copy_small_files(parts, target, trusted_device, pool):
            if answer is not None:
                part.take(CopiedFiles(*answer))
                continue
            for name in names:  # of a worker that died: half a file may be there
                files.remove_file(part.path_in(target, name))
    for part in parts:
        folder = part.folder
        left = [(name, os.path.join(folder.origin, name)) for name in folder.names if name not in part.digests]
        late = CopiedFiles([], [], [], [], [], [])
        for name, origin in (*left, *folder.links.items()):
            one = copy_in(
                origin,
                part.path_in(target, name),
                is_executable=None,
                sync=count <= _SYNC_EACH_UP_TO,
                follow_links=False,
                trusted_device=trusted_device,
            )
            late.add(name, one)
        part.take(late)


def _copy_small_files(
    parts: list[_Part], target: str, trusted_device: int | None, pool: Workers | None
) -> Iterator[tuple[_Part, list[str], Any]]:
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
        yield part, names, answer


def _make_durable(
    objects: Objects, target: str, parts: list[_Part], large: list[tuple[str, str]], count: int, *, is_careful: bool
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
