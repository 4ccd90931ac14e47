"""Unpacking of an archive that a user logged: nothing lands outside its folder, nothing but files and folders."""

from __future__ import annotations

import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from typing import IO

from . import drive, files
from .errors import BadContent, StoreError

# Limits for the unpacking of an archive that a user logged: a bomb is refused before it fills the drive.
MAXIMUM_MEMBERS = 200_000
MAXIMUM_UNPACKED_BYTES = 1 << 40
MAXIMUM_RATIO = 1000


def unpack(source: str, folder: str, name: str) -> None:
    """Unpacks a zip or tar file into an empty folder; nothing lands outside of it, nothing but files and folders.

    Every file is synced when this returns: a folder of empty files after a power cut would be taken for the archive.

    Raises:
        BadContent: see `Materializer.unpacked_path_of`.
        OSError: the folder cannot be written.
    """
    try:
        if zipfile.is_zipfile(source):
            _unpack_zip(source, folder, name)
        else:
            _unpack_tar(source, folder, name)
    except StoreError:
        raise
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise BadContent(
            f"{name} holds a file and a folder of one name, so it is not unpacked: {error.filename}", path=source
        ) from error
    except OSError as error:
        if error.errno:
            raise
        raise _unreadable(name, source, error) from error  # of gzip and bz2, which name no error of the system
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        ValueError,  # a header with a number or a name that is none
        OverflowError,
        RuntimeError,  # encrypted; NotImplementedError: a method that the standard library does not have
    ) as error:
        raise _unreadable(name, source, error) from error


def _unreadable(name: str, source: str, error: Exception) -> BadContent:
    reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
    return BadContent(f"{name} is not a zip or tar archive that can be read: {reason}", path=source)


def _unpack_zip(source: str, folder: str, name: str) -> None:
    with zipfile.ZipFile(source) as archive:
        members = archive.infolist()
        _check_sizes(name, len(members), sum(member.file_size for member in members), os.path.getsize(source))
        for member in members:
            target = _inside(folder, member.filename, name)
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise BadContent(f"{name} holds {member.filename!r}, which is neither a file nor a folder")
            if member.is_dir():
                os.makedirs(target, exist_ok=True)
                continue
            with archive.open(member) as reader:
                _write_member(reader, target, name, member.filename, member.file_size)


def _unpack_tar(source: str, folder: str, name: str) -> None:
    with tarfile.open(source) as archive:
        total_bytes = 0
        for count, member in enumerate(archive, 1):
            total_bytes += member.size
            _check_sizes(name, count, total_bytes, os.path.getsize(source))
            target = _inside(folder, member.name, name)
            if member.isdir():
                os.makedirs(target, exist_ok=True)
            elif member.isfile():
                reader = archive.extractfile(member)
                assert reader is not None, "a regular member has content"
                with reader:
                    _write_member(reader, target, name, member.name, member.size)
            else:
                raise BadContent(f"{name} holds {member.name!r}, which is neither a file nor a folder")
        # A compressed tar says at its very end whether what was read is what was packed.
        assert archive.fileobj is not None, "open for reading"
        while chunk := archive.fileobj.read(1 << 20):
            total_bytes += len(chunk)
            _check_sizes(name, 0, total_bytes, os.path.getsize(source))


def _check_sizes(name: str, count: int, total_bytes: int, packed_bytes: int) -> None:
    if count > MAXIMUM_MEMBERS:
        raise BadContent(f"{name} holds more than {MAXIMUM_MEMBERS} files, so it is not unpacked")
    if total_bytes > MAXIMUM_UNPACKED_BYTES or total_bytes > MAXIMUM_RATIO * packed_bytes + (64 << 20):
        raise BadContent(f"{name} would unpack to {total_bytes} bytes from {packed_bytes}, so it is not unpacked")


def _inside(folder: str, member: str, name: str) -> str:
    parts = member.replace("\\", "/").rstrip("/").split("/")
    if parts == ["."] or parts == [""]:
        return folder
    parts = [part for part in parts if part != "."]
    if member.startswith(("/", "\\")) or ".." in parts or "" in parts or ":" in parts[0]:
        raise BadContent(f"{name} holds {member!r}, which would land outside of its folder; it is not unpacked")
    return os.path.join(folder, *parts)


def _write_member(reader: IO[bytes], target: str, name: str, member: str, size_bytes: int) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    left = size_bytes
    try:
        with open(target, "xb") as writer:
            while chunk := reader.read(1 << 20):
                left -= len(chunk)
                if left < 0:
                    raise BadContent(f"{name} holds more in {member!r} than it states, so it is not unpacked")
                writer.write(chunk)
            writer.flush()
            files.sync_file(writer.fileno())
    except FileExistsError:
        raise BadContent(f"{name} holds {member!r} twice (or in two spellings), so it is not unpacked") from None
    drive.set_mode(target, files.READ_ONLY)
