"""Claims: one winner of many, whole or not there, and found by `verify` when they change."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from verta_store import Store
from verta_store.claims import Claim, name_digits, read_claim
from verta_store.errors import BadRecord, ClaimTaken, NameTaken, StoreWriteError
from verta_store.fsck import verify

_RACE = """
import sys, time
from verta_store import open_store
from verta_store.errors import ClaimTaken, NameTaken
root, cache, go = sys.argv[1:]
store = open_store(root, cache)
import os
while not os.path.exists(go):
    time.sleep(0.001)
won = []
for number in range(20):
    try:
        store.claim("test", f"name {number}")
        won.append(f"claim {number}")
    except ClaimTaken:
        pass
    try:
        store.create_new("project", None, f"project {number}")
        won.append(f"project {number}")
    except NameTaken:
        pass
won += [f"version {store.claim_number('version', 'model')}" for _ in range(5)]
print("\\n".join(won))
store.close()
"""


def _path(store: Store, kind: str, name: str) -> Path:
    return Path(store.root, "claims", kind, name_digits(name))


def test_a_claim_has_one_owner_and_says_who(store: Store, another: Callable[..., Store]) -> None:
    made = store.claim("endpoint", "/some/path", {"run": "x", "rate": float("inf"), "$odd": 1})
    with pytest.raises(ClaimTaken, match="is taken by") as caught:
        another(store).claim("endpoint", "/some/path")
    assert caught.value.claim == made == another(store).claimed("endpoint", "/some/path")
    assert made.value == {"run": "x", "rate": float("inf"), "$odd": 1}
    assert store.claimed("endpoint", "/another") is None
    assert store.claimed("version", "/some/path") is None


def test_a_claim_is_read_only_and_leaves_nothing_in_tmp(store: Store) -> None:
    store.claim("endpoint", "x")
    assert os.stat(_path(store, "endpoint", "x")).st_mode & 0o777 == 0o444
    assert not [name for name in os.listdir(os.path.join(store.root, "tmp")) if name.startswith("claim")]


def test_any_text_is_a_name_and_none_becomes_a_path(store: Store) -> None:
    for name in ("", "../../x", "a" * 5000, "\ud800", "\n", "é"):
        store.claim("test", name)
        with pytest.raises(ClaimTaken):
            store.claim("test", name)
        assert _path(store, "test", name).is_file()
    for kind in ("", "..", "a/b", "A"):
        with pytest.raises(BadRecord):
            store.claim(kind, "x")


def test_of_racing_processes_one_wins_each_name(store: Store, tmp_path: Path) -> None:
    go = tmp_path / "go"
    command = [sys.executable, "-c", _RACE, store.root]
    processes = [
        subprocess.Popen([*command, str(tmp_path / f"cache {n}"), str(go)], stdout=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    go.touch()
    won = [line for process in processes for line in process.communicate(timeout=60)[0].splitlines()]
    assert [process.returncode for process in processes] == [0] * 4
    expected = {f"{what} {n}" for what in ("claim", "project") for n in range(20)}
    expected |= {f"version {n}" for n in range(1, 21)}
    assert sorted(won) == sorted(expected)
    assert verify(store, deep=True).is_clean


def test_without_hard_links_one_wins_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    made = store.claim("test", "name")
    with pytest.raises(ClaimTaken):
        store.claim("test", "name")
    assert store.claimed("test", "name") == made


def test_a_name_can_be_created_anew_after_its_deletion_only(store: Store) -> None:
    first = store.create_new("project", None, "p")
    with pytest.raises(NameTaken) as caught:
        store.create_new("project", None, "p")
    assert caught.value.key == first.id
    store.delete(first.id)
    second = store.create_new("project", None, "p")
    assert second.id != first.id
    with pytest.raises(NameTaken):
        store.create_new("project", None, "p")


def test_what_was_met_without_a_claim_cannot_be_created_again(store: Store) -> None:
    store.create("project", None, "p")
    with pytest.raises(NameTaken):
        store.create_new("project", None, "p")


def test_numbers_go_on_where_they_stopped(store: Store, another: Callable[..., Store]) -> None:
    assert [store.claim_number("version", "m") for _ in range(3)] == [1, 2, 3]
    assert another(store).claim_number("version", "m") == 4
    assert store.claim_number("version", "other") == 1
    assert store.claim_number("version", "m", first=10) == 10


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "swap", "stray"])
def test_verify_finds_a_claim_that_is_not_what_was_written(store: Store, harm: str) -> None:
    store.claim("test", "name", {"a": 1})
    path = _path(store, "test", "name")
    data = path.read_bytes()
    assert verify(store).is_clean
    path.chmod(0o644)
    if harm == "flip":
        at = data.index(b'"a":1')
        path.write_bytes(data[: at + 4] + b"2" + data[at + 5 :])
    elif harm == "cut":
        path.write_bytes(data[:-1])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "swap":
        path.rename(path.with_name(name_digits("another")))
    else:
        path.with_name("notes.txt").write_text("mine")
    if harm in ("cut", "empty", "stray"):
        assert verify(store).is_clean, "it may be on its way"
        for found in path.parent.iterdir():
            os.utime(found, (1, 1))
    assert [problem.kind for problem in verify(store).problems] == ["claim"]


def test_a_damaged_claim_stays_taken(store: Store) -> None:
    store.claim("test", "name")
    path = _path(store, "test", "name")
    path.chmod(0o644)
    path.write_bytes(b"x")
    os.utime(path, (1, 1))
    assert store.claimed("test", "name") == Claim("test", "name")
    with pytest.raises(ClaimTaken, match="somebody"):
        store.claim("test", "name")


def test_every_changed_byte_of_a_claim_is_found(store: Store) -> None:
    store.claim("test", "name", {"a": [1, 2]})
    data = _path(store, "test", "name").read_bytes()
    for at in range(len(data)):
        with pytest.raises(ValueError):
            read_claim(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_a_refused_claim_is_one_sentence_and_nothing_half_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", refuse)
        with pytest.raises(StoreWriteError, match="could not write a claim"):
            store.claim("test", "name")
    assert store.claimed("test", "name") is None
    store.claim("test", "name")
