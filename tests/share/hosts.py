"""A host as a test sees it: a process that is told what to do, and answers."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
# A real drive: where it is mounted, here and on the machines, and the commands that reach these, such as "ssh a; ssh b".
SHARE = os.environ.get("VERTA_LOCAL_TEST_SHARE", "")
MACHINES = [one.strip() for one in os.environ.get("VERTA_LOCAL_TEST_HOSTS", "").split(";") if one.strip()]
# The Python of each machine.
PYTHON = os.environ.get("VERTA_LOCAL_TEST_PYTHON", "python3")
on_the_shim_only = pytest.mark.skipif(bool(SHARE), reason="about what only the drive of the tests does")


class HostError(Exception):
    """What a host's statement raised, as its traceback."""


class Host:
    """A process that does what it is told. `warnings` holds (class, text, file) of all that it was warned of.

    It runs here, behind the shim or not, or on the machine that the command `machine` (`ssh NAME`) reaches, with what is
    installed there.
    """

    def __init__(
        self, name: str, environment: dict[str, str], *, shim: bool = True, machine: str = "", python: str = "python3"
    ) -> None:
        self.name = name
        self.warnings: list[tuple[str, str, str]] = []
        self._machine = shlex.split(machine)
        if machine:
            words = ["env", *(f"{key}={value}" for key, value in environment.items()), python]
            command = [*self._machine, shlex.join([*words, "-c", (HERE / "host.py").read_text()])]
        else:
            command = [sys.executable, *([str(HERE / "shim.py")] if shim else []), str(HERE / "host.py")]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=None if machine else environment,
        )
        self._pid = self.tell("os.getpid()") if machine else self.process.pid

    def start(self, **told: str) -> None:
        """Tells it something without waiting, so that several hosts work at the same time."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()

    def wait(self) -> Any:
        """The answer to the oldest thing told. Raises HostError."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the host {self.name} is dead: {self.process.wait()}"
        answer = json.loads(line)
        self.warnings += [tuple(one) for one in answer["warnings"]]
        if answer["error"]:
            raise HostError(answer["error"])
        return answer["value"]

    def do(self, statements: str) -> None:
        """Runs statements."""
        self.start(do=statements)
        self.wait()

    def tell(self, expression: str) -> Any:
        """The value of an expression, as JSON has it."""
        self.start(tell=expression)
        return self.wait()

    def end(self) -> None:
        """Ends it as a script ends."""
        assert self.process.stdin is not None and self.process.stdout is not None
        if not self.process.stdin.closed:
            self.process.stdin.close()
        assert self.process.wait(30) == 0
        self.process.stdout.close()

    def kill(self) -> None:
        """Ends it as a power switch does."""
        if self._machine:
            subprocess.run([*self._machine, f"kill -9 {self._pid}"], check=True)
        else:
            self.process.kill()
        self.process.wait(30)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
