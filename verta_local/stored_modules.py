"""Imports the user's own modules from a stored tree: each source checked on its bytes, nothing written beside it.

Python's usual finder would run any bytecode file that it finds in a `__pycache__` there, unchecked, and write its
own into the store. So folders of a store get a finder of their own, which knows the tree's manifest: it sees no
file that is not in it, compiles from the bytes that it has just compared, and neither reads nor writes bytecode.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
    SourcelessFileLoader,
    all_suffixes,
)
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

from verta_store.digest import digest_of_bytes, digest_of_file

# What lies beside the modules for whoever unpacks them elsewhere; of no use here.
INIT_FILE, CONFIG_FILE = "__init__.py", "_verta_config.py"


class ModuleTree(NamedTuple):
    """A stored folder of modules: where it is, and the digest of each file (relative path with '/' -> digest).

    `needed` are the names of modules that the model reached where it was logged, None where that is not known.
    """

    folder: str
    digests: Mapping[str, str]
    needed: Collection[str] | None = None

    @property
    def hiding_names(self) -> set[str]:
        """The top-level names in the folder that hide modules of the same name from elsewhere.

        Only those that the model reached: a `types.py` in a listed folder must not take the place of Python's, which
        was imported long before the user's modules and so was what the model saw.
        """
        suffixes = sorted(all_suffixes(), key=len, reverse=True)
        names = set()
        for path in self.digests:
            first, slash, _ = path.partition("/")
            suffix = "" if slash else next((each for each in suffixes if first.endswith(each)), None)
            if suffix is not None:
                names.add(first.removesuffix(suffix))
        return names if self.needed is None else names & {name.partition(".")[0] for name in self.needed}


def install(tree: ModuleTree) -> None:
    """Put the tree first on `sys.path` for the rest of this process, whose only purpose is this one model.

    Modules of the same names that were imported from elsewhere (a user's `random.py` hides Python's for his model,
    as it did where it was logged) make way; whoever imported them before keeps what he has.
    """
    if tree.digests:
        _register(tree)
        _forget(tree)
        sys.path.insert(0, tree.folder)


@contextmanager
def borrowed(tree: ModuleTree) -> Iterator[None]:
    """Put the tree first on `sys.path` for a `with` block, and leave the process as it was for everyone else.

    Inside, the modules come from the tree, unless this process has imported modules of the same names and the very
    same text: then those are used, so that a class comes back as the same class. Afterwards modules that had to
    make way are back in place, and the tree stays as the *last* entry of `sys.path`: what the model imports later,
    when it predicts, is found, but never hides a module of the user's. (Of two versions of one module that are both
    imported so late, the first is found; a deployed model has a process of its own and no such limit.)
    """
    if not tree.digests:
        yield
        return
    with _lock:
        _register(tree)
        displaced = _forget(tree)
        sys.path.insert(0, tree.folder)
        try:
            yield
        finally:
            sys.path.remove(tree.folder)
            if displaced:
                _forget(tree, set(name.partition(".")[0] for name in displaced))
                sys.modules.update(displaced)
            if tree.folder not in sys.path:
                sys.path.append(tree.folder)
            importlib.invalidate_caches()


_lock = threading.RLock()
_trees: dict[str, ModuleTree] = {}


def _register(tree: ModuleTree) -> None:
    with _lock:
        if not _trees:
            sys.path_hooks.insert(0, _finder_for)
        _trees[tree.folder] = tree
        for path in list(sys.path_importer_cache):
            if path == tree.folder or path.startswith(tree.folder + os.sep):
                del sys.path_importer_cache[path]


def _finder_for(path: str) -> FileFinder:
    """The hook in `sys.path_hooks`: raises ImportError for folders that are not ours."""
    for folder, tree in _trees.items():
        if path == folder or path.startswith(folder + os.sep):
            return _StoredFinder(path, tree)
    raise ImportError(f"{path} is not in a stored tree")


class _StoredFinder(FileFinder):
    """Finds modules in one folder of a tree, among the files that its manifest names."""

    def __init__(self, path: str, tree: ModuleTree) -> None:
        super().__init__(
            path,
            (ExtensionFileLoader, EXTENSION_SUFFIXES),
            (_StoredLoader, SOURCE_SUFFIXES),
            (SourcelessFileLoader, BYTECODE_SUFFIXES),  # beside the sources, never in `__pycache__`
        )
        self._tree = tree

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = super().find_spec(fullname, target)
        if spec is None or spec.origin is None or not spec.has_location:
            return spec  # a namespace package: its modules are looked up here again
        expected = self._tree.digests.get(Path(spec.origin).relative_to(self._tree.folder).as_posix())
        if expected is None:
            return None
        if isinstance(spec.loader, _StoredLoader):
            spec.loader.expected_digest = expected
        elif digest_of_file(spec.origin)[0] != expected:
            raise _changed(spec.origin)
        return spec


class _StoredLoader(SourceFileLoader):
    """Compiles a module from bytes that have its digest."""

    expected_digest = ""

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        data = self.get_data(path)
        if digest_of_bytes(data) != self.expected_digest:
            raise _changed(path)
        code: CodeType = self.source_to_code(data, path)
        return code


def _changed(path: str) -> ImportError:
    return ImportError(f"{path} was changed after it was logged: its bytes do not match their digest", path=path)


def _forget(tree: ModuleTree, names: set[str] | None = None) -> dict[str, ModuleType]:
    """Take modules with the tree's names (or `names`) out of `sys.modules`, but for those of the same text."""
    displaced = {}
    for top in tree.hiding_names if names is None else names:
        loaded = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == top}
        if names is None and all(_is_same(tree, name, module) for name, module in loaded.items()):
            continue
        for name, module in loaded.items():
            del sys.modules[name]
            displaced[name] = module
    return displaced


def _is_same(tree: ModuleTree, name: str, module: ModuleType) -> bool:
    """Whether an imported module has the text of the tree's: its file has, and it is what was imported."""
    from .edited_modules import is_edited  # noqa: PLC0415 - start-up time of a served model, which never comes here

    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return getattr(module, "__path__", None) is not None  # a namespace package has no text of its own
    stem = name.replace(".", "/")
    suffixes = [suffix for suffix in all_suffixes() if file.endswith(suffix)]
    paths = [stem + suffix for suffix in suffixes] + [f"{stem}/__init__{suffix}" for suffix in suffixes]
    expected = {tree.digests[path] for path in paths if path in tree.digests}
    try:
        return bool(expected) and digest_of_file(file)[0] in expected and not is_edited(name, Path(file))
    except OSError:
        return False
