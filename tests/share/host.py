"""One host of a test: does what it is told, line by line; started through `shim.py`, or alone on a real drive.

Each line of standard input is JSON, `{"do": statements}` or `{"tell": expression}`; each answer is
`{"value": ..., "warnings": [...], "error": ...}`.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import shim


def serve(share: shim.Share | None) -> None:
    """Answers until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the client prints is no answer
    names: dict[str, Any] = {"share": share, "os": os}
    for line in sys.stdin:
        told = json.loads(line)
        answer: dict[str, Any] = {"value": None, "error": ""}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                if "do" in told:
                    exec(told["do"], names)
                else:
                    answer["value"] = eval(told["tell"], names)
            except BaseException:
                answer["error"] = traceback.format_exc()
        answer["warnings"] = [(one.category.__name__, str(one.message), one.filename) for one in caught]
        answers.write(json.dumps(answer, default=str) + "\n")


if __name__ == "__main__":
    serve(globals().get("share"))
