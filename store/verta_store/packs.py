"""Packs: many small sealed journals in one compressed file, each of them as it was, byte for byte.

The format is in `store/README.md`, section "Packs". `gzip -dc` of a pack gives the journals' lines.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from . import journal, records
from .listing import PACK_SUFFIX, Listing

# The first format of a store that has them.
FORMAT = 2

# Journals are compressed by blocks of about this size: damage in one does not reach the others.
_BLOCK_BYTES = 256 << 10
_LEVEL = 6
_GZIP = 31  # zlib's word for its format with gzip's header
_BLOCK_BEGIN = b"\x1f\x8b\x08\x00\x00\x00\x00\x00"  # gzip's header without name and time
_SALVAGE_STEP = 64

_JOURNAL_BEGIN = re.compile(rb'^\{"c":"[0-9a-f]{8}","k":"journal",', re.MULTILINE)


class Member(NamedTuple):
    """A journal that a pack says it holds. `entities` are those that its records are about."""

    stem: str
    size_bytes: int
    sha256: str
    entities: tuple[str, ...]


class Pack(NamedTuple):
    """What was read of a pack."""

    path: str
    header: dict[str, Any]  # empty when it cannot be read
    members: dict[str, Member]
    journals: dict[str, bytes]  # of damaged ones what is left
    damages: list[str]  # of the file as a whole, a sentence each

    def is_sound(self, stem: str) -> bool:
        """Whether a journal is here, byte for byte."""
        member, data = self.members.get(stem), self.journals.get(stem)
        return member is not None and data is not None and hashlib.sha256(data).hexdigest() == member.sha256

    def hurt(self) -> list[str]:
        """The stems of the journals that are not here whole."""
        return [stem for stem in {**self.members, **self.journals} if not self.is_sound(stem)]


def build(store_id: str, name: str, at_ms: int, journals: Sequence[tuple[str, bytes]]) -> bytes:
    """The bytes of a pack of these (stem, content); `name` is its own stem."""
    members = [_member_of(stem, data) for stem, data in journals]
    header = {"format": 1, "store": store_id, "name": name, "at": at_ms, "members": members}
    body = f'"k":"{records.PACK}",{records.encode(header)[1:]}\n'.encode("ascii")
    blocks = [b'{"c":"%08x",' % zlib.crc32(body) + body]
    block = bytearray()
    for _, data in journals:
        block += data
        if len(block) >= _BLOCK_BYTES:
            blocks.append(bytes(block))
            block.clear()
    if block:
        blocks.append(bytes(block))
    return b"".join(map(_compress, blocks))


def _member_of(stem: str, data: bytes) -> list[Any]:
    part = journal.parse_journal(data, journal.Position(), stem)
    entities = dict.fromkeys(record["e"] for record in part.lines if "e" in record)
    return [stem, len(data), hashlib.sha256(data).hexdigest(), list(entities)]


def _compress(data: bytes) -> bytes:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    return packer.compress(data) + packer.flush()


def read_pack(path: str) -> Pack:
    """Reads a pack and finds its journals, also those that damage has left.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        data = file.read()
    texts, damages = _blocks_of(data)
    header, members = _header_of(texts[0] if texts else b"")
    if not header:
        damages.append("its table of contents is damaged")
    found: list[tuple[str, bytes]] = []
    for text in texts[bool(header) :]:
        starts = [match.start() for match in _JOURNAL_BEGIN.finditer(text)]
        found += [(_stem_of(text[begin:end]), text[begin:end]) for begin, end in pairwise([*starts, len(text)])]
    journals = {stem: data for stem, data in _named_by(members, found) if stem}
    return Pack(path, header, members, journals, damages)


def _named_by(members: Mapping[str, Member], found: Sequence[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The journals of a pack under the names that its table of contents has for them, where there is one.

    The damage may be in the name that a journal has itself: under that, all of it would be read as another journal.
    """
    order = list(members)
    known = {stem for stem, _ in found}
    place = -1
    for stem, data in found:
        if stem in members:
            place = order.index(stem)
        elif members:
            place += 1
            if place >= len(order) or order[place] in known:
                continue  # nobody's
        yield (order[place] if members else stem), data


def read_members(path: str) -> dict[str, Member]:
    """The journals that a pack says it holds, without reading them. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        data = file.read()
    try:
        _, members = _header_of(zlib.decompressobj(_GZIP).decompress(data))
    except zlib.error:
        members = {}
    if members:
        return members
    pack = read_pack(path)
    return {stem: Member(stem, len(text), "", ()) for stem, text in pack.journals.items()}


def _blocks_of(data: bytes) -> tuple[list[bytes], list[str]]:
    texts: list[bytes] = []
    damages: list[str] = []
    begin = 0
    while begin < len(data):
        end = data.find(_BLOCK_BEGIN, begin + 1)
        end = len(data) if end < 0 else end
        block = data[begin:end]
        unpacker = zlib.decompressobj(_GZIP)
        try:
            texts.append(unpacker.decompress(block))
            if not unpacker.eof or unpacker.unused_data:
                damages.append(f"a block at byte {begin} does not end where it should")
        except zlib.error:
            texts.append(_salvage(block))
            damages.append(f"a damaged block at byte {begin}")
        begin = end
    return texts, damages


def _salvage(block: bytes) -> bytes:
    """What can be unpacked of a block in front of its damage."""
    unpacker = zlib.decompressobj(_GZIP)
    found = []
    try:
        for begin in range(0, len(block), _SALVAGE_STEP):
            found.append(unpacker.decompress(block[begin : begin + _SALVAGE_STEP]))
    except zlib.error:
        pass
    return b"".join(found)


def _header_of(text: bytes) -> tuple[dict[str, Any], dict[str, Member]]:
    line, newline, _ = text.partition(b"\n")
    body = line[16:] + newline
    try:
        if not newline or int(line[6:14], 16) != zlib.crc32(body):
            return {}, {}
        header = json.loads(line)
        members = {
            stem: Member(stem, size_bytes, sha256, tuple(entities))
            for stem, size_bytes, sha256, entities in header["members"]
        }
    except (ValueError, KeyError, TypeError):
        return {}, {}
    return (dict(header), members) if header.get("k") == records.PACK else ({}, {})


def _stem_of(text: bytes) -> str:
    try:
        name = json.loads(text[: text.find(b"\n")])["name"]
    except (ValueError, KeyError, TypeError):
        return ""
    return name if isinstance(name, str) else ""


def path_of(root: str, name: str) -> str:
    """Where the pack `<host id>/<name>` is."""
    return os.path.join(root, "journals", name + PACK_SUFFIX)


def list_stems(root: str) -> set[str]:
    """The stems of all journals of a store, also of those that only a pack holds."""
    listing = Listing(root)
    found = set(listing.journals(at_once=True))
    for name in listing.packs:
        try:
            found.update(read_members(path_of(root, name)))
        except OSError:
            continue
    return found
