"""The command line, `verta-local`: parse, call one method, print. Errors are one sentence on stderr, exit code 1."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit code: 0, 1 for an error, 2 for misuse."""
    if arguments is not None:
        return _run(arguments)
    gc.disable()  # modules are no garbage: looking for some among them takes a twentieth of a start
    try:
        return _run(sys.argv[1:], is_program=True)
    finally:
        gc.enable()


def _run(arguments: Sequence[str], is_program: bool = False) -> int:
    from .parser import make_parser, parse  # noqa: PLC0415 - start-up time of whoever imports the package

    options = parse(arguments)
    if is_program:
        gc.freeze()
        gc.enable()
    if options.run is None:
        make_parser().print_help()
        return 2
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # `verta-local ls | head`: whoever read us has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        if os.environ.get("VERTA_LOCAL_DEBUG"):
            raise
        from ..plain_text import plain  # noqa: PLC0415

        print(f"verta-local: {plain(str(error), keep_lines=True)}", file=sys.stderr)
        return 1
