"""The house keeps its floors: imports go downwards, never in a circle, and the engine knows nothing of what is above.

The floors are those of the design: a module may import from its own floor and from those below it.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import verta_local
import verta_store

ENGINE = [
    {"errors", "ids"},
    {"writers"},
    {"authors", "beside", "collected", "columns", "damages", "digest", "drive", "files", "index_tables", "listing",
     "local_cache", "names", "probe", "query", "records", "sealed_journals", "series", "termination"},
    {"copying", "file_copy", "hashing", "manifest", "messages", "page_cache", "portable_names", "walking", "worker", "workers"},
    {"archive", "batches", "catching_up", "claims", "description", "index", "index_file", "ingest", "journal",
     "journal_damage",
     "leases", "objects", "packing", "packs", "roots", "selection", "source_memory", "temporary", "trash", "turn",
     "verified"},
    {"folder_copy", "journal_check"},
    {"tree"},
    {"materialize"},
    {"contents"},
    {"parts"},
    {"reading"},
    {"store"},
    {"__init__", "opening"},
    {"content_check", "fsck"},
    {"gc", "repair"},
]  # fmt: skip
CLIENT = [
    {"_version", "built_files", "errors", "plain_text", "private_file", "runtime"},
    {"artifacts", "client_settings", "code", "code_capture", "config", "config_files", "configuration", "conflicts",
     "credentials", "data_types", "deployment_settings", "display", "edited_modules", "environment", "frameworks",
     "images", "installed", "interpreter", "local_modules", "model_api", "model_formats", "modules", "observations", "pickling",
     "progress", "requirements", "run_status", "stored_modules", "system_metrics", "tracebacks", "trust", "values",
     "visibility"},
    {"deployment", "entity", "loading", "model", "serving"},
    {"engines", "lazy_list"},
    {"creation", "entity_artifacts", "entity_attributes", "entity_code", "entity_environment", "entity_model",
     "entity_notes", "entity_schema", "entity_tags", "run_artifacts", "run_life"},
    {"dataset"},
    {"entity_datasets"},
    {"run", "run_clone", "run_model"},
    {"runs"},
    {"experiment"},
    {"project"},
    {"registry"},
    {"endpoint"},
    {"client_datasets", "client_endpoints", "client_registry"},
    {"client"},
    {"built", "__init__", "as_verta", "demo", "engine_contract", "integrations", "tracking", "utils"},
    {"__main__", "cli"},
]  # fmt: skip
FORBIDDEN_IN_ENGINE = {
    "verta_local",
    "flask",
    "cloudpickle",
    "pickle",
    "waitress",
    "dill",
    "joblib",
    "marshal",
    "shelve",
}


def modules_of(package: str) -> dict[str, Path]:
    """Dotted name below the package -> file; `__init__` for the package itself."""
    module = {"verta_store": verta_store, "verta_local": verta_local}[package]
    top = Path(module.__file__ or "").parent
    return {".".join(path.relative_to(top).with_suffix("").parts): path for path in sorted(top.rglob("*.py"))}


def imports_of(package: str, name: str, path: Path) -> set[str]:
    """Full dotted names that a file imports when it runs; what is for type checkers only does not count."""
    found: set[str] = set()
    here = [package, *name.split(".")]

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found.update(f"{origin}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def own_imports(package: str, modules: dict[str, Path], name: str) -> set[str]:
    """The modules of the same package that a module imports."""
    found = set()
    for imported in imports_of(package, name, modules[name]):
        parts = imported.split(".")
        if parts[0] != package:
            continue
        for end in range(len(parts), 0, -1):
            candidates = [".".join(parts[1:end]), ".".join([*parts[1:end], "__init__"])]
            if hit := next((candidate for candidate in candidates if candidate in modules), ""):
                found.add(hit)
                break
    return found - {name}


def floor_of(floors: list[set[str]], name: str) -> int:
    room = name.split(".")[0]
    hits = [number for number, rooms in enumerate(floors) if room in rooms]
    assert hits, f"the module {name} is new: give it a floor in this test, as low as its imports allow"
    return hits[0]


@pytest.mark.parametrize(("package", "floors"), [("verta_store", ENGINE), ("verta_local", CLIENT)])
def test_each_room_stands_on_one_floor(package: str, floors: list[set[str]]) -> None:
    rooms = sorted(room for floor in floors for room in floor)
    assert rooms == sorted({name.split(".")[0] for name in modules_of(package)})


@pytest.mark.parametrize(("package", "floors"), [("verta_store", ENGINE), ("verta_local", CLIENT)])
def test_no_module_imports_from_a_floor_above_it(package: str, floors: list[set[str]]) -> None:
    modules = modules_of(package)
    upward = [
        f"{name} imports {imported}"
        for name in modules
        for imported in own_imports(package, modules, name)
        if floor_of(floors, imported) > floor_of(floors, name)
    ]
    assert not upward


@pytest.mark.parametrize("package", ["verta_store", "verta_local"])
def test_no_imports_go_in_a_circle(package: str) -> None:
    modules = modules_of(package)
    graph = {name: own_imports(package, modules, name) for name in modules}
    done: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, "a circle: " + " > ".join([*above[above.index(name) :], name])
        if name not in done:
            for imported in sorted(graph[name]):
                walk(imported, (*above, name))
            done.add(name)

    for name in sorted(graph):
        walk(name, ())


def test_the_engine_knows_nothing_of_the_client_of_servers_and_of_pickles() -> None:
    for name, path in modules_of("verta_store").items():
        roots = {imported.split(".")[0] for imported in imports_of("verta_store", name, path)}
        assert not roots & FORBIDDEN_IN_ENGINE, name


def test_serving_and_deployment_meet_over_http_and_never_import_each_other() -> None:
    modules = modules_of("verta_local")
    for name in modules:
        rooms = {imported.split(".")[0] for imported in own_imports("verta_local", modules, name)}
        if name.startswith("serving"):
            assert not rooms & {"deployment", "client", "entity", "run", "runs", "project", "experiment", "cli"}, name
        if name.startswith("deployment"):
            assert "serving" not in rooms, name


def test_nothing_but_the_loader_unpickles() -> None:
    """One function in the whole project turns logged bytes into objects; one room makes such bytes."""
    for name, path in modules_of("verta_local").items():
        imported = {name.split(".")[0] for name in imports_of("verta_local", name, path)}
        if imported & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}:
            assert name in ("loading", "pickling", "artifacts", "serving.child"), name
