"""The code versions of a registered model version: commits and notebooks under keys. As in Verta."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import values
from ..entity_attributes import EntityWithAttributes

if TYPE_CHECKING:
    from ..code import Git, Notebook

# key -> {"kind": "git", "repo_url", "branch", "tag", "commit_hash", "is_dirty"}, or {"kind": "notebook", "name",
# "digest"}: a notebook's bytes are kept.
CODE_VERSIONS_SECTION = "code_versions"
_GIT_FIELDS = ("repo_url", "branch", "tag", "commit_hash", "is_dirty")


class EntityWithCodeVersions(EntityWithAttributes):
    """A registered model version."""

    def log_code_version(self, key: str, code_version: Git | Notebook, overwrite: bool = False) -> None:
        """Logs where code comes from: a `verta_local.code.Git` or `Notebook`. Durable when this returns.

        Raises:
            TypeError: another type. ValueError: a key that exists ("consider setting overwrite=True").
        """
        self.log_code_versions({key: code_version}, overwrite)

    def log_code_versions(self, code_versions: Mapping[str, Git | Notebook], overwrite: bool = False) -> None:
        """Logs several code versions: all of them or, with one that cannot be, none. Raises as `log_code_version`."""
        if not isinstance(code_versions, Mapping):
            raise TypeError(f"code_versions must be a dict, not {type(code_versions).__name__}")
        for key, code_version in code_versions.items():
            values.check_key(key)
            _check(code_version)
        if not overwrite:
            self._store.require_absent(self._id, CODE_VERSIONS_SECTION, code_versions)
        records = {key: self._record_of(code_version) for key, code_version in code_versions.items()}
        self._put(CODE_VERSIONS_SECTION, records, overwrite)
        self._store.flush()

    def get_code_version(self, key: str) -> Git | Notebook:
        """The code version of a key. Raises KeyError for an absent key."""
        return self._made_of(self._get(CODE_VERSIONS_SECTION, key))

    def get_code_versions(self) -> dict[str, Git | Notebook]:
        """Key -> code version of all that were logged."""
        return {key: self._made_of(record) for key, record in self._values(CODE_VERSIONS_SECTION).items()}

    def del_code_version(self, key: str) -> None:
        """Takes a code version out. Raises KeyError for an absent key."""
        self._drop(CODE_VERSIONS_SECTION, key)

    def _record_of(self, code_version: Git | Notebook) -> dict[str, Any]:
        from ..code import Git  # noqa: PLC0415 - start-up time

        if isinstance(code_version, Git):
            return {"kind": "git", **{name: getattr(code_version, name) for name in _GIT_FIELDS}}
        digest = self._store.put_file(code_version.path).digest
        return {"kind": "notebook", "name": os.path.basename(code_version.path), "digest": digest}

    def _made_of(self, record: Mapping[str, Any]) -> Git | Notebook:
        from ..code import Git, Notebook  # noqa: PLC0415 - start-up time

        if record["kind"] == "git":
            return Git(**{name: record.get(name) for name in _GIT_FIELDS}, autocapture=False)
        return Notebook(self._store.path_of("blob", record["digest"], record["name"]))


def _check(code_version: object) -> None:
    from ..code import Git, Notebook  # noqa: PLC0415 - start-up time

    if not isinstance(code_version, (Git, Notebook)):
        raise TypeError(f"code_version must be a verta_local.code.Git or Notebook, not {type(code_version).__name__}")
