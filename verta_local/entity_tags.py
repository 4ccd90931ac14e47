"""An entity whose tags, or labels, are put on and taken off one by one."""

from __future__ import annotations

from .entity import check_tags
from .entity_attributes import EntityWithAttributes


class EntityWithTags(EntityWithAttributes):
    """A dataset or a dataset version."""

    add_tag = EntityWithAttributes.log_tag
    add_tags = EntityWithAttributes.log_tags


class EntityWithLabels(EntityWithAttributes):
    """A registered model or a version of one: its tags are called labels."""

    def add_label(self, label: str) -> None:
        """Puts a label on; one that is there already is no error. Raises ValueError for None, TypeError for no text."""
        self._store.add_tags(self._id, [_checked(label)])

    def add_labels(self, labels: list[str]) -> None:
        """Puts labels on. Raises ValueError for None, TypeError for something else than a list of str."""
        if labels is None:
            raise ValueError("no labels are given; give a list of str")
        self._store.add_tags(self._id, check_tags(labels))

    def del_label(self, label: str) -> None:
        """Takes a label off; one that is not there is no error. Raises ValueError for None, TypeError for no text."""
        self._store.remove_tags(self._id, [_checked(label)])

    def get_labels(self) -> list[str]:
        """The labels, in the order of adding."""
        return self._store.tags(self._id)


def _checked(label: object) -> str:
    if label is None:
        raise ValueError("no label is given; give a str")
    if not isinstance(label, str):
        raise TypeError(f"a label must be a str, not {type(label).__name__}")
    return label
