"""The class that every server in this comparison serves: it gives back what it gets; some inputs mean other work."""

from __future__ import annotations

import os
import time
from typing import Any

PID = -1.0  # as the first number of the input: the answer is the process id
SLEEP = -2.0  # 50 ms asleep, as a model that waits for a database
COMPUTE = -3.0  # 50 ms of processor time, as a model in pure Python
EXIT = -4.0  # the process ends
WORK_S = 0.05


class Echo:
    """A class model. `artifacts` may name a file or folder, which is only looked at."""

    def __init__(self, artifacts: dict[str, str] | None = None) -> None:
        for path in (artifacts or {}).values():
            os.stat(path)

    def predict(self, data: Any) -> Any:
        """`data` is a list of numbers."""
        first = data[0]
        if first >= 0:
            return data
        if first == PID:
            return [float(os.getpid())]
        if first == SLEEP:
            time.sleep(WORK_S)
        elif first == COMPUTE:
            end = time.thread_time() + WORK_S
            while time.thread_time() < end:
                pass
        elif first == EXIT:
            os._exit(3)
        return data
