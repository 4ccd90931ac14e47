"""Folders and small files of this user alone: readable by nobody else from their first byte on."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def make_private_folder(path: Path) -> None:
    """Makes a folder, with those above it that are missing, for this user alone, whatever the umask. Raises: OSError.

    `mkdir(parents=True)` gives its mode to the last one only: whoever may write to one above it may put another in
    its place, with his own approvals of code in it.
    """
    for folder in (*reversed(path.parents), path):
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)


def write_private(path: Path, content: bytes) -> None:
    """Puts a file of mode 0600 in place by a rename; a reader sees the old content or the new one. Raises: OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
