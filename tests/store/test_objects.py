"""Blobs: what was put comes back, a damaged one is never handed out and is replaced by a good copy."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verta_store import Store, file_copy, objects
from verta_store.errors import BadContent, CorruptObject, MissingObject, StoreError, StoreWriteError

MIB = 1 << 20
SIZES = [0, 1, 4096, MIB - 1, MIB, MIB + 1, 9 * MIB + 17]


def content(size_bytes: int) -> bytes:
    block = hashlib.sha256(str(size_bytes).encode()).digest()
    return (block * (size_bytes // 32 + 1))[:size_bytes]


def flip(path: str | Path, at: int = 0) -> None:
    """Changes one bit of a stored file, which is read-only, as a bad disk would: the mode and the inode stay."""
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    os.chmod(path, 0o444)


def left_in_tmp(store: Store) -> list[str]:
    return [name for folder in Path(store.root, "tmp").glob("*") for name in os.listdir(folder)]


@pytest.mark.parametrize("size_bytes", SIZES)
def test_a_file_is_stored_under_its_sha256_and_read_only(store: Store, tmp_path: Path, size_bytes: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(content(size_bytes))
    ref = store.put_file(source)
    assert ref.digest == "sha256:" + hashlib.sha256(content(size_bytes)).hexdigest()
    assert (ref.kind, ref.size_bytes, ref.file_count) == ("blob", size_bytes, 1)
    path = Path(store.object_path(ref.digest))
    assert path == Path(store.root, "objects", "sha256", ref.digest[7:9], ref.digest[9:])
    assert path.read_bytes() == content(size_bytes) == store.read_verified(ref.digest)
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert not left_in_tmp(store)
    store.check("blob", ref.digest)


@pytest.mark.parametrize("size_bytes", SIZES)
def test_file_bytes_and_stream_of_the_same_content_are_one_object(
    store: Store, tmp_path: Path, size_bytes: int
) -> None:
    (tmp_path / "source").write_bytes(content(size_bytes))
    refs = {
        store.put_file(tmp_path / "source"),
        store.put_bytes(content(size_bytes)),
        store.put_stream(io.BytesIO(content(size_bytes)).read),
    }
    assert len(refs) == 1
    assert len([path for path in Path(store.root, "objects").rglob("*") if path.is_file()]) == 1
    assert not left_in_tmp(store)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_bytes_come_back(store: Store, data: bytes) -> None:
    assert store.read_verified(store.put_bytes(data).digest) == data


@pytest.mark.parametrize("method", ["put_file", "put_bytes", "put_stream"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "longer", "empty", "a folder"])
def test_a_damaged_object_is_refused_and_repaired_by_the_next_put(
    store: Store, tmp_path: Path, method: str, damage: str
) -> None:
    data = content(70_000)
    (tmp_path / "source").write_bytes(data)
    ref = store.put_bytes(data)
    path = Path(store.object_path(ref.digest))
    if damage == "flipped":
        flip(path, 12_345)
    elif damage == "a folder":
        path.unlink()
        path.mkdir()
    else:
        os.chmod(path, 0o644)
        path.write_bytes({"cut": data[:-1], "longer": data + b"x", "empty": b""}[damage])
    with pytest.raises(CorruptObject if damage != "a folder" else StoreError) as caught:
        store.check("blob", ref.digest)
    assert caught.value.digest == ref.digest and "overwrite=True" in str(caught.value)
    if damage != "a folder":
        with pytest.raises(CorruptObject):
            store.read_verified(ref.digest)
    {
        "put_file": lambda: store.put_file(tmp_path / "source"),
        "put_bytes": lambda: store.put_bytes(data),
        "put_stream": lambda: store.put_stream(io.BytesIO(data).read),
    }[method]()
    assert store.read_verified(ref.digest) == data
    store.check("blob", ref.digest)


def test_a_repaired_object_has_its_users_name_again(store: Store) -> None:
    ref = store.put_bytes(b"weights" * 1000)
    named = Path(store.path_of("blob", ref.digest, "model.pt"))
    flip(named)
    assert store.put_bytes(b"weights" * 1000) == ref
    assert Path(store.path_of("blob", ref.digest, "model.pt")).read_bytes() == b"weights" * 1000


def test_a_flip_is_found_although_size_mode_and_mtime_are_as_before(store: Store) -> None:
    ref = store.put_bytes(content(5000))
    path = store.object_path(ref.digest)
    store.check("blob", ref.digest)
    before = os.stat(path)
    flip(path, 4999)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CorruptObject):
        store.check("blob", ref.digest)


def test_a_missing_object_is_named_with_what_to_do(store: Store) -> None:
    digest = "sha256:" + "0" * 64
    for ask in (lambda: store.check("blob", digest), lambda: store.read_verified(digest)):
        with pytest.raises(MissingObject, match="no object sha256:0000") as caught:
            ask()
        assert caught.value.digest == digest and isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize(
    "digest",
    ["", "x", "sha256:", "sha256:" + "0" * 63, "sha256:" + "G" * 64, "sha256:../" + "0" * 61, "md5:" + "0" * 32,
     "sha256:" + "A" * 64, "sha256:" + "0" * 64 + "\n", "../../etc/passwd", None, 7],
)  # fmt: skip
def test_what_is_not_a_digest_never_becomes_a_path(store: Store, digest: object) -> None:
    for ask in (
        lambda: store.check("blob", digest),  # type: ignore[arg-type]
        lambda: store.check("tree", digest),  # type: ignore[arg-type]
        lambda: store.read_verified(digest),  # type: ignore[arg-type]
        lambda: store.path_of("blob", digest, "x"),  # type: ignore[arg-type]
        lambda: store.path_of("tree", digest, "x"),  # type: ignore[arg-type]
        lambda: store.unpacked_path_of(digest, "x.zip"),  # type: ignore[arg-type]
    ):
        with pytest.raises(StoreError, match="64 hexadecimal digits"):
            ask()


def test_devices_fifos_sockets_and_folders_are_refused_and_not_waited_for(store: Store, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    folder = tmp_path / "folder"
    folder.mkdir()
    os.chdir(tmp_path)  # a socket's path may have 108 bytes only
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("socket")
    with listener:
        for source in (fifo, folder, tmp_path / "socket", Path("/dev/zero"), Path("/dev/null")):
            with pytest.raises(BadContent, match="not a regular file") as caught:
                store.put_file(source)
            assert str(source) in str(caught.value)
    assert not left_in_tmp(store)


def test_a_source_that_is_not_there_is_the_users_error_and_says_so(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        store.put_file(tmp_path / "nowhere")
    assert not isinstance(caught.value, StoreError) and str(tmp_path / "nowhere") in str(caught.value)


def test_a_link_to_a_file_is_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("real")
    assert store.read_verified(store.put_file(tmp_path / "link").digest) == b"abc"


def test_changing_the_original_later_never_alters_the_object(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for size in (100, 3 * MIB):
        source.write_bytes(content(size))
        ref = store.put_file(source)
        with open(source, "r+b") as file:
            file.write(b"something else")
        store.check("blob", ref.digest)
        assert store.read_verified(ref.digest) == content(size)


@pytest.mark.parametrize("size_bytes", [200_000, 24 * MIB])
def test_of_a_file_that_changes_while_it_is_read_the_copy_is_what_was_hashed(
    store: Store, tmp_path: Path, size_bytes: int
) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(size_bytes))
    stop = threading.Event()

    def scribble() -> None:
        number = 0
        with open(source, "r+b", buffering=0) as file:
            while not stop.is_set():
                number += 1
                file.seek(number * 7919 % size_bytes)
                file.write(number.to_bytes(4, "little"))
                if number % 64 == 0:
                    os.ftruncate(file.fileno(), size_bytes - number % 5000)

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        refs = [store.put_file(source) for _ in range(4)]
    finally:
        stop.set()
        thread.join()
    for ref in refs:
        data = store.read_verified(ref.digest)  # hashes what is stored
        assert len(data) == ref.size_bytes


def test_a_file_that_grows_while_it_is_read_is_stored_as_far_as_it_was_read(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "log"
    source.write_bytes(b"line\n" * MIB)
    with open(source, "ab") as file:
        file.write(b"more\n" * 100)
        ref = store.put_file(source)
    assert len(store.read_verified(ref.digest)) == ref.size_bytes


def test_a_sparse_file_and_a_proc_file_are_read_to_their_end(store: Store, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with open(sparse, "wb") as file:
        file.truncate(5 * MIB)
    assert store.read_verified(store.put_file(sparse).digest) == bytes(5 * MIB)
    assert store.put_file("/proc/version").size_bytes == len(Path("/proc/version").read_bytes())


@pytest.mark.parametrize("kind", ["whole", "refused", "short", "failed after a part"])
@pytest.mark.parametrize("failure", [errno.EXDEV, errno.EIO])
def test_a_file_is_cloned_where_the_file_system_can_and_else_read_and_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, failure: int
) -> None:
    """What stands in for such a file system copies what is there. Real ones have cloned a part and said nothing."""
    source = tmp_path / "source"
    source.write_bytes(content(3 * MIB))
    asked: list[int] = []

    def ioctl(target: int, request: int, origin: int) -> int:
        asked.append(request)
        if kind != "refused":
            os.pwrite(target, os.pread(origin, 4 * MIB if kind == "whole" else 2 * MIB, 0), 0)
        if kind == "failed after a part":
            source.write_bytes(b"")
            source.write_bytes(content(3 * MIB)[:MIB])
        if kind in ("refused", "failed after a part"):
            raise OSError(failure, os.strerror(failure))
        return 0

    monkeypatch.setattr("fcntl.ioctl", ioctl)
    ref = store.put_file(source)
    assert asked == [0x40049409], "FICLONE"
    wanted = content(3 * MIB)[: MIB if kind == "failed after a part" else None]
    assert store.read_verified(ref.digest) == wanted
    assert ref.size_bytes == len(wanted)


@pytest.mark.parametrize("number", [errno.EIO, errno.EAGAIN])
@pytest.mark.parametrize("size_bytes", [1000, 6 * MIB])
def test_a_source_that_cannot_be_read_to_its_end_is_named_and_no_part_of_it_is_stored(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int, number: int
) -> None:
    source = tmp_path / "source"
    source.write_bytes(content(size_bytes))
    store.put_bytes(b"the folders are there now")
    real, reads = os.readv, []

    def readv(descriptor: int, views: list[memoryview]) -> int:
        reads.append(descriptor)
        if len(reads) > 3 or size_bytes < MIB:
            raise OSError(number, os.strerror(number))
        return real(descriptor, views)

    monkeypatch.setattr(file_copy, "_clone", lambda *_: False)
    monkeypatch.setattr(os, "readv", readv)
    with pytest.raises(OSError, match="could not be read") as caught:
        store.put_file(source)
    assert (caught.value.errno, caught.value.filename) == (number, str(source))
    assert not left_in_tmp(store)


@pytest.mark.parametrize("size_bytes", [1000, 6 * MIB])
def test_a_refused_write_says_where(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int
) -> None:
    (tmp_path / "source").write_bytes(content(size_bytes))
    store.put_bytes(b"the folders are there now")

    def write(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file_copy, "_clone", lambda *_: False)
    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StoreWriteError, match=store.root) as caught:
        store.put_file(tmp_path / "source")
    monkeypatch.undo()
    assert caught.value.path and not left_in_tmp(store)


def test_a_platform_without_clones_and_positioned_reads_works_too(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("readv", "fchmod"):
        monkeypatch.delattr(os, name)
    monkeypatch.setattr(file_copy, "_clone", lambda *_: False)
    (tmp_path / "source").write_bytes(content(3 * MIB))
    assert store.read_verified(store.put_file(tmp_path / "source").digest) == content(3 * MIB)


@pytest.mark.parametrize("size_bytes", [MIB + 1, 2 * MIB, 20 * MIB, 20 * MIB + 12_345])
def test_a_drive_that_takes_a_part_of_each_write_gets_all_of_a_large_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int
) -> None:
    (tmp_path / "source").write_bytes(content(size_bytes))
    real = os.write
    monkeypatch.setattr(file_copy, "_clone", lambda *_: False)
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, memoryview(data)[:100_000]))
    ref = store.put_file(tmp_path / "source")
    assert ref.size_bytes == size_bytes
    assert store.read_verified(ref.digest) == content(size_bytes)


def test_a_failure_of_the_hashing_thread_is_told_and_leaves_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").write_bytes(content(30 * MIB))

    class Full:
        def update(self, _: object) -> None:
            raise MemoryError

    store.put_bytes(b"the folders are there now")
    monkeypatch.setattr(file_copy, "_clone", lambda *_: False)
    monkeypatch.setattr(file_copy, "hashlib", SimpleNamespace(sha256=Full))
    with pytest.raises(MemoryError):
        store.put_file(tmp_path / "source")
    assert not left_in_tmp(store)


def test_a_refused_clean_up_does_not_hide_the_reason(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(number: int) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "source").write_bytes(b"x")
    store.put_bytes(b"the folders are there now")
    monkeypatch.setattr(os, "fsync", lambda *_: refuse(errno.ENOSPC))
    monkeypatch.setattr(os, "unlink", lambda *_, **__: refuse(errno.EACCES))
    for put in (
        lambda: store.put_file(tmp_path / "source"),
        lambda: store.put_bytes(b"x"),
        lambda: store.put_stream(io.BytesIO(b"x").read),
    ):
        with pytest.raises(StoreWriteError, match="no space left"):
            put()


def test_a_stream_that_fails_leaves_nothing(store: Store) -> None:
    def read(_: int) -> bytes:
        raise RuntimeError("the user's stream")

    with pytest.raises(RuntimeError, match="the user's stream"):
        store.put_stream(read)
    assert not left_in_tmp(store)


def test_threads_that_put_the_same_and_different_content_get_all_of_it(store: Store, tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / str(number)).write_bytes(content(100_000 + number))
    failures: list[BaseException] = []

    def put(number: int) -> None:
        try:
            for turn in range(8):
                ref = store.put_file(tmp_path / str((number + turn) % 4))
                store.check("blob", ref.digest)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len([path for path in Path(store.root, "objects").rglob("*") if path.is_file()]) == 4
    assert not left_in_tmp(store)


def test_a_put_finds_its_folder_again_after_tmp_was_emptied_by_hand(store: Store) -> None:
    store.put_bytes(b"first")
    shutil.rmtree(Path(store.root, "tmp"))
    assert store.read_verified(store.put_bytes(b"second").digest) == b"second"


def test_an_object_that_was_there_already_has_a_durable_name_when_put_returns(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer may have died between the renaming and the sync of the folder."""
    ref = store.put_bytes(b"data")
    (tmp_path / "source").write_bytes(b"data")
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    folder = os.path.dirname(store.object_path(ref.digest))
    for put in (
        lambda: store.put_bytes(b"data"),
        lambda: store.put_file(tmp_path / "source"),
        lambda: store.put_stream(io.BytesIO(b"data").read),
    ):
        synced.clear()
        put()
        assert folder in synced


def test_a_store_on_a_drive_without_modes_takes_objects(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchmod", refuse)
    monkeypatch.setattr(os, "chmod", refuse)
    assert store.read_verified(store.put_bytes(b"abc").digest) == b"abc"


def test_the_memory_that_a_file_is_put_with_does_not_grow_with_it(tmp_path: Path) -> None:
    code = f"""
import resource
from verta_store import open_store
store = open_store({str(tmp_path / "store")!r}, {str(tmp_path / "cache")!r}, create=True)
store.put_bytes(b"warm")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store.put_file({str(tmp_path / "large")!r})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    with open(tmp_path / "large", "wb") as file:
        file.truncate(300 * MIB)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64


def test_what_stands_in_the_place_of_the_shard_is_reported_as_a_sentence(store: Store) -> None:
    digest = "sha256:" + hashlib.sha256(b"x").hexdigest()
    folder = Path(store.object_path(digest)).parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_bytes(b"a file")
    with pytest.raises(StoreWriteError):
        store.put_bytes(b"x")
    assert objects.Ref("blob", digest, 1).kind == "blob"
