"""Whether a file's pages wait to be written back: what cachestat(2) knows."""

from __future__ import annotations

import sys
from typing import Any

# cachestat(2), Linux 6.5: the number is the same on all architectures but alpha.
_CACHESTAT = 451

_call: Any = None


def is_clean(descriptor: int) -> bool:
    """Whether no page of an open file waits to be written back. False where the kernel cannot say."""
    global _call
    if _call is None:
        _call = _make_cachestat() or False
    return bool(_call and _call(descriptor))


def _make_cachestat() -> Any:
    if sys.platform != "linux":
        return None
    import ctypes  # noqa: PLC0415 - start-up time

    class Range(ctypes.Structure):
        _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))

    class Found(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_uint64) for name in ("cache", "dirty", "writeback", "evicted", "recent"))

    syscall = ctypes.CDLL(None).syscall
    number, flags = ctypes.c_long(_CACHESTAT), ctypes.c_uint(0)
    whole = ctypes.byref(Range(0, 0))  # length 0: to the end of the file

    def ask(descriptor: int) -> bool:
        found = Found()  # of this call alone: threads ask at the same time
        if syscall(number, descriptor, whole, ctypes.byref(found), flags) != 0:
            return False
        return bool(found.dirty == 0 and found.writeback == 0)

    return ask
