"""Observations: time stamps and epochs in the forms that Verta takes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

_DIGITS = 13  # of a time stamp in milliseconds


def to_milliseconds(timestamp: object) -> int:
    """A time stamp in any of Verta's forms as milliseconds since 1970 UTC.

    A number of any digit count is scaled to 13 digits (as in Verta: seconds, microseconds and nanoseconds are all
    understood); a text is ISO 8601, or what pandas understands where it is installed; a naive time, or a day, is UTC.

    Raises:
        ValueError: a text that is no time. TypeError: another type.
    """
    if isinstance(timestamp, bool) or timestamp is None:
        raise TypeError(f"a timestamp must be a number, a str or a datetime, not {type(timestamp).__name__}")
    if isinstance(timestamp, (int, float)):
        return _scale(timestamp)
    from datetime import date, datetime, timezone  # noqa: PLC0415 - start-up time

    if isinstance(timestamp, str):
        timestamp = _parse(timestamp)
    if isinstance(timestamp, date) and not isinstance(timestamp, datetime):
        timestamp = datetime(timestamp.year, timestamp.month, timestamp.day)
    if isinstance(timestamp, datetime):
        aware = timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=timezone.utc)
        return round(aware.timestamp() * 1000)
    raise TypeError(f"a timestamp must be a number, a str or a datetime, not {type(timestamp).__name__}")


def _scale(timestamp: int | float) -> int:
    if timestamp != timestamp or timestamp in (float("inf"), float("-inf")):
        raise ValueError(f"a timestamp must be a finite number, not {timestamp}")
    if timestamp < 0:
        raise ValueError(f"a timestamp counts from 1970 on and must not be negative, found {timestamp}")
    digits = len(str(int(timestamp)))
    if isinstance(timestamp, int):
        if digits > _DIGITS:
            return int(timestamp // 10 ** (digits - _DIGITS))
        return int(timestamp * 10 ** (_DIGITS - digits))
    return int(timestamp * 10.0 ** (_DIGITS - digits))


def _parse(text: str) -> datetime:
    from datetime import datetime  # noqa: PLC0415 - start-up time

    try:
        # Python 3.10 knows no "Z" and only 3 or 6 digits of a second.
        return datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text.strip()))
    except ValueError:
        pass
    try:
        import pandas  # noqa: PLC0415 - optional
    except ImportError:
        raise ValueError(
            f"{text!r} is not a time in ISO 8601 (2026-11-22T12:15:00); write it so, or install pandas for other forms"
        ) from None
    try:
        parsed: datetime = pandas.Timestamp(text).to_pydatetime()
    except ValueError:
        raise ValueError(f"{text!r} is not a time; write it as 2026-11-22T12:15:00") from None
    return parsed


def to_texts(timestamps_ms: Iterable[int]) -> list[str]:
    """Time stamps as `get_observation` shows them: local time. As in Verta."""
    from datetime import datetime  # noqa: PLC0415 - start-up time

    at = datetime.fromtimestamp
    return [str(at(timestamp_ms / 1000)) for timestamp_ms in timestamps_ms]


def check_epoch(epoch: object) -> int:
    """An epoch number given by the user.

    Raises:
        ValueError: negative. TypeError: not a whole number (as in Verta, 2.0 is one).
    """
    if isinstance(epoch, float) and epoch.is_integer():
        epoch = int(epoch)
    if isinstance(epoch, bool) or not isinstance(epoch, int):
        raise TypeError(f"epoch_num must be a whole number, not {epoch!r}")
    if epoch < 0:
        raise ValueError(f"epoch_num must not be negative, found {epoch}")
    return epoch
