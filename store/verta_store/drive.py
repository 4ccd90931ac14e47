"""How a store's folder behaves on its drive: the modes of what is new, and how to look and rename on a share.

A local disk of one user needs none of this. On a share, what `stat` and `listdir` say may be half a minute old, a
file that somebody reads may refuse to be renamed, and what one colleague made the others must be able to use. The
rules are in `store/README.md`, section "On a network drive".
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from . import ids

Result = TypeVar("Result")


class Modes(NamedTuple):
    """The modes of what a store makes; objects are 0444 everywhere. Set explicitly, so that no umask matters."""

    folder: int
    record: int  # files that are written to more than once: journals, leases


# What `sharing` in `store.json` may say: who else than its maker may use a store. Folders of a shared one hand on
# their group (the set-group-id bit), and whoever may write to a folder may collect what lies in it.
SHARING = {
    "user": Modes(0o700, 0o600),
    "group": Modes(0o2775, 0o664),
    "all": Modes(0o2777, 0o666),
}

# A drive without modes, or a file of somebody else's: modes are a courtesy, and no reason to fail.
_NO_MODES = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}

# What a file system without hard links, or one that has enough of them, answers.
_NO_LINK = {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV, errno.ENOSYS, errno.EACCES}

# What a rename answers on SMB and on Windows while somebody has the file open.
_IN_USE = {errno.EACCES, errno.EPERM, errno.EBUSY, errno.ETXTBSY}
RENAME_WITHIN_S = 2.0

# Linux's client of SMB opens a file under no second name while this host has it open under the first (EINVAL), be it a
# hard link's or that before a renaming; what was closed is open for another second.
OPEN_ELSEWHERE_S = 2.0
_PAUSE_S = 0.05

# Another host's new run is promised to be found within 2 s, so a poke is never older than half of that; and a poke,
# which may wait for the server's disk, takes at most a twentieth of a reader's time.
_POKE_EVERY_S = 1.0
_POKE_SHARE = 20

POKE = "poke-"

# An open journal in which bytes are missing was written to this short a time ago: they may be on their way.
SETTLED_AFTER_S = 60.0


class Drive:
    """What this process knows of one store's drive. `is_careful` says that what it shows may be old, `has_links` that
    a file may have several names."""

    def __init__(self, root: str, sharing: str = "user", *, is_network: bool = False, has_links: bool = True) -> None:
        self.root = root
        self.modes = SHARING[sharing]
        self.is_shared = sharing != "user"
        self.is_careful = self.is_shared or is_network
        self.has_links = has_links
        # Whether `stat` tells of a change at once. Windows keeps no time of change for the folders of a FAT disk.
        self.is_stat_true = not self.is_careful and os.name == "posix"
        self._next_poke: dict[str, float] = {}

    # -- making ----------------------------------------------------------------------------------------------------

    def make_folder(self, path: str) -> None:
        """Makes a folder that every user of the store can use.

        Raises:
            FileExistsError: another writer was first.
            OSError
        """
        if not self.is_shared:
            os.mkdir(path, self.modes.folder)
            set_mode(path, self.modes.folder)
            return
        # A folder that was there before its mode would shut the others out, for good if its maker died in between.
        draft = os.path.join(self.root, "tmp", f"{ids.host_id()}-{os.getpid()}-{ids.random_hex(8)}")
        os.mkdir(draft)
        set_mode(draft, self.modes.folder)
        try:
            if os.path.isdir(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            os.rename(draft, path)
        except OSError as error:
            os.rmdir(draft)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, *_IN_USE) and os.path.isdir(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
            raise

    def make_own_folder(self, path: str) -> None:
        """Makes a folder that nobody else looks for yet: below this process's own in `tmp/`, or that one itself."""
        os.mkdir(path, self.modes.folder & 0o777)
        set_mode(path, self.modes.folder)

    def open_up(self, folder: str) -> None:
        """Gives the folders in one that is about to be published the modes of a shared store, so that others too
        can work in them and collect them; in a private store they stay as they are."""
        if self.is_shared:
            for parent, _, _ in os.walk(folder):
                set_mode(parent, self.modes.folder)

    # -- looking ---------------------------------------------------------------------------------------------------

    def poke(self, folder: str, *, at_once: bool = False) -> float:
        """Makes this host ask the server for what is in a folder, instead of showing what it remembers: a temporary
        file is created and removed there. Returns the drive's clock in seconds, 0 when nothing could be written.

        Unless `at_once`, a folder that was poked a moment ago is not poked again.
        """
        begin = time.monotonic()
        if not at_once and begin < self._next_poke.get(folder, 0.0):
            return 0.0
        name = os.path.join(folder, f"{POKE}{os.getpid()}-{ids.random_hex(16)}")
        drive_time = 0.0
        try:
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                drive_time = os.fstat(descriptor).st_mtime
            finally:
                os.close(descriptor)
            os.unlink(name)
        except OSError:
            pass  # gone meanwhile, or a store that may only be read: then the mount's own patience counts
        if not at_once:
            end = time.monotonic()
            self._next_poke[folder] = end + min(_POKE_EVERY_S, _POKE_SHARE * (end - begin))
        return drive_time

    def names(self, folder: str, *, at_once: bool = False) -> list[str]:
        """What is in a folder, as of now.

        Raises:
            FileNotFoundError, also for a folder that somebody has just removed.
        """
        if self.is_careful:
            self.poke(folder, at_once=at_once)
        return self.look(folder, os.listdir)

    def has(self, path: str) -> bool:
        """Whether there is something at this path; on a share a first "no" may be old, and is asked again."""
        if os.path.lexists(path):
            return True
        if not self.is_careful:
            return False
        self._poke_down_to(path)
        return os.path.lexists(path)

    def still_has(self, path: str) -> bool:
        """Whether there is something at this path at this very moment; on a share a "yes" may be old, so the server
        is asked, by opening it."""
        if not self.is_careful:
            return os.path.lexists(path)
        try:
            os.close(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)))
        except OSError as error:
            return error.errno not in (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)
        return True

    def look(self, path: str, read: Callable[[str], Result]) -> Result:
        """`read(path)`, where ESTALE counts as "not there", and on a share "not there" is looked at again, and what is
        open under another name is waited for.

        Raises:
            FileNotFoundError: it is not there.
            OSError: as `read` does.
        """
        try:
            return read(path)
        except OSError as error:
            if error.errno != errno.ESTALE and not (self.is_careful and error.errno in (errno.ENOENT, errno.EINVAL)):
                raise
        self._poke_down_to(path)
        try:
            return self.patiently(lambda: read(path))
        except OSError as error:
            if error.errno == errno.ESTALE:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
            raise

    def patiently(self, read: Callable[[], Result]) -> Result:
        """`read()`; on a share, again for up to 2 s while what it opens is open under another name.

        Raises:
            OSError: as `read` does.
        """
        deadline = time.monotonic() + OPEN_ELSEWHERE_S
        while True:
            try:
                return read()
            except OSError as error:
                if error.errno != errno.EINVAL or not self.is_careful or time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE_S)

    def _poke_down_to(self, path: str) -> None:
        """Makes this host ask the server for every folder that leads from the root to a path; a folder may be as new
        as what is in it. A listing too: SMB remembers for a second that a name was not there, poke or no poke."""
        below = os.path.relpath(path, self.root)
        if below.startswith(os.pardir):
            return
        folder = self.root
        for part in below.split(os.sep)[:-1]:
            folder = os.path.join(folder, part)
            if not os.path.isdir(folder):
                return
            self.poke(folder, at_once=True)
            with contextlib.suppress(OSError):
                os.listdir(folder)

    def is_unsettled(self, path: str) -> bool:
        """Whether a file of a share was written to so lately that a part of it may still be on its way."""
        if not self.is_careful:
            return False
        try:
            drive_time = self.poke(os.path.dirname(path), at_once=True) or time.time()
            return drive_time - os.stat(path).st_mtime < SETTLED_AFTER_S
        except OSError:
            return False

    # -- linking and renaming --------------------------------------------------------------------------------------

    def link(self, source: str, target: str) -> bool:
        """Gives a file a second name, for good. Returns False where this drive has none such, or no more of them.

        Raises:
            FileExistsError: the target has a file.
            OSError
        """
        if not self.has_links:
            return False
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno in _NO_LINK:
                return False
            raise
        return True

    def rename(self, source: str, target: str, *, replace: bool = False) -> None:
        """Renames; where a share refuses because somebody has the file open, tries again for up to 2 s.

        A target that exists is replaced with `replace`; without it, on Windows, it is refused.

        Raises:
            OSError
        """
        attempt = os.replace if replace else os.rename
        deadline = time.monotonic() + RENAME_WITHIN_S
        pause_s = 0.01
        while True:
            try:
                attempt(source, target)
                return
            except OSError as error:
                if error.errno == errno.ENOENT and self.is_careful and _was_renamed(source, target):
                    return  # the server's answer was lost, and this is the one to the second asking
                may_pass = error.errno in _IN_USE and (self.is_careful or sys.platform == "win32")
                may_pass = may_pass and not os.path.isdir(target)  # which is never replaced
                if not may_pass or time.monotonic() + pause_s > deadline:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.2)


def _was_renamed(source: str, target: str) -> bool:
    return os.path.lexists(target) and not os.path.lexists(source)


def set_mode(path: str | int, mode: int) -> None:
    """Sets the mode of a new file or folder of our own, by path or descriptor; a drive without modes is let pass."""
    try:
        os.chmod(path, mode)
    except OSError as error:
        if error.errno not in _NO_MODES:
            raise
    except (NotImplementedError, TypeError):
        pass  # a descriptor, on Windows


# One Drive a store and process, beside its Store: the functions that know a store only by its folder, or by a path in
# it, ask here.
_drives: dict[str, Drive] = {}
_elsewhere = Drive(os.sep)


def register(drive: Drive) -> Drive:
    """Makes known how the store in `drive.root` is used."""
    _drives[drive.root] = drive
    return drive


def of(root: str) -> Drive:
    """The drive of the store in a folder; one of a private store on a local disk until `register` said more."""
    return _drives.get(root) or Drive(root)


def holding(path: str) -> Drive:
    """The drive of the store that a path lies in; as `of` for a path in none that was registered."""
    folder = os.path.dirname(path)
    while (found := _drives.get(folder)) is None:
        above = os.path.dirname(folder)
        if above == folder:
            return _elsewhere
        folder = above
    return found
