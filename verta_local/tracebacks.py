"""The user's own traceback: without our frames, and without this machine's folders where strangers read it.

The one place for it: loading a model (`loading`), its answers (`serving.child`) and its endpoint use it.
"""

from __future__ import annotations

import os
import re
import sys
import traceback

_LIMIT_CHARACTERS = 16_000  # an answer is read by people; a recursion error alone can have 100,000
_CLOUDPICKLE = os.path.join("", "cloudpickle", "cloudpickle.py")
_OWN_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
_POSIX_PATH = re.compile(r"(?<![\w.~/:\\-])/(?:[^\s'\"<>:|,;()\[\]{}/]+/)*[^\s'\"<>:|,;()\[\]{}/]+/?")
_WINDOWS_PATH = re.compile(r"(?<![\w])[A-Za-z]:[\\/](?:[^\s'\"<>:|,;()\[\]{}\\/]+[\\/])*([^\s'\"<>:|,;()\[\]{}\\/]+)")
_FILE_LINE = re.compile(r'^(\s*File ")([^"]+)(")', re.MULTILINE)


def own_traceback(error: BaseException, modules_folder: str | None = None) -> str:
    """Return the traceback text of the user's code: without our frames and those of Python's import machinery.

    Paths into `modules_folder` are shown as `custom_modules/...`. Where all frames are ours, as when the arguments
    of `predict` do not fit, the error's own line is left. A text of more than 16,000 characters loses its middle.
    """
    shown = traceback.TracebackException.from_exception(error)
    _hide_own_frames(shown, _own_folders(), set())
    text = "".join(shown.format()).rstrip()
    if modules_folder:
        text = text.replace(os.path.join(modules_folder, ""), "custom_modules" + os.sep)
    if len(text) > _LIMIT_CHARACTERS:
        half = _LIMIT_CHARACTERS // 2
        text = text[:half] + "\n[...]\n" + text[-half:]
    return text


def _own_folders() -> tuple[str, ...]:
    engine = getattr(sys.modules.get("verta_store"), "__file__", None)  # not imported: then it has no frames
    return (_OWN_FOLDER, os.path.join(os.path.dirname(os.path.abspath(engine)), "")) if engine else (_OWN_FOLDER,)


def _hide_own_frames(
    shown: traceback.TracebackException | None, own_folders: tuple[str, ...], visited: set[int]
) -> None:
    if shown is None or id(shown) in visited:
        return
    visited.add(id(shown))
    hidden = ("<frozen importlib", *own_folders)
    kept = [each for each in shown.stack if not each.filename.startswith(hidden) and _CLOUDPICKLE not in each.filename]
    shown.stack = traceback.StackSummary.from_list(kept)
    for other in (shown.__cause__, shown.__context__, *(getattr(shown, "exceptions", None) or ())):
        _hide_own_frames(other, own_folders, visited)


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
