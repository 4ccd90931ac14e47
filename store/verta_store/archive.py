"""Unpacking of an archive that a user logged: nothing lands outside its folder, nothing but files and folders."""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile

from . import files
from .errors import BadContent

# Limits for the unpacking of an archive that a user logged: a bomb is refused before it fills the drive.
MAXIMUM_MEMBERS = 200_000
MAXIMUM_UNPACKED_BYTES = 1 << 40
MAXIMUM_RATIO = 1000


def unpack(source: str, folder: str, name: str) -> None:
    """Unpacks a zip or tar file into an empty folder; nothing lands outside of it, nothing but files and folders.

    Raises:
        BadContent: see `Materializer.unpacked_path_of`.
    """
    try:
        if zipfile.is_zipfile(source):
            _unpack_zip(source, folder, name)
        else:
            _unpack_tar(source, folder, name)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise BadContent(f"{name} is not a zip or tar archive that can be read: {error}", path=source) from error


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


def _write_member(reader: object, target: str, name: str, member: str, size_bytes: int) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    left = size_bytes
    try:
        with open(target, "xb") as writer:
            while chunk := reader.read(1 << 20):  # type: ignore[attr-defined]
                left -= len(chunk)
                if left < 0:
                    raise BadContent(f"{name} holds more in {member!r} than it states, so it is not unpacked")
                writer.write(chunk)
    except FileExistsError:
        raise BadContent(f"{name} holds {member!r} twice (or in two spellings), so it is not unpacked") from None
    os.chmod(target, files.READ_ONLY)
