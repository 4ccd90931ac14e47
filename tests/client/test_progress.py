"""The line that says how far a large copy is: when it is shown, what it says, and that it hurts nobody."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from verta_local import Client, progress

GIB = 2**30


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        """It is one, while it is open."""
        super().isatty()  # ValueError once it is closed
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal for errors, that is looked at soon and often."""
    made = Terminal()
    monkeypatch.setattr(progress, "_stream", lambda: made)  # pytest itself sets sys.stderr anew before a test
    monkeypatch.setattr(progress, "_FIRST_AFTER_S", 0.05)
    monkeypatch.setattr(progress, "_EVERY_S", 0.02)
    return made


def wait_for(condition: Callable[[], bool]) -> None:
    """Until the line was written: at most ten seconds."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_a_terminal_sees_how_far_it_is_and_nothing_is_left(terminal: Terminal) -> None:
    """Share, size, speed, time left; at the end the line is blank."""
    done = [0]
    with progress.shown("logging index.bin", lambda: 2 * GIB, lambda: done[0]):
        wait_for(lambda: "  0 %" in terminal.getvalue() or " 0 % of 2.00 GiB" in terminal.getvalue())
        done[0] = GIB
        wait_for(lambda: "[############............] 50 % of 2.00 GiB" in terminal.getvalue())
        done[0] = 3 * GIB  # more than was expected: it is what other threads log
        wait_for(lambda: "100 % of 2.00 GiB" in terminal.getvalue())
    assert " left" in terminal.getvalue() and "MiB/s" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r") and not terminal.getvalue().split("\r")[-2].strip()
    assert "\n" not in terminal.getvalue()


def test_less_than_a_quarter_of_a_gibibyte_and_less_than_a_second_show_nothing(terminal: Terminal) -> None:
    asked = []
    with progress.shown("logging small.bin", lambda: asked.append(1) or progress.SHOWN_FROM_BYTES - 1, lambda: 1):
        wait_for(lambda: bool(asked))
        time.sleep(0.1)
    with progress.shown("logging fast.bin", lambda: GIB, lambda: 1):
        pass
    assert terminal.getvalue() == ""


def test_the_line_goes_to_a_terminal_or_a_notebooks_output(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert progress._stream() is terminal
    terminal.close()
    assert progress._stream() is None
    for name in ("ipykernel", "IPython"):
        monkeypatch.setitem(sys.modules, name, sys)
    assert progress._stream() is sys.stdout


def test_a_file_or_pipe_sees_nothing_and_no_thread_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress.shown("logging", lambda: GIB, lambda: 1):
            assert "progress" not in {thread.name for thread in threading.enumerate()}


def test_names_cannot_speak_to_the_terminal(terminal: Terminal) -> None:
    with progress.shown("logging \x1b]0;x\x07\n" + "y" * 300, lambda: GIB, lambda: 1):
        wait_for(lambda: "%" in terminal.getvalue())
    assert not set("\x1b\x07\n") & set(terminal.getvalue())
    assert max(len(line) for line in terminal.getvalue().split("\r")) < 120


def test_a_failing_copy_or_a_closed_terminal_is_passed_over(terminal: Terminal) -> None:
    """The error of the copy is what is seen."""

    def gone() -> int:
        raise FileNotFoundError("renamed meanwhile")

    with pytest.raises(ZeroDivisionError), progress.shown("logging", lambda: GIB, gone):
        time.sleep(0.1)
        _ = 1 / 0
    with progress.shown("logging", lambda: GIB, lambda: 1):
        wait_for(lambda: "%" in terminal.getvalue())
        terminal.close()
        time.sleep(0.05)


def test_sizes_of_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(bytes(10))
    (tmp_path / "a" / "b" / "two").write_bytes(bytes(5))
    os.symlink(tmp_path / "none", tmp_path / "a" / "dangling")
    assert progress.size_below(str(tmp_path / "a")) == 15
    assert progress.size_below(str(tmp_path / "a" / "one")) == 10
    assert progress.size_below(str(tmp_path / "none")) == 0


def test_logging_and_downloading_show_it(
    client: Client, tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read off the copies themselves: a file of 300 MiB, a folder with it, and both again out of the store."""
    monkeypatch.setattr(progress, "_FIRST_AFTER_S", 0.0)
    monkeypatch.setattr(progress, "_EVERY_S", 0.001)
    folder = tmp_path / "folder"
    folder.mkdir()
    with open(folder / "large.bin", "wb") as file:
        file.write(os.urandom(2**20) * 300)
    run = client.set_experiment_run()
    run.log_artifact("file", str(folder / "large.bin"))
    assert "logging large.bin [" in terminal.getvalue() and "% of 0.29 GiB" in terminal.getvalue()
    run.log_artifact("folder", str(folder))
    assert "logging folder [" in terminal.getvalue()
    run.download_artifact("folder", str(tmp_path / "copy"))
    assert "copying folder [" in terminal.getvalue()
    assert client._store.bytes_being_written() == 0
    shares = {line.split("] ")[1].split(" %")[0] for line in terminal.getvalue().split("\r") if "large.bin [" in line}
    assert len(shares) > 1, shares  # it moved
