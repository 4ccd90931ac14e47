"""One function a command: call one method, print what it returned."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from verta_store import open_store
from verta_store.query import Query, SortKey, parse_sort_key
from verta_store.records import ARTIFACTS, ATTRIBUTES, HYPERPARAMETERS, METRICS

from .. import config
from ..plain_text import plain
from .terminal import print_json, print_table, short, show_size, show_time, show_value

if TYPE_CHECKING:
    from verta_store import Store
    from verta_store.query import EntityRow

    from ..run import ExperimentRun


def open_chosen_store(options: argparse.Namespace) -> Store:
    """The store that the options choose, with what is to be told of it said on standard error."""
    path, _ = config.choose_store(options.store)
    store = open_store(path, config.cache_dir(), durability=config.choose_durability())
    for note in store.notes:
        print(f"note: {note}", file=sys.stderr)
    store.notes.clear()  # a command may ask for its store twice
    return store


def row_of(store: Store, word: str) -> EntityRow:
    """The run that a user means: its id, the beginning of one, or a name that only one run has.

    Raises:
        ValueError: none, or more than one.
    """
    from verta_store.query import EntityRow  # noqa: PLC0415

    pattern = word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    rows = store.select(
        "SELECT id, kind, parent, name, generation, created_ms, updated >> 12 FROM entities"
        " WHERE kind = 'run' AND deleted IS NULL AND (name = ? OR id LIKE ? ESCAPE '\\') ORDER BY updated DESC LIMIT 6",
        (word, pattern),
    )
    exact = [row for row in rows if row[0] == word] or rows
    if not exact:
        raise ValueError(f"no run {word!r} in the store {store.root}; list them with: verta-local ls")
    if len(exact) > 1:
        some = ", ".join(f"{row[3]!r} ({row[0][:8]})" for row in exact[:5])
        raise ValueError(f"{word!r} means more than one run: {some}; give more of the id")
    return EntityRow(*exact[0])


def run_of(options: argparse.Namespace) -> ExperimentRun:
    """The run that a command names."""
    from ..run import ExperimentRun  # noqa: PLC0415 - start-up time

    store = open_chosen_store(options)
    return ExperimentRun(store, row_of(store, options.run_name))


def demo(options: argparse.Namespace) -> int:
    """`verta-local demo`"""
    from pathlib import Path  # noqa: PLC0415

    from ..demo import run_demo  # noqa: PLC0415 - start-up time

    return run_demo(Path(options.store).absolute() if options.store else None)


def init(options: argparse.Namespace) -> int:
    """`verta-local init [PATH] [--shared]`"""
    path = os.path.abspath(options.store or options.path)
    store = open_store(path, config.cache_dir(), create=True, sharing=options.shared)
    print(f"{'made a store in' if store.was_created else 'there is a store already in'} {store.root}")
    if options.shared == "user":
        return 0
    if store.sharing != options.shared:
        raise ValueError(
            f"it is a store for {store.sharing!r} and not for {options.shared!r}, which is decided when a store is "
            "made; make another one in a new folder"
        )
    from .doctor import describe_sharing  # noqa: PLC0415 - start-up time

    for line in describe_sharing(store):
        print(line)
    return 0


def ls(options: argparse.Namespace) -> int:
    """`verta-local ls [datasets|models|endpoints]`"""
    store = open_chosen_store(options)
    if options.what != "runs":
        from .kinds import list_kind  # noqa: PLC0415 - start-up time

        return list_kind(store, options)
    sort: SortKey | None = parse_sort_key(options.sort, is_descending=True) if options.sort else None
    query = Query("run", sort=sort).where(*options.where)
    rows = store.find(query, options.n or None)
    parents = dict(store.select("SELECT id, name FROM entities WHERE kind = 'experiment'"))
    found: dict[str, dict[str, dict[str, Any]]] = {row.id: {HYPERPARAMETERS: {}, METRICS: {}} for row in rows}
    for run_id, section, key, value in store.values_of_many([row.id for row in rows]):
        if section in found[run_id]:
            found[run_id][section][key] = value
    if options.json:
        print_json(
            [
                {
                    "id": r.id,
                    "name": r.name,
                    "experiment": parents.get(r.parent),
                    "updated_ms": r.updated_ms,
                    **found[r.id],
                }
                for r in rows
            ]
        )
        return 0
    table = []
    for row in rows:
        parts = found[row.id]
        shown = [
            ", ".join(f"{plain(k)}={show_value(v)}" for k, v in parts[s].items()) for s in (METRICS, HYPERPARAMETERS)
        ]
        experiment = plain(parents.get(row.parent, ""))
        table.append((row.id[:8], short(plain(row.name)), short(experiment), show_time(row.updated_ms), *shown))
    if not table:
        print(f"no runs in {store.root}")
        return 0
    print_table(("RUN", "NAME", "EXPERIMENT", "CHANGED", "METRICS", "HYPERPARAMETERS"), table)
    count = store.count(query)
    if count > len(rows):
        print(f"{len(rows)} of {count:,} runs; -n 0 shows all")
    return 0


def show(options: argparse.Namespace) -> int:
    """`verta-local show RUN`"""
    store = open_chosen_store(options)
    try:
        run = run_of(options)
    except ValueError:
        from .kinds import find_any, show_any  # noqa: PLC0415 - start-up time

        found = find_any(store, options.run_name)
        if found is None:
            raise
        return show_any(store, found, as_json=options.json)
    experiment = store.entity(run._parent or "")
    project = store.entity(experiment.parent or "")
    sections = {name: store.values(run.id, name) for name in (HYPERPARAMETERS, METRICS, ATTRIBUTES, ARTIFACTS)}
    series = {key: store.points(run.id, key) for key in store.point_keys(run.id)}
    tags = run.get_tags()
    if options.json:
        observations = {key: [[p.value, p.timestamp_ms, p.epoch] for p in points] for key, points in series.items()}
        head = {"id": run.id, "name": run.name, "experiment": experiment.name, "project": project.name, "tags": tags}
        print_json({**head, "created_ms": run.get_date_created(), **sections, "observations": observations})
        return 0
    print(f"run          {plain(run.name)}\nid           {run.id}")
    print(f"in           {plain(project.name)} / {plain(experiment.name)}")
    print(f"created      {show_time(run.get_date_created())} by {plain(str(run.author))}")
    if tags:
        print(f"tags         {', '.join(map(plain, tags))}")
    for name in (HYPERPARAMETERS, METRICS, ATTRIBUTES):
        if sections[name]:
            print(f"\n{name}")
            width = max(map(len, sections[name]))
            for key, value in sections[name].items():
                print(f"  {plain(key).ljust(width)}  {show_value(value)}")
    if series:
        print("\nobservations")
        for key, points in series.items():
            print(f"  {plain(key)}  {len(points)} points, last {show_value(points[-1].value)}")
    if sections[ARTIFACTS]:
        print("\nartifacts")
        _print_artifacts(sections[ARTIFACTS])
    return 0


def artifacts(options: argparse.Namespace) -> int:
    """`verta-local artifacts [ls] RUN` and `verta-local artifacts get RUN KEY [TARGET]`"""
    if options.run_name is None and options.action not in ("ls", "get"):
        options.action, options.run_name = "ls", options.action
    if options.action not in ("ls", "get") or options.run_name is None:
        raise ValueError("say: verta-local artifacts ls RUN, or: verta-local artifacts get RUN KEY [TARGET]")
    run = run_of(options)
    if options.action == "ls":
        _print_artifacts(run._store.values(run.id, ARTIFACTS))
        return 0
    if options.key is None:
        raise ValueError(f"which artifact? give one of its keys: {', '.join(run.get_artifact_keys()) or '(none)'}")
    target = options.target
    if os.path.isdir(target) or target.endswith((os.sep, "/")):
        target = os.path.join(target, run.artifact_file_name(options.key))
    print(run.download_artifact(options.key, target))
    return 0


def _print_artifacts(records: dict[str, Any]) -> None:
    rows = []
    for key, record in records.items():
        size = "" if record["kind"] == "path" else show_size(record.get("size_bytes", 0))
        kind = {"tree": f"folder, {record.get('file_count', 0)} files", "path": "path"}.get(record["kind"], "file")
        rows.append((f"  {plain(key)}", kind, size, plain(record["name"]), record.get("digest", "")[:19]))
    print_table(("  KEY", "KIND", "SIZE", "NAME", "DIGEST"), rows)


def query(options: argparse.Namespace) -> int:
    """`verta-local query SQL`"""
    import sqlite3  # noqa: PLC0415 - start-up time

    from sqlite_utils import Database  # noqa: PLC0415 - start-up time

    store = open_chosen_store(options)
    store.refresh()
    database = Database(store.reading_connection())
    try:
        rows = list(database.query(options.sql))
    except (sqlite3.Error, ValueError) as error:  # ValueError: sqlite-utils, of a statement that gives no rows
        raise ValueError(f"the index cannot run this: {error}; give one SELECT") from error
    finally:
        database.conn.close()
    if options.json:
        print_json(rows)
    elif rows:
        print_table([plain(name) for name in rows[0]], [[show_value(v) for v in row.values()] for row in rows])
    return 0
