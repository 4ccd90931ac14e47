"""`ls` and `show` for what is not a run: datasets, registered models, endpoints and their versions."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from verta_store.query import Query
from verta_store.records import ARTIFACTS, ATTRIBUTES, FIELDS

from ..plain_text import plain
from .terminal import print_json, print_table, short, show_size, show_time, show_value

if TYPE_CHECKING:
    from verta_store import Store
    from verta_store.query import EntityRow

# The word on the command line -> (kind, kind of its versions or None).
KINDS: dict[str, tuple[str, str | None]] = {
    "datasets": ("dataset", "dataset_version"),
    "models": ("registered_model", "registered_model_version"),
    "endpoints": ("endpoint", None),
}
# Of these kinds `show` finds one by its name; versions have the same names below every model.
_NAMED = ("dataset", "registered_model", "registered_model_version", "endpoint")
# What an entity keeps for itself, and for the eye is said otherwise.
_HIDDEN_FIELDS = ("name", "description", "previous")


def list_kind(store: Store, options: argparse.Namespace) -> int:
    """`verta-local ls datasets`, `ls models`, `ls endpoints`"""
    kind, version_kind = KINDS[options.what]
    query = Query(kind)
    query = query.where(*options.where)
    if options.sort:
        query = query._replace(sort=query.sort_key(options.sort, is_descending=True))
    found = []
    for row in store.find(query, options.n or None):
        versions = [] if version_kind is None else [each.name for each in store.find(Query(version_kind, row.id))]
        found.append((row, versions))
    if options.json:
        print_json([_head(store, row, versions) for row, versions in found])
        return 0
    if not found:
        print(f"no {options.what} in {store.root}")
        return 0
    table = []
    for row, versions in found:
        tags = ", ".join(map(plain, store.tags(row.id)))
        latest = short(plain(versions[0])) if versions else ""
        cells = (row.id[:8], short(plain(row.name)), show_time(row.updated_ms))
        table.append((*cells, *((str(len(versions)), latest) if version_kind else ()), tags))
    header = ("ID", "NAME", "CHANGED", *(("VERSIONS", "LAST CHANGED") if version_kind else ()), "TAGS")
    print_table(header, table)
    return 0


def find_any(store: Store, word: str) -> EntityRow | None:
    """The dataset, model, version or endpoint that a user means: its id, the beginning of one, or its name.

    Raises:
        ValueError: more than one.
    """
    kinds = [kind for pair in KINDS.values() for kind in pair if kind]
    places = ", ".join("?" * len(kinds))
    named = ", ".join("?" * len(_NAMED))
    pattern = word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    rows = store.select(
        f"SELECT id, name FROM entities WHERE kind IN ({places}) AND deleted IS NULL AND is_known = 1"
        f" AND ((name IN (?, ?) AND kind IN ({named})) OR id LIKE ? ESCAPE '\\') ORDER BY updated DESC LIMIT 6",
        (*kinds, word, f"/{word}", *_NAMED, pattern),
    )
    exact = [row for row in rows if row[0] == word] or rows
    if len(exact) > 1:
        some = ", ".join(f"{row[1]!r} ({row[0][:8]})" for row in exact[:5])
        raise ValueError(f"{word!r} means more than one thing: {some}; give more of the id")
    return store.entity(exact[0][0]) if exact else None


def show_any(store: Store, row: EntityRow, *, as_json: bool) -> int:
    """`verta-local show NAME` of what is not a run."""
    version_kind = dict(KINDS.values()).get(row.kind)
    versions = store.find(Query(version_kind, row.id)) if version_kind else []
    head = _head(store, row, [each.name for each in versions])
    components = _components(store, row)
    if as_json:
        print_json({**head, **({"components": components} if components is not None else {})})
        return 0
    noun = row.kind.replace("_", " ")
    print(f"{noun}\n  name         {plain(row.name)}\n  id           {row.id}")
    if row.parent:
        print(f"  in           {plain(store.entity(row.parent).name)}")
    print(f"  created      {show_time(row.created_ms)} by {plain(str(store.author_of(row.id)))}")
    for label, value in (("tags", ", ".join(head["tags"])), ("description", head["description"])):
        if value:
            print(f"  {label.ljust(12)} {plain(value)}")
    for key, value in head["fields"].items():
        print(f"  {plain(key).ljust(12)} {show_value(value)}")
    for title, values in ((ATTRIBUTES, head["attributes"]), ("artifacts", head["artifacts"])):
        if values:
            print(f"\n{title}")
            for key, value in values.items():
                print(f"  {plain(key)}  {show_value(value)}")
    if versions:
        print("\nversions")
        for each in versions:
            print(f"  {each.id[:8]}  {plain(each.name)}  {show_time(each.updated_ms)}")
    if components:
        print("\ncomponents")
        for component in components:
            print(f"  {plain(component['path'])}  {show_size(component.get('size') or 0)}  {component.get('md5', '')}")
    return 0


def _head(store: Store, row: EntityRow, versions: list[str]) -> dict[str, Any]:
    fields = store.values(row.id, FIELDS)
    artifacts = store.values(row.id, ARTIFACTS)
    return {
        "kind": row.kind,
        "id": row.id,
        "name": row.name,
        "tags": store.tags(row.id),
        "description": fields.get("description", ""),
        "fields": {key: value for key, value in fields.items() if key not in _HIDDEN_FIELDS and value is not None},
        "attributes": store.values(row.id, ATTRIBUTES),
        "artifacts": {key: show_size(value.get("size_bytes") or 0) for key, value in artifacts.items()},
        "versions": versions,
        "created_ms": row.created_ms,
        "updated_ms": row.updated_ms,
    }


def _components(store: Store, row: EntityRow) -> list[dict[str, Any]] | None:
    """The files of a dataset version; None of anything else."""
    if row.kind != "dataset_version":
        return None
    from ..dataset.entities import DatasetVersion  # noqa: PLC0415 - start-up time

    return [component.to_record() for component in DatasetVersion(store, row).list_components()]
