"""SIGTERM, which ends Python without `atexit`: a last word of whoever asked for it, sealed journals, then death.

A handler in Python runs when the main thread comes back to Python. A signal that comes just before that thread begins
to wait for a lock is noted and not acted upon until the wait is over, and `multiprocessing.Pool` ends its workers, who
wait for tasks, by one SIGTERM each, and then waits for them without end. (Seen with twelve workers in one of thirty
pools without any store, and in every second one with a journal's thread beside.) So in workers a thread insists.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

# How often, and for how long, a worker's main thread is reminded. Without a handler it would have died at once, so one
# that does not come back from native code by then is killed.
_REMIND_EVERY_S = 0.05
_REMIND_FOR_S = 5.0

_before_termination: list[Callable[[], None]] = []
_seal_all: Callable[[], None] | None = None
_is_dying = False
_is_ending = False
_was_told_at_the_end = False


def before_termination(call: Callable[[], None]) -> None:
    """Has `call()` run when this process is ended by SIGTERM, before its journals are sealed. It may not ask the index:
    the signal may come in the middle of another question. It does not run for an idle worker of a `Pool`, which ends
    in order that way."""
    _before_termination.append(call)


def seal_at_sigterm(seal_all: Callable[[], None]) -> None:
    """Has `seal_all()` called when SIGTERM ends this process, and the processes forked from it.

    Only where nobody else has taken the signal, and only from the main thread, where Python allows it.
    """
    global _seal_all
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        _seal_all = seal_all
        signal.signal(signal.SIGTERM, _seal_and_die)


def end_in_order(close: Callable[[], None]) -> None:
    """Calls `close()`, the last of this process; a SIGTERM that comes meanwhile waits until it has ended."""
    global _is_ending
    _is_ending = True
    try:
        close()
    finally:
        _is_ending = False
        if _was_told_at_the_end:
            _seal_and_die(signal.SIGTERM, sys._getframe())


def insist_in_worker() -> None:
    """Sees to it that a worker of `multiprocessing` dies of the first SIGTERM, whatever its main thread waits for."""
    if (
        sys.platform == "win32"  # where workers are not ended by signals
        or threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not _seal_and_die
    ):
        return
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    if before != -1:  # an event loop's, which is told of every signal and needs to be
        signal.set_wakeup_fd(before)
        os.close(told)
        os.close(tell)
        return
    threading.Thread(target=_insist, args=(told,), daemon=True).start()


def before_fork() -> None:
    """Holds SIGTERM back in this thread: a child forgets what comes before it runs Python again."""
    if signal.getsignal(signal.SIGTERM) is _seal_and_die:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def after_fork() -> None:
    """Lets it through again, in the parent and in the child."""
    mask = vars(_forking).pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# Of the thread that forks: its signal mask.
_forking = threading.local()


def _insist(told: int) -> None:
    main_thread = threading.main_thread().ident
    assert main_thread is not None, "it is running"
    while signal.SIGTERM not in os.read(told, 64):
        pass
    for _ in range(round(_REMIND_FOR_S / _REMIND_EVERY_S)):
        time.sleep(_REMIND_EVERY_S)
        if _is_dying or signal.getsignal(signal.SIGTERM) is not _seal_and_die:
            return
        signal.pthread_kill(main_thread, signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGKILL)


def _seal_and_die(number: int, frame: FrameType | None) -> None:
    global _is_dying, _was_told_at_the_end
    if _is_dying:
        return  # a reminder
    if _is_ending:
        _was_told_at_the_end = True
        return
    _is_dying = True
    for call in [] if _was_told_at_the_end or _ends_in_order(frame) else _before_termination:
        try:
            call()
        except OSError:
            pass  # a drive that refuses the last word is no reason to live on
    if _seal_all is not None:
        _seal_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _ends_in_order(frame: FrameType | None) -> bool:
    """Whether this is a worker of a `Pool` between two tasks, or any worker of `multiprocessing` past its last line."""
    inner = called = ("", "")  # the frame that was called by this one, and the one that was called by that
    while frame is not None:
        here = (frame.f_globals.get("__name__", ""), frame.f_code.co_name)
        if here == ("multiprocessing.pool", "worker"):
            # What a task runs in is the user's function, or `mapstar` of the same module; else it waits, or hands in.
            return not inner[0] or (inner[0].startswith("multiprocessing.") and inner[0] != here[0])
        if here == ("multiprocessing.process", "_bootstrap"):
            return inner[1] != "run" or (inner[0] == here[0] and not called[0])
        called, inner, frame = inner, here, frame.f_back
    return False
