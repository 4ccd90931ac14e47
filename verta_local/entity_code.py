"""An entity with a code version: the commit, or the script or notebook, that it comes from."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

from .entity_attributes import EntityWithAttributes
from .errors import CodeMissing, KeyExists

if TYPE_CHECKING:
    import zipfile

    from .code_capture import Repository, Source

# A section of its own, with one key.
CODE_SECTION = "code"
_KEY = "code"


class EntityWithCode(EntityWithAttributes):
    """A project, experiment or run."""

    # As in Verta: what many runs lie below keeps the code that it was given.
    _may_overwrite_code = False

    def log_code(
        self,
        exec_path: str | None = None,
        repo_url: str | None = None,
        commit_hash: str | None = None,
        overwrite: bool = False,
        is_dirty: bool | None = None,
        autocapture: bool = True,
    ) -> None:
        """Logs the code version: the state of a git repository, or a script or notebook itself.

        With `Client(use_git=True)` it is that of the repository of the current folder, else the calling script or
        notebook.

        Args:
            exec_path: the script or notebook; by default the one that calls.
            repo_url: the repository's address; by default that of its remote. Credentials in it are left out.
            commit_hash: by default the present commit.
            overwrite: replaces what was logged; on runs only.
            is_dirty: whether files differ from the commit; found out by default.
            autocapture: whether what is not given is found out.

        Outside of a repository nothing is logged, and that is said. Of a dirty repository the difference to the commit
        is kept too (`get_code_patch`). Durable when this returns.

        Raises:
            ValueError: a code version is logged already; `overwrite` on a project or experiment; no such `exec_path`;
                a repository's details, or `autocapture=False`, with `use_git=False`.
            TypeError: an argument of another type.

        Differs from Verta: in a notebook whose file is not known, the cells that ran are stored as a script.
        """
        _check_texts(exec_path=exec_path, repo_url=repo_url, commit_hash=commit_hash)
        if overwrite and not self._may_overwrite_code:
            raise ValueError(
                f"the code version of {self._noun} {self._name!r} cannot be overwritten; log it to the runs"
            )
        if not self._use_git and (repo_url or commit_hash or is_dirty is not None or not autocapture):
            raise ValueError(
                "`repo_url`, `commit_hash`, `is_dirty` and `autocapture=False` describe a git repository; make the "
                "client with use_git=True for them"
            )
        if exec_path is not None and not os.path.isfile(os.path.expanduser(exec_path)):
            raise ValueError(f"`exec_path` must be the path of a script or notebook; there is no file {exec_path!r}")
        if not overwrite and self._store.values(self._id, CODE_SECTION):
            raise KeyExists(
                f"a code version was logged already to {self._noun} {self._name!r}"
                + ("; consider setting overwrite=True" if self._may_overwrite_code else "")
            )
        from . import code_capture  # noqa: PLC0415 - start-up time

        given = code_capture.Source(os.path.abspath(os.path.expanduser(exec_path))) if exec_path else None
        if self._use_git:
            record = self._git_record(given, repo_url, commit_hash, is_dirty, autocapture)
        else:
            record = self._archive_record(given or code_capture.calling_source())
        if record is not None:
            self._store.put(self._id, CODE_SECTION, {_KEY: record}, overwrite=overwrite)
            self._store.flush()

    def _git_record(
        self,
        source: Source | None,
        repo_url: str | None,
        commit_hash: str | None,
        is_dirty: bool | None,
        autocapture: bool,
    ) -> dict[str, Any] | None:
        from . import code_capture  # noqa: PLC0415 - start-up time

        repository: Repository | None = None
        patch: dict[str, Any] | None = None
        if autocapture:
            try:
                repository = code_capture.Repository.around(os.getcwd())
            except FileNotFoundError:
                pass  # the current folder was deleted
            source = source or code_capture.calling_source()
            if repository is None and not (repo_url or commit_hash):
                print(
                    "no code version is logged: the current folder is not in a git repository; go to one, or make the "
                    "client with use_git=False to log the script itself"
                )
                return None
        if repository is not None:
            present = repository.commit()
            is_present = commit_hash is None or repository.commit(commit_hash) == present
            repo_url = repo_url or repository.url()
            commit_hash = commit_hash or present
            if is_dirty is None:
                is_dirty = repository.is_dirty()
            if is_dirty and is_present and present:
                ref = repository.with_patch(self._store.put_stream)
                patch = {"kind": "blob", "digest": ref.digest, "size_bytes": ref.size_bytes}
        path = source.path if source is not None else None
        record: dict[str, Any] = {
            "type": "git",
            "filepaths": [repository.path_of(path) if repository else os.path.basename(path)] if path else [],
            "repo_url": code_capture.without_credentials(repo_url) if repo_url else None,
            "commit_hash": commit_hash,
            "is_dirty": is_dirty,
        }
        if repository is not None:
            record["branch"] = repository.branch()
        if patch is not None:
            record["patch"] = patch
        return record

    def _archive_record(self, source: Source | None) -> dict[str, Any]:
        if source is None:
            raise ValueError("the calling script or notebook cannot be found here; give its path as `exec_path`")
        import zipfile  # noqa: PLC0415 - start-up time

        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(source.name, source.read())
        ref = self._store.put_bytes(stream.getvalue())
        return {"type": "archive", "kind": "blob", "digest": ref.digest, "size_bytes": ref.size_bytes}

    def get_code(self) -> dict[str, Any] | zipfile.ZipFile:
        """The code version that was logged.

        Returns:
            A dict with `filepaths` (list of str), `repo_url`, `commit_hash`, `is_dirty`; of one that was logged without
            git a `zipfile.ZipFile` with the script or notebook.

        Raises:
            RuntimeError: none was logged.
        """
        record = self._code_record()
        if record["type"] == "archive":
            import zipfile  # noqa: PLC0415 - start-up time

            return zipfile.ZipFile(io.BytesIO(self._store.read_verified(record["digest"])))
        return {name: record[name] for name in ("filepaths", "repo_url", "commit_hash", "is_dirty")}

    def get_code_patch(self) -> bytes | None:
        """What `git apply` makes the logged files of the logged commit with; None where they did not differ.

        Not in Verta. Files that git does not follow are not in it. Raises RuntimeError: no code version was logged.
        """
        patch = self._code_record().get("patch")
        return self._store.read_verified(patch["digest"]) if patch else None

    def _code_record(self) -> dict[str, Any]:
        found = self._values(CODE_SECTION)
        if _KEY not in found:
            raise CodeMissing(f"no code version was logged to {self._noun} {self._name!r}; log one with log_code()")
        record: dict[str, Any] = found[_KEY]
        return record


def _check_texts(**arguments: object) -> None:
    for name, value in arguments.items():
        if value is not None and not isinstance(value, (str, os.PathLike)):
            raise TypeError(f"`{name}` must be a str, not {type(value).__name__}")
