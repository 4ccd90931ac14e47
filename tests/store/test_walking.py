"""Two walks have one signature only when nothing about any file has changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from verta_store import walking
from verta_store.walking import NO_LOOK, Folder, signature_of, walk


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    top = tmp_path / "folder"
    (top / "sub" / "empty").mkdir(parents=True)
    for name in ("a", "b", "sub/c", "sub/d"):
        (top / name).write_bytes(name.encode() * 10)
    (top / "link").symlink_to("a")
    (top / "linked folder").symlink_to("sub")
    return top


def sign(folder: Path) -> str:
    return signature_of(walk(str(folder), with_looks=True))


def edit_with_the_time_put_back(folder: Path) -> None:
    found = (folder / "sub/c").stat()
    with open(folder / "sub/c", "r+b") as file:
        file.write(b"x")
    os.utime(folder / "sub/c", ns=(found.st_atime_ns, found.st_mtime_ns))


def swap_two_names(folder: Path) -> None:
    (folder / "a").rename(folder / "t")
    (folder / "b").rename(folder / "a")
    (folder / "t").rename(folder / "b")


def replace_by_a_twin(folder: Path) -> None:
    found = (folder / "b").stat()
    (folder.parent / "twin").write_bytes(b"B" * 10)
    os.utime(folder.parent / "twin", ns=(found.st_atime_ns, found.st_mtime_ns))
    (folder.parent / "twin").rename(folder / "b")


def lead_a_link_elsewhere(folder: Path) -> None:
    (folder / "link").unlink()
    (folder / "link").symlink_to("b")


def make_a_link_a_file(folder: Path) -> None:
    (folder / "link").unlink()
    os.link(folder / "a", folder / "link")


CHANGES: list[Callable[[Path], object]] = [
    edit_with_the_time_put_back,
    swap_two_names,
    replace_by_a_twin,
    lead_a_link_elsewhere,
    make_a_link_a_file,
    lambda folder: (folder / "sub/empty").rmdir(),
    lambda folder: (folder / "sub/new").mkdir(),
    lambda folder: (folder / "new").write_bytes(b""),
    lambda folder: (folder / "b").unlink(),
    lambda folder: (folder / "b").chmod(0o755),
    lambda folder: (folder / "sub").rename(folder / "bus") and (folder / "linked folder").unlink(),
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_gives_another_signature(folder: Path, change: Callable[[Path], object]) -> None:
    before = sign(folder)
    assert before and sign(folder) == before
    change(folder)
    assert sign(folder) not in ("", before)


def test_reading_and_what_lies_beside_the_folder_change_nothing(folder: Path) -> None:
    before = sign(folder)
    (folder / "a").read_bytes()
    os.utime(folder, ns=(0, 0))
    (folder.parent / "beside").write_bytes(b"")
    assert sign(folder) == before


def test_names_cannot_be_told_as_looks_nor_one_folder_as_two() -> None:
    """What is joined into one text stays apart: a name is never empty and has no NUL."""
    look = b"ab" * 18
    walks = [
        [Folder("", "", ["a", "b"], [look, look], {})],
        [Folder("", "", ["a"], [look], {"b": look.decode()})],
        [Folder("", "", [], [], {"\n": "\n"})],
        [Folder("", "", [], [], {"\n": ""}), Folder("\n", "", [], [], {})],
        [Folder("", "", ["0"], [look], {"1": "b"})],
        [Folder("", "", ["0", "1"], [look, look], {"b": ""})],
        [Folder("", "", ["a"], [look], {}), Folder("b", "", [], [], {})],
        [Folder("", "", ["a"], [look], {}), Folder("", "", ["b"], [look], {})],
        [Folder("a", "", ["b"], [look], {})],
    ]
    assert len({signature_of(found) for found in walks}) == len(walks)


def test_an_unknown_look_makes_the_signature_unknown() -> None:
    assert signature_of([Folder("", "", ["a", "b"], [b"ab" * 18, NO_LOOK], {})]) == ""
    assert signature_of([Folder("", "", ["a", "b"], [], {})]) == ""


@pytest.mark.parametrize(("step_ns", "age_s", "is_known"), [(10**9, 1, False), (10**9, 10, True), (1, 1, True)])
def test_on_a_drive_without_fractions_new_files_say_nothing(
    monkeypatch: pytest.MonkeyPatch, step_ns: int, age_s: int, is_known: bool
) -> None:
    now_ns = 1_800_000_000 * 10**9 + 7
    monkeypatch.setattr(walking.time, "time_ns", lambda: now_ns)
    time_ns = (now_ns - age_s * 10**9) // step_ns * step_ns
    looks = [walking._LOOK.pack(5, each, each, 1, 0) for each in (10 * 10**9, 20 * 10**9, time_ns)]
    assert bool(signature_of([Folder("", "", ["a", "b", "c"], looks, {})])) == is_known
