"""An entity with an environment: what its model needs around it, as requirements or as a whole environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from verta_store.records import ARTIFACTS

from .artifacts import Artifact
from .entity_artifacts import EntityWithArtifacts

if TYPE_CHECKING:
    from .environment import Docker, Python

REQUIREMENTS_KEY = "requirements.txt"
# A section of its own, with one key.
ENVIRONMENT_SECTION = "environment"
_ENVIRONMENT_KEY = "environment"


class EntityWithEnvironment(EntityWithArtifacts):
    """A run or a registered model version."""

    def log_environment(self, env: Python | Docker, overwrite: bool = False) -> None:
        """Logs a `verta_local.environment.Python` (or `Docker`). Durable when this returns.

        A model needs either this or `log_requirements` to be deployed; where both were logged, it is deployed with
        the list of `log_requirements`. Environment variables are set before the model is loaded.

        Raises:
            TypeError: another type. ValueError: an environment is logged already ("consider setting overwrite=True").
        """
        from .environment import check_environment  # noqa: PLC0415 - start-up time
        from .errors import KeyExists  # noqa: PLC0415

        record = check_environment(env).to_record()
        if not overwrite and self.has_environment:
            owner = f"{self._noun} {self._name!r}"
            raise KeyExists(f"environment already exists in {owner}; consider setting overwrite=True")
        self._store.put(self._id, ENVIRONMENT_SECTION, {_ENVIRONMENT_KEY: record}, overwrite=overwrite)
        self._store.flush()

    @property
    def has_environment(self) -> bool:
        """Whether `log_environment` was called."""
        return bool(self._store.values(self._id, ENVIRONMENT_SECTION))

    def get_environment(self) -> Python | Docker:
        """The logged environment; equal to the one that was logged.

        Raises:
            RuntimeError: none was logged.
        """
        from .environment import from_record  # noqa: PLC0415 - start-up time
        from .errors import EnvironmentMissing  # noqa: PLC0415

        found = self._store.values(self._id, ENVIRONMENT_SECTION)
        if _ENVIRONMENT_KEY not in found:
            raise EnvironmentMissing(
                f"environment was not previously set in {self._noun} {self._name!r}; log one with "
                "log_environment(Python([...]))"
            )
        return from_record(found[_ENVIRONMENT_KEY])

    def log_requirements(self, requirements: list[str] | str | os.PathLike[str], overwrite: bool = False) -> None:
        """Logs the distributions that the model needs, each pinned to the version installed here.

        Args:
            requirements: distribution or import names, with or without `==version`; or the path of a pip file.

        Raises:
            ValueError: a bad name, one that is not installed, or requirements that are logged already.
            TypeError: neither a list of str nor a path. FileNotFoundError: no such file.
        """
        from .requirements import pin_requirements  # noqa: PLC0415 - start-up time

        if not overwrite:
            self._store.require_absent(self._id, ARTIFACTS, [REQUIREMENTS_KEY])
        text = "\n".join(pin_requirements(requirements)) + "\n"
        ref = self._store.put_bytes(text.encode("utf-8"))
        artifact = Artifact("blob", REQUIREMENTS_KEY, ref.digest, ref.size_bytes, extension="txt")
        self._store.put(self._id, ARTIFACTS, {REQUIREMENTS_KEY: artifact.to_record()}, overwrite=overwrite)
        self._store.flush()

    def get_requirements(self) -> list[str]:
        """The pinned requirements of `log_requirements`, else of the environment; [] without any."""
        found = self._artifacts().get(REQUIREMENTS_KEY)
        if found is not None:
            return self._store.read_verified(found.digest).decode("utf-8").split("\n")[:-1]
        return list(getattr(self.get_environment(), "pins", ())) if self.has_environment else []

    def _environment_code(self) -> dict[str, str | None] | None:
        """Digest and author of the logged environment, as of an artifact that is run; None without any."""
        import json  # noqa: PLC0415 - start-up time

        from verta_store.digest import digest_of_bytes  # noqa: PLC0415

        from .trust import author_of_value  # noqa: PLC0415

        record = self._store.values(self._id, ENVIRONMENT_SECTION).get(_ENVIRONMENT_KEY)
        if record is None:
            return None
        author = author_of_value(self._store, self._id, ENVIRONMENT_SECTION, _ENVIRONMENT_KEY)
        return {"digest": digest_of_bytes(json.dumps(record, sort_keys=True).encode()), "author": author}

    def _environment_spec(self) -> dict[str, Any]:
        """What a serving process needs to know of the environment, besides the pins."""
        record: dict[str, Any] = self._store.values(self._id, ENVIRONMENT_SECTION).get(_ENVIRONMENT_KEY, {})
        found = {"env_vars": dict(record.get("env_vars", {})), "constraints": list(record.get("constraints", ()))}
        pins = set(getattr(self.get_environment(), "pins", ())) if record else set()
        return {**found, "install_lines": [line for line in record.get("requirements", ()) if line not in pins]}
