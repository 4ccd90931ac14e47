"""An archive that a user logged is unpacked inside its own folder, files and folders only, or refused whole."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from verta_store import archive
from verta_store.archive import unpack
from verta_store.errors import BadContent

OUTSIDE = [
    "../x",
    "a/../../x",
    "/etc/x",
    "..",
    "a/..",
    "C:/x",
    "C:x",
    "\\\\host\\share\\x",
    "..\\x",
    "\\x",
    "a//b",
    "//x",
]


def as_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members.items():
            made.writestr(zipfile.ZipInfo(name), data)
    return path


def as_tar(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as made:  # type: ignore[call-overload]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "deep" / "target"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("pack", [as_zip, as_tar])
def test_files_folders_and_their_content_come_out(
    pack: Callable[[Path, dict[str, bytes]], Path], tmp_path: Path, target: Path
) -> None:
    unpack(str(pack(tmp_path / "packed", {"a": b"1", "./b/c": b"2", "d/e/f": b"3" * 3_000_000})), str(target), "x")
    found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == {"a": b"1", "b/c": b"2", "d/e/f": b"3" * 3_000_000}
    assert {stat.S_IMODE(path.stat().st_mode) for path in target.rglob("*") if path.is_file()} == {0o444}


@pytest.mark.parametrize("pack", [as_zip, as_tar])
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_member_that_would_land_outside_is_refused(
    pack: Callable[[Path, dict[str, bytes]], Path], tmp_path: Path, target: Path, name: str
) -> None:
    packed = pack(tmp_path / "packed", {name: b"evil"})
    before = sorted(str(path) for path in tmp_path.rglob("*") if not path.is_relative_to(target))
    with pytest.raises(BadContent, match="outside of its folder"):
        unpack(str(packed), str(target), "model")
    assert sorted(str(path) for path in tmp_path.rglob("*") if not path.is_relative_to(target)) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_devices_and_fifos_in_a_tar_are_refused(tmp_path: Path, target: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "packed", "w") as made:
        member = tarfile.TarInfo("x")
        member.type, member.linkname = kind, "/etc/passwd"
        made.addfile(member)
        inner = tarfile.TarInfo("x/y")
        inner.size = 1
        made.addfile(inner, io.BytesIO(b"1"))
    with pytest.raises(BadContent, match="neither a file nor a folder"):
        unpack(str(tmp_path / "packed"), str(target), "model.tar")
    assert not list(target.iterdir())


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path, target: Path, mode: int) -> None:
    with zipfile.ZipFile(tmp_path / "packed", "w") as made:
        member = zipfile.ZipInfo("x")
        member.external_attr = (mode | 0o777) << 16
        made.writestr(member, "/etc/passwd")
    with pytest.raises(BadContent, match="neither a file nor a folder"):
        unpack(str(tmp_path / "packed"), str(target), "model.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("pack", ["zip", "tar"])
@pytest.mark.parametrize(
    "names", [["a", "a"], ["a", "a/b"], ["a/b", "a"], ["a", "./a"], ["a\\b", "a/b"], ["a/b/c", "a/b"]]
)
def test_members_that_stand_in_each_others_way_are_refused(
    tmp_path: Path, target: Path, pack: str, names: list[str]
) -> None:
    if pack == "zip":
        with zipfile.ZipFile(tmp_path / "packed", "w") as made:
            for name in names:
                made.writestr(zipfile.ZipInfo(name), "1")
    else:
        with tarfile.open(tmp_path / "packed", "w") as made:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = 1
                made.addfile(member, io.BytesIO(b"1"))
    with pytest.raises(BadContent) as caught:
        unpack(str(tmp_path / "packed"), str(target), "model")
    assert "\n" not in str(caught.value)


def test_a_bomb_is_refused_before_it_fills_the_drive(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAXIMUM_RATIO", 100)
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as made:
        made.writestr("zeros", bytes(100 << 20))
    with pytest.raises(BadContent, match="would unpack to"):
        unpack(str(tmp_path / "bomb"), str(target), "bomb.zip")
    assert not list(target.iterdir())
    with tarfile.open(tmp_path / "bomb.tar", "w") as tar:
        member = tarfile.TarInfo("huge")
        member.size = 1 << 42
        tar.fileobj.write(member.tobuf())  # type: ignore[union-attr]
        tar.fileobj.write(bytes(1024))  # type: ignore[union-attr]
    with pytest.raises(BadContent):
        unpack(str(tmp_path / "bomb.tar"), str(target), "bomb.tar")


def test_a_million_members_are_refused(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAXIMUM_MEMBERS", 100)
    many = {str(number): b"" for number in range(101)}
    for packed in (as_zip(tmp_path / "z", many), as_tar(tmp_path / "t", many)):
        with pytest.raises(BadContent, match="more than 100 files"):
            unpack(str(packed), str(target), "model")
    (tmp_path / "fits").mkdir()
    unpack(str(as_zip(tmp_path / "z2", dict(list(many.items())[:100]))), str(tmp_path / "fits"), "model")


def test_a_member_that_holds_more_than_it_states_is_refused(tmp_path: Path, target: Path) -> None:
    packed = as_zip(tmp_path / "packed", {"a": b"1" * 5000})
    data = bytearray(packed.read_bytes())
    for signature, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        begin = data.index(signature) + at
        data[begin : begin + 4] = (10).to_bytes(4, "little")
    packed.write_bytes(data)
    with pytest.raises(BadContent):
        unpack(str(packed), str(target), "model.zip")


def damaged_archives() -> dict[str, bytes]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a", os.urandom(500).hex())
    good_zip = buffer.getvalue()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("a")
        member.size = 5000
        tar.addfile(member, io.BytesIO(os.urandom(2500).hex().encode()))
    good_tar = buffer.getvalue()
    encrypted, unknown = bytearray(good_zip), bytearray(good_zip)
    for made_bytes, offsets, value in ((encrypted, (6, 8), 1), (unknown, (8, 10), 98)):
        for signature, at in zip((b"PK\3\4", b"PK\1\2"), offsets, strict=True):
            made_bytes[made_bytes.index(signature) + at] |= value
    flipped_zip, flipped_tar = bytearray(good_zip), bytearray(good_tar)
    flipped_zip[60] ^= 0xFF
    flipped_tar[len(good_tar) // 2] ^= 0xFF
    return {
        "no archive": b"hello",
        "empty": b"",
        "gzip of nothing": gzip.compress(b""),
        "gzip of text": gzip.compress(b"hello" * 1000),
        "cut zip": good_zip[:-40],
        "cut tar": good_tar[: len(good_tar) // 2],
        "flipped zip": bytes(flipped_zip),
        "flipped tar": bytes(flipped_tar),
        "encrypted": bytes(encrypted),
        "unknown method": bytes(unknown),
        "wrong magic": b"\xfd7zXZ\x00" + b"junk" * 300,
        "bz2 junk": b"BZh9" + b"junk" * 300,
        "tar header junk": (b"a" * 100 + b"zzzzzzz\0" * 60)[:512] * 4,
    }


@pytest.mark.parametrize("kind", sorted(damaged_archives()))
def test_what_is_no_readable_archive_is_refused_in_one_sentence(tmp_path: Path, target: Path, kind: str) -> None:
    (tmp_path / "packed").write_bytes(damaged_archives()[kind])
    with pytest.raises(BadContent) as caught:
        unpack(str(tmp_path / "packed"), str(target), "model.zip")
    assert "model.zip" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_every_byte_of_a_small_tar_may_be_damaged_without_a_crash(tmp_path: Path, mode: str) -> None:
    good = as_tar(tmp_path / "good", {"a/b": b"12345", "c": b"6"}, mode).read_bytes()
    for at in range(0, min(len(good), 1700), 23):
        data = bytearray(good)
        data[at] ^= 0xA5
        (tmp_path / "packed").write_bytes(data)
        folder = tmp_path / f"out{at}"
        folder.mkdir()
        try:
            unpack(str(tmp_path / "packed"), str(folder), "model.tar")
        except BadContent:
            pass
        assert {path.name for path in tmp_path.iterdir()} <= {"good", "packed"} | {f"out{n}" for n in range(1700)}


def test_an_archive_of_nothing_gives_an_empty_folder(tmp_path: Path, target: Path) -> None:
    unpack(str(as_zip(tmp_path / "z", {})), str(target), "model.zip")
    unpack(str(as_tar(tmp_path / "t", {})), str(target), "model.tar.gz")
    assert not list(target.iterdir())
