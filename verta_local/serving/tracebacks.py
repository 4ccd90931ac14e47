"""The model's own traceback: without our frames, and without this machine's folders where strangers read it."""

from __future__ import annotations

import os
import re
import traceback

_OWN_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_LIMIT_CHARACTERS = 16_000  # an answer is read by people; a recursion error alone can have 100,000
_POSIX_PATH = re.compile(r"(?<![\w.~/:\\-])/(?:[^\s'\"<>:|,;()\[\]{}/]+/)*[^\s'\"<>:|,;()\[\]{}/]+/?")
_WINDOWS_PATH = re.compile(r"(?<![\w])[A-Za-z]:[\\/](?:[^\s'\"<>:|,;()\[\]{}\\/]+[\\/])*([^\s'\"<>:|,;()\[\]{}\\/]+)")
_FILE_LINE = re.compile(r'^(\s*File ")([^"]+)(")', re.MULTILINE)


def own_traceback(error: BaseException) -> str:
    """The traceback text of `error` from the first frame that is not ours on."""
    frames = error.__traceback__
    first = frames
    while first is not None and os.path.abspath(first.tb_frame.f_code.co_filename).startswith(_OWN_FOLDER + os.sep):
        first = first.tb_next
    if first is None:
        first = frames
    text = "".join(traceback.format_exception(type(error), error, first)).rstrip()
    if len(text) > _LIMIT_CHARACTERS:
        half = _LIMIT_CHARACTERS // 2
        text = text[:half] + "\n[...]\n" + text[-half:]
    return text


def without_folders(text: str) -> str:
    """The text with each absolute path cut down to its last part.

    >>> without_folders("No such file: '/tmp/private/index.ann', see https://example.org/a/b")
    "No such file: 'index.ann', see https://example.org/a/b"
    """
    text = _FILE_LINE.sub(lambda found: found[1] + re.split(r"[\\/]", found[2])[-1] + found[3], text)
    text = _WINDOWS_PATH.sub(r"\1", text)
    return _POSIX_PATH.sub(_base_name_if_real, text)


def _base_name_if_real(found: re.Match[str]) -> str:
    path = found[0]
    top = path.split("/", 2)[1]
    # "/api/v1/predict" in a sentence is not a path of this machine: only what starts at an existing folder is.
    if path.rstrip("/").count("/") < 2 or not os.path.lexists("/" + top):
        return path
    return path.rstrip("/").rsplit("/", 1)[1]
