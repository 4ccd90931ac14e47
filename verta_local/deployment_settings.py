"""What may be asked of a deployment: its threads, its time limit, its token.

Both sides check with these rules: whoever deploys, before anything is started, and the serving process, which believes
nobody.
"""

from __future__ import annotations

import re

# Four requests at a time: Python code takes turns anyway, so more threads only help models that wait; with four, a
# short request passes by three long ones, and the stacks cost next to nothing.
DEFAULT_THREADS = 4
DEFAULT_PREDICT_TIMEOUT_S = 60.0
DEFAULT_REPLICAS = 1
DEFAULT_QUEUE_LIMIT = 128  # requests that wait besides those that run: 128 of 20 ms each are answered within 3 s
# What an order of the admin API may say of a model's processes, by these names.
PROGRAM_SETTINGS = ("threads", "predict_timeout_s", "replicas", "queue_limit")
_THREADS_LIMIT = 64
DEFAULT_SLOW_S = 1.0  # what a person at a screen calls waiting
ACCESS_LOG = "access.jsonl"  # in the same folder as the models' logs
_REPLICAS_LIMIT = 64
_QUEUE_LIMIT = 100_000
_PREDICT_TIMEOUT_LIMIT_S = 7 * 24 * 3600.0  # longer than any prediction; a socket refuses far larger numbers
_TOKEN = re.compile(r"[!-~]+")
_TOKEN_LIMIT_CHARACTERS = 4096  # proxies and servers commonly bound all headers of a request to 8 KiB


def log_name(store_id: str, run_id: str) -> str:
    """The file name of what the model of a run prints, in the folder `logs` of `config.serving_dir()`."""
    name = "-".join(part for part in (store_id, run_id) if part)
    return (re.sub(r"[^A-Za-z0-9._-]", "_", name)[:200].lstrip(".") or "model") + ".log"


def check_slow_s(seconds: object) -> float:
    """After how many seconds a request counts as slow, if it is such a number. Raises: ValueError."""
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds < float("inf"):  # type: ignore[operator]
        raise ValueError(f"a slow request takes a number of seconds over 0, not {seconds!r:.100}")
    return float(seconds)  # type: ignore[arg-type]


def check_threads(threads: object) -> int:
    """The number of requests that run at a time, if it is one. Raises: ValueError."""
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= _THREADS_LIMIT:
        raise ValueError(f"threads must be a whole number from 1 to {_THREADS_LIMIT}, not {threads!r:.100}")
    return threads


def check_replicas(replicas: object) -> int:
    """The number of processes of one model, if it is one. Raises: ValueError."""
    if isinstance(replicas, bool) or not isinstance(replicas, int) or not 1 <= replicas <= _REPLICAS_LIMIT:
        raise ValueError(f"replicas must be a whole number from 1 to {_REPLICAS_LIMIT}, not {replicas!r:.100}")
    return replicas


def check_queue_limit(limit: object) -> int:
    """The number of requests that may wait for a model, if it is one. Raises: ValueError."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit <= _QUEUE_LIMIT:
        raise ValueError(f"queue_limit must be a whole number from 0 to {_QUEUE_LIMIT}, not {limit!r:.100}")
    return limit


def check_canary(share: object) -> float | None:
    """The share of requests for a canary, from "10%" or 0.1; None for None. Raises: ValueError."""
    if share is None:
        return None
    text = str(share).strip()
    try:
        part = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        part = -1.0
    if isinstance(share, bool) or not 0 < part < 1:  # not a number is refused by this too
        raise ValueError(f"canary must be a share of the requests over 0% and below 100%, as 10%, not {share!r:.100}")
    return part


def check_predict_timeout_s(timeout_s: object) -> float:
    """The seconds that one prediction may take, if it is such a number. Raises: ValueError."""
    is_number = isinstance(timeout_s, (int, float)) and not isinstance(timeout_s, bool)
    if not is_number or not 0 < timeout_s <= _PREDICT_TIMEOUT_LIMIT_S:  # type: ignore[operator]
        limit = f"{_PREDICT_TIMEOUT_LIMIT_S:.0f}"
        raise ValueError(f"predict_timeout_s must be a number of seconds over 0, up to {limit}, not {timeout_s!r:.100}")
    return float(timeout_s)  # type: ignore[arg-type]


def new_token() -> str:
    """A random token of 256 bits, 43 characters. None begins with a dash: `--token` would take it for an option."""
    import secrets  # noqa: PLC0415 - start-up time, and only where a token is made

    while True:
        made = secrets.token_urlsafe(32)
        if not made.startswith("-"):
            return made


def check_token(token: object, no_token: bool = False) -> str | None:
    """The token, if a header can carry it; None for none. Raises: ValueError; the token is never in its message."""
    if token is None:
        return None
    if no_token:
        raise ValueError("give a token or no_token, not both")
    if not isinstance(token, str):
        raise ValueError(f"a token must be text, not {type(token).__name__}")
    if not _TOKEN.fullmatch(token):
        found = "an empty one" if not token else "one with other characters"
        raise ValueError(
            f"a token must be printable ASCII text without blanks, because it travels in a header; found {found}"
        )
    if len(token) > _TOKEN_LIMIT_CHARACTERS:
        raise ValueError(
            f"a token may have {_TOKEN_LIMIT_CHARACTERS} characters at most, because it travels in a header; "
            f"found {len(token)}"
        )
    return token
