"""The code that a run comes from: the state of a git repository, or the calling script or notebook itself.

git is asked through its command, in a way that runs nothing of the repository's own (no hooks, no external diffs).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

# Of `git` itself; a diff is read as it comes.
_GIT_TIMEOUT_S = 60

_SAFE_GIT = ("git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false")
_DIFF = ("diff", "HEAD", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--ignore-submodules=dirty")

# `https://user:password@host/...`, `https://token@host/...`; the `git` of `ssh://git@host` names no person.
_CREDENTIALS = re.compile(r"(?i)^(https?://)[^/@]*(?:@[^/@]*)*@|^([a-z+]+://)[^/:@]+:[^/@]*@")

CELLS_NAME = "notebook_cells.py"


class Source(NamedTuple):
    """The code that called: a file's path, or, where there is only a notebook in memory, its cells as a script."""

    path: str | None
    cells: bytes | None = None

    @property
    def name(self) -> str:
        """The base name that it is stored under."""
        return os.path.basename(self.path) if self.path else CELLS_NAME

    def read(self) -> bytes:
        """The code's bytes."""
        if self.path is None:
            return self.cells or b""
        with open(self.path, "rb") as file:
            return file.read()


class Repository:
    """A git repository, as of now."""

    def __init__(self, root: str) -> None:
        self.root = root

    @staticmethod
    def around(folder: str) -> Repository | None:
        """The repository that a folder lies in; None outside of one, or without git."""
        root = _git(folder, "rev-parse", "--show-toplevel")
        return Repository(os.path.realpath(root)) if root else None

    def url(self) -> str | None:
        """The address of the present branch's remote, else of `origin` or the only remote, without credentials."""
        remotes = (_git(self.root, "remote") or "").split("\n")
        branch = self.branch()
        wanted = _git(self.root, "config", "--get", f"branch.{branch}.remote") if branch else None
        remote = next((name for name in (wanted, "origin", remotes[0]) if name and name in remotes), None)
        found = _git(self.root, "remote", "get-url", remote) if remote else None
        return without_credentials(found) if found else None

    def branch(self) -> str | None:
        """The present branch, or None where a commit itself is checked out."""
        return _git(self.root, "symbolic-ref", "--quiet", "--short", "HEAD")

    def tag(self) -> str | None:
        """A tag of the present commit, or None."""
        return _git(self.root, "describe", "--exact-match", "--tags", "HEAD")

    def commit(self, name: str = "HEAD") -> str | None:
        """The hash of a commit (by branch, tag or `HEAD`), or None where there is none."""
        return _git(self.root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")

    def is_dirty(self) -> bool:
        """Whether files that git follows differ from the present commit."""
        return bool(_git(self.root, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty"))

    def path_of(self, path: str) -> str:
        """A path below the repository's root, with `/`; one outside of it stays as it is."""
        real = os.path.realpath(path)
        if not real.startswith(self.root.rstrip(os.sep) + os.sep):
            return path
        return os.path.relpath(real, self.root).replace(os.sep, "/")

    def with_patch(self, use: Callable[[Callable[[int], bytes]], Any]) -> Any:
        """Calls `use(read)`, where `read(size in bytes)` gives the patch from the commit to the present files."""
        import subprocess  # noqa: PLC0415 - start-up time

        command = [*_SAFE_GIT, *_DIFF]
        with subprocess.Popen(command, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None, "it is a pipe"
            try:
                return use(process.stdout.read)
            finally:
                process.stdout.close()


def _git(folder: str, *arguments: str) -> str | None:
    """What git prints, without the last line end; None where it fails or is not installed."""
    import subprocess  # noqa: PLC0415 - start-up time

    # Without the lock a look at the state would write the user's index.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            [*_SAFE_GIT, *arguments], cwd=folder, capture_output=True, env=environment, timeout=_GIT_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return os.fsdecode(done.stdout).rstrip("\n") or None if done.returncode == 0 else None


def without_credentials(url: str) -> str:
    """An address without the user name and password, or the token, in it.

    >>> without_credentials("https://me:secret@example.org/a.git")
    'https://example.org/a.git'
    """
    return _CREDENTIALS.sub(lambda found: found.group(1) or found.group(2), url)


def calling_source() -> Source | None:
    """The script or notebook that called into this package: the first code on the stack outside of it.

    None where it is neither, as in an interactive interpreter.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "verta_local":
        frame = frame.f_back
    if frame is None:
        return None
    if "get_ipython" in frame.f_globals and "In" in frame.f_globals:
        return _notebook(frame.f_globals)
    path = frame.f_code.co_filename
    return Source(os.path.abspath(path)) if os.path.isfile(path) else None


def notebook_path(namespace: dict[str, Any] | None = None) -> str | None:
    """The file of the notebook that this process runs, as its front end tells; None where it does not."""
    # VS Code says it in the notebook's own globals, Jupyter Server 2 and later in the kernel's environment.
    told = ((namespace or {}).get("__vsc_ipynb_file__"), os.environ.get("JPY_SESSION_NAME"))
    for path in told:
        if isinstance(path, str) and path.endswith(".ipynb") and os.path.isfile(path):
            return os.path.abspath(path)
    return None


def main_module() -> object:
    """The script, or the notebook's name space, that this process runs."""
    return sys.modules.get("__main__")


def _notebook(namespace: dict[str, Any]) -> Source:
    path = notebook_path(namespace)
    if path is not None:
        return Source(path)
    # The cells that ran, in their order: more exact than the file, which may not be saved.
    cells = [str(cell) for cell in namespace["In"] if cell]
    return Source(None, "".join(f"# %%\n{cell.rstrip()}\n\n" for cell in cells).encode("utf-8", "backslashreplace"))
