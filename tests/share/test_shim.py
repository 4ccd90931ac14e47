"""The bad network drive is as bad as it says: each of its vices, seen by two hosts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def pair(new_host: Callable[..., Any], drive: Path) -> tuple[Any, Any]:
    """Two hosts without a store, in the drive's folder."""
    hosts = new_host("ant", stale_s=1.5), new_host("bee", stale_s=1.5)
    for host in hosts:
        host.do(f"import errno, os, time\nos.chdir({str(drive)!r})")
        host.do(
            "def failure(work):\n    try:\n        work()\n    except OSError as error:\n"
            "        return errno.errorcode[error.errno]"
        )
    return hosts


def test_a_listing_is_old_until_it_runs_out_or_the_host_changes_the_folder(pair: tuple[Any, Any]) -> None:
    ant, bee = pair
    bee.do("names = os.listdir('.')")
    ant.do("open('first', 'w').close()")
    assert bee.tell("[os.listdir('.'), [e.name for e in os.scandir('.')], os.path.exists('first')]") == [[], [], False]
    assert bee.tell("failure(lambda: open('first'))") == "ENOENT"
    time.sleep(1.6)
    assert bee.tell("[os.listdir('.'), os.path.exists('first'), open('first').read()]") == [["first"], True, ""]
    ant.do("open('second', 'w').close()")
    assert bee.tell("os.listdir('.')") == ["first"]
    bee.do("open('poke', 'x').close(); os.unlink('poke')")
    assert bee.tell("os.listdir('.')") == ["first", "second"]


def test_a_size_is_old_until_the_file_is_opened(pair: tuple[Any, Any]) -> None:
    ant, bee = pair
    ant.do("file = open('grows', 'w'); file.write('1'); file.flush()")
    assert bee.tell("os.path.getsize('grows')") == 1
    ant.do("file.write('23'); file.flush()")
    assert bee.tell("os.path.getsize('grows')") == 1
    assert bee.tell("[open('grows').read(), os.path.getsize('grows')]") == ["123", 3]


def test_two_hosts_that_append_to_one_file_lose_each_others_lines(pair: tuple[Any, Any]) -> None:
    for host in pair:
        host.do("log = os.open('log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)")
    for number in range(10):
        for host in pair:
            host.do(f"os.write(log, b'{host.name} {number}\\n'); os.fsync(log)")
    lines = pair[0].tell("open('log').read().splitlines()")
    assert 0 < len(set(lines)) < 20


def test_an_append_is_seen_by_others_once_it_is_synced(pair: tuple[Any, Any]) -> None:
    ant, bee = pair
    ant.do("log = os.open('log', os.O_WRONLY | os.O_CREAT | os.O_APPEND); os.write(log, b'line')")
    assert [host.tell("open('log').read()") for host in (bee, ant)] == ["", "line"]
    assert bee.tell("open('log').read()") == "line"  # its own reading made the writer's host write it
    ant.do("os.write(log, b' more')")
    assert bee.tell("open('log').read()") == "line"
    ant.do("os.fdatasync(os.dup(log))")
    assert bee.tell("open('log').read()") == "line more"


def test_a_file_that_somebody_has_open_keeps_its_name(pair: tuple[Any, Any]) -> None:
    ant, bee = pair
    ant.do("open('old', 'w').close(); open('new', 'w').close()")
    bee.do("reading = open('old')")
    for attempt in ("os.rename('old', 'other')", "os.replace('new', 'old')"):
        assert ant.tell(f"failure(lambda: {attempt})") == "EACCES"
    bee.do("reading.close()")
    ant.do("os.replace('new', 'old')")


def test_a_file_that_another_host_removed_is_stale(pair: tuple[Any, Any]) -> None:
    ant, bee = pair
    ant.do("open('known', 'w').write('x'); open('open', 'w').write('x')")
    bee.do("os.stat('known'); descriptor = os.open('open', os.O_RDONLY)")
    ant.do("os.unlink('known'); os.unlink('open')")
    assert bee.tell("failure(lambda: open('known'))") == "ESTALE"
    assert bee.tell("failure(lambda: open('known'))") == "ENOENT"
    assert bee.tell("failure(lambda: os.read(descriptor, 9))") == "ESTALE"


def test_there_are_no_links_no_modes_no_case_and_no_fractions_of_a_second(pair: tuple[Any, Any]) -> None:
    ant, _ = pair
    ant.do("open('File', 'w').close()")
    for attempt in ("os.link('File', 'twin')", "os.symlink('File', 'twin')"):
        assert ant.tell(f"failure(lambda: {attempt})") in ("EOPNOTSUPP", "ENOTSUP")
    assert ant.tell("failure(lambda: os.chmod('File', 0o400))") == "EPERM"
    assert ant.tell("[os.path.exists('fILE'), failure(lambda: open('file', 'x'))]") == [True, "EEXIST"]
    assert ant.tell("os.stat('File').st_mtime_ns % (2 * 10**9)") == 0
    assert ant.tell("os.major(os.stat('File').st_dev)") == 0
