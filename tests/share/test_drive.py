"""What the engine does on a drive that is slow to tell, refuses, or belongs to several people."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from verta_local import Client
from verta_store import Store, close_all, drive, files, open_store, parts, probe
from verta_store.description import read_description
from verta_store.fsck import verify

SHARED_FOLDER, SHARED_RECORD = 0o2775, 0o664


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A new shared store."""
    yield open_store(tmp_path / "store", tmp_path / "cache", create=True, sharing="group")
    close_all()


def fill(store: Store, tmp_path: Path) -> str:
    """Logs one of each kind of thing. Returns the run's id."""
    (tmp_path / "source" / "sub").mkdir(parents=True)
    (tmp_path / "source" / "sub" / "file").write_bytes(b"f" * 70_000)
    (tmp_path / "archive.zip").write_bytes(
        bytes.fromhex("504b0506") + bytes(18)  # an empty archive
    )
    run = store.create("run", None, "run").id
    store.put(run, "metrics", {"a": 1})
    tree = store.put_tree(tmp_path / "source")
    blob = store.put_file(tmp_path / "source" / "sub" / "file")
    store.path_of("blob", blob.digest, "name.bin")
    archive = store.put_file(tmp_path / "archive.zip")
    store.unpacked_path_of(archive.digest, "archive.zip")
    store.put(run, "artifacts", {"t": {"kind": "tree", "digest": tree.digest, "size_bytes": tree.size_bytes}})
    return run


def modes_in(top: Path) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {"folders": set(), "objects": set(), "records": set()}
    for path in (top, *top.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            found["folders"].add(mode)
        elif path.suffix == ".jsonl":
            found["records"].add(mode)
        else:
            found["objects"].add(mode)
    return found


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
@pytest.mark.parametrize("umask", [0o077, 0o022, 0, 0o277])
@pytest.mark.parametrize(
    ("sharing", "folder", "record"),
    [("user", 0o700, 0o600), ("group", SHARED_FOLDER, SHARED_RECORD), ("all", 0o2777, 0o666)],
)
def test_the_modes_of_a_store_are_those_of_its_sharing_whatever_the_umask(
    tmp_path: Path, sharing: str, folder: int, record: int, umask: int
) -> None:
    before = os.umask(umask)
    try:
        store = open_store(tmp_path / "store", tmp_path / "cache", create=True, sharing=sharing)
        fill(store, tmp_path)
        live = modes_in(tmp_path / "store")
        store.close()
    finally:
        os.umask(before)
    assert json.loads((tmp_path / "store" / "store.json").read_text())["sharing"] == sharing
    for found in (live, modes_in(tmp_path / "store")):
        assert found["folders"] == {folder} and found["objects"] == {0o444}
        assert found["records"] <= {record}


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
def test_a_folder_that_was_there_keeps_its_mode_and_what_lies_beside_the_store_too(tmp_path: Path) -> None:
    team = tmp_path / "team"
    team.mkdir(0o751)
    (team / "other").mkdir(0o711)
    (team / "store").mkdir(0o750)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (team, team / "other", team / "store")]
    fill(open_store(team / "store", tmp_path / "cache", create=True, sharing="group"), tmp_path)
    close_all()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (team, team / "other", team / "store")] == modes


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
def test_a_download_from_a_shared_store_is_the_users_own(tmp_path: Path) -> None:
    open_store(tmp_path / "store", os.environ["VERTA_LOCAL_CACHE"], create=True, sharing="group")
    run = Client(str(tmp_path / "store")).set_experiment_run()
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "sub" / "file").write_text("x")
    run.log_artifact("folder", str(tmp_path / "folder"))
    before = os.umask(0o022)
    try:
        got = Path(run.download_artifact("folder", str(tmp_path / "got")))
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (got, got / "sub")} == {0o755}
    assert (got / "sub" / "file").read_text() == "x" and os.access(got / "sub" / "file", os.W_OK)


def test_the_maker_of_a_folder_who_dies_in_between_shuts_nobody_out(tmp_path: Path, store: Store) -> None:
    """In a shared store a folder appears with its mode or not at all."""
    seen = []
    real = os.rename

    def rename(source: Any, target: Any) -> None:
        seen.append((stat.S_IMODE(os.stat(source).st_mode), os.path.exists(target)))
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", rename)
        where = drive.of(store.root)
        where.make_folder(os.path.join(store.root, "objects", "sha256"))
        with pytest.raises(FileExistsError):
            where.make_folder(os.path.join(store.root, "objects", "sha256"))
    assert seen == [(SHARED_FOLDER, False)] or os.name != "posix"
    assert not os.listdir(os.path.join(store.root, "tmp"))


def test_modes_that_a_drive_does_not_have_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.EPERM, errno.ENOTSUP):

        def refuse(*_: object, number: int = number, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "chmod", refuse)
            root = tmp_path / str(number)
            fill(open_store(root / "store", root / "cache", create=True, sharing="group"), root)
        close_all()


COLLEAGUE = """
import importlib, json, os, pkgutil, sys
# While still root: the interpreter may be one that only root can read.
import bz2, cloudpickle, concurrent.futures.thread, grp, lzma, pwd, shutil, tarfile, uuid, zipfile
import encodings.ascii, encodings.cp437, encodings.latin_1
import verta_local, verta_store
for package in (verta_local, verta_store):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
os.setgroups([]); os.setgid({group}); os.setuid({user})
os.umask(0o077)
os.environ.update(USER="u{user}", LOGNAME="u{user}", VERTA_LOCAL_CACHE={home!r}, HOME={home!r})
from verta_local import Client, config
from verta_store import open_store
from verta_store.fsck import verify
store = {store!r}
{code}
"""

MAKE_SHARED = "open_store(store, config.cache_dir(), create=True, sharing='group')\n"


@pytest.fixture
def colleague() -> Iterator[Callable[..., str]]:
    """Runs code as one of several users, by default of one group, in a folder that all may enter."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("becomes other users, which takes root")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        team = Path(folder, "team")
        team.mkdir()
        os.chown(team, -1, 54321)
        os.chmod(team, 0o2775)

        def run(user: int, code: str, *, group: int = 54321) -> subprocess.CompletedProcess[str]:
            home = Path(folder, f"home-{user}")
            home.mkdir(exist_ok=True)
            os.chown(home, user, group)
            script = COLLEAGUE.format(user=user, group=group, home=str(home), store=str(team / "store"), code=code)
            return subprocess.run(
                [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=50
            )

        def last_line(user: int, code: str, *, fails: bool = False, **more: int) -> str:
            done = run(user, code, **more)
            assert (done.returncode != 0) == fails, done.stderr
            return (done.stderr if fails else done.stdout).strip().splitlines()[-1] if fails or done.stdout else ""

        yield last_line


def test_users_of_a_group_work_in_one_store_though_their_umask_forbids_it(colleague: Callable[..., str]) -> None:
    log = """
client = Client(store)
client.set_project("p"); client.set_experiment("e")
run = client.set_experiment_run("the one")
run.log_metric(f"m{os.getuid()}", 1)
os.makedirs(os.environ["HOME"] + "/folder/sub", exist_ok=True)
with open(os.environ["HOME"] + "/folder/sub/weights", "wb") as file:
    file.write(b"w" * 100_000)
run.log_artifact(f"folder{os.getuid()}", os.environ["HOME"] + "/folder")
run.log_artifact(f"file{os.getuid()}", os.environ["HOME"] + "/folder/sub/weights")
with zipfile.ZipFile(os.environ["HOME"] + "/packed.zip", "w") as archive:
    archive.writestr("sub/member", f"{os.getuid()}")
run.log_artifact(f"archive{os.getuid()}", os.environ["HOME"] + "/packed.zip")
for number in range(80):  # into many of the folders that a digest can lie in, made by whoever comes first
    run._store.put_bytes(b"%d %d" % (number, os.getuid() * (number % 2)))
client.flush()
paths = run.fetch_artifacts(run.get_artifact_keys())
report = verify(run._store, deep=True)
assert report.is_clean, report.problems
print(json.dumps([sorted(run.get_metrics()), len(paths), str(run.author), len(client.expt_runs)]))
"""
    first = json.loads(colleague(54001, MAKE_SHARED + log))
    second = json.loads(colleague(54002, log))
    third = json.loads(
        colleague(
            54001, log.replace("m{", "n{").replace("folder{", "f{").replace("file{", "g{").replace("archive{", "a{")
        )
    )
    assert first[:2] == [["m54001"], 3]
    assert second[:2] == [["m54001", "m54002"], 6]
    assert third[:2] == [["m54001", "m54002", "n54001"], 9]
    assert first[2] == second[2] == third[2] and first[2].startswith("u54001 on ")
    assert first[3] == second[3] == third[3] == 1


def test_a_private_store_keeps_a_colleague_out_and_says_what_to_do(colleague: Callable[..., str]) -> None:
    colleague(54001, "Client(store).set_experiment_run()")
    for code in ("Client(store)", "open_store(store, config.cache_dir())"):
        said = colleague(54002, code, fails=True)
        assert "private one of somebody else" in said and "--shared" in said


def test_who_may_only_read_can_find_and_read_and_is_told_when_he_writes(colleague: Callable[..., str]) -> None:
    log = "import io; run = Client(store).set_experiment_run('r'); run.log_metric('m', 1); "
    log += "run.log_artifact('a', io.BytesIO(b'bytes'))"
    colleague(54001, MAKE_SHARED + log)
    read = "run = Client(store).expt_runs[0]; "
    read += "print(json.dumps([run.get_metric('m'), run.get_artifact('a').read().decode()]))"
    assert json.loads(colleague(54003, read, group=54999)) == [1, "bytes"]
    said = colleague(54003, "Client(store).expt_runs[0].log_metric('n', 2)", group=54999, fails=True)
    assert "StoreWriteError" in said and "permission denied" in said


def log_with_a_hole(store: Store, tmp_path: Path) -> tuple[str, Path, bytes]:
    """(run, its journal, the journal's whole bytes): of 50 metrics, a part has not reached the drive yet."""
    run = store.create("run", None, "run").id
    for number in range(50):
        store.put(run, "metrics", {f"m{number}": number})
    path = next((tmp_path / "store" / "journals").rglob("*.open.jsonl"))
    whole = path.read_bytes()
    begin, end = len(whole) // 3, len(whole) // 2
    path.write_bytes(whole[:begin] + bytes(end - begin) + whole[end:])
    return run, path, whole


def reader_of(store: Store, tmp_path: Path) -> Store:
    description = {"store_id": store.id, "format": store.format, "sharing": "group"}
    return Store(store.root, description, str(tmp_path / "reader"), "normal")


def test_a_hole_in_what_another_host_writes_is_waited_for(store: Store, tmp_path: Path) -> None:
    run, path, whole = log_with_a_hole(store, tmp_path)
    reader = reader_of(store, tmp_path)
    some = reader.values(run, "metrics")
    assert 0 < len(some) < 50 and list(some) == [f"m{number}" for number in range(len(some))]
    assert verify(reader).is_clean  # no false alarm
    path.write_bytes(whole)
    assert reader.values(run, "metrics") == {f"m{number}": number for number in range(50)}
    reader.close()


def test_a_hole_that_stays_is_damage_and_what_follows_it_is_read(store: Store, tmp_path: Path) -> None:
    run, path, _ = log_with_a_hole(store, tmp_path)
    old = time.time() - drive.SETTLED_AFTER_S - 5
    os.utime(path, (old, old))
    reader = reader_of(store, tmp_path)
    found = reader.values(run, "metrics")
    assert "m0" in found and "m49" in found and len(found) < 50
    assert [problem.kind for problem in verify(reader).problems] == ["journal"]
    reader.close()


def test_a_rename_that_is_refused_for_a_while_is_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = (os.path.join(store.root, "tmp", name) for name in ("source", "target"))
    Path(source).write_text("x")
    refusals = 5
    real = os.rename

    def rename(*names: Any) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        real(*names)

    monkeypatch.setattr(os, "rename", rename)
    drive.of(store.root).rename(source, target)
    assert Path(target).read_text() == "x"


def test_a_rename_that_is_refused_for_good_is_given_up_after_two_seconds(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(*_: Any) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(os, "rename", rename)
    begin = time.monotonic()
    with pytest.raises(OSError, match="busy"):
        drive.of(store.root).rename("a", "b")
    assert 1.0 < time.monotonic() - begin < 3.0
    begin = time.monotonic()
    with pytest.raises(OSError, match="busy"):
        drive.Drive("/nowhere").rename("a", "b")  # of one user on a local disk: at once
    assert time.monotonic() - begin < 0.5


def test_a_rename_whose_answer_was_lost_counts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = (os.path.join(store.root, "tmp", name) for name in ("source", "target"))
    Path(source).write_text("x")
    real = os.rename

    def rename(*names: Any) -> None:
        real(*names)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)

    monkeypatch.setattr(os, "rename", rename)
    drive.of(store.root).rename(source, target)


def test_an_exclusive_creation_whose_answer_was_lost_is_won(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def link(*names: Any) -> None:
        real(*names)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), names[1])

    monkeypatch.setattr(os, "link", link)
    assert files.create_exclusive(str(tmp_path / "claim"), b"mine", str(tmp_path / "draft"))
    monkeypatch.undo()
    assert not files.create_exclusive(str(tmp_path / "claim"), b"yours", str(tmp_path / "draft"))
    assert (tmp_path / "claim").read_bytes() == b"mine" and not (tmp_path / "draft").exists()


@pytest.mark.parametrize("sharing", ["user", "group"])
def test_a_stale_file_is_looked_at_again_and_then_counts_as_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharing: str
) -> None:
    where = drive.Drive(str(tmp_path), sharing)
    answers = [OSError(errno.ESTALE, os.strerror(errno.ESTALE)), "content"]

    def read(_: str) -> str:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert where.look(str(tmp_path / "file"), read) == "content"
    answers[:] = [OSError(errno.ESTALE, os.strerror(errno.ESTALE)) for _ in range(2)]
    with pytest.raises(FileNotFoundError):
        where.look(str(tmp_path / "file"), read)


def test_what_is_open_under_another_name_is_waited_for(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Linux's client of SMB answers while this host has a file open that has been renamed, or has a hard link."""
    run = store.create("run", None, "run").id
    store.put(run, "metrics", {"m": 1})
    store.flush()
    store.claim("version", "v1")
    refused = []
    real, real_builtin = os.open, io.open
    until = time.monotonic() + 0.4

    def refuse(path: Any) -> None:
        if str(path).endswith(".jsonl") or "/claims/" in str(path):
            refused.append(str(path))
            if time.monotonic() < until:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))

    def os_open(path: Any, flags: int, *arguments: Any, **more: Any) -> int:
        refuse(path)
        return real(path, flags, *arguments, **more)

    def builtin(path: Any, *arguments: Any, **more: Any) -> Any:
        refuse(path)
        return real_builtin(path, *arguments, **more)

    monkeypatch.setattr(os, "open", os_open)
    monkeypatch.setattr("builtins.open", builtin)
    reader = Store(store.root, read_description(store.root), str(tmp_path / "another-cache"), "normal")
    assert reader.values(run, "metrics") == {"m": 1}
    assert time.monotonic() > until and len(refused) > 3
    until = time.monotonic() + 0.2
    assert reader.claimed("version", "v1") is not None
    until = time.monotonic() + 60
    monkeypatch.setattr(drive, "OPEN_ELSEWHERE_S", 0.1)
    with pytest.raises(OSError, match="Invalid argument"):
        reader.claimed("version", "v1")


def test_links_that_cannot_be_open_at_the_same_time_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = io.open

    def refuse_twin(path: Any, *arguments: Any, **more: Any) -> Any:
        if str(path).endswith("linked-twin"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        return real(path, *arguments, **more)

    assert probe.capabilities(str(tmp_path))["hard_links"]
    monkeypatch.setattr("builtins.open", refuse_twin)
    assert not probe.capabilities(str(tmp_path))["hard_links"]


@pytest.mark.parametrize("how", ["as made", "as mounted"])
def test_where_a_file_cannot_be_open_under_two_names_none_gets_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """SMB: a model that has its folder open would keep others from the same bytes under another name."""
    if how == "as made":
        monkeypatch.setattr(probe, "capabilities", lambda _: {"hard_links": False})
    else:
        monkeypatch.setattr(parts, "_network_type", lambda path: "cifs" if "store" in path else "")
    store = open_store(tmp_path / "store", tmp_path / "cache", create=True, sharing="group")
    run = fill(store, tmp_path)
    files_of = [path for path in Path(store.root).rglob("*") if path.is_file()]
    assert len(files_of) > 6 and {path.stat().st_nlink for path in files_of} == {1}
    assert verify(store, deep=True).is_clean
    (tree,) = store.values(run, "artifacts").values()
    assert Path(store.path_of("tree", tree["digest"], "t"), "sub", "file").read_bytes() == b"f" * 70_000
    close_all()


def test_a_private_store_on_a_local_disk_is_never_poked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "store", tmp_path / "cache", create=True)
    run = store.create("run", None, "run").id
    store.put(run, "metrics", {"a": 1})

    def fail(*_: object, **__: object) -> float:
        raise AssertionError("poked")

    monkeypatch.setattr(drive.Drive, "poke", fail)
    assert store.values(run, "metrics") == {"a": 1}
    store.put(run, "metrics", {"b": 1})
    assert len(store.values(run, "metrics")) == 2


def test_pokes_take_little_of_the_time_and_leave_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that syncs each creation to a slow disk: 20 ms a poke."""
    store.put(store.create("run", None, "run").id, "metrics", {"a": 1})
    real = os.unlink

    def slow(*arguments: Any, **named: Any) -> None:
        time.sleep(0.02)
        real(*arguments, **named)

    monkeypatch.setattr(os, "unlink", slow)
    begin, count = time.monotonic(), 0
    while time.monotonic() < begin + 1.0:
        store.refresh()
        count += 1
    assert count > 50
    assert not [path for path in Path(store.root).rglob(f"{drive.POKE}*")]


def test_colliding_names_are_refused_on_a_drive_that_cannot_hold_both(
    new_host: Callable[..., Any], drive: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("Model", "model"):
        (source / name).write_text(name)
    if len(os.listdir(source)) < 2:
        pytest.skip("this disk cannot hold both either")
    host = new_host("ant")
    host.do(
        f"from verta_local import Client; client = Client({str(drive / 'store')!r}); run = client.set_experiment_run()"
    )
    with pytest.raises(Exception, match="differ only in case"):
        host.do(f"run.log_artifact('folder', {str(source)!r})")
    # Made where case counts, mounted where it does not.
    host.do("client._store._contents.trees._is_case_sensitive = True")
    with pytest.raises(Exception, match="takes no account of case"):
        host.do(f"run.log_artifact('folder', {str(source)!r})")
    assert host.tell(
        "[run.get_artifact_keys(), os.listdir(client.store_path + '/trees')]".replace("os.", "__import__('os').")
    ) == [[], []]


def test_a_store_whose_description_is_still_empty_is_waited_for(tmp_path: Path) -> None:
    """Without links it is created first and filled then."""
    open_store(tmp_path / "store", tmp_path / "cache", create=True)
    path = tmp_path / "store" / "store.json"
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(b"")
    timer = threading.Timer(0.3, lambda: path.write_bytes(content))
    timer.start()
    assert Store(str(tmp_path / "store"), _described(tmp_path / "store"), str(tmp_path / "c"), "normal").id
    timer.join()


def _described(root: Path) -> dict[str, Any]:
    from verta_store.description import read_description

    return read_description(str(root))


@pytest.mark.parametrize(
    ("kind", "is_network"),
    [("nfs4", True), ("nfs", True), ("cifs", True), ("smb3", True), ("fuse.sshfs", True), ("fuse.s3fs", True),
     ("9p", True), ("ext4", False), ("xfs", False), ("btrfs", False), ("tmpfs", False), ("overlay", False),
     ("fuse.mergerfs", False), ("fuseblk", False), ("zfs", False)],
)  # fmt: skip
def test_network_drives_are_known_by_their_type(kind: str, is_network: bool) -> None:
    assert probe.is_network_type(kind) == is_network


def test_the_deepest_mount_decides_and_escapes_in_the_table_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform != "linux":
        pytest.skip("the table of Linux")
    team = tmp_path / "the team" / "drive"
    team.mkdir(parents=True)
    table = tmp_path / "mountinfo"
    quoted = str(team).replace(" ", "\\040")
    table.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"2 1 0:44 / {quoted} rw,relatime shared:2 - cifs //server/the\\040team rw,vers=3.1.1\n"
    )
    real = open
    monkeypatch.setattr(
        "builtins.open", lambda path, *a, **k: real(table if "mountinfo" in str(path) else path, *a, **k)
    )
    found = probe.file_system_of(str(team / "not" / "there" / "yet"))
    assert found == probe.FileSystem("cifs", "//server/the team", str(team), True)
    assert probe.file_system_of(str(tmp_path)).type == "ext4"
