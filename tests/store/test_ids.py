"""Ids are the same on every host, and a record's time never runs backwards."""

from __future__ import annotations

import itertools
import re
import threading
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verta_store import ids

PART = st.text(max_size=20)


@settings(deadline=None, max_examples=200)
@given(st.tuples(PART, PART, PART, st.integers(0, 99)), st.tuples(PART, PART, PART, st.integers(0, 99)))
def test_an_entity_id_tells_every_part_apart(left: tuple[str, str, str, int], right: tuple[str, str, str, int]) -> None:
    assert (ids.entity_id(*left) == ids.entity_id(*right)) == (left == right)


def test_an_entity_id_is_a_uuid_of_version_8_and_never_changes() -> None:
    made = uuid.UUID(ids.entity_id("run", "parent", "name", 0))
    assert made.version == 8 and made.variant == uuid.RFC_4122
    # Written down: another value would make every existing store forget its runs.
    assert str(made) == "6d2020cc-750d-8a86-ac65-e780f746b566"


def test_a_name_cannot_pass_for_parent_and_name() -> None:
    assert ids.entity_id("run", "a", "b,1:c", 0) != ids.entity_id("run", "a,1:b", "c", 0)
    assert ids.entity_id("run", None, "x", 0) == ids.entity_id("run", "", "x", 0)


def test_times_rise_strictly_even_when_the_clock_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    walls = iter([5_000, 5_000, 4_000, 1, 6_000, 6_000])
    monkeypatch.setattr(ids.time, "time_ns", lambda: next(walls) * 1_000_000)
    clock = ids.HybridClock()
    ticks = [clock.tick() for _ in range(6)]
    assert all(a[0] < b[0] for a, b in itertools.pairwise(ticks))
    assert [wall for _, wall in ticks] == [5_000, 5_000, 4_000, 1, 6_000, 6_000]
    assert ids.milliseconds(ticks[-1][0]) == 6_000


def test_the_clock_follows_other_writers_but_not_into_the_far_future() -> None:
    clock = ids.HybridClock()
    ahead = (ids.now_ms() + 3_600_000) << ids.CLOCK_BITS
    clock.observe(ahead)
    assert clock.tick()[0] > ahead
    far = (ids.now_ms() + 25 * 3_600_000) << ids.CLOCK_BITS
    clock.observe(far)
    assert clock.tick()[0] < far
    assert ids.is_future(far) and not ids.is_future(ahead)


def test_a_host_id_is_a_safe_folder_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("../../x", "HOST.example.org", "日本", "", "a" * 300):
        monkeypatch.setattr(ids, "host_name", lambda name=name: name)
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,47}-[0-9a-f]{8}", ids.host_id()), ids.host_id()


def test_two_users_of_a_host_have_two_host_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ann")
    of_ann = ids.host_id()
    monkeypatch.setenv("LOGNAME", "bob")
    assert ids.host_id() != of_ann


def test_random_digits_have_the_length_asked_for(tmp_path: Path) -> None:
    assert [len(ids.random_hex(count)) for count in (1, 2, 7, 8, 16)] == [1, 2, 7, 8, 16]
    found: set[str] = set()
    threads = [threading.Thread(target=lambda: found.add(ids.random_hex(16))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20


def test_a_random_uuid_is_one_of_version_4_and_new_each_time() -> None:
    found = {ids.random_uuid() for _ in range(1000)}
    assert len(found) == 1000
    assert {(uuid.UUID(text).version, uuid.UUID(text).variant, str(uuid.UUID(text)) == text) for text in found} == {
        (4, uuid.RFC_4122, True)
    }
