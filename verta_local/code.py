"""Descriptions of where code comes from: `Git` and `Notebook`. As `verta.code`.

`log_code` on a run finds these things out by itself; the classes are for code that wants to hold them.
"""

from __future__ import annotations

import os

from . import code_capture
from .errors import CodeNotFound


class Git:
    """A commit of a git repository.

    Args:
        repo_url: its address, which loses credentials; by default that of the current folder's remote.
        branch, tag, commit_hash: one of them at most; by default the present commit.
        is_dirty: whether files differ from the commit; by default as it is, False for another commit.
        autocapture: whether what is not given is found out from the current folder.

    Raises:
        ValueError: more than one of branch, tag and commit_hash; or there is no such branch or tag.
        OSError: the current folder is not in a git repository, or git is not installed.
    """

    def __init__(
        self,
        repo_url: str | None = None,
        branch: str | None = None,
        tag: str | None = None,
        commit_hash: str | None = None,
        is_dirty: bool | None = None,
        autocapture: bool = True,
    ) -> None:
        given = {"branch": branch, "tag": tag, "commit_hash": commit_hash}
        named = [name for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise ValueError(f"give one of branch, tag and commit_hash, not {' and '.join(named)}")
        self.branch, self.tag, self.commit_hash = branch, tag, commit_hash
        self.repo_url = code_capture.without_credentials(repo_url) if repo_url else None
        self.is_dirty = is_dirty
        if autocapture:
            self._capture(branch or tag)

    def _capture(self, name: str | None) -> None:
        repository = code_capture.Repository.around(os.getcwd())
        if repository is None:
            raise CodeNotFound(
                f"{os.getcwd()} is not in a git repository, or git is not installed; go to one, or say all of it with "
                "autocapture=False"
            )
        present = repository.commit()
        if self.commit_hash is None:
            self.commit_hash = repository.commit(name) if name else present
            if name and self.commit_hash is None:
                raise ValueError(f"the repository {repository.root} has no branch or tag {name!r}")
        if self.commit_hash == present and name is None:
            self.branch, self.tag = repository.branch(), repository.tag()
        self.repo_url = self.repo_url or repository.url()
        if self.is_dirty is None:
            self.is_dirty = self.commit_hash == present and repository.is_dirty()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Git) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # its attributes can be set

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if value is not None)
        return f"Git({shown})"


class Notebook:
    """A Jupyter notebook's file.

    Args:
        notebook_path: by default that of the notebook that runs, as its front end tells it.

    Raises:
        OSError: there is no such file; or none is given, and none can be found out.
    """

    def __init__(self, notebook_path: str | None = None) -> None:
        found = notebook_path or code_capture.notebook_path(getattr(code_capture.main_module(), "__dict__", {}))
        if found is None:
            raise CodeNotFound("the file of the notebook that runs is not known here; give it as `notebook_path`")
        if not os.path.isfile(os.path.expanduser(found)):
            raise CodeNotFound(f"there is no file {found!r}; give the path of a notebook")
        self.path = os.path.abspath(os.path.expanduser(found))

    def __repr__(self) -> str:
        return f"Notebook({self.path!r})"
