"""What a user calls a file, and what may become of it: the only rules by which a user's word reaches a path."""

from __future__ import annotations

import re

ARCHIVE_ENDS = (".tar.gz", ".tgz", ".tar", ".zip")
# Not compiled here, but at the first use, which `re` remembers: most processes never name a file.
_UNSAFE = r'[\x00-\x1f\x7f<>:"/\\|?*]'
_WINDOWS_NAMES = r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?"


def safe_name(name: str) -> str:
    """A file name for the user's word: the same, unless some file system would stumble over it."""
    name = re.sub(_UNSAFE, "_", name.encode("utf-8", "replace").decode("utf-8"))
    if name.strip(" .") == "":
        name = "_" + name.strip(" .")
    if name[-1] in " .":
        name = name[:-1] + "_"
    if re.fullmatch(_WINDOWS_NAMES, name):
        name = "_" + name
    # 255 bytes is the limit of common file systems; the end is kept, because frameworks look at it.
    return name.encode("utf-8")[-200:].decode("utf-8", "ignore")


def is_archive(name: str) -> bool:
    """Whether Verta would unpack a file of this name: zip, tar, tgz and tar.gz."""
    return name.lower().endswith(ARCHIVE_ENDS)
