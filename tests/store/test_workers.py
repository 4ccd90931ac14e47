"""Worker processes copy large folders; whatever becomes of them, the folder is stored whole or not at all."""

from __future__ import annotations

import errno
import io
import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import verta_store
from verta_store import Store, files, folder_copy, workers
from verta_store.copying import CopiedFiles, copy_names
from verta_store.digest import digest_of_bytes
from verta_store.errors import BadContent, StoreWriteError
from verta_store.fsck import verify
from verta_store.messages import Message, receive, send

ENGINE = Path(verta_store.__file__).parent


@pytest.fixture(autouse=True)
def always_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers for any folder, in tasks of a few files."""
    monkeypatch.setattr(folder_copy, "WORKERS_FROM", 1)
    monkeypatch.setattr(folder_copy, "_TASK_FILES", 5)
    monkeypatch.setattr(workers, "worker_count", lambda: 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ninety files in three folders; one is executable, one is large, one is a link."""
    top = tmp_path / "a folder\nof 'data' \udc80"
    for number in range(90):
        part = top / f"part {number % 3}"
        part.mkdir(parents=True, exist_ok=True)
        (part / f"ü{number}").write_bytes(b"%d" % number * 1000)
    (part / "ü2").chmod(0o755)
    (part / "large").write_bytes(os.urandom(3 << 20))
    (part / "shared").write_bytes(os.urandom(100_000))
    (part / "link").symlink_to("large")
    return top


def is_stored(store: Store, digest: str, folder: Path) -> bool:
    """Whether a tree has the files of a folder, bytes and modes, and nothing else was left behind."""
    top = Path(store.path_of("tree", digest, ""))
    found = {path.relative_to(top): path for path in top.rglob("*") if path.is_file()}
    wanted = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    assert found.keys() == wanted.keys()
    for name, path in found.items():
        assert path.read_bytes() == wanted[name].read_bytes(), name
        assert path.stat().st_mode & 0o777 == (0o555 if wanted[name].stat().st_mode & 0o100 else 0o444), name
    assert verify(store, deep=True).is_clean
    return not [left for own in Path(store.root, "tmp").iterdir() for left in own.iterdir()]


def test_a_folder_that_workers_copied_is_the_same_tree(
    store: Store, folder: Path, another: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers: list[object] = []
    real = workers.Workers.do

    def noted(self: workers.Workers, tasks: list[tuple[object, list[object]]]) -> object:
        for key, answer in real(self, tasks):
            answers.append(answer)
            yield key, answer

    monkeypatch.setattr(workers.Workers, "do", noted)
    mask = os.umask(0o077)
    try:
        ref = store.put_tree(folder)
    finally:
        os.umask(mask)
    assert len(answers) >= 18 and all(answers), "the workers did it"
    assert is_stored(store, ref.digest, folder)
    monkeypatch.setattr(workers, "worker_count", lambda: 0)
    shutil.rmtree(store.path_of("tree", ref.digest, ""))
    assert store.put_tree(folder) == ref
    assert is_stored(store, ref.digest, folder)


HALF = """
import os
from verta_store import copying, worker
def half(source, target, names, device):
    with open(os.path.join(target, names[0]), "wb") as file:
        file.write(b"half")
    {end}
worker.TASKS["copy"] = half
"""


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)", "raise MemoryError", "print('no answer')"])
def test_what_a_worker_left_half_done_is_done_again(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    start = workers._START
    at = start.index("from verta_store.worker import serve")
    monkeypatch.setattr(workers, "_START", start[:at] + HALF.format(end=end) + start[at:])
    assert is_stored(store, store.put_tree(folder).digest, folder)


def test_one_worker_that_dies_leaves_its_work_to_the_other_and_to_us(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = workers._ask
    asked: list[int] = []

    def kill_the_first(process: subprocess.Popen[bytes], task: list[object]) -> object:
        asked.append(process.pid)
        if process.pid == asked[0] and asked.count(process.pid) == 3:
            os.kill(process.pid, signal.SIGKILL)
        return real(process, task)

    monkeypatch.setattr(workers, "_ask", kill_the_first)
    assert is_stored(store, store.put_tree(folder).digest, folder)
    assert asked.count(asked[0]) <= 3


@pytest.mark.parametrize("text", [None, "#!/bin/sh\necho hello\n", "#!/bin/sh\nexit 3\n", "no program"])
def test_a_python_that_cannot_be_started_is_done_without(
    store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    program = tmp_path / "python-odd"
    if text is not None:
        program.write_text(text)
        program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert is_stored(store, store.put_tree(folder).digest, folder)


def test_a_program_with_python_inside_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    assert workers.worker_count() == 4
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    assert workers.worker_count() == 0
    monkeypatch.undo()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert workers.worker_count() == 0


def test_a_drive_that_refuses_the_workers_gives_one_sentence_and_nothing_half_there(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        (source / str(number)).write_bytes(b"x" * (100 if number else 200_000))
    code = """
import sys
from verta_store import folder_copy, open_store, workers
folder_copy.WORKERS_FROM = 1
workers.worker_count = lambda: 2
store = open_store(sys.argv[1] + "/store", sys.argv[1] + "/cache", create=True)
try:
    store.put_tree(sys.argv[1] + "/source")
except OSError as error:
    print(type(error).__name__, error)
"""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], preexec_fn=limit, capture_output=True, text=True, check=True
    )
    name, _, sentence = done.stdout.strip().partition(" ")
    assert name == StoreWriteError.__name__ and "could not write" in sentence and "\n" not in sentence
    assert not list((tmp_path / "store" / "tmp").iterdir())
    assert not list((tmp_path / "store" / "trees").rglob("*.manifest"))


def test_workers_end_with_their_parent_though_another_child_of_his_holds_the_pipes(tmp_path: Path) -> None:
    code = """
import os, sys, time
from verta_store import workers
pool = workers.Workers(2)
def show():
    while len(pool._processes) < 2:
        time.sleep(0.01)
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    print(*(each.pid for each in pool._processes), flush=True)
import threading
threading.Thread(target=show, daemon=True).start()
os.mkfifo(sys.argv[1])
from verta_store import worker
with pool:
    for _ in pool.do([(n, ["sleep", 60]) for n in range(2)]): pass
"""
    start = workers._START
    at = start.index("serve(int(")
    patched = (
        start[:at] + "import time\nfrom verta_store import worker\nworker.TASKS['sleep'] = time.sleep\n" + start[at:]
    )
    code = code.replace("pool =", f"workers._START = {patched!r}\npool =", 1)
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "fifo")], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2 and all(_is_running(pid) for pid in pids)
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 10
        while any(_is_running(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(_is_running(pid) for pid in pids)
    finally:
        parent.stdout.close()
        os.killpg(parent.pid, signal.SIGKILL)


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_process_killed_among_its_workers_leaves_a_clean_store(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3000):
        (source / str(number)).write_bytes(b"%d" % number)
    code = """
import sys
from verta_store import open_store
store = open_store(sys.argv[1] + "/store", sys.argv[1] + "/cache", create=True)
print("begin", flush=True)
print(store.put_tree(sys.argv[1] + "/source").digest, flush=True)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    for wait_s in (0.05, 0.15, 0.3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "begin\n"
        time.sleep(wait_s)
        process.kill()
        process.wait()
        process.stdout.close()
        store = verta_store.open_store(tmp_path / "store", tmp_path / "cache")
        assert verify(store, deep=True).is_clean
        store.close()
    digest = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1]
    store = verta_store.open_store(tmp_path / "store", tmp_path / "cache")
    store.check("tree", digest)
    assert len(os.listdir(store.path_of("tree", digest, ""))) == 3000


def test_an_error_between_two_answers_ends_the_workers(folder: Path, tmp_path: Path) -> None:
    names = sorted(os.listdir(folder / "part 0"))
    tasks = [(name, ["copy", str(folder / "part 0"), str(tmp_path), [name], None]) for name in names]
    pool = workers.Workers(2)
    with pytest.raises(KeyboardInterrupt), pool:
        for _ in pool.do(tasks):
            raise KeyboardInterrupt
    assert pool._processes and all(process.poll() is not None for process in pool._processes)


@pytest.mark.parametrize("failure", ["a name that cannot be stored", "no memory for the manifest"])
def test_what_fails_beside_the_workers_ends_them_and_leaves_nothing_behind(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    real = workers._start

    def start() -> subprocess.Popen[bytes]:
        started.append(real())
        return started[-1]

    def refuse(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(workers, "_start", start)
    if failure.startswith("no memory"):
        monkeypatch.setattr(folder_copy, "join_lines", refuse)
        with pytest.raises(MemoryError):
            store.put_tree(folder)
    else:
        (folder / "part 0" / "no Unicode \udc80").write_bytes(b"")
        with pytest.raises(BadContent, match="not valid Unicode"):
            store.put_tree(folder)
    assert len(started) == 2 and all(process.poll() is not None for process in started)
    assert not [left for own in Path(store.root, "tmp").iterdir() for left in own.iterdir()]
    monkeypatch.undo()
    (folder / "part 0" / "no Unicode \udc80").unlink(missing_ok=True)
    assert is_stored(store, store.put_tree(folder).digest, folder)


def test_one_pool_does_one_set_of_tasks_after_another(folder: Path, tmp_path: Path) -> None:
    with workers.Workers(2) as pool:
        for number in range(3):
            target = tmp_path / f"to {number}"
            target.mkdir()
            names = sorted(os.listdir(folder / f"part {number}"))
            tasks = [(name, ["copy", str(folder / f"part {number}"), str(target), [name], None]) for name in names]
            assert sorted(name for name, answer in pool.do(tasks) if answer) == names
    assert all(process.poll() is not None for process in pool._processes)


def test_no_memory_for_a_task_leaves_the_work_to_the_caller(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> object:
        raise MemoryError

    monkeypatch.setattr(workers, "_ask", refuse)
    assert is_stored(store, store.put_tree(folder).digest, folder)


@pytest.mark.parametrize("failure", [RuntimeError("can't start new thread"), KeyboardInterrupt()])
def test_where_no_second_thread_can_be_had_no_worker_is_left(
    monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    started: list[threading.Thread] = []
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if started:
            raise failure
        started.append(thread)
        real(thread)

    pool = workers.Workers(2)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        if isinstance(failure, KeyboardInterrupt):
            with pytest.raises(KeyboardInterrupt):
                pool.__enter__()
        else:
            with pool:
                assert [answer for _, answer in pool.do([(0, ["hash", []])])] == [Message([])]
    assert not started[0].is_alive()
    assert all(process.poll() is not None for process in pool._processes)


def test_a_folder_is_stored_where_no_thread_can_be_had(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the end of an interpreter of Python 3.12."""
    (folder / "part 2" / "large").unlink()
    (folder / "part 2" / "link").unlink()
    store.put_bytes(b"the lease, and the thread that keeps it fresh, are there")

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        digest = store.put_tree(folder).digest
    assert is_stored(store, digest, folder)


def test_a_fifo_in_the_place_of_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "from")
    (tmp_path / "to").mkdir()
    code = (
        "import sys; from verta_store.copying import copy_names; print(copy_names(*sys.argv[1:3], ['a'], None).names)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "from"), str(tmp_path / "to")]
    environment = {**os.environ, "PYTHONPATH": str(ENGINE.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=environment)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("way", ["path file", "copy of the package elsewhere"])
def test_workers_start_wherever_the_package_lies(tmp_path: Path, way: str) -> None:
    elsewhere = tmp_path / "some where" / "site"
    if way == "path file":
        elsewhere.mkdir(parents=True)
        (elsewhere / "engine.pth").write_text(f"{ENGINE.parent}\n")
        begin = f"import site; site.addsitedir({str(elsewhere)!r})"
    else:
        shutil.copytree(ENGINE, elsewhere / "verta_store", ignore=shutil.ignore_patterns("__pycache__"))
        begin = f"import sys; sys.path.insert(0, {str(elsewhere)!r})"
    source, target = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    target.mkdir()
    (source / "json.py").write_text("raise SystemExit('imported from where the user is')")
    code = f"""
{begin}
import os
from verta_store import workers
os.chdir({str(source)!r})
os.environ["PYTHONPATH"] = {str(source)!r}
with workers.Workers(1) as pool:
    task = ["copy", {str(source)!r}, {str(target)!r}, ["json.py"], None]
    print([answer for _, answer in pool.do([(0, task)])])
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sha256:" in done.stdout and (target / "json.py").exists()


def pools_of(monkeypatch: pytest.MonkeyPatch, failure: BaseException | None = None) -> list[workers.Workers]:
    """The pools that are started from now on; `failure` is raised when one has been."""
    pools: list[workers.Workers] = []
    real = workers.Workers.__enter__

    def enter(pool: workers.Workers) -> workers.Workers:
        pools.append(real(pool))
        if failure is not None:
            raise failure
        return pool

    monkeypatch.setattr(workers.Workers, "__enter__", enter)
    return pools


def test_no_worker_is_left_of_a_walk_that_meets_what_cannot_be_stored(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = pools_of(monkeypatch)
    os.mkfifo(folder / "part 2" / "pipe")
    with pytest.raises(BadContent, match="FIFO"):
        store.put_tree(folder)
    assert len(pools) == 1, "started while the walk was in the folders before"
    assert not any(thread.is_alive() for thread in pools[0]._threads)
    assert all(process.poll() is not None for process in pools[0]._processes)


def test_an_error_of_an_early_sync_is_told_though_the_last_one_has_none(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of an error that it met while writing back once."""
    done: list[int] = []

    def sync(target: str) -> bool:
        done.append(sum(len(names) for _, _, names in os.walk(target)))
        if len(done) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO), target)
        return True

    monkeypatch.setattr(files, "sync_file_system", sync)
    with pytest.raises(StoreWriteError, match="could not write a folder"):
        store.put_tree(folder)
    assert len(done) > 1 and done[0] < 90 <= done[-1], "it began while files were being copied"
    assert not [left for own in Path(store.root, "tmp").iterdir() for left in own.iterdir()]
    assert is_stored(store, store.put_tree(folder).digest, folder)


def test_half_a_message_is_none() -> None:
    pipe = io.BytesIO()
    send(pipe, Message([["ü", "\udc80"], None, 1.5], b"columns\n"))
    whole = pipe.getvalue()
    assert receive(io.BytesIO(whole)) == Message([["ü", "\udc80"], None, 1.5], b"columns\n")
    assert receive(io.BytesIO(b"")) is None
    for size_bytes in range(1, len(whole)):
        with pytest.raises(ValueError):
            receive(io.BytesIO(whole[:size_bytes]))


def test_what_was_copied_survives_the_pipe(folder: Path, tmp_path: Path) -> None:
    source = folder / "part 2"
    (tmp_path / "to").mkdir()
    copied = copy_names(str(source), str(tmp_path / "to"), [*sorted(os.listdir(source)), "missing"], None)
    assert copied.names == sorted({path.name for path in source.iterdir()} - {"large", "link"})
    assert CopiedFiles.unpacked(copied.packed()) == copied
    for name, digest, is_executable in zip(copied.names, copied.digests, copied.are_executable, strict=True):
        assert digest == digest_of_bytes((source / name).read_bytes()) and is_executable == (name == "ü2")
    assert CopiedFiles.unpacked(CopiedFiles.of([]).packed()) == CopiedFiles.of([])


def test_what_has_the_name_of_a_copy_already_is_left_alone(folder: Path, tmp_path: Path) -> None:
    """On a drive to which two names are one it is the copy of the other file."""
    source, target = folder / "part 1", tmp_path / "to"
    target.mkdir()
    names = sorted(os.listdir(source))
    (target / names[3]).write_bytes(b"the other")
    assert copy_names(str(source), str(target), names, None).names == [*names[:3], *names[4:]]
    assert (target / names[3]).read_bytes() == b"the other"


@pytest.mark.parametrize("call", ["write", "fstat", "close"])
def test_nothing_is_left_of_a_copy_that_fails(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    source, target = folder / "part 1", tmp_path / "to"
    target.mkdir()
    names = sorted(os.listdir(source))
    real, count = getattr(os, call), itertools.count()

    def fail_once(descriptor: int, *arguments: object) -> object:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        done = real(descriptor, *arguments)
        if path.startswith(str(target) + os.sep) and next(count) == 5:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return done

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail_once)
        copied = copy_names(str(source), str(target), names, None)
    assert copied.names == [*names[:5], *names[6:]] == sorted(os.listdir(target))


def test_no_thread_is_left_of_a_copy_that_fails(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hold a descriptor of the folder that is removed."""
    store.put_bytes(b"the lease, and the thread that keeps it fresh, are there")
    before = set(threading.enumerate())
    running: list[str] = []
    real: Any = folder_copy._describe

    def sync(target: str) -> bool:
        running.append(target)
        time.sleep(0.3)
        return True

    def refuse(source: str, *_: object, **__: object) -> object:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), source)

    with monkeypatch.context() as patched:
        patched.setattr(files, "sync_file_system", sync)
        patched.setattr(folder_copy, "copy_in", refuse)
        with pytest.raises(PermissionError):
            store.put_tree(folder)
    assert running and set(threading.enumerate()) <= before

    def refuse_to_be_durable(*_: object, **__: object) -> object:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def describe_slowly(parts: object) -> object:
        time.sleep(0.3)
        return real(parts)

    with monkeypatch.context() as patched:
        patched.setattr(folder_copy, "_make_durable", refuse_to_be_durable)
        patched.setattr(folder_copy, "_describe", describe_slowly)
        with pytest.raises(StoreWriteError):
            store.put_tree(folder)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_an_early_sync_that_cannot_begin_is_none(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    done: list[str] = []
    real = files.sync_file_system

    def sync(target: str) -> bool:
        done.append(target)
        if len(done) == 1:
            raise OSError(number, os.strerror(number), target)
        return real(target)

    monkeypatch.setattr(files, "sync_file_system", sync)
    assert is_stored(store, store.put_tree(folder).digest, folder)
    assert len(done) > 1


def test_ctrl_c_while_workers_are_started_leaves_none(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = pools_of(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        store.put_tree(folder)
    assert pools and not any(thread.is_alive() for pool in pools for thread in pool._threads)


@pytest.mark.parametrize(
    "line", [b"[1, 0]", b"[null, -1]", b"[[[], [], []], 5]\nabcde", b'[[["a"], [1], []], 0]', b"7"]
)
def test_what_is_no_answer_of_ours_is_none(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, line: bytes
) -> None:
    start = workers._START
    at = start.index("from verta_store.worker import serve")
    odd = f"for _ in sys.stdin.buffer: sys.stdout.buffer.write({line!r} + b'\\n'); sys.stdout.buffer.flush()\n"
    monkeypatch.setattr(workers, "_START", start[:at] + odd)
    assert is_stored(store, store.put_tree(folder).digest, folder)
