"""The supervisor as a background process: `run.deploy()` starts it, it outlives the script that did.

    arguments: STATE_FOLDER      stdin: one JSON order to deploy at once, or nothing
    stdout: one line of JSON {"port", "instance"} once it listens; then everything goes to STATE_FOLDER/supervisor.log

It writes STATE_FOLDER/supervisor.json (mode 0600, by rename): {"version", "pid", "pid_started", "port", "instance",
"admin_token", "started_at", "deployments": [{"run_id", "store_id", "route"}]}. The file is a hint where to ask; only
the answer of the port is the truth. It removes the file when it ends in order, so a file without a process behind
tells that the process was killed or the machine restarted, and what was served until then.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
import threading
import time
from pathlib import Path
from typing import Any

from verta_local.private_file import write_private
from verta_local.serving.nursery import Nursery, fork_from_here
from verta_local.serving.scheduling import work_in_batches
from verta_local.serving.supervisor import StateFolderError, Supervisor, fail
from verta_local.serving.table import BadRequest

STATE_FILE = "supervisor.json"
_IDLE_EXIT_S = 15.0  # with nothing deployed: longer than a script takes between start and its first deploy
_AFTER_LAST_S = 0.2  # once something was deployed and nothing is left


def main(arguments: list[str]) -> int:
    """Runs the background supervisor; returns its exit code."""
    work_in_batches()
    folder = Path(arguments[0])
    os.chdir(folder)  # not the user's folder: it may be on a drive that is to be unmounted
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    try:
        background = _Background(folder, fork_from_here())
    except (OSError, StateFolderError) as error:
        return fail(str(error))
    text = sys.stdin.read()
    if text.strip():
        background.first_order(json.loads(text))
    try:
        background.announce()
    except OSError as error:
        background.supervisor.abandon()
        return fail(f"cannot write {folder / STATE_FILE} ({error.strerror or error}): nobody could find this server")
    return background.run()


class _Background:
    def __init__(self, folder: Path, nursery: Nursery | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._had_deployment = False
        self._is_over = False
        self.supervisor = Supervisor(
            folder, admin_token=secrets.token_urlsafe(32), on_change=self._on_change, nursery=nursery
        )

    def first_order(self, order: dict[str, Any]) -> None:
        """Deploys what came with the start, so that the model loads while the rest is imported."""
        try:
            self.supervisor.deploy(order)
        except (BadRequest, ValueError) as error:
            logging.getLogger(__name__).warning("the first order is refused: %s", error)

    def announce(self) -> None:
        """Writes the state file, tells the starting process, and lets go of its pipe. In the main thread."""
        self.supervisor.handle_signals()
        self._write_state()
        print(json.dumps({"port": self.supervisor.port, "instance": self.supervisor.instance}), flush=True)
        os.dup2(2, 1)

    def run(self) -> int:
        """Serves until stopped, or until nothing is deployed any more."""
        threading.Thread(target=self._end_when_idle, name="idle", daemon=True).start()
        try:
            return self.supervisor.run()
        finally:
            self._remove_state()

    def _on_change(self) -> None:
        if self.supervisor.table.all():
            self._had_deployment = True
        try:
            self._write_state()
        except OSError as error:  # a full disk: the deployments in it are a hint only, what is served is served
            logging.getLogger(__name__).warning("cannot write the state file: %s", error)

    def _end_when_idle(self) -> None:
        while True:
            time.sleep(0.1)
            if self.supervisor.table.close_if_empty(_AFTER_LAST_S if self._had_deployment else _IDLE_EXIT_S):
                self.supervisor.stop()
                return

    def _write_state(self) -> None:
        state = state_of(self.supervisor)
        with self._lock:
            if not self._is_over:
                write_private(self._folder / STATE_FILE, json.dumps(state).encode())

    def _remove_state(self) -> None:
        with self._lock:
            self._is_over = True
            path = self._folder / STATE_FILE
            try:
                if json.loads(path.read_bytes()).get("instance") == self.supervisor.instance:
                    path.unlink()
            except (OSError, ValueError):
                pass  # another supervisor's file, or none: nothing of ours to remove


def state_of(supervisor: Supervisor) -> dict[str, Any]:
    """What a serving process writes about itself for whoever wants to find it."""
    served = [
        {
            "run_id": endpoint.program.spec["run_id"],
            "store_id": endpoint.program.spec.get("store_id"),
            "route": endpoint.route,
        }
        for endpoint in supervisor.table.all()
    ]
    return {
        "version": 1,
        "pid": os.getpid(),
        "pid_started": pid_started(os.getpid()),
        "port": supervisor.port,
        "instance": supervisor.instance,
        "admin_token": supervisor.admin_token,
        "started_at": time.time(),
        "deployments": served,
    }


def pid_started(pid: int) -> str | None:
    """When a process started, in the kernel's own clock ticks since boot; None where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
