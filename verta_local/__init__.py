"""A local-first, file-backed experiment store that deploys classes as models.

>>> from verta_local import Client  # doctest: +SKIP
"""

from __future__ import annotations

from ._version import __version__

TYPE_CHECKING = False  # as type checkers read it; importing `typing` would double what `import verta_local` costs
if TYPE_CHECKING:
    from .client import Client

__all__ = ["Client", "__version__"]

# Verta's modules: `verta.environment.Python` works after `import verta` alone.
_MODULES = frozenset(
    [
        "client",
        "code",
        "configuration",
        "credentials",
        "data_types",
        "dataset",
        "deployment",
        "endpoint",
        "environment",
        "integrations",
        "registry",
        "runtime",
        "tracking",
        "utils",
        "visibility",
    ]
)


def __getattr__(name: str) -> object:
    # Importing the package alone costs nothing: the client and all below it come with the first use of a name.
    if name == "Client":
        from .client import Client  # noqa: PLC0415

        return Client
    if name in _MODULES:
        from importlib import import_module  # noqa: PLC0415 - start-up time

        try:
            return import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module 'verta_local' has no attribute {name!r}")
