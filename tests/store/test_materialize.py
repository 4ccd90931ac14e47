"""A model gets paths with the right names, straight in the store, and never a path to anything else."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verta_store import Store
from verta_store.errors import CorruptObject, MissingObject, StoreError, StoreWriteError
from verta_store.names import is_archive, safe_name

NASTY = [
    "../../x", "..\\..\\x", "/etc/passwd", "C:/x", "\\\\host\\x", "x/../../y", "%2e%2e%2f", "#/../", "a\0b", "CON",
    "aux.txt", "a:b", "dot.", "space ", "~", "-rf", "x" * 10_000, "\u202etxt.exe", "é", "e\u0301", "", ".", "..", "...",
    " ", "\udcff", "nul.tar.gz", "日本語" * 100 + ".onnx", "\n", "LPT9.bin", "|", "a/b",
]  # fmt: skip


def is_a_plain_name(name: str) -> bool:
    return (
        name not in ("", ".", "..")
        and not any(character in '<>:"/\\|?*\x7f' or character < " " for character in name)
        and name[-1] not in " ."
        and len(name.encode("utf-8")) <= 255
        and not re.fullmatch(r"(con|prn|aux|nul|(com|lpt)[0-9])", name.split(".")[0].lower())
    )


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=300) | st.sampled_from(NASTY))
def test_any_word_becomes_one_safe_name_and_a_safe_one_stays(name: str) -> None:
    made = safe_name(name)
    assert is_a_plain_name(made)
    assert safe_name(made) == made
    if name.isprintable() and is_a_plain_name(name) and len(name.encode("utf-8")) <= 200:
        assert made == name


def test_a_long_name_keeps_its_extension() -> None:
    assert safe_name("m" * 10_000 + ".safetensors").endswith("m.safetensors")
    assert len(safe_name("m" * 10_000_000)) == 200


@pytest.mark.parametrize("name", NASTY)
def test_a_name_never_leads_out_of_the_objects_own_folder(store: Store, name: str) -> None:
    ref = store.put_bytes(b"weights")
    path = Path(store.path_of("blob", ref.digest, name))
    assert path.parent == Path(store.root, "names", "sha256", ref.digest[7:9], ref.digest[9:])
    assert path.parent.resolve() == path.parent and path.read_bytes() == b"weights"
    assert not path.is_symlink()


def test_a_named_blob_is_the_object_itself_and_made_once(store: Store) -> None:
    ref = store.put_bytes(b"weights")
    path = Path(store.path_of("blob", ref.digest, "model.pt"))
    assert path.name == "model.pt" and path.samefile(store.object_path(ref.digest))
    before = path.stat()
    assert store.path_of("blob", ref.digest, "model.pt") == str(path)
    assert path.stat().st_ctime_ns == before.st_ctime_ns
    assert Path(store.path_of("blob", ref.digest, "other.bin")).samefile(path)


def test_naming_a_checked_blob_does_not_make_it_unknown_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = store.put_bytes(b"weights" * 1000)
    store.check("blob", ref.digest)
    store.path_of("blob", ref.digest, "model.pt")
    monkeypatch.setattr("verta_store.digest.digest_of_file", lambda path: pytest.fail(f"{path} was hashed again"))
    store.check("blob", ref.digest)


def test_the_path_of_a_tree_is_the_tree(store: Store, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"1")
    ref = store.put_tree(tmp_path / "folder")
    assert store.path_of("tree", ref.digest, "../../x") == store.tree_path(ref.digest)


def test_names_may_be_deleted_at_any_time(store: Store) -> None:
    ref = store.put_bytes(b"weights")
    for victim in ("names", f"names/sha256/{ref.digest[7:9]}"):
        store.path_of("blob", ref.digest, "model.pt")
        shutil.rmtree(Path(store.root, victim))
        assert Path(store.path_of("blob", ref.digest, "model.pt")).read_bytes() == b"weights"


def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)


def test_where_there_are_no_links_the_name_is_a_verified_copy(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    no_links(monkeypatch)
    ref = store.put_bytes(b"weights" * 1000)
    path = Path(store.path_of("blob", ref.digest, "model.pt"))
    assert path.read_bytes() == b"weights" * 1000 and not path.samefile(store.object_path(ref.digest))
    assert path.stat().st_mode & 0o777 == 0o444


def test_a_damaged_object_is_never_copied_to_a_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    no_links(monkeypatch)
    ref = store.put_bytes(b"weights" * 1000)
    os.chmod(store.object_path(ref.digest), 0o644)
    Path(store.object_path(ref.digest)).write_bytes(b"wrong" * 1000)
    with pytest.raises(CorruptObject):
        store.path_of("blob", ref.digest, "model.pt")


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("damage", ["rewritten", "replaced", "a folder", "a link"])
def test_a_name_that_is_no_longer_the_object_is_made_anew(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, has_links: bool
) -> None:
    """A model that wrote into its artifact, or replaced it, hurts neither the store nor the next model."""
    if not has_links:
        no_links(monkeypatch)
    ref = store.put_bytes(b"weights" * 1000)
    path = Path(store.path_of("blob", ref.digest, "model.pt"))
    if damage == "rewritten":
        if has_links:
            pytest.skip("it is the object itself: `check` finds it")
        path.chmod(0o644)
        path.write_bytes(b"other!!" * 1000)
    else:
        path.unlink()
        if damage == "replaced":
            path.write_bytes(b"other!!" * 1000)
        elif damage == "a folder":
            path.mkdir()
        else:
            (tmp_path / "elsewhere").write_bytes(b"other!!" * 1000)
            path.symlink_to(tmp_path / "elsewhere")
    assert Path(store.path_of("blob", ref.digest, "model.pt")).read_bytes() == b"weights" * 1000
    assert store.read_verified(ref.digest) == b"weights" * 1000


def test_a_missing_object_has_no_path(store: Store) -> None:
    digest = "sha256:" + "2" * 64
    for kind in ("blob", "tree"):
        with pytest.raises(MissingObject):
            store.path_of(kind, digest, "x")
    with pytest.raises(MissingObject):
        store.unpacked_path_of(digest, "x.zip")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("m.zip", True), ("M.ZIP", True), ("m.tar.gz", True), ("m.tgz", True), ("m.tar", True), ("m.gz", False),
     ("zip", False), ("m.zip.pt", False)],
)  # fmt: skip
def test_verta_unpacks_zip_and_tar(name: str, expected: bool) -> None:
    assert is_archive(name) is expected


@pytest.mark.parametrize("name", ["model.zip", "model.tar.gz", "model.TGZ", "model.tar", ".zip", "..zip", "CON.zip"])
def test_an_archive_is_unpacked_once_into_a_folder_of_its_name(store: Store, tmp_path: Path, name: str) -> None:
    packed = tmp_path / "packed"
    if name.lower().endswith("zip"):
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("sub/a.txt", "1")
    else:
        with tarfile.open(packed, "w:gz" if name.lower().endswith("gz") else "w") as archive:
            (tmp_path / "a.txt").write_text("1")
            archive.add(tmp_path / "a.txt", "sub/a.txt")
    ref = store.put_file(packed)
    path = Path(store.unpacked_path_of(ref.digest, name))
    assert (path / "sub" / "a.txt").read_text() == "1"
    inode = path.stat().st_ino
    assert store.unpacked_path_of(ref.digest, name) == str(path) and path.stat().st_ino == inode
    assert path.parent == Path(store.root, "names", "sha256", ref.digest[7:9], ref.digest[9:])
    shutil.rmtree(path)
    assert (Path(store.unpacked_path_of(ref.digest, name)) / "sub" / "a.txt").read_text() == "1"


def test_an_archive_and_a_file_of_the_same_stem_do_not_collide(store: Store, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "packed", "w") as archive:
        archive.writestr("a", "1")
    ref = store.put_file(tmp_path / "packed")
    named = Path(store.path_of("blob", ref.digest, "model.dir"))
    unpacked = Path(store.unpacked_path_of(ref.digest, "model.zip"))
    assert named.is_file() and unpacked.is_dir()


def test_a_full_drive_while_unpacking_is_one_sentence_and_leaves_no_folder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "packed", "w") as archive:
        archive.writestr("a", "1" * 100)
    ref = store.put_file(tmp_path / "packed")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreWriteError, match="no space left"):
        store.unpacked_path_of(ref.digest, "model.zip")
    monkeypatch.undo()
    assert not list(Path(store.root, "names").rglob("*.dir"))
    assert not [name for folder in Path(store.root, "tmp").glob("*") for name in os.listdir(folder)]


def test_eight_processes_that_name_and_unpack_the_same_object_all_get_it_whole(store: Store, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "packed", "w") as archive:
        for number in range(50):
            archive.writestr(f"f/{number}", str(number) * 1000)
    ref = store.put_file(tmp_path / "packed")
    code = f"""
import os, time
from verta_store import open_store
store = open_store({store.root!r}, {str(tmp_path / "cache")!r})
while not os.path.exists({str(tmp_path / "go")!r}):
    time.sleep(0.001)
folder = store.unpacked_path_of({ref.digest!r}, "m.zip")
assert sorted(os.listdir(folder + "/f"), key=int) == [str(n) for n in range(50)]
assert all(open(f"{{folder}}/f/{{n}}").read() == str(n) * 1000 for n in range(50))
assert os.path.samefile(store.path_of("blob", {ref.digest!r}, "m.zip"), store.object_path({ref.digest!r}))
"""
    workers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(8)]
    (tmp_path / "go").touch()
    assert [worker.wait() for worker in workers] == [0] * 8
    store.check("blob", ref.digest)
    assert issubclass(StoreWriteError, StoreError)
