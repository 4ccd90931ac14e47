"""Which names of a logged folder no store can hold, and which not every system."""

from __future__ import annotations

import re
import unicodedata
import warnings

from .errors import BadContent

_WINDOWS_NAMES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in "123456789")}
_ILLEGAL = b'<>:"\\|?*' + bytes(range(ord(" ")))
# In paths in small letters, each after a line end and the last before one: all that is no legal name on Windows but for
# the characters, and a little that is. Two patterns and not one, which takes twice the time.
_DOUBTFUL_END = re.compile(rb"[. ][/\n]")
_DOUBTFUL_NAME = re.compile(rb"[/\n](?:con|prn|aux|nul|com.|lpt.)[./\n]")


def check_names(source: str, paths: list[str], *, is_case_sensitive: bool) -> None:
    """Refuses names that no store can hold, and warns of those that another system cannot.

    Args:
        paths: of all files and folders in the folder `source`, with `/`.
        is_case_sensitive: whether the store's own drive tells capitals from small letters.

    Raises:
        BadContent: the message says which name.
    """
    if _are_plain(paths):
        return
    seen: dict[str, str] = {}
    for path in paths:
        name = path.rsplit("/", 1)[-1]
        try:
            path.encode("utf-8")
        except UnicodeEncodeError:
            raise BadContent(
                f"the name {path!r} in {source} is not valid Unicode, so it cannot be logged; rename it",
                path=source,
            ) from None
        folded = unicodedata.normalize("NFC", path).casefold()
        twin = seen.setdefault(folded, path)
        problem = ""
        if twin != path:
            problem = f"{twin!r} and {path!r} differ only in case or accents"
        elif (
            name.split(".")[0].lower() in _WINDOWS_NAMES
            or name[-1:] in (".", " ")
            or any(character in '<>:"\\|?*' or character < " " for character in name)
        ):
            problem = f"{path!r} is not a legal name on Windows"
        if not problem:
            continue
        if not is_case_sensitive:
            raise BadContent(f"{problem} (in {source}): this store's drive cannot hold it; rename it", path=source)
        warnings.warn(
            f"{problem} (in {source}): it is stored, but cannot be copied to every system",
            UserWarning,
            stacklevel=3,
        )


def _are_plain(paths: list[str]) -> bool:
    """Whether nothing can be wrong with any of the paths: what holds for nearly all folders, looked at in one go."""
    text = "\n".join(("", *paths, ""))
    if not text.isascii():
        return False
    lines = text.lower().encode("ascii")
    # Illegal too are the line ends, of which there are so many if no name has one.
    if len(lines) - len(lines.translate(None, _ILLEGAL)) != len(paths) + 1:
        return False
    if _DOUBTFUL_END.search(lines) or _DOUBTFUL_NAME.search(lines):
        return False
    return len(set(lines.split(b"\n"))) == len(paths) + 1
