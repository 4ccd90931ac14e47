"""Writing files so that they are whole, durable, and either there or not.

Every write of the store goes through this room. What a step survives is said in `store/README.md`, "Durability".
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any

from . import drive
from .errors import StoreReadError, StoreWriteError

# Windows would translate line ends; elsewhere the flag does not exist.
O_BINARY: int = getattr(os, "O_BINARY", 0)
O_CLOEXEC: int = getattr(os, "O_CLOEXEC", 0)

READ_ONLY = 0o444
READ_ONLY_EXECUTABLE = 0o555

# A file system that cannot sync a file or a folder says one of these (restic's lesson): it is not an error of ours.
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM}

_ADVICE = {
    errno.ENOSPC: "there is no space left on the device; free some and try again",
    errno.EDQUOT: "the disk quota is used up; free some space and try again",
    errno.EROFS: "the file system is read-only; name another store with Client(path) or VERTA_LOCAL_STORE",
    errno.EACCES: "permission denied; check the folder's owner and mode, or name another store with Client(path)",
    errno.EPERM: "operation not permitted; check the folder's owner and mode, or name another store",
    errno.EIO: "the device reported an input/output error; check the disk before you go on",
    errno.ESTALE: "the network drive lost the file (stale handle); check that it is still mounted",
    errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter folder for the store",
}


def write_error(what: str, error: OSError, path: str | os.PathLike[str] | None = None) -> StoreWriteError:
    """One sentence for a refused write: what was to be written, why it failed, what to do."""
    reason = _ADVICE.get(error.errno or 0, f"{error.strerror or error}")
    where = os.fspath(path) if path is not None else error.filename
    found = f" in {where}" if where else ""
    made = StoreWriteError(
        f"could not write {what}{found}: {reason}. Nothing that was logged before is lost.",
        path=str(where) if where else None,
    )
    made.errno, made.strerror = error.errno, error.strerror
    return made


def read_error(error: OSError, path: str) -> StoreReadError:
    """One sentence for a journal that cannot be read."""
    reason = _ADVICE.get(error.errno or 0, f"{error.strerror or error}")
    made = StoreReadError(
        f"could not read the journal {path}: {reason}. Nothing is answered without what it holds; what to do says: "
        "verta-local verify",
        path=path,
    )
    made.errno, made.strerror = error.errno, error.strerror
    return made


@contextlib.contextmanager
def writing(what: str, path: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Turns an OSError inside the block into a StoreWriteError about `what`."""
    try:
        yield
    except (StoreWriteError, StoreReadError):
        raise
    except OSError as error:
        raise write_error(what, error, path) from error


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Writes every byte; a single `write(2)` may take only a part."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def read_file(path: str) -> bytes:
    """All bytes of a file, as of now: opening it asks a network drive's server."""
    with open(path, "rb", buffering=0) as file:
        return file.read()


def sync_file(descriptor: int, *, data_only: bool = False) -> None:
    """Waits until the file's bytes are on the device; a file system that cannot sync is let pass."""
    try:
        if sys.platform == "darwin":
            import fcntl  # noqa: PLC0415 - absent on Windows

            # fsync(2) on macOS leaves the bytes in the drive's cache.
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        elif data_only and hasattr(os, "fdatasync"):
            os.fdatasync(descriptor)
        else:
            os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


class WriteBack:
    """Starts the writing of a growing file to the device early, so that the sync at its end has little left to do.

    Measured for 1 GiB on ext4: 0.70 s for copy, hash and sync together instead of 1.03. Linux only; elsewhere, and on a
    file system that cannot, nothing happens.
    """

    _STEP_BYTES = 32 << 20
    _START_WRITING = 2  # SYNC_FILE_RANGE_WRITE of sync_file_range(2)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._started_bytes = 0
        self._call: Any = None
        if sys.platform == "linux":
            import ctypes  # noqa: PLC0415 - start-up time: only for large files

            self._call = getattr(ctypes.CDLL(None), "sync_file_range", None)
            if self._call is not None:
                self._call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

    def grown_to(self, size_bytes: int) -> None:
        """To be called after each chunk."""
        if self._call is not None and size_bytes - self._started_bytes >= self._STEP_BYTES:
            self._call(self._descriptor, self._started_bytes, size_bytes - self._started_bytes, self._START_WRITING)
            self._started_bytes = size_bytes


def sync_file_system(path: str) -> bool:
    """Waits until all that was written to a path's file system is on the device: for many files cheaper than each.

    Returns:
        False where there is no such call (only Linux has one that waits): sync each file then.

    Raises:
        OSError: the device refused.
    """
    if sys.platform != "linux":
        return False
    import ctypes  # noqa: PLC0415 - start-up time: only for folders

    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None:
        return False
    descriptor = os.open(path, os.O_RDONLY | O_CLOEXEC)
    try:
        if call(descriptor) != 0:
            number = ctypes.get_errno()
            if number in _CANNOT_SYNC:
                return False
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(descriptor)
    return True


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Makes the names in a folder durable. Windows has no such call and needs none."""
    if sys.platform == "win32":
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | O_CLOEXEC)
    except PermissionError:
        return  # a folder that may be written but not read cannot be synced
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: str, above: str) -> None:
    """Makes `path` with its parents up to the existing folder `above`, each one durable when this returns."""
    missing = []
    current = path
    while current != above and not os.path.isdir(current):
        missing.append(current)
        current = os.path.dirname(current)
    for folder in reversed(missing):
        try:
            drive.holding(folder).make_folder(folder)
        except FileExistsError:
            pass  # another writer was first; whether it is durable yet, only he knows
        sync_folder(os.path.dirname(folder))


def make_private_folder(path: str | os.PathLike[str]) -> None:
    """Makes a folder, with those above it that are missing, for this user alone, whatever the umask. Raises: OSError.

    `os.makedirs` gives its mode to the last one only: whoever may write to one above it may put another in its place,
    with his own approvals of code in it.
    """
    if path and not os.path.isdir(path):
        make_private_folder(os.path.dirname(path))
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not os.path.isdir(path):
                raise


class DurableFolders:
    """Makes folders below a root, and remembers which of them this process knows to be durable.

    A folder that is there may be one whose maker died before he synced its name: what is put into it would be lost
    with it in a power cut. So the first use of each folder in a process syncs the folder above it.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._known = {root}

    def make(self, path: str) -> None:
        """Makes `path`, with its parents below the root, durable when this returns."""
        if path in self._known and os.path.isdir(path):
            return
        above = os.path.dirname(path)
        if path != self._root:
            self.make(above)
        if not os.path.isdir(path):
            try:
                drive.holding(path).make_folder(path)
            except FileExistsError:
                if not os.path.isdir(path):
                    raise
        sync_folder(above)
        self._known.add(path)


def publish(temporary: str, target: str) -> bool:
    """Gives a finished temporary file or folder its final name, unless the name exists already.

    An object's name says what is in it, so a name that exists is success: the temporary file is dropped.

    Returns:
        True when this call made the name. The folder of `target` is not synced yet.
    """
    where = drive.holding(target)
    if os.path.isdir(temporary):
        try:
            where.rename(temporary, target)
            return True
        except OSError:
            # ENOTEMPTY or EEXIST, on Windows EACCES, and EPERM over SFTP.
            if not where.still_has(target):
                raise
            return False
    if where.still_has(target):
        remove_file(temporary)
        return False
    try:
        # Between the look and this rename another writer may have made the name; POSIX then replaces his file by
        # ours, which holds the same bytes, and Windows refuses, as does SMB while somebody reads his.
        where.rename(temporary, target)
        return True
    except OSError:
        if not where.still_has(target):
            raise
        remove_file(temporary)
        return False


def create_exclusive(path: str, data: bytes, temporary: str) -> bool:
    """Creates a whole, durable file in one step; exactly one of many callers gets True.

    `link(2)` of a finished file is exclusive on NFS and on local disks; where there are no links, O_EXCL is used,
    and a reader may for a moment see a shorter file. What is created so is never written again, and read-only.
    """
    whole = f"{temporary}.whole"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | O_BINARY | O_CLOEXEC, 0o600)
        try:
            write_all(descriptor, data)
            drive.set_mode(descriptor, READ_ONLY)
            sync_file(descriptor)
        finally:
            os.close(descriptor)
        # Linux keeps a file on SMB open for a second after it was written, and meanwhile opens it under no second
        # name (EINVAL); a rename ends that.
        os.rename(temporary, whole)
        try:
            os.link(whole, path)
        except FileExistsError:
            # Where the server's answer was lost and asked for again, the second one is about our own link.
            return os.stat(whole).st_nlink == 2
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.ENOENT):
                raise
            return _create_without_link(path, data)
    finally:
        remove_file(temporary)
        remove_file(whole)
    sync_folder(os.path.dirname(path))
    return True


def _create_without_link(path: str, data: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | O_BINARY | O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    try:
        write_all(descriptor, data)
        drive.set_mode(descriptor, READ_ONLY)
        sync_file(descriptor)
    except BaseException:
        os.close(descriptor)
        remove_file(path)  # half a file under this name would be there for good
        raise
    os.close(descriptor)
    sync_folder(os.path.dirname(path))
    return True


def remove_file(path: str) -> None:
    """Removes a temporary file of our own; best effort: what stays is garbage, and no reason to hide another error."""
    try:
        try:
            os.unlink(path)
        except PermissionError:
            if sys.platform != "win32":
                raise
            os.chmod(path, 0o666)  # Windows refuses to delete a read-only file
            os.unlink(path)
    except OSError:
        pass


def move_to_trash(path: str, root: str, name: str) -> None:
    """Takes something damaged out of the way of the good copy that is to take its place."""
    where = drive.of(root)
    trash = os.path.join(root, "trash")
    if not os.path.isdir(trash):
        try:
            where.make_folder(trash)
        except FileExistsError:
            pass
    try:
        where.rename(path, os.path.join(trash, name))
    except FileNotFoundError:
        pass  # out of the way already: another host's doing, which this one had not seen


def remove_folder(path: str) -> None:
    """Removes a temporary folder of our own with all that is in it; best effort, it is garbage anyway."""
    import shutil  # noqa: PLC0415 - start-up time

    shutil.rmtree(path, ignore_errors=True)


def list_names(path: str) -> list[str]:
    """The names in a folder; none where there is no folder."""
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
