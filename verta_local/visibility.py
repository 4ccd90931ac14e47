"""Who in an organization sees what: accepted and passed over, a folder's modes decide it. As `verta.visibility`."""

from __future__ import annotations


class Visibility:
    """What the kinds have in common."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


class Private(Visibility):
    """Only for oneself."""


class OrgDefault(Visibility):
    """As the organization has it."""


class OrgCustom(Visibility):
    """For the organization.

    Args:
        write: others may change it. deploy: others may deploy it.
    """

    def __init__(self, write: bool = False, deploy: bool = False) -> None:
        self.write = write
        self.deploy = deploy
