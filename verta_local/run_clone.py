"""Copies of runs: what was logged to one, under another name or in another experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from verta_store import ids
from verta_store.errors import NameTaken
from verta_store.records import ARTIFACTS, ATTRIBUTES, DEPLOYMENTS, FIELDS

from .entity_code import CODE_SECTION
from .entity_datasets import DATASETS_SECTION
from .entity_model import ARTIFACTS_ATTRIBUTE, MODEL_SECTION

if TYPE_CHECKING:
    from verta_store import Store
    from verta_store.query import EntityRow

    from .entity import Entity

Run = TypeVar("Run", bound="Entity")

# Of the run's own fields those that are about what it is, not about when and how it ran.
_COPIED_FIELDS = ("description",)


def clone_run(
    run: Run, row: EntityRow, parent: str, *, copy_artifacts: bool, copy_code_version: bool, copy_datasets: bool
) -> Run:
    """A new run below the experiment `parent` with what was logged to `run`, whose row is given.

    Values, tags and histories come with their own times. The bytes of artifacts are not copied: both name the same.
    """
    store = run._store
    left_out = {DEPLOYMENTS}
    if not copy_artifacts:
        left_out |= {ARTIFACTS, MODEL_SECTION}
    if not copy_code_version:
        left_out.add(CODE_SECTION)
    if not copy_datasets:
        left_out.add(DATASETS_SECTION)
    sections: dict[str, dict[str, Any]] = {}
    for _, section, key, value in store.values_of_many([row.id]):
        is_copied = section not in left_out and (section != FIELDS or key in _COPIED_FIELDS)
        if is_copied and not (section == ATTRIBUTES and key == ARTIFACTS_ATTRIBUTE and not copy_artifacts):
            sections.setdefault(section, {})[key] = value
    from .trust import ORIGINS_SECTION, origins_of  # noqa: PLC0415 - start-up time

    # Whose code it is does not change by a copy.
    sections[ORIGINS_SECTION] = origins_of(store, row.id, sections.get(ARTIFACTS, {}))
    made = _new_row(store, parent, row.name, is_moved=parent != row.parent)
    sections = {section: entries for section, entries in sections.items() if entries}
    if sections:
        store.put_all(made.id, sections)
    store.add_tags(made.id, store.tags(row.id))
    for key in store.point_keys(row.id):
        columns = store.point_columns(row.id, key)
        store.add_points(made.id, key, list(zip(columns.values, columns.timestamps_ms, columns.epochs, strict=True)))
    store.flush()
    copy = type(run)(store, made)
    copy._use_git = run._use_git
    return copy


def _new_row(store: Store, parent: str, name: str, *, is_moved: bool) -> EntityRow:
    """A run under the same name where it moves to another experiment and the name is free there, else under another."""
    if is_moved:
        try:
            return store.create_new("run", parent, name)
        except NameTaken:
            pass
    return store.create("run", parent, f"{name} copy {ids.random_hex(8)}", is_fresh_name=True)
