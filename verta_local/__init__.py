"""A local-first, file-backed experiment store that deploys classes as models.

>>> from verta_local import Client  # doctest: +SKIP
"""

from __future__ import annotations

from ._version import __version__

TYPE_CHECKING = False  # as type checkers read it; importing `typing` would double what `import verta_local` costs
if TYPE_CHECKING:
    from .client import Client

__all__ = ["Client", "__version__"]


def __getattr__(name: str) -> object:
    # Importing the package alone costs nothing: the client and all below it come with the first use of a name.
    if name == "Client":
        from .client import Client  # noqa: PLC0415

        return Client
    raise AttributeError(f"module 'verta_local' has no attribute {name!r}")
