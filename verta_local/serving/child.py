"""The process of one deployed model: loads it in its main thread, then answers requests (see `turns`)."""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import signal
import socket
import sys
import threading
from typing import Any

from verta_local.errors import EnvironmentUnmet, LoadError
from verta_local.serving import frames
from verta_local.serving.answering import AnswersItself, ModelAnswers, say
from verta_local.serving.turns import Turns
from verta_local.tracebacks import own_traceback

_PROGRAM_NAME = "verta_local model"


def main(arguments: list[str]) -> int:
    """Runs the child; `arguments` name its lanes. Returns the exit code: 0 when told to end, 1 when loading failed."""
    control, lifeline, work = frames.child_lanes(arguments)
    sys.argv[:] = [_PROGRAM_NAME]  # a model that reads options must not meet the numbers of our lanes
    _die_with_supervisor(lifeline)
    _prepare_output()
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor, which drains
    reader = frames.FrameReader(control)
    order = json.loads(reader.read().body)
    # From here on the thread below watches: loading may take minutes, and the supervisor may go in that time.
    threading.Thread(target=_watch_control, args=(reader, work), name="control", daemon=True).start()
    try:
        model = _load(order)
    except BaseException as error:  # whatever the user's code raises, SystemExit too: it is reported
        _report_failure(control, error)
        return 1
    if isinstance(model, AnswersItself):
        answers = model
    else:
        answers = ModelAnswers(model, order["spec"], int(order["body_limit_bytes"]))
    turns = Turns(answers.reply_to, work, int(order["threads"]))
    frames.send_frame(control, frames.READY, json.dumps(answers.about()).encode())
    turns.run()
    sys.stdout.flush()
    return 0


def _load(order: dict[str, Any]) -> Any:
    module_name, _, function_name = order["loader"].partition(":")
    model = getattr(importlib.import_module(module_name), function_name)(order["spec"])
    model_test = getattr(model, "model_test", None)
    if callable(model_test):
        model_test()  # as in Verta: a model's own check, before it gets traffic
    return model


def _report_failure(control: socket.socket, error: BaseException) -> None:
    message = f"{type(error).__name__}: {error}"
    # Of a LoadError: the user's traceback, where his code is to blame, and the sentence that says what to do.
    text = f"{error.traceback}\n{error}".strip() if isinstance(error, LoadError) else own_traceback(error)
    say(text, sys.stderr)
    report: dict[str, Any] = {"message": message, "traceback": text}
    if isinstance(error, EnvironmentUnmet):
        report["environment"] = {"missing": error.missing, "python": error.python}
    frames.send_frame(control, frames.FAILED, json.dumps(report).encode())


def _prepare_output() -> None:
    """Makes what the model prints reach its log at once and never fail, and a crash in C code leave a traceback."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    faulthandler.enable(all_threads=False)


def _watch_control(reader: frames.FrameReader, work: socket.socket) -> None:
    """Ends the process in an orderly way when told to, and at once when the supervisor is gone."""
    try:
        order = reader.read()
    except (EOFError, OSError):
        os._exit(0)
    if order.code == frames.EXIT:
        try:
            work.shutdown(socket.SHUT_RD)  # wakes the thread that waits for a request
        except OSError:
            pass  # it is closed already


def _die_with_supervisor(lifeline: socket.socket) -> None:
    """Has the kernel kill this process group as soon as the supervisor is gone, however it went.

    The watching thread alone would not do: a model that hangs in C code without giving up the interpreter lock
    stops every thread. Linux only; elsewhere the thread has to do.
    """
    if sys.platform != "linux":
        return
    import fcntl  # noqa: PLC0415 - POSIX only

    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp() if os.getpgrp() == os.getpid() else os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, int(signal.SIGKILL))
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    lifeline.setblocking(False)
    try:
        gone = lifeline.recv(1) == b""
    except BlockingIOError:
        gone = False
    if gone:  # it went before the signal was armed
        os._exit(0)
