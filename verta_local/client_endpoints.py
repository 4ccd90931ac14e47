"""The client's verbs for endpoints. Names and behaviour are Verta's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verta_store import Store

    from .endpoint.entities import Endpoint, Endpoints


class ClientEndpoints:
    """The part of `Client` that is about endpoints; what it needs is imported with the first use."""

    _store: Store

    @property
    def endpoints(self) -> Endpoints:
        """All endpoints of the store, a lazy list."""
        from .endpoint.entities import Endpoints  # noqa: PLC0415 - start-up time

        return Endpoints(self._store)

    def get_or_create_endpoint(
        self,
        path: str | None = None,
        description: str | None = None,
        workspace: str | None = None,
        public_within_org: bool | None = None,
        visibility: Any = None,
        id: str | None = None,
    ) -> Endpoint:
        """Gets or creates an endpoint; nothing is served by this.

        Args:
            path: the last part of its URL; a slash in front may be left out.
            description: of a new endpoint; with an existing one it is passed over with a UserWarning.
            workspace: passed over: a path is used once in a store, because it is the URL.
            id: of an existing endpoint, instead of a path.

        Raises:
            ValueError: neither or both of path and id, an unknown id, or a path that no URL can have.
        """
        from . import creation  # noqa: PLC0415 - start-up time
        from .endpoint.entities import Endpoint, check_path  # noqa: PLC0415

        if id is not None:
            return creation.by_id(self._store, Endpoint, path, id)
        if path is None:
            raise ValueError("give a path or an id of the endpoint")
        given = creation.Given(description, others={"public_within_org": public_within_org})
        return creation.get_or_create(self._store, Endpoint, None, check_path(path), "", given)

    set_endpoint = get_or_create_endpoint

    def create_endpoint(
        self,
        path: str | None = None,
        description: str | None = None,
        workspace: str | None = None,
        public_within_org: bool | None = None,
        visibility: Any = None,
    ) -> Endpoint:
        """A new endpoint. Raises ValueError, with "already exists", for a path in use, and as `set_endpoint`."""
        from . import creation  # noqa: PLC0415 - start-up time
        from .endpoint.entities import Endpoint, check_path  # noqa: PLC0415

        if path is None:
            raise ValueError("give the path of the new endpoint")
        return creation.create_new(self._store, Endpoint, None, check_path(path), "", creation.Given(description))

    def get_endpoint(self, path: str | None = None, workspace: str | None = None, id: str | None = None) -> Endpoint:
        """An endpoint that is there, by path or id. Raises ValueError: neither, both, or it is not there."""
        from . import creation  # noqa: PLC0415 - start-up time
        from .endpoint.entities import Endpoint, check_path  # noqa: PLC0415

        name = None if path is None else check_path(path)
        return creation.get(self._store, Endpoint, None, name, id)
