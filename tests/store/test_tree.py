"""A logged folder comes back as it was: names, empty folders, executable bits; what cannot be stored is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import stat
import threading
import unicodedata
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from verta_store import Ref, Store, files, folder_copy, portable_names, tree
from verta_store.copying import Copied, CopiedFiles, copy_names
from verta_store.errors import BadContent, CorruptObject, MissingObject, StoreError, StoreWriteError
from verta_store.manifest import Entry, read_manifest, write_manifest
from verta_store.portable_names import check_names

LARGE = folder_copy.LINK_FROM_BYTES
# A file system's name: any bytes but NUL and the slash, at most 255 of them; here: any Unicode.
NAME = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=20)
    .filter(lambda name: name not in (".", ".."))
    .filter(lambda name: len(name.encode()) < 200)
)
FOLDER = st.recursive(
    st.binary(max_size=20), lambda inner: st.dictionaries(NAME, inner, max_size=4), max_leaves=8
).filter(lambda made: isinstance(made, dict))


def make(folder: Path, content: dict[str, object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, inner in content.items():
        if isinstance(inner, dict):
            make(folder / name, inner)
        else:
            assert isinstance(inner, bytes)
            (folder / name).write_bytes(inner)
    return folder


def look(folder: str | Path) -> dict[str, object]:
    """What is in a folder: name -> bytes or a further dict."""
    return {
        child.name: look(child) if child.is_dir() else child.read_bytes() for child in sorted(Path(folder).iterdir())
    }


def flip(path: Path) -> None:
    os.chmod(path, 0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def is_clean(store: Store) -> bool:
    return not [name for folder in Path(store.root, "tmp").glob("*") for name in os.listdir(folder)]


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FOLDER)
def test_any_folder_comes_back_as_it_was(store: Store, tmp_path: Path, content: dict[str, object]) -> None:
    source = tmp_path / "source"
    shutil.rmtree(source, ignore_errors=True)
    make(source, content)
    ref = store.put_tree(source)
    assert look(store.path_of("tree", ref.digest, "source")) == look(source)
    assert store.put_tree(source) == ref
    assert is_clean(store)


ENTRY = st.builds(
    lambda parts, is_folder, is_executable, size, data: Entry(
        "/".join(parts),
        is_folder,
        is_executable and not is_folder,
        0 if is_folder else size,
        "" if is_folder else "sha256:" + hashlib.sha256(data).hexdigest(),
    ),
    st.lists(NAME, min_size=1, max_size=3),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**50),
    st.binary(max_size=4),
)


@settings(deadline=None, max_examples=100)
@given(st.lists(ENTRY, max_size=8, unique_by=lambda entry: entry.path), st.randoms())
def test_a_manifest_comes_back_and_does_not_depend_on_the_order(entries: list[Entry], random: object) -> None:
    data = write_manifest(entries)
    assert data.isascii() and data.count(b"\n") == len(entries) + 1
    assert sorted(read_manifest(data), key=lambda entry: entry.path) == sorted(entries, key=lambda entry: entry.path)
    shuffled = list(entries)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert write_manifest(shuffled) == data
    assert write_manifest(read_manifest(data)) == data


def test_the_lines_of_a_manifest_stand_in_the_order_of_utf_8_in_the_nfc_form() -> None:
    # By code points of what is written, `e` with an accent behind it stands before `f`; composed, behind `z`. An astral
    # character stands behind U+FF5E in UTF-8, before it in UTF-16.
    paths = ["a-b", "a/b", "a", "z", "e\u0301", "f", "\uff5e", "\U0001f600", "\xe8"]
    lines = write_manifest([Entry(path, True) for path in paths]).decode("ascii").splitlines()[1:]
    found = [json.loads(line.split(" ", 4)[4]) for line in lines]
    assert found == ["a", "a-b", "a/b", "f", "z", "\xe8", "e\u0301", "\uff5e", "\U0001f600"]


@pytest.mark.parametrize("count", [3, 30])
def test_a_tree_that_was_just_stored_is_known_to_be_whole(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """With sub-folders whose names sort otherwise than their paths, and files that become links to blobs."""
    source = make(tmp_path / "source", {f"f{number}": str(number).encode() for number in range(count)})
    for name in ("a-b", "a"):
        make(source / name, {"large": name.encode() * LARGE, "z": b"", "link": b""})
        (source / name / "link").unlink()
        (source / name / "link").symlink_to("z")
    ref = store.put_tree(source)
    monkeypatch.setattr(tree.Trees, "entries", lambda *_: pytest.fail("it is looked at file by file"))
    store.check("tree", ref.digest)


def test_the_digest_of_a_tree_is_written_down_and_never_changes(store: Store, tmp_path: Path) -> None:
    source = make(tmp_path / "model", {"saved_model.pb": b"hello world", "assets": {}})
    (source / "run.sh").write_bytes(b"#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    ref = store.put_tree(source)
    manifest = Path(store.root, "trees", "sha256", ref.digest[7:9], ref.digest[9:] + ".manifest").read_bytes()
    assert manifest == (
        b"verta_local tree 1\n"
        b'dir - 0 - "assets"\n'
        b'file x 10 sha256:4f9b47f37aa5bbfe3085e5bb7c6bce4a86f4c08d5ec1fd1b0b16b5ac1ff2d3ae "run.sh"\n'
        b'file - 11 sha256:b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9 "saved_model.pb"\n'
    ).replace(b"4f9b47f37aa5bbfe3085e5bb7c6bce4a86f4c08d5ec1fd1b0b16b5ac1ff2d3ae", sha(b"#!/bin/sh\n"))
    assert ref == Ref("tree", "sha256:" + hashlib.sha256(manifest).hexdigest(), 21, 2)


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def test_files_are_read_only_and_keep_their_executable_bit(store: Store, tmp_path: Path) -> None:
    source = make(tmp_path / "source", {"plain": b"1", "tool": b"2", "large": bytes(LARGE), "large tool": bytes(LARGE)})
    for name in ("tool", "large tool"):
        (source / name).chmod(0o700)
    path = Path(store.path_of("tree", store.put_tree(source).digest, ""))
    modes = {name: stat.S_IMODE((path / name).stat().st_mode) for name in os.listdir(path)}
    assert modes == {"plain": 0o444, "tool": 0o555, "large": 0o444, "large tool": 0o555}


def test_large_files_are_stored_once_for_trees_and_blobs(store: Store, tmp_path: Path) -> None:
    first = make(tmp_path / "first", {"w0": b"0" * LARGE, "w1": b"1" * LARGE, "twin": b"1" * LARGE, "small": b"s"})
    second = make(tmp_path / "second", {"w0": b"0" * LARGE, "w2": b"2" * LARGE, "small": b"s"})
    paths = [Path(store.path_of("tree", store.put_tree(folder).digest, "")) for folder in (first, second)]
    blob = Path(store.object_path(store.put_file(first / "w1").digest))
    assert (paths[0] / "w0").samefile(paths[1] / "w0")
    assert (paths[0] / "w1").samefile(blob) and (paths[0] / "twin").samefile(blob)
    assert not (paths[0] / "small").samefile(paths[1] / "small")
    inodes = {path.stat().st_ino for path in Path(store.root).rglob("*") if path.is_file() and "trees" in path.parts}
    assert len(inodes) == 3 + 2 + 2, "three shards, two small files, two manifests"


@pytest.mark.parametrize("failure", [errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EXDEV])
def test_a_drive_without_links_stores_large_files_in_each_tree(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(failure, os.strerror(failure))

    monkeypatch.setattr(os, "link", refuse)
    for name in ("first", "second"):
        source = make(tmp_path / name, {"shared": b"0" * LARGE, name: b"1"})
        ref = store.put_tree(source)
        assert look(store.path_of("tree", ref.digest, "")) == look(source)
    assert is_clean(store)


def test_an_empty_folder_is_a_tree(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ref = store.put_tree(tmp_path / "empty")
    assert (ref.size_bytes, ref.file_count) == (0, 0)
    assert os.listdir(store.path_of("tree", ref.digest, "empty")) == []
    assert store.put_tree(tmp_path / "empty") == ref
    store.check("tree", ref.digest)


def test_links_inside_the_folder_are_followed(store: Store, tmp_path: Path) -> None:
    source = make(tmp_path / "source", {"data": {"real": b"abc"}})
    (source / "file link").symlink_to("data/real")
    (source / "folder link").symlink_to(source / "data")
    (source / "data" / "sibling").symlink_to("real")
    (source / "chain").symlink_to("file link")
    found = look(store.path_of("tree", store.put_tree(source).digest, ""))
    data = {"real": b"abc", "sibling": b"abc"}
    assert found == {"data": data, "folder link": data, "file link": b"abc", "chain": b"abc"}


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "/", "../outside", "..", ".", "nowhere", "itself", "sub/../..", "../source-twin/x", "/dev/zero"],
)
@pytest.mark.parametrize("where", ["link", "sub/link"])
def test_links_outwards_dangling_and_in_circles_are_refused_by_name(
    store: Store, tmp_path: Path, target: str, where: str
) -> None:
    source = make(tmp_path / "source", {"sub": {"file": b"x"}})
    make(tmp_path / "source-twin", {"x": b"a name that begins like the folder's"})
    (tmp_path / "outside").write_bytes(b"secret")
    link = source / where
    link.symlink_to("link" if target == "itself" else target)
    with pytest.raises(BadContent) as caught:
        store.put_tree(source)
    assert str(link) in str(caught.value) and "\n" not in str(caught.value)
    assert is_clean(store)
    assert not list(Path(store.root, "trees").rglob("*.manifest"))


def test_two_links_to_each_other_and_a_link_to_the_folder_above_are_refused(store: Store, tmp_path: Path) -> None:
    source = make(tmp_path / "source", {"a": {"b": {"c": {}}}})
    (source / "a" / "b" / "c" / "up").symlink_to(source / "a")
    with pytest.raises(BadContent, match="back into itself"):
        store.put_tree(source)
    (source / "a" / "b" / "c" / "up").unlink()
    (source / "x").symlink_to("y")
    (source / "y").symlink_to("x")
    with pytest.raises(BadContent, match="leads nowhere"):
        store.put_tree(source)


def test_a_folder_that_is_reached_through_a_link_itself_is_stored(store: Store, tmp_path: Path) -> None:
    make(tmp_path / "real", {"a": b"1"})
    (tmp_path / "link").symlink_to("real")
    assert store.put_tree(tmp_path / "link") == store.put_tree(tmp_path / "real")


def test_fifos_sockets_and_devices_in_a_folder_are_refused_and_not_waited_for(store: Store, tmp_path: Path) -> None:
    source = make(tmp_path / "source", {"sub": {}})
    os.mkfifo(source / "sub" / "fifo")
    with pytest.raises(BadContent, match="sub/fifo"):
        store.put_tree(source)
    os.unlink(source / "sub" / "fifo")
    os.chdir(source)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        with pytest.raises(BadContent, match="socket"):
            store.put_tree(source)
    os.unlink(source / "socket")
    try:
        os.mknod(source / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root can make a device")
    with pytest.raises(BadContent, match="device"):
        store.put_tree(source)


def test_a_name_that_is_no_unicode_is_refused_by_name(store: Store, tmp_path: Path) -> None:
    source = make(tmp_path / "source", {})
    with open(os.fsencode(source) + b"/caf\xe9", "wb"):
        pass
    with pytest.raises(BadContent, match="not valid Unicode"):
        store.put_tree(source)
    assert is_clean(store)


@pytest.mark.parametrize("names", [("Model", "model"), ("straße", "strasse"), ("é", unicodedata.normalize("NFD", "é"))])
def test_names_that_another_system_takes_for_one_are_stored_with_a_warning(
    store: Store, tmp_path: Path, names: tuple[str, str]
) -> None:
    source = make(tmp_path / "source", {name: name.encode() for name in names})
    with pytest.warns(UserWarning, match="differ only in case or accents"):
        ref = store.put_tree(source)
    assert look(store.path_of("tree", ref.digest, "")) == look(source)


@given(st.lists(st.text("aA.b /\n\\ cCoOnN", min_size=1, max_size=6).map("x/".__add__), unique=True, max_size=4))
@example(["a\nb", "a"])  # two different lines, and two paths
def test_a_look_at_all_names_in_one_go_misses_no_doubtful_one(paths: list[str]) -> None:
    def problems() -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check_names("source", paths, is_case_sensitive=True)
        return [str(warning.message) for warning in caught]

    quickly = problems()
    with mock.patch.object(portable_names, "_are_plain", lambda _: False):
        assert quickly == problems()


@pytest.mark.parametrize(
    "name", ["CON", "aux.txt", "a:b", "dot.", "space ", "back\\slash", "tab\t", "q?", "nul.tar.gz"]
)
def test_names_that_are_illegal_on_windows_are_stored_with_a_warning(store: Store, tmp_path: Path, name: str) -> None:
    source = make(tmp_path / "source", {"sub": {name: b"x"}})
    with pytest.warns(UserWarning, match="not a legal name on Windows"):
        ref = store.put_tree(source)
    assert look(store.path_of("tree", ref.digest, "")) == {"sub": {name: b"x"}}


@pytest.mark.parametrize(
    "name", ["..\\..\\x", "%2e%2e%2f", "-rf", "~", "\u202egnp.exe", "a\nb", "x" * 255, "#", "$(id)"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_names_that_look_like_attacks_are_names_and_nothing_else(store: Store, tmp_path: Path, name: str) -> None:
    outside = {path for path in tmp_path.rglob("*") if not path.is_relative_to(store.root)}
    source = make(tmp_path / "source", {name: b"x"})
    ref = store.put_tree(source)
    assert look(store.path_of("tree", ref.digest, "")) == {name: b"x"}
    now = {path for path in tmp_path.rglob("*") if not path.is_relative_to(store.root)}
    assert {path for path in now - outside if not path.is_relative_to(source) and "cache" not in path.parts} == set()


def test_a_store_on_a_drive_without_case_refuses_twins(tmp_path: Path) -> None:
    from verta_store.leases import Leases
    from verta_store.objects import Objects
    from verta_store.source_memory import SourceMemory
    from verta_store.temporary import TemporaryFolder
    from verta_store.verified import VerifiedCache

    root = str(tmp_path)
    temporary, verified = TemporaryFolder(root, Leases(root)), VerifiedCache(str(tmp_path / "v.sqlite"))
    trees = tree.Trees(
        root,
        Objects(root, temporary, verified, SourceMemory(str(tmp_path / "sources.sqlite"))),
        temporary,
        verified,
        is_case_sensitive=False,
    )
    with pytest.raises(BadContent, match="drive cannot hold it"):
        trees.put_tree(str(make(tmp_path / "source", {"A": b"1", "a": b"2"})))


@pytest.mark.parametrize(
    "damage", ["flipped", "cut", "missing", "a folder", "a link", "no manifest", "manifest", "gone"]
)
def test_a_damaged_tree_is_refused_and_repaired_by_the_next_put(store: Store, tmp_path: Path, damage: str) -> None:
    source = make(tmp_path / "source", {"sub": {"weights": b"7" * LARGE, "small": b"abc"}})
    ref = store.put_tree(source)
    path = Path(store.tree_path(ref.digest))
    manifest = path.with_name(path.name + ".manifest")
    victim = path / "sub" / "small"
    if damage == "flipped":
        flip(victim)
    elif damage == "cut":
        victim.chmod(0o644)
        victim.write_bytes(b"ab")
    elif damage == "gone":
        shutil.rmtree(path)
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "manifest":
        flip(manifest)
    else:
        victim.unlink()
        if damage == "a folder":
            victim.mkdir()
        elif damage == "a link":
            victim.symlink_to("/etc/hostname")
    with pytest.raises((CorruptObject, MissingObject)) as caught:
        store.check("tree", ref.digest)
    assert caught.value.digest == ref.digest
    assert store.put_tree(source) == ref
    store.check("tree", ref.digest)
    assert look(store.path_of("tree", ref.digest, "")) == look(source)


def test_a_file_where_a_folder_of_a_tree_was_is_damage(store: Store, tmp_path: Path) -> None:
    source = make(tmp_path / "source", {"sub": {"a": b"1"}})
    ref = store.put_tree(source)
    shutil.rmtree(Path(store.tree_path(ref.digest), "sub"))
    Path(store.tree_path(ref.digest), "sub").write_bytes(b"")
    with pytest.raises((CorruptObject, MissingObject)):
        store.check("tree", ref.digest)
    store.put_tree(source)
    store.check("tree", ref.digest)


def test_a_damaged_shared_file_is_found_through_each_of_its_names(store: Store, tmp_path: Path) -> None:
    source = make(tmp_path / "source", {"weights": b"7" * LARGE})
    tree_ref, blob_ref = store.put_tree(source), store.put_file(source / "weights")
    for kind, ref in (("tree", tree_ref), ("blob", blob_ref)):
        store.check(kind, ref.digest)
    flip(Path(store.object_path(blob_ref.digest)))
    for kind, ref in (("tree", tree_ref), ("blob", blob_ref)):
        with pytest.raises(CorruptObject):
            store.check(kind, ref.digest)
    store.put_tree(source)
    store.put_file(source / "weights")
    for kind, ref in (("tree", tree_ref), ("blob", blob_ref)):
        store.check(kind, ref.digest)


def test_files_that_a_loader_leaves_in_a_tree_are_no_damage(store: Store, tmp_path: Path) -> None:
    ref = store.put_tree(make(tmp_path / "source", {"a": b"1"}))
    Path(store.tree_path(ref.digest), ".lock").write_bytes(b"")
    store.check("tree", ref.digest)
    assert store.put_tree(tmp_path / "source") == ref


def test_changing_the_folder_later_never_alters_the_tree(store: Store, tmp_path: Path) -> None:
    source = make(tmp_path / "source", {"weights": b"7" * LARGE, "small": b"1"})
    ref = store.put_tree(source)
    for name in os.listdir(source):
        (source / name).write_bytes(b"other")
    shutil.rmtree(source)
    assert look(store.path_of("tree", ref.digest, "")) == {"weights": b"7" * LARGE, "small": b"1"}
    store.check("tree", ref.digest)


def test_of_files_that_change_while_the_folder_is_read_the_copies_are_what_was_hashed(
    store: Store, tmp_path: Path
) -> None:
    source = make(tmp_path / "source", {str(number): bytes(50_000 * number) for number in range(12)})
    stop = threading.Event()

    def scribble() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            path = source / str(number % 12)
            if number % 3:
                with open(path, "r+b") as file:
                    file.write(number.to_bytes(8, "big"))
            else:
                path.with_name("draft").write_bytes(number.to_bytes(8, "big") * 9000)
                os.replace(path.with_name("draft"), path)

    thread = threading.Thread(target=scribble)
    thread.start()
    refs = []
    try:
        for _ in range(4):
            try:
                refs.append(store.put_tree(source))
            except FileNotFoundError:
                continue  # `draft`, seen and gone: the user's own change, said as it is
    finally:
        stop.set()
        thread.join()
    for ref in refs:
        store.check("tree", ref.digest)
    assert is_clean(store)


@pytest.mark.parametrize("count", [2, 20])
def test_a_file_that_becomes_a_link_while_the_folder_is_read_is_not_followed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    source = make(tmp_path / "source", {"a": b"1", "b": b"2", **{str(number): b"" for number in range(count - 2)}})
    (tmp_path / "secret").write_bytes(b"secret")
    real = folder_copy.copy_in

    def swap() -> None:
        (source / "b").unlink(missing_ok=True)
        (source / "b").symlink_to(tmp_path / "secret")

    def swap_one(origin: str, target: str, **more: bool) -> Copied:
        swap()
        return real(origin, target, **more)

    def swap_many(*arguments: Any) -> CopiedFiles:
        swap()
        return copy_names(*arguments)

    monkeypatch.setattr(folder_copy, "copy_in", swap_one)
    monkeypatch.setattr(folder_copy, "copy_names", swap_many)
    with pytest.raises(BadContent, match="became a link"):
        store.put_tree(source)
    assert is_clean(store)


@pytest.mark.parametrize("has_barrier", [True, False])
def test_a_large_file_is_an_object_only_after_its_bytes_are_on_the_device(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_barrier: bool
) -> None:
    """Else another writer takes it for durable, and a power cut leaves an empty object behind."""
    source = make(tmp_path / "source", {str(number): str(number).encode() * LARGE for number in range(20)})
    synced: set[int] = set()
    real_sync, real_link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        real_sync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def barrier(path: str) -> bool:
        if has_barrier:
            synced.update(found.stat().st_ino for found in Path(path).rglob("*"))
        return has_barrier

    def link(source: str, target: str) -> None:
        if f"{os.sep}objects{os.sep}" in target:
            assert os.stat(source).st_ino in synced
        real_link(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(files, "sync_file_system", barrier)
    ref = store.put_tree(source)
    assert ref.file_count == 20 and len(list(Path(store.root, "objects").rglob("*"))) > 20


def test_a_path_that_is_no_folder_is_said_so(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        store.put_tree(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        store.put_tree(tmp_path / "nowhere")


def test_a_full_drive_leaves_no_tree_and_one_sentence(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(tmp_path / "source", {"sub": {str(number): b"x" * 100 for number in range(5)}})
    real, calls = os.write, [0]

    def write(descriptor: int, data: bytes) -> int:
        calls[0] += 1
        if calls[0] > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StoreWriteError, match="no space left"):
        store.put_tree(source)
    assert is_clean(store) and not list(Path(store.root, "trees").rglob("*.manifest"))


def test_many_files_and_deep_folders_come_back(store: Store, tmp_path: Path) -> None:
    source = make(tmp_path / "source", {f"f{number}": {"x": b"%d" % number} for number in range(300)})
    deep = source
    for _ in range(60):
        deep = deep / "deeper"
    make(deep, {"end": b"here"})
    ref = store.put_tree(source)
    assert ref.file_count == 301
    assert look(store.path_of("tree", ref.digest, "")) == look(source)


def test_two_threads_that_put_the_same_folder_make_one_tree(store: Store, tmp_path: Path) -> None:
    source = make(tmp_path / "source", {str(number): str(number).encode() * LARGE for number in range(4)})
    refs: list[Ref] = []
    threads = [threading.Thread(target=lambda: refs.append(store.put_tree(source))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refs) == 6 and len(set(refs)) == 1
    store.check("tree", refs[0].digest)
    assert is_clean(store)
    assert not os.listdir(Path(store.root, "trash"))


def test_a_tree_that_is_not_there_is_named(store: Store) -> None:
    digest = "sha256:" + "1" * 64
    for ask in (
        lambda: store.check("tree", digest),
        lambda: store.path_of("tree", digest, "x"),
        lambda: store.tree_entries(digest),
    ):
        with pytest.raises(MissingObject, match="no object"):
            ask()
    with pytest.raises(ValueError, match="begins with"):
        read_manifest(b"something else\n")
    assert issubclass(MissingObject, StoreError)
