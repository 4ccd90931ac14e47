"""The copy of a folder that becomes a tree: durable, large files shared with blobs of the same bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from . import drive, files
from .copying import Copied, copy_names
from .file_copy import copy_in
from .manifest import Entry, path_below
from .objects import Objects
from .walking import Folder, look_of, signature_of

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

    entries: list[Entry]
    source: list[Folder]  # with the look of each file while it was read, '' where it must not be remembered
    stored_signature: str  # of a walk through the copy
    shared: set[str]  # digests of the files that are blobs too


def copy_folder(
    objects: Objects, root: str, found: list[Folder], target: str, trusted_device: int | None
) -> FolderCopy:
    """Copies what a walk has found into `target`, an empty folder in the store `root`; durable when this returns.

    Args:
        trusted_device: the device whose files may be remembered (see `source_memory`), or None.

    Raises:
        BadContent, OSError: as `file_copy.copy_in`.
    """
    for folder in found[1:]:
        path = path_below(target, folder.path)
        with files.writing("a folder", path):
            drive.of(root).make_own_folder(path)
    count = sum(len(folder.names) + len(folder.links) for folder in found)
    is_careful = drive.of(root).is_careful
    copies = _copy_files(found, target, trusted_device, count, is_careful=is_careful)
    entries = [Entry(folder.path, True) for folder in found[1:]]
    large: list[tuple[str, str]] = []
    for folder, done in zip(found, copies, strict=True):
        for name, one in done.items():
            entries.append(Entry(folder.below(name), False, one.is_executable, one.size_bytes, one.digest))
            if one.size_bytes >= LINK_FROM_BYTES and not one.is_executable:
                large.append((one.digest, path_below(target, folder.below(name))))
    with files.writing("a folder", target):
        shared = _make_durable(objects, target, found, large, count, is_careful=is_careful)
        stored_signature = _signature_of(found, copies, target)
    source = [
        folder._replace(looks=[done[name].source_look for name in folder.names])
        for folder, done in zip(found, copies, strict=True)
    ]
    return FolderCopy(entries, source, stored_signature, shared)


def _copy_files(
    found: list[Folder], target: str, trusted_device: int | None, count: int, *, is_careful: bool
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
        for number, names, answer in _copy_small_files(found, target, trusted_device, count):
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
    found: list[Folder], target: str, trusted_device: int | None, count: int
) -> Iterator[tuple[int, list[str], Any]]:
    """Yields (number of the folder, names, what `copy_names` returned for them, or None when nobody did it)."""
    tasks: list[tuple[tuple[int, list[str]], list[Any]]] = []
    for number, folder in enumerate(found):
        path = path_below(target, folder.path)
        for begin in range(0, len(folder.names), _TASK_FILES):
            names = folder.names[begin : begin + _TASK_FILES]
            tasks.append(((number, names), ["copy", folder.origin, path, names, trusted_device]))
    worker_count = 0
    if count >= WORKERS_FROM:
        from . import workers  # noqa: PLC0415 - start-up time

        worker_count = workers.worker_count()
    if not worker_count:
        for (number, names), (_, *arguments) in tasks:
            yield number, names, copy_names(*arguments)
        return
    with workers.Workers(worker_count) as pool:
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
        names = [path_below(target, one.below(name)) for one in found for name in (*one.names, *one.links)]
        is_barred = not is_careful and files.sync_file_system(target)
        _sync_all(names[-1:] if is_barred else names)  # syncfs(2) told of no errors before Linux 5.8: this one does
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


def _signature_of(found: list[Folder], copies: Copies, target: str) -> str:
    """What a walk through the copy would give, without one."""
    folders = []
    for folder, done in zip(found, copies, strict=True):
        looks = []
        for name in sorted(done):
            look = done[name].stored_look
            if done[name].size_bytes >= LINK_FROM_BYTES:  # it may have become a link, and links move the ctime
                look = look_of(os.lstat(path_below(target, folder.below(name))))
            looks.append(look)
        folders.append(Folder(folder.path, "", sorted(done), looks, {}))
    return signature_of(folders)
