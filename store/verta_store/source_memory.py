"""A memory, per user and host, of the user's own files and folders that were logged, so that they are not read again.

A file counts as unchanged when path, size, mtime, ctime and inode are those of the time when it was read; a folder,
when it still has the same names and each of its files is unchanged: one signature for all of them. That finds an edit
of the same size, also with its mtime put back (ctime moves), and a swap by renaming (inode and ctime). Two things could
slip through and are shut out when something is *remembered*:

* a change in the same tick of a coarse clock: a file that was changed less than two seconds ago is not remembered
  (git's "racily clean" rule);
* a store through a memory map, which moves mtime and ctime only when the page was clean: a file is only remembered
  when none of its pages is dirty, so that the next store is seen (tried on Linux 6.18: without this it is missed on
  ext4, with it seen). Where that cannot be asked, or the file system never moves the times (tmpfs), nothing is
  remembered and every file is read.

A folder is remembered when each of its files may be. A cache: deletable at any time, and then all is read once more.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from .local_cache import LocalCache
from .walking import NO_LOOK, Folder, look_of, signature_of

# File systems that move mtime and ctime at the first store to a clean page.
_TRUSTED = {"ext2", "ext3", "ext4", "xfs", "btrfs"}


class KnownFolder(NamedTuple):
    """The tree that a folder was logged as."""

    digest: str
    size_bytes: int
    file_count: int


class SourceMemory(LocalCache):
    """Absolute real path of a user's file, or of a folder with a separator behind it -> (signature, digest).

    And `sample ...` -> the digest of a stored blob with that sample.
    """

    def __init__(self, path: str) -> None:
        super().__init__(
            path,
            "CREATE TABLE IF NOT EXISTS sources"
            " (path TEXT PRIMARY KEY, signature TEXT NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID",
        )
        self._trusted_devices: dict[int, bool] = {}

    def trusted_device(self, path: str) -> int | None:
        """The device that a file or folder is on, where its file system tells enough to remember files by; or None.

        Raises:
            OSError: it is not there.
        """
        device = os.stat(path).st_dev
        is_trusted = self._trusted_devices.get(device)
        if is_trusted is None:
            is_trusted = self._trusted_devices[device] = _file_system_of(device) in _TRUSTED
        return device if is_trusted else None

    def file(self, path: str) -> str:
        """The digest of a file that has not changed since it was remembered; ''."""
        rows = self.rows("SELECT signature, digest FROM sources WHERE path = ?", (path,))
        if not rows:
            return ""
        status = os.stat(path)
        signature, digest = rows[0]
        return str(digest) if signature == f"{look_of(status).hex()} {status.st_dev}" else ""

    def remember_file(self, path: str, look: bytes, device: int | None, digest: str) -> None:
        """Notes a file that was read; `look` is `NO_LOOK` when it must not be (see `copying.is_rememberable`)."""
        if look != NO_LOOK and device is not None:
            self._remember(path, f"{look.hex()} {device}", digest)

    def twin(self, sample: str) -> str:
        """The digest of a stored blob with this sample (`digest.sample_of_file`), or ''. It may be no twin."""
        rows = self.rows("SELECT digest FROM sources WHERE path = ?", (f"sample {sample}",))
        return str(rows[0][0]) if rows else ""

    def remember_twin(self, sample: str, digest: str) -> None:
        """Notes the sample of a stored blob."""
        self._remember(f"sample {sample}", "", digest)

    def last_tree(self, path: str) -> KnownFolder | None:
        """The tree that a folder was when it was remembered, whether or not it has changed since."""
        rows = self.rows("SELECT digest FROM sources WHERE path = ?", (_key(path),))
        try:
            digest, size_bytes, file_count = rows[0][0].split(" ")
            return KnownFolder(digest, int(size_bytes), int(file_count))
        except (IndexError, ValueError):
            return None  # nothing, or of another version

    def is_unchanged(self, path: str, found: list[Folder]) -> bool:
        """Whether a folder is as it was when it was remembered, by a walk with the looks of all files."""
        signature = self._signature_here(path, signature_of(found))
        rows = self.rows("SELECT signature FROM sources WHERE path = ?", (_key(path),))
        return bool(signature) and rows == [(signature,)]

    def remember_folder(self, path: str, signature: str, tree: KnownFolder) -> None:
        """Notes a folder that was read; the signature is that of the looks while it was, '' when it must not be."""
        signature = self._signature_here(path, signature)
        if signature:
            self._remember(_key(path), signature, f"{tree.digest} {tree.size_bytes} {tree.file_count}")

    def _signature_here(self, path: str, signature: str) -> str:
        device = self.trusted_device(path) if signature else None
        return f"{signature} {device}" if device is not None else ""

    def _remember(self, path: str, signature: str, digest: str) -> None:
        self.write("INSERT OR REPLACE INTO sources VALUES (?, ?, ?)", [(path, signature, digest)])


def _key(folder: str) -> str:
    return os.path.join(folder, "")


def _file_system_of(device: int) -> str:
    """The type of the file system on a device number, by /proc; '' where it is not known."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                fields = line.split()
                if fields[2] == wanted:
                    return fields[fields.index("-") + 1]
    except (OSError, ValueError, IndexError):
        pass
    return ""
