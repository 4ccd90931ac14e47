"""A container that serves a model, as a registered model version may name one. As in Verta; never run by us."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..environment import Docker


class DockerImage:
    """A container image and how its model is asked.

    Args:
        port: that the container listens on.
        request_path: of predictions.
        health_path: that answers when it is ready.
        repository, tag, sha, env_vars: as of `verta_local.environment.Docker`.

    Raises:
        TypeError, ValueError: a part of another form.
    """

    def __init__(
        self,
        port: int,
        request_path: str,
        health_path: str,
        repository: str,
        tag: str | None = None,
        sha: str | None = None,
        env_vars: list[str] | dict[str, str] | None = None,
    ) -> None:
        if isinstance(port, bool) or not isinstance(port, int):
            raise TypeError(f"port must be a whole number, not {type(port).__name__}")
        if not 0 < port < 65536:
            raise ValueError(f"port must be from 1 to 65535, not {port}")
        self.port = port
        self.request_path = _checked_path("request_path", request_path)
        self.health_path = _checked_path("health_path", health_path)
        self.environment = Docker(repository, tag, sha, env_vars)

    @property
    def repository(self) -> str:
        """The image's repository."""
        return self.environment.repository

    @property
    def tag(self) -> str | None:
        """The image's tag, or None."""
        return self.environment.tag

    @property
    def sha(self) -> str | None:
        """The image's digest, or None."""
        return self.environment.sha

    @property
    def env_vars(self) -> dict[str, str] | None:
        """Name -> value of the container's environment variables; None where none were given."""
        return self.environment.env_vars

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DockerImage) and self.to_record() == other.to_record()

    __hash__ = None  # type: ignore[assignment]  # equal by content

    def __repr__(self) -> str:
        return f"DockerImage({', '.join(f'{name}={value!r}' for name, value in self.to_record().items())})"

    def to_record(self) -> dict[str, Any]:
        """What was said, as JSON values."""
        image = {name: getattr(self, name) for name in ("repository", "tag", "sha", "env_vars")}
        said = {name: value for name, value in image.items() if value is not None}
        return {"port": self.port, "request_path": self.request_path, "health_path": self.health_path, **said}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> DockerImage:
        """The image of a record."""
        return cls(**record)


def _checked_path(name: str, path: object) -> str:
    if not isinstance(path, str):
        raise TypeError(f"{name} must be a str, not {type(path).__name__}")
    return path if path.startswith("/") else f"/{path}"
