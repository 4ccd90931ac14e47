"""Walking a folder: what is in it, and how each file looks to `stat`, as one signature.

Two walks with one signature found the same names, and at each of them the same size, mtime, ctime, inode and mode. What
may be concluded from that is said where it is concluded: `source_memory` and `verified`.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import NamedTuple

from .errors import BadContent

# Time stamps without a fraction are those of a drive that has none: they move on in steps of one second or two (FAT,
# some NFS and SMB servers). Within a step, and a little more for clocks that differ, they say nothing.
_SECOND_NS = 10**9
_UNSETTLED_NS = 4 * 10**9

# Packed and not written as text: a third of the time, 50,000 times.
_LOOK = struct.Struct("<qqqQI")
NO_LOOK = bytes(_LOOK.size)
_FIELDS = attrgetter("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_mode")
_name_of = attrgetter("name")


class Folder(NamedTuple):
    """A folder that was walked through."""

    path: str  # below the top, with "/"; "" is the top itself
    origin: str  # where it really is
    names: list[str]  # of its plain files, sorted
    looks: list[bytes]  # of each of them, or none at all
    links: dict[str, str]  # its links to files: name -> what they lead to

    def below(self, name: str) -> str:
        """The path of something in it, below the top."""
        return f"{self.path}/{name}" if self.path else name


def look_of(status: os.stat_result) -> bytes:
    """What must stay the same for a file to count as unchanged: its fields, as long as `NO_LOOK`, the unknown one."""
    return _LOOK.pack(*_FIELDS(status))


def signature_of(folders: Iterable[Folder]) -> str:
    """One text over the names and looks of a walk; '' when a look is unknown, or too new to say anything."""
    state = hashlib.sha256()
    all_looks: list[list[bytes]] = []
    for folder in folders:
        if NO_LOOK in folder.looks or len(folder.looks) != len(folder.names):
            return ""
        links = [part for link in folder.links.items() for part in link]
        text = "\0".join((folder.path, str(len(folder.names)), *folder.names, str(len(links)), *links, ""))
        state.update(text.encode("utf-8", "surrogateescape"))
        state.update(b"".join(folder.looks))
        all_looks.append(folder.looks)
    return state.hexdigest() if _are_settled(all_looks) else ""


def _are_settled(all_looks: list[list[bytes]]) -> bool:
    """Whether any further change would show in the time stamps: their drive has fractions, or they are old enough."""
    newest_ns = 0
    for looks in all_looks:
        for look in looks:
            _, modified, changed, _, _ = _LOOK.unpack(look)
            if changed % _SECOND_NS:
                return True  # one is enough: the drive sets ctime by its own clock
            newest_ns = max(newest_ns, modified, changed)
    return time.time_ns() - newest_ns > _UNSETTLED_NS


def plain_signature(top: str) -> str:
    """The signature of a stored folder; '' where it holds something else than files and folders, or cannot be read."""
    try:
        found = walk(top, with_looks=True)
    except (OSError, BadContent):
        return ""
    root = found[0].origin
    is_plain = all(
        not one.links and one.origin == os.path.join(root, *filter(None, one.path.split("/"))) for one in found
    )
    return signature_of(found) if is_plain else ""


def walk(source: str, *, with_looks: bool) -> list[Folder]:
    """All of `each_folder`."""
    return list(each_folder(source, with_looks=with_looks))


def each_folder(source: str, *, with_looks: bool) -> Iterator[Folder]:
    """What is in a folder and below it, links inside of it followed, each folder before what is in it.

    Raises:
        BadContent: a link out of the folder, to nowhere or into itself; a device, FIFO or socket.
        OSError: something cannot be read, or has just gone.
    """
    root = os.path.realpath(source)
    # On Windows a listing tells no inode, and its times may be old.
    stat_all = with_looks and sys.platform == "win32"

    def descend(folder: str, path: str, above: tuple[str, ...]) -> Iterator[Folder]:
        with os.scandir(folder) as listing:
            children = sorted(listing, key=_name_of)
        here = Folder(path, folder, [], [], {})
        names, looks = here.names, here.looks
        within: list[tuple[str, str, str]] = []
        for child in children:
            if child.is_file(follow_symlinks=False):
                names.append(child.name)
                if with_looks:
                    looks.append(look_of(os.stat(child.path) if stat_all else child.stat(follow_symlinks=False)))
                continue
            origin = child.path
            if child.is_symlink():
                origin = _follow(origin, root)
            if os.path.isdir(origin):
                real = os.path.realpath(origin) if origin == child.path else origin
                if real in above:
                    raise BadContent(f"{child.path} is a link that leads back into itself; remove it", path=child.path)
                within.append((origin, here.below(child.name), real))
            elif origin != child.path and os.path.isfile(origin):
                here.links[child.name] = origin
            else:
                os.lstat(origin)  # gone meanwhile: said as it is
                raise BadContent(
                    f"{child.path} is a device, FIFO or socket and cannot be logged; remove it from the folder",
                    path=child.path,
                )
        yield here
        for origin, below, real in within:
            yield from descend(origin, below, (*above, real))

    yield from descend(root, "", (root,))


def _follow(link: str, root: str) -> str:
    try:
        target = os.path.realpath(link, strict=True)
    except OSError as error:
        raise BadContent(f"{link} is a link that leads nowhere; remove it or log its target", path=link) from error
    if target != root and not target.startswith(root + os.sep):
        raise BadContent(
            f"{link} is a link out of the folder being logged; replace it by a copy of what it points to",
            path=link,
        )
    return target
