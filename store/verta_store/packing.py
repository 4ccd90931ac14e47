"""Small sealed journals become packs, without locks: a collection does it as its last step.

The rules, and why no reader loses or doubles a record, are in `store/README.md`, section "Packs".
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from . import drive, files, ids, journal, packs
from .collected import Packed
from .listing import SEALED_SUFFIX, Listing

# A journal that was sealed this short a time ago may still be looked for under its name.
PACK_AFTER_S = 3600.0

# Larger journals gain little. A pack is read as a whole, which costs some times its size in memory.
_LARGEST_BYTES = 1 << 20
_PACK_BYTES = 16 << 20
_MOST_JOURNALS = 10_000

# Fewer are not worth a pack: there would be one a day.
FEWEST_JOURNALS = 100


def pack_journals(root: str, store_id: str, now_ns: int, *, after_s: float, fewest: int) -> Packed:
    """Packs what was sealed more than `after_s` ago by the drive's clock, where it is `fewest` journals of a host.

    A pack is durable, and was read again and compared, when it gets its name. What is damaged is left out.

    Raises:
        OSError: the drive refused; what was packed before stays.
    """
    report = Packed()
    for host, stems in _candidates(root, now_ns - int(after_s * 10**9)):
        found: list[tuple[str, bytes]] = []
        size_bytes = 0
        for stem in stems:
            data = _read_sound(root, store_id, stem)
            if data is None:
                continue
            found.append((stem, data))
            size_bytes += len(data)
            if size_bytes >= _PACK_BYTES or len(found) >= _MOST_JOURNALS:
                _write_pack(root, store_id, host, now_ns, found, report)
                found, size_bytes = [], 0
        if len(found) >= fewest:
            _write_pack(root, store_id, host, now_ns, found, report)
    return report


def delete_packed(root: str, now_ns: int, wait_s: float, report: Packed) -> None:
    """Deletes the journals that are in packs older than `wait_s`, each after comparing it with its copy there."""
    listing = Listing(root)
    journals = listing.journals(at_once=True)
    for name in listing.packs:
        path = packs.path_of(root, name)
        try:
            if os.lstat(path).st_mtime_ns > now_ns - int(wait_s * 10**9):
                continue
            stems = [stem for stem in packs.read_members(path) if journals.get(stem) == SEALED_SUFFIX]
            pack = packs.read_pack(path) if stems else None
        except OSError:
            continue
        if pack is not None and (pack.damages or pack.hurt()):
            continue  # a repair puts it aside, because the journals have their own files
        for stem in stems if pack is not None else ():
            source = os.path.join(root, "journals", stem + SEALED_SUFFIX)
            try:
                data = files.read_file(source)
            except OSError:
                continue  # another collection was faster
            if pack is not None and data == pack.journals[stem]:
                files.remove_file(source)
                report.deleted_count += 1
                report.deleted_bytes += len(data)


def _candidates(root: str, sealed_before_ns: int) -> Iterator[tuple[str, list[str]]]:
    """(host id, stems of small sealed journals that no pack holds)."""
    listing = Listing(root)
    journals = listing.journals(at_once=True)
    held: set[str] = set()
    for name in listing.packs:
        try:
            held.update(packs.read_members(packs.path_of(root, name)))
        except OSError:
            continue
    hosts: dict[str, list[str]] = {}
    for stem, suffix in sorted(journals.items()):
        if suffix != SEALED_SUFFIX or stem in held:
            continue
        try:
            found = os.lstat(os.path.join(root, "journals", stem + suffix))
        except OSError:
            continue
        if found.st_size <= _LARGEST_BYTES and found.st_mtime_ns <= sealed_before_ns:
            hosts.setdefault(stem.split("/")[0], []).append(stem)
    yield from hosts.items()


def _read_sound(root: str, store_id: str, stem: str) -> bytes | None:
    path = os.path.join(root, "journals", stem + SEALED_SUFFIX)
    try:
        data = files.read_file(path)
    except OSError:
        return None
    part = journal.parse_whole(data, path)
    header = part.lines[0] if part.lines else {}
    is_own = header.get("name") == stem and header.get("store") == store_id
    is_whole = part.position.is_sealed and part.position.offset == len(data)
    return data if is_own and is_whole and not part.damages else None


def _write_pack(
    root: str, store_id: str, host: str, now_ns: int, found: list[tuple[str, bytes]], report: Packed
) -> None:
    now_ms = now_ns // 10**6
    name = f"{host}/{ids.utc_stamp(now_ms)}-{os.getpid()}-{ids.random_hex(8)}"
    data = packs.build(store_id, name, now_ms, found)
    temporary = os.path.join(root, "tmp", f"pack-{ids.random_hex(16)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | files.O_BINARY | files.O_CLOEXEC, 0o600)
        try:
            files.write_all(descriptor, data)
            drive.set_mode(descriptor, 0o444)
            files.sync_file(descriptor)
        finally:
            os.close(descriptor)
        pack = packs.read_pack(temporary)
        if pack.damages or pack.journals != dict(found) or pack.hurt():
            raise OSError(5, "what was written into a pack is not what is read from it")
        path = packs.path_of(root, name)
        drive.of(root).rename(temporary, path)
        files.sync_folder(os.path.dirname(path))
    except BaseException:
        files.remove_file(temporary)
        raise
    report.pack_count += 1
    report.journal_count += len(found)
    report.size_bytes += sum(len(each) for _, each in found)
    report.packed_bytes += len(data)
