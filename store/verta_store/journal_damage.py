"""What of a journal cannot be read, what is left of it, and which such losses somebody has accepted.

Collection and verification ask here, so that both say the same. The rule is in `store/README.md`, section "Repair".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from . import digest as digests
from . import drive, files
from .journal import FOOTER_MISMATCH, Damage, JournalPart
from .listing import OPEN_SUFFIX
from .records import JOURNAL
from .sealed_journals import ACCEPTED, QUARANTINE

_RECORD = "a damaged record"
_ENTITY = re.compile(rb'"e":"([0-9a-f-]{36})"')


def damages_of(path: str, part: JournalPart) -> list[Damage]:
    """What is damaged of a journal that was read to its end; each `what` says where, too."""
    # Of a changed record, the footer's complaints say nothing more.
    found = [damage for damage in part.damages if damage.what == _RECORD] or part.damages
    found = [damage._replace(what=f"{damage.what} at byte {damage.offset}") for damage in found]
    tail = Damage(path, part.position.offset, len(part.tail), f"{_RECORD} at byte {part.position.offset}")
    if part.position.is_sealed:
        return found
    if not path.endswith(OPEN_SUFFIX):
        found.append(tail._replace(what="its footer is missing: it was cut off, or is empty"))
    elif b"\n" in part.tail and not is_arriving(path, part):
        # An unfinished record has no line end: this is a finished one that was changed.
        found.append(tail)
    return found


def other_name_of(stem: str, part: JournalPart) -> str:
    """That a journal which was read from its beginning is another's than its file's name says; '' when it is not."""
    header = part.lines[0] if part.lines else {}
    if not header or (part.damages and header["k"] != JOURNAL):
        return ""  # its first line is among what is damaged
    if header["k"] == JOURNAL and header.get("name") == stem:
        return ""
    return f"it says that it is {header.get('name')!r}: swapped or renamed"


def is_arriving(path: str, part: JournalPart) -> bool:
    """Whether the end of a journal has holes because another host writes it at this moment."""
    return b"\0" in part.tail and path.endswith(OPEN_SUFFIX) and drive.holding(path).is_unsettled(path)


def what_is_left(data: bytes, part: JournalPart) -> list[bytes]:
    """The bytes of a journal's file, or of a piece that begins at its first byte, that no record was read from."""
    # What does not match the footer's SHA-256 is somewhere in the file: said of all of it, it adds nothing to the rest.
    hurt = [damage for damage in part.damages if damage.what != FOOTER_MISMATCH] or part.damages
    pieces = [data[damage.offset : damage.offset + damage.size_bytes] for damage in hurt]
    return [piece for piece in (*pieces, part.tail) if piece]


def entities_in(pieces: Iterable[bytes]) -> list[str]:
    """The ids of what damaged records were about, as far as they can be read."""
    return list(dict.fromkeys(found.decode("ascii") for piece in pieces for found in _ENTITY.findall(piece)))


def is_accepted(root: str, path: str) -> bool:
    """Whether somebody has accepted that a journal or pack is damaged as it is now; any further change counts anew."""
    name = _note_name(root, path)
    top = os.path.join(root, QUARANTINE)
    said = set()
    for batch in files.list_names(top):
        try:
            said.add(files.read_file(os.path.join(top, batch, name)).split(b" ")[0].decode("ascii", "replace"))
        except OSError:
            continue
    try:
        return bool(said) and digests.digest_of_file(path)[0].partition(":")[2] in said
    except OSError:
        return False


def accept(root: str, path: str, batch: str, temporary: str) -> None:
    """Notes that what is damaged of this file is accepted as lost: its SHA-256, as `sha256sum` writes it.

    Raises:
        OSError: the file cannot be read, or the drive refused.
    """
    text = f"{digests.digest_of_file(path)[0].partition(':')[2]}  {os.path.basename(path)}\n"
    note = os.path.join(batch, _note_name(root, path))
    files.make_folder(os.path.dirname(note), root)
    files.create_exclusive(note, text.encode("ascii"), temporary)


def _note_name(root: str, path: str) -> str:
    folder, name = os.path.split(os.path.relpath(path, root))
    return os.path.join(folder, name.partition(".")[0] + ACCEPTED)
