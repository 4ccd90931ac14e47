"""The copy of a folder that becomes a tree: durable, large files shared with blobs of the same bytes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from . import drive, files
from .copying import Copied, copy_names
from .file_copy import copy_in
from .manifest import Entry, path_below, write_manifest
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

# Of each folder that was walked through: name -> what became of the file.
Copies = list[dict[str, Copied]]


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
    if drive.of(root).is_careful or sum(len(folder.names) for folder in found) < WORKERS_FROM:
        return nullcontext()
    from . import workers  # noqa: PLC0415 - start-up time

    count = workers.worker_count()
    return workers.Workers(count) if count else nullcontext()


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
    count = sum(len(folder.names) + len(folder.links) for folder in found)
    is_careful = drive.of(root).is_careful
    copies = _copy_files(found, target, trusted_device, count, pool, is_careful=is_careful)
    large = [
        (one.digest, path_below(target, folder.below(name)))
        for folder, done in zip(found, copies, strict=True)
        for name, one in done.items()
        if one.size_bytes >= LINK_FROM_BYTES and not one.is_executable
    ]
    description = _Beside(lambda: _describe(found, copies))
    with files.writing("a folder", target):
        shared = _make_durable(objects, target, found, large, count, is_careful=is_careful)
        copy = description.result()
        if large:
            _look_again(found, copies, target)
    return copy._replace(stored_signature=_signature_of(found, copies), shared=shared) if large else copy


def _describe(found: list[Folder], copies: Copies) -> FolderCopy:
    """What is told of a copy, but for what becomes of its large files."""
    entries = [Entry(folder.path, True) for folder in found[1:]]
    source = []
    for folder, done in zip(found, copies, strict=True):
        entries += [
            Entry(folder.below(name), False, one.is_executable, one.size_bytes, one.digest)
            for name, one in done.items()
        ]
        source.append(folder._replace(looks=[done[name].source_look for name in folder.names]))
    return FolderCopy(
        write_manifest(entries),
        sum(entry.size_bytes for entry in entries),
        sum(map(len, copies)),
        source,
        _signature_of(found, copies),
        set(),
    )


class _Beside:
    """Works something out in a thread of its own, while this one waits for the drive."""

    def __init__(self, work: Callable[[], FolderCopy]) -> None:
        self._work = work
        self._found: FolderCopy | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found = self._work()
        except BaseException as error:
            self._failure = error

    def result(self) -> FolderCopy:
        """What was found. Raises what the work raised."""
        self._thread.join()
        if self._found is None:
            assert self._failure is not None, "one of the two is there when it has ended"
            raise self._failure
        return self._found


def _copy_files(
    found: list[Folder],
    target: str,
    trusted_device: int | None,
    count: int,
    pool: Workers | None,
    *,
    is_careful: bool,
) -> Copies:
    copies: Copies = [{} for _ in found]

    def copy_one(number: int, name: str, origin: str) -> None:
        copies[number][name] = copy_in(
            origin,
            path_below(target, found[number].below(name)),
            is_executable=None,
            sync=count <= _SYNC_EACH_UP_TO,
            follow_links=False,
            trusted_device=trusted_device,
        )

    if count > _SYNC_EACH_UP_TO and not is_careful:
        for number, names, answer in _copy_small_files(found, target, trusted_device, pool):
            for name, one in zip(names, answer or [None] * len(names), strict=True):
                if one is not None:
                    copies[number][name] = Copied(*one)
                elif answer is None:  # of a worker that died: half a file may be there
                    files.remove_file(path_below(target, found[number].below(name)))
    for number, folder in enumerate(found):
        for name in folder.names:
            if name not in copies[number]:
                copy_one(number, name, os.path.join(folder.origin, name))
        for name, origin in folder.links.items():
            copy_one(number, name, origin)
    return copies


def _copy_small_files(
    found: list[Folder], target: str, trusted_device: int | None, pool: Workers | None
) -> Iterator[tuple[int, list[str], Any]]:
    """Yields (number of the folder, names, what `copy_names` returned for them, or None when nobody did it)."""
    tasks: list[tuple[tuple[int, list[str]], list[Any]]] = []
    for number, folder in enumerate(found):
        path = path_below(target, folder.path)
        for begin in range(0, len(folder.names), _TASK_FILES):
            names = folder.names[begin : begin + _TASK_FILES]
            tasks.append(((number, names), ["copy", folder.origin, path, names, trusted_device]))
    if pool is None:
        for (number, names), (_, *arguments) in tasks:
            yield number, names, copy_names(*arguments)
        return
    for (number, names), answer in pool.do(tasks):
        yield number, names, answer


def _make_durable(
    objects: Objects, target: str, found: list[Folder], large: list[tuple[str, str]], count: int, *, is_careful: bool
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
        paths = (path_below(target, one.below(name)) for one in found for name in (*one.names, *one.links))
        # syncfs(2) told of no errors before Linux 5.8: the sync of one file does.
        _sync_all([next(paths)] if is_barred else list(paths))
    # Only now: what has an object's name is taken for durable by every other writer.
    for digest, path in unshared:
        if objects.link_in(digest, path) or objects.link_over(digest, path):
            shared.add(digest)
    if not is_barred or unshared:
        for folder in found:
            files.sync_folder(path_below(target, folder.path))
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


def _look_again(found: list[Folder], copies: Copies, target: str) -> None:
    """Takes in how the large files look now: they may have become links, and links move the ctime."""
    for folder, done in zip(found, copies, strict=True):
        for name, one in done.items():
            if one.size_bytes >= LINK_FROM_BYTES:
                look = look_of(os.lstat(path_below(target, folder.below(name))))
                done[name] = one._replace(stored_look=look)


def _signature_of(found: list[Folder], copies: Copies) -> str:
    """What a walk through the copy would give, without one."""
    folders = []
    for folder, done in zip(found, copies, strict=True):
        names = sorted(done)
        folders.append(Folder(folder.path, "", names, [done[name].stored_look for name in names], {}))
    return signature_of(folders)
