"""A journal is read back whole; a torn tail is dropped, damage is found, and nothing wrong is ever taken for a record."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verta_store import files, ids, journal
from verta_store.errors import BadRecord, StoreNotFound, StoreWriteError
from verta_store.journal import OPEN_SUFFIX, SEALED_SUFFIX, JournalWriter, Position, parse_journal, read_journal

ENTITY = "6d2020cc-750d-8a86-ac65-e780f746b566"
STORE = "11111111-2222-4333-8444-555555555555"
bounded = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[JournalWriter]:
    (tmp_path / "journals").mkdir()
    made = JournalWriter(str(tmp_path), STORE, ids.HybridClock(), full_durability=False)
    yield made
    made.seal()


def path_of(writer: JournalWriter, root: Path, suffix: str = OPEN_SUFFIX) -> Path:
    return root / "journals" / (writer.stem + suffix)


def bytes_of(values: list[Any], *, is_sealed: bool) -> bytes:
    """The bytes of a journal with a header and one record a value."""
    lines: list[bytes] = []
    check = 0
    bodies = [{"k": "journal", "format": 1, "store": STORE, "name": "host-12345678/x"}]
    bodies += [{"h": number, "k": "put", "e": ENTITY, "s": "metrics", "v": {"m": v}} for number, v in enumerate(values)]
    if is_sealed:
        bodies.append({"k": "seal"})
    for body in bodies:
        if body["k"] == "seal":
            body |= {"n": len(lines), "sha256": hashlib.sha256(b"".join(lines)).hexdigest()}
        text = json.dumps(body, separators=(",", ":"))[1:].encode() + b"\n"
        check = zlib.crc32(text, check)
        lines.append(b'{"c":"%08x",' % check + text)
    return b"".join(lines)


VALUES = st.lists(st.text(max_size=8) | st.integers() | st.floats(allow_nan=False, allow_infinity=False), max_size=12)


def test_the_first_record_opens_a_journal_with_a_header_that_says_who_writes(
    writer: JournalWriter, tmp_path: Path
) -> None:
    assert writer.stem == "" and not os.listdir(tmp_path / "journals")
    writer.append("put", ENTITY, {"s": "metrics", "v": {"a": 1}})
    part = read_journal(str(path_of(writer, tmp_path)), Position(), whole=True)
    header, record = part.lines
    assert header["k"] == "journal" and header["name"] == writer.stem and header["store"] == STORE
    assert header["pid"] == os.getpid() and header["format"] == 1 and header["host"] == ids.host_name()
    assert (record["k"], record["e"], record["s"], record["v"]) == ("put", ENTITY, "metrics", {"a": 1})
    assert not part.damages and not part.tail and not part.position.is_sealed


def test_sealing_writes_the_footer_and_changes_the_name_once(writer: JournalWriter, tmp_path: Path) -> None:
    for value in range(5):
        writer.append("put", ENTITY, {"s": "metrics", "v": {str(value): value}})
    opened, sealed = path_of(writer, tmp_path), path_of(writer, tmp_path, SEALED_SUFFIX)
    writer.seal()
    writer.seal()
    assert not opened.exists()
    *_, footer = sealed.read_bytes().splitlines(keepends=True)
    whole = sealed.read_bytes()
    assert json.loads(footer)["n"] == 6
    assert json.loads(footer)["sha256"] == hashlib.sha256(whole[: -len(footer)]).hexdigest()
    part = read_journal(str(sealed), Position(), whole=True)
    assert part.position.is_sealed and len(part.lines) == 6 and not part.damages
    writer.append("put", ENTITY, {"s": "metrics", "v": {"later": 1}})
    assert sealed.read_bytes() == whole, "a sealed journal never changes again"
    assert path_of(writer, tmp_path) != opened


def test_a_record_that_cannot_be_written_leaves_no_journal(writer: JournalWriter, tmp_path: Path) -> None:
    with pytest.raises(BadRecord):
        writer.append("put", ENTITY, {"s": "metrics", "v": {"a": object()}})
    assert writer.stem == ""


def test_every_acknowledged_record_can_be_read_at_once_by_another(writer: JournalWriter, tmp_path: Path) -> None:
    position = Position()
    for value in range(20):
        writer.append("put", ENTITY, {"s": "metrics", "v": {"a": value}})
        part = read_journal(str(path_of(writer, tmp_path)), position)
        assert [line["v"] for line in part.lines if line["k"] == "put"] == [{"a": value}]
        position = part.position


def test_threads_share_one_journal_without_mixing_lines(writer: JournalWriter, tmp_path: Path) -> None:
    def log(number: int) -> None:
        for value in range(100):
            writer.append("put", ENTITY, {"s": f"thread {number}", "v": {str(value): "x" * value}})

    threads = [threading.Thread(target=log, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    part = read_journal(str(path_of(writer, tmp_path)), Position())
    assert not part.damages and len(part.lines) == 801
    for number in range(8):
        assert [next(iter(r["v"])) for r in part.lines[1:] if r["s"] == f"thread {number}"] == list(
            map(str, range(100))
        )
    times = [record["h"] for record in part.lines[1:]]
    assert times == sorted(set(times))


def test_flush_waits_for_a_sync_that_the_background_has_begun(
    writer: JournalWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    begun, go_on = threading.Event(), threading.Event()
    real = files.sync_file

    def slow(descriptor: int, *, data_only: bool = False) -> None:
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            go_on.wait(10)
        real(descriptor, data_only=data_only)
        synced.append(threading.current_thread().name)

    monkeypatch.setattr(journal, "SYNC_WITHIN_S", 0.02)
    writer.append("put", ENTITY, {"s": "metrics", "v": {"a": 1}})
    monkeypatch.setattr(files, "sync_file", slow)
    writer.append("put", ENTITY, {"s": "metrics", "v": {"a": 2}})
    assert begun.wait(10)
    writer.flush()
    main = threading.main_thread().name
    assert main in synced, "flush returned while the device was still at work"
    go_on.set()


def test_records_reach_the_device_within_a_second(
    writer: JournalWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = threading.Event()
    real = files.sync_file

    def watch(descriptor: int, *, data_only: bool = False) -> None:
        real(descriptor, data_only=data_only)
        synced.set()

    for value in range(3):
        monkeypatch.undo()
        writer.append("put", ENTITY, {"s": "metrics", "v": {"a": value}})
        synced.clear()
        monkeypatch.setattr(files, "sync_file", watch)
        begin = time.monotonic()
        writer.append("put", ENTITY, {"s": "metrics", "v": {"b": value}})
        assert synced.wait(10)
        assert time.monotonic() - begin < journal.SYNC_WITHIN_S + 1.0, "a busy machine is given a second more"


def test_full_durability_syncs_each_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "journals").mkdir()
    writer = JournalWriter(str(tmp_path), STORE, ids.HybridClock(), full_durability=True)
    writer.append("put", ENTITY, {"s": "metrics", "v": {"a": 0}})
    calls: list[int] = []
    real = files.sync_file
    monkeypatch.setattr(files, "sync_file", lambda d, *, data_only=False: (calls.append(d), real(d))[1])
    for value in range(5):
        writer.append("put", ENTITY, {"s": "metrics", "v": {"a": value}})
        assert len(calls) == value + 1
    writer.seal()


def test_a_refused_write_is_one_sentence_and_the_journal_stays_whole(
    writer: JournalWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.append("put", ENTITY, {"s": "metrics", "v": {"a": 1}})
    path = path_of(writer, tmp_path)
    before = path.read_bytes()
    real = os.write
    state = {"calls": 0}

    def refuse(descriptor: int, data: bytes) -> int:
        state["calls"] += 1
        if state["calls"] == 1:
            return real(descriptor, bytes(data)[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(StoreWriteError, match="no space left") as caught:
        writer.append("put", ENTITY, {"s": "metrics", "v": {"a": 2}})
    monkeypatch.setattr(os, "write", real)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and caught.value.errno == 28
    assert path.read_bytes() == before
    writer.append("put", ENTITY, {"s": "metrics", "v": {"a": 3}})
    writer.seal()
    part = read_journal(str(path).replace(OPEN_SUFFIX, SEALED_SUFFIX), Position(), whole=True)
    assert not part.damages and [r["v"]["a"] for r in part.lines[1:]] == [1, 3]


def test_a_partial_line_that_cannot_be_taken_back_is_left_for_a_new_journal(
    writer: JournalWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.append("put", ENTITY, {"s": "metrics", "v": {"a": 1}})
    first = path_of(writer, tmp_path)
    real = os.write

    def refuse(descriptor: int, data: bytes) -> int:
        if len(data) > 20:
            return real(descriptor, bytes(data)[:20])
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "write", lambda d, b: refuse(d, b) if b[:1] == b"{" else refuse(d, b""))
    monkeypatch.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(StoreWriteError, match="input/output error") as caught:
        writer.append("put", ENTITY, {"s": "metrics", "v": {"a": 2}})
    assert caught.value.path == str(first)
    monkeypatch.undo()
    writer.append("put", ENTITY, {"s": "metrics", "v": {"a": 3}})
    second = path_of(writer, tmp_path)
    assert second != first
    torn = read_journal(str(first), Position())
    assert [r["v"] for r in torn.lines[1:]] == [{"a": 1}] and len(torn.tail) == 20 and not torn.damages
    assert [r["v"] for r in read_journal(str(second), Position()).lines[1:]] == [{"a": 3}]


@bounded
@given(VALUES, st.booleans(), st.data())
def test_a_journal_cut_anywhere_gives_exactly_the_whole_records_before_the_cut(
    values: list[Any], is_sealed: bool, data: st.DataObject
) -> None:
    whole = bytes_of(values, is_sealed=is_sealed)
    cut = data.draw(st.integers(0, len(whole)))
    ends = [end for end in range(1, len(whole) + 1) if whole[end - 1 : end] == b"\n"]
    part = parse_journal(whole[:cut], Position(), "x")
    complete = sum(end <= cut for end in ends)
    is_footer_in = is_sealed and complete == len(ends)
    assert [line["v"]["m"] for line in part.lines[1:]] == values[: max(0, complete - 1 - is_footer_in)]
    assert not part.damages
    assert len(part.tail) == cut - max([0, *(end for end in ends if end <= cut)])
    assert part.position.is_sealed == is_footer_in
    # Reading goes on from there when the rest has come.
    rest = parse_journal(whole[part.position.offset :], part.position, "x")
    assert [*part.lines, *rest.lines] == parse_journal(whole, Position(), "x").lines
    assert rest.position == parse_journal(whole, Position(), "x").position


@bounded
@given(VALUES.filter(len), st.booleans(), st.data())
def test_a_damaged_byte_costs_its_own_record_only_and_is_always_found(
    values: list[Any], is_sealed: bool, data: st.DataObject
) -> None:
    check_single_damage(values, is_sealed, data.draw(st.integers(0, 10**6)), data.draw(st.integers(1, 255)))


def check_single_damage(values: list[Any], is_sealed: bool, where: int, change: int) -> None:
    whole = bytearray(bytes_of(values, is_sealed=is_sealed))
    original = parse_journal(bytes(whole), Position(), "x")
    at = where % len(whole)
    number = whole[:at].count(b"\n")  # of the line that is hurt
    is_line_end = whole[at] == 0x0A
    whole[at] ^= change
    part = parse_journal(bytes(whole), Position(), "x")
    lines = list(original.lines)
    last = len(lines) + is_sealed - 1
    # Without the line end between them, two lines are one damaged line.
    hurt = {number, min(number + 1, last)} if is_line_end else {number}
    expected = [line for position, line in enumerate(lines) if position not in hurt]
    assert part.lines == expected, "every other record is read, and none that was never written"
    is_torn = last in hurt
    if is_sealed and is_torn:
        assert not part.position.is_sealed, "what has no good footer counts as damaged, under a sealed name"
    elif not is_torn:
        assert part.damages
        assert part.damages[0].offset == sum(
            len(x) for x in bytes_of(values, is_sealed=is_sealed).splitlines(True)[:number]
        )
    if is_sealed and part.position.is_sealed:
        full = parse_journal(bytes(whole), Position(), "x")
        journal._check_footer(bytes(whole), full, "x")
        assert full.damages


def test_every_bit_of_a_sealed_journal_is_guarded() -> None:
    values = ["a", 1, 2.5, "ÿ\n"]
    size = len(bytes_of(values, is_sealed=True))
    for where in range(size):
        for bit in range(8):
            check_single_damage(values, True, where, 1 << bit)


@pytest.mark.parametrize("is_sealed", [False, True])
def test_a_byte_that_became_a_line_end_costs_its_own_record_only(is_sealed: bool) -> None:
    values = ["a", 1, 2.5, "ÿ"]
    whole = bytes_of(values, is_sealed=is_sealed)
    for where, byte in enumerate(whole):
        if byte != 0x0A:
            check_single_damage(values, is_sealed, where, byte ^ 0x0A)


def test_a_missing_a_moved_and_a_repeated_line_are_damage() -> None:
    lines = bytes_of([1, 2, 3, 4, 5], is_sealed=True).splitlines(keepends=True)
    for broken in (
        lines[:2] + lines[3:],
        [*lines[:2], lines[3], lines[2], *lines[4:]],
        lines[:3] + lines[2:],
        lines[1:],
        [*lines, lines[-1]],
        [*lines, lines[2]],
    ):
        assert parse_journal(b"".join(broken), Position(), "x").damages


def test_lines_of_another_journal_are_not_taken_in() -> None:
    mine, other = bytes_of([1, 2, 3], is_sealed=False), bytes_of([7, 8, 9], is_sealed=False)
    lines = other.splitlines(keepends=True)
    part = parse_journal(mine + lines[3] + mine.splitlines(keepends=True)[1], Position(), "x")
    assert [line["v"]["m"] for line in part.lines[1:]] == [1, 2, 3]


@pytest.mark.parametrize(
    "body",
    [
        b'"h":1,"k":"put"\n',
        b"[1]\n",
        b'"k":7}\n',
        b'"h":1}\n',
        b'"k":"put","h":' + b"9" * 5000 + b"}\n",
        b'"k":"put","v":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        b"\xff\xfe}\n",
    ],
)
def test_a_line_with_a_right_check_value_that_is_no_record_is_damage_and_no_crash(body: bytes) -> None:
    good = bytes_of([1, 2], is_sealed=False)
    check = parse_journal(good, Position(), "x").position.check
    bad = zlib.crc32(body, check)
    after = b'"h":9,"k":"put","e":"e","s":"metrics","v":{"m":3}}\n'
    data = good + b'{"c":"%08x",' % bad + body + b'{"c":"%08x",' % zlib.crc32(after, bad) + after
    part = parse_journal(data, Position(), "x")
    assert [line["v"]["m"] for line in part.lines[1:]] == [1, 2, 3]
    assert len(part.damages) == 1


def test_a_sealed_name_and_an_open_name_of_one_journal_are_one_journal(tmp_path: Path) -> None:
    folder = tmp_path / "journals" / "host-12345678"
    folder.mkdir(parents=True)
    for name in ("a.open.jsonl", "a.jsonl", "b.open.jsonl", "c.jsonl", ".nfs0001", "x.tmp"):
        (folder / name).touch()
    (tmp_path / "journals" / "junk").touch()
    assert journal.list_journals(str(tmp_path)) == {
        "host-12345678/a": SEALED_SUFFIX,
        "host-12345678/b": OPEN_SUFFIX,
        "host-12345678/c": SEALED_SUFFIX,
    }
    with pytest.raises(StoreNotFound, match="is gone"):
        journal.list_journals(str(tmp_path / "nowhere"))


def test_a_full_drive_leaves_no_empty_journal_behind(
    writer: JournalWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreWriteError, match="no space left"):
        writer.append("put", ENTITY, {"s": "metrics", "v": {"a": 1}})
    monkeypatch.undo()
    assert not journal.list_journals(str(tmp_path))
    writer.append("put", ENTITY, {"s": "metrics", "v": {"a": 1}})
    assert len(journal.list_journals(str(tmp_path))) == 1
