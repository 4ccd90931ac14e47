"""One program in service: its children (as many as replicas), started again when they die, replaced when they hang.

    deploying ──all ready──> deployed ──every child died──> deploying ──ready──> deployed ...
        └──failed──> error <──too many deaths in a minute──┘

Each replica restarts by itself, whatever becomes of another version that is to take this one's place. The lock is
that of the endpoint, which is told (`VersionOwner`) when the version has settled, and when it gives up.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from verta_local.serving.calls import Answer, Call
from verta_local.serving.frames import QUICK, Frame
from verta_local.serving.launch import Launcher
from verta_local.serving.logfile import LogFile
from verta_local.serving.process import ChildProcess, Program
from verta_local.tracebacks import without_folders

DEPLOYING = "deploying"
DEPLOYED = "deployed"
ERROR = "error"
STOPPED = "not deployed"

_OK = 200
_TRIES = 2  # of a call that a dead child has not seen
_DEATHS_LIMIT = 5  # of each replica, within the time below
_DEATHS_WITHIN_S = 60.0
_RESTART_DELAYS_S = (0.0, 0.1, 0.5, 2.0)  # after the first, second ... death within that time


class VersionOwner(Protocol):
    """Who is told what becomes of a version; with the lock held, where nothing else is said."""

    def version_settled(self, version: Version) -> None:
        """All replicas answer for the first time, or the first load failed: `version.state` tells which."""

    def version_gave_up(self, version: Version) -> None:
        """It served, and is in the state error now."""

    def version_restarted(self, version: Version, reason: str) -> None:
        """A child is replaced; `reason` is "exit", "signal", "timeout" or "load"."""

    def dispatch(self, call: Call, *, is_known: bool = False) -> None:
        """Sends a call to wherever it belongs now; `is_known`: it was waiting already. Without the lock."""


class _Replica:
    """A place for one child: the one that serves, and the one that is to replace it."""

    def __init__(self) -> None:
        self.active: ChildProcess | None = None
        self.starting: ChildProcess | None = None
        self.is_spawning = False


class Version:
    """The children of one program. Methods with `_` and those that say so are called with the lock held."""

    def __init__(
        self,
        program: Program,
        generation: int,
        log: LogFile,
        launcher: Launcher,
        lock: Any,  # a threading.RLock, which is a function in older Pythons
        owner: VersionOwner,
    ) -> None:
        self.program = program
        self.generation = generation
        self.log = log
        self.state = DEPLOYING
        self.message = "the model is loading"
        self.is_settled = False
        self.queue: deque[Call] = deque()  # of calls that wait for a free thread
        self.restarts = 0
        self.wants_headers = False
        self._changed = threading.Condition(lock)  # what is in flight on a retiring child
        self._launcher = launcher
        self._owner = owner
        self._replicas = [_Replica() for _ in range(program.replicas)]
        self._retiring: set[ChildProcess] = set()
        self._deaths: deque[float] = deque()
        self._is_over = False
        self._runs = program  # the program, in the environment that it needs
        self._is_preparing = False

    def start(self) -> None:
        """Starts all children; call once, without the lock."""
        for replica in self._replicas:
            self._start_child(replica)

    def take(self) -> ChildProcess | None:
        """The child that is to get one call more, which is counted; None when all are busy. With the lock held."""
        best, most = None, 0
        for replica in self._replicas:
            child = replica.active
            if child is not None and (free := child.free_places) > most:
                best, most = child, free
        if best is not None:
            best.in_flight += 1
        return best

    def release_waiting(self) -> None:
        """Has the calls that wait look anew where they belong. Call with the lock held."""
        if self.queue:
            calls = list(self.queue)
            self.queue.clear()
            threading.Thread(target=self._dispatch_all, args=(calls,), name="dispatch", daemon=True).start()

    def _dispatch_all(self, calls: Sequence[Call]) -> None:
        for call in calls:
            self._owner.dispatch(call, is_known=True)

    @property
    def run_id(self) -> str:
        """The run whose model it is."""
        return self.program.identity[1]

    @property
    def is_loading(self) -> bool:
        """Whether no child can answer at present. Call with the lock held."""
        return all(replica.active is None or replica.active.is_gone for replica in self._replicas)

    @property
    def in_flight(self) -> int:
        """Requests that wait or run. Call with the lock held."""
        children = [*(replica.active for replica in self._replicas), *self._retiring]
        return len(self.queue) + sum(child.in_flight for child in children if child is not None)

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that serve. Call with the lock held."""
        return [replica.active.pid for replica in self._replicas if replica.active is not None]

    # ---- what becomes of calls ----

    def calls_answered(self, child: ChildProcess, answered: Sequence[tuple[Call, Frame]]) -> None:
        """Passes answers on; the threads that are free now get what waits, first."""
        following: list[tuple[ChildProcess, list[Call]]] = []
        with self._changed:
            child.in_flight -= len(answered)
            child.is_quick = answered[-1][1].head == QUICK
            if self.queue:
                following = self._next_calls()
            if child.retiring:
                self._changed.notify_all()
        for free, calls in following:
            free.stream.send(calls)
        run_id = self.run_id
        for call, frame in answered:
            if frame.code != _OK:
                child.log.mark_answered()  # the traceback there is this answer's, not the child's last words
            call.finish(Answer(frame.code, frame.body, meta=frame.meta, run_id=run_id, waited_s=call.waited_s))

    def calls_timed_out(self, child: ChildProcess, calls: Sequence[Call]) -> None:
        """Calls got no answer in time: the child is replaced."""
        text = f"the model did not answer within {child.program.predict_timeout_s:g} s; its process is being replaced"
        for call in calls:
            self._replace_hung(child)
            call.finish(Answer(502, message=text, run_id=self.run_id))

    def calls_lost(self, child: ChildProcess, calls: Sequence[Call]) -> None:
        """The child is gone with these calls, which are not sent to another: it may have begun with them."""
        how = self._meet_end(child, len(calls))
        for call in calls:
            call.finish(Answer(502, message=f"the model's process {how}", run_id=self.run_id))

    def calls_unsent(self, child: ChildProcess, calls: Sequence[Call]) -> None:
        """The child is gone and has not seen these calls: the next one gets them."""
        self._meet_end(child, len(calls))
        for call in calls:
            call.tries += 1
            if call.tries < _TRIES:
                self._owner.dispatch(call, is_known=True)
            else:
                text = "the model's process ends again and again: its log says more"
                call.finish(Answer(502, message=text, run_id=self.run_id))

    def _next_calls(self) -> list[tuple[ChildProcess, list[Call]]]:
        """Takes calls that wait, as many as there are places. With the lock held."""
        found: dict[ChildProcess, list[Call]] = {}
        now = time.monotonic()
        while self.queue and (child := self.take()) is not None:
            call = self.queue.popleft()
            call.waited_s = now - call.begun_at
            found.setdefault(child, []).append(call)
        return list(found.items())

    def _meet_end(self, child: ChildProcess, calls_count: int) -> str:
        """The child was found dead: says how it ended, when nobody is sent to it any more."""
        with self._changed:
            child.in_flight -= calls_count
            child.is_gone = True
            self._changed.notify_all()
        if not calls_count:
            return ""  # its watching thread will say the rest
        how = child.ending()
        if not child.ended.is_set():
            child.stop(grace_s=0.0)  # it only closed its lane
        # Before the answer, so that whoever reads it and asks again meets the next child. The watching thread says
        # the same once more, which changes nothing.
        self.child_ended(child)
        return without_folders(how)

    def _replace_hung(self, child: ChildProcess) -> None:
        with self._changed:
            child.in_flight -= 1
            child.hung += 1
            self._changed.notify_all()
            replica = next((each for each in self._replicas if each.active is child), None)
            if replica is None or replica.starting is not None or replica.is_spawning:
                return
            if self._count_death() >= _DEATHS_LIMIT * len(self._replicas):
                self._give_up("the model did not answer in time again and again; it is not started again")
                return
            self._count_restart("timeout")
            # The present child keeps answering with its other threads until the new one is ready.
            threading.Thread(target=self._start_child, args=(replica,), name="replace-hung", daemon=True).start()

    # ---- its end ----

    def retire(self) -> None:
        """Gets no more requests, answers those that it has, and ends. Call with the lock held."""
        self._is_over = True
        limit_s = self.program.predict_timeout_s + 1
        for child in self._leave():
            self._retiring.add(child)
            threading.Thread(target=self._drain, args=(child, limit_s), name="drain", daemon=True).start()
        self.release_waiting()

    def stop(self, drain_s: float) -> None:
        """As `retire`, within `drain_s`; returns when the processes are gone."""
        with self._changed:
            self._is_over = True
            self.state = STOPPED
            children = [*self._leave(), *self._retiring]
            self.release_waiting()
        threads = [threading.Thread(target=self._drain, args=(child, drain_s), daemon=True) for child in children[1:]]
        for thread in threads:
            thread.start()
        for child in children[:1]:
            self._drain(child, drain_s)
        for thread in threads:
            thread.join()

    def kill(self) -> None:
        """Ends all children at once, whatever they are doing."""
        with self._changed:
            self._is_over = True
            self.state = STOPPED
            children = [*self._leave(), *self._retiring]
            self.release_waiting()
        for child in children:
            child.kill()

    # ---- what children report (from their watching threads) ----

    def child_ready(self, child: ChildProcess) -> None:
        """A child loaded its model: it takes over."""
        with self._changed:
            replica = next((each for each in self._replicas if each.starting is child), None)
            if replica is None:
                return  # it was overtaken; whoever did that ends it
            self.wants_headers = bool(child.about.get("wants_headers"))
            old, replica.active, replica.starting = replica.active, child, None
            if old is not None:
                self._retire(old)
            if self.is_settled or all(each.active is not None for each in self._replicas):
                self.state, self.message = DEPLOYED, "the model is served"
                self._settle()
            self.release_waiting()
            self._changed.notify_all()

    def child_failed(self, child: ChildProcess, message: str, traceback: str) -> None:
        """A child could not load its model."""
        with self._changed:
            replica = next((each for each in self._replicas if each.starting is child), None)
            if replica is None:
                return
            replica.starting = None
            if child.wants_environment is None or child.program.interpreter.is_own:
                self._load_failed(replica, traceback or message)
            elif child.program is not self._runs:  # the environment was made while this one was still loading
                threading.Thread(target=self._start_child, args=(replica,), name="restart", daemon=True).start()
            elif not self._is_preparing:
                self._is_preparing = True
                self.message = "an environment with the model's requirements is being made"
                self._changed.notify_all()
                wanted = child.wants_environment
                threading.Thread(target=self._prepare, args=(wanted,), name="environment", daemon=True).start()

    def child_ended(self, child: ChildProcess) -> None:
        """A child's process is gone, for whatever reason; told twice of the same child is as told once."""
        how = "" if child.retiring or child.reported_failure else child.ending()
        with self._changed:
            self._retiring.discard(child)
            self._changed.notify_all()
            for replica in self._replicas:
                if child is replica.starting:
                    replica.starting = None
                    text = f"the model's process {how}\nThis was while the model was loading."
                    self._load_failed(replica, text, "signal" if child.was_killed else "exit")
                elif child is replica.active:
                    replica.active = None
                    self._died(replica, f"the model's process {how}", "signal" if child.was_killed else "exit")

    # ---- inner steps ----

    def _start_child(self, replica: _Replica, delay_s: float = 0.0) -> None:
        """Without the lock."""
        if delay_s:
            time.sleep(delay_s)
        with self._changed:
            if replica.is_spawning or replica.starting is not None or self._is_over:
                return
            replica.is_spawning = True
        try:
            child = ChildProcess(self._runs, self.log, self._launcher, self)
        except (OSError, ValueError) as error:  # ValueError: a null character in the environment
            with self._changed:
                replica.is_spawning = False
                self._load_failed(replica, f"cannot start the model's process: {error}")
            return
        with self._changed:
            replica.is_spawning = False
            is_wanted = not self._is_over
            if is_wanted:
                replica.starting = child
            child.retiring = not is_wanted
        child.watch()
        if not is_wanted:
            child.kill()

    def _prepare(self, wanted: dict[str, Any]) -> None:
        """Without the lock: makes the environment that the model needs, then starts all children in it."""
        from verta_local.serving.environments import (  # noqa: PLC0415 - start-up time, and seldom needed
            CannotPrepare,
            environment_for,
        )

        spec = self.program.spec
        requirements, constraints, lines = (
            spec.get(name) or () for name in ("requirements", "constraints", "install_lines")
        )
        interpreter, say = self.program.interpreter, self.log.add_line
        try:
            interpreter = environment_for(wanted, interpreter, requirements, say, constraints, lines)
        except CannotPrepare as error:
            with self._changed:
                self._load_failed(self._replicas[0], str(error))
            return
        with self._changed:
            self._runs = replace(self.program, interpreter=interpreter)
            self._is_preparing = False
            self.message = "the model is loading in an environment of its own"
        for replica in self._replicas:
            if replica.active is None:
                self._start_child(replica)

    def _load_failed(self, replica: _Replica, text: str, reason: str = "load") -> None:
        if self._is_over:
            return
        if self.is_settled:
            self._died(replica, text, reason)
            return
        # It never served: a model that dies while it loads is broken, not unlucky.
        self._end_in_error(text)
        self._settle()

    def _died(self, replica: _Replica, text: str, reason: str) -> None:
        if self._is_over:
            return
        if not self.is_settled:
            self._load_failed(replica, text, reason)
            return
        deaths = self._count_death()
        if deaths >= _DEATHS_LIMIT * len(self._replicas):
            often = f"the model's process died {deaths} times within a minute and is not started again"
            self._give_up(f"{often}; the last time: {text}")
            return
        self._count_restart(reason)
        if self.is_loading:
            self.state = DEPLOYING
        self.message = f"{text}\nIt is being started again."
        self._changed.notify_all()
        delay_s = _RESTART_DELAYS_S[min((deaths - 1) // len(self._replicas), len(_RESTART_DELAYS_S) - 1)]
        threading.Thread(target=self._start_child, args=(replica, delay_s), name="restart", daemon=True).start()

    def _count_death(self) -> int:
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths[0] < now - _DEATHS_WITHIN_S:
            self._deaths.popleft()
        return len(self._deaths)

    def _count_restart(self, reason: str) -> None:
        self.restarts += 1
        self._owner.version_restarted(self, reason)

    def _give_up(self, message: str) -> None:
        self._end_in_error(message)
        self._owner.version_gave_up(self)

    def _end_in_error(self, message: str) -> None:
        self.state, self.message = ERROR, message
        self.retire()
        self._changed.notify_all()

    def _settle(self) -> None:
        if not self.is_settled:
            self.is_settled = True
            self._owner.version_settled(self)

    def _leave(self) -> list[ChildProcess]:
        """Takes all children out of their places."""
        found = []
        for replica in self._replicas:
            found += [child for child in (replica.active, replica.starting) if child is not None]
            replica.active = replica.starting = None
        for child in found:
            child.retiring = True
        return found

    def _retire(self, child: ChildProcess) -> None:
        child.retiring = True
        self._retiring.add(child)
        limit_s = child.program.predict_timeout_s + 1
        threading.Thread(target=self._drain, args=(child, limit_s), name="drain", daemon=True).start()

    def _drain(self, child: ChildProcess, limit_s: float) -> None:
        """Without the lock."""
        with self._changed:
            self._changed.wait_for(lambda: child.in_flight <= 0 or child.ended.is_set(), limit_s)
        child.stop(grace_s=0.0 if child.hung or not child.is_ready else 3.0)
