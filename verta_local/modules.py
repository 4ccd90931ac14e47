"""Which of the user's own modules a model needs, and the folder in which they travel with it.

An installed module is a requirement; a local one (see `local_modules`) travels as files, laid out so that the folder
works as one entry of `sys.path`.

As in Verta: `custom_modules` takes files, folders and module names, and `[]` means nothing. Differs: without it,
only the local modules that the model really reaches travel, not every file below `sys.path`.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .edited_modules import warn_of_edits
from .local_modules import Located, is_local_file, locate, reachable
from .stored_modules import CONFIG_FILE, INIT_FILE

_MEBIBYTE = 1024 * 1024
# Data of this size belongs into an artifact, where it is stored once and not again with each model.
_MAX_DATA_FILE_BYTES = 10 * _MEBIBYTE
# And so does so much of it, where a whole project, its data set included, is one package.
_MAX_DATA_FILES = 2_000
_MAX_DATA_BYTES = 100 * _MEBIBYTE

_CODE_SUFFIXES = tuple(sorted(importlib.machinery.all_suffixes(), key=len, reverse=True))


@dataclass(frozen=True)
class FoundModules:
    """The files to travel with a model, as (path below the folder with '/', source file), sorted.

    `names` are the local modules that the model reaches (whether they travel or not), `third_party` the top-level
    names of the installed ones.
    """

    files: tuple[tuple[str, Path], ...]
    names: tuple[str, ...] = ()
    third_party: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.files)


def find_modules(names: Iterable[str]) -> FoundModules:
    """Return the local modules among `names`, and those that they import, also inside functions.

    A module that is part of a package brings the package's whole folder (data files too), another one its file
    alone. A folder without `__init__.py` counts as a package where it directly holds a module that is needed.
    Left out: hidden files and folders (they hold caches and secrets), `__pycache__`, virtual environments; and
    with a UserWarning data files of more than 10 MiB, and all data files of a package that has more than 2,000
    of them or 100 MiB in sum.

    Warns also when a module was edited after it was imported: the files travel as they are now.
    """
    importlib.invalidate_caches()  # a file may have been written just now, from a notebook's cell
    local, third_party = reachable(names)
    warn_of_edits(local)
    files: dict[str, Path] = {}
    for source, destination in _roots(local):
        if source.is_dir():
            _add_package(files, destination, source)
        else:
            files.setdefault(destination, source)
    return FoundModules(tuple(sorted(files.items())), tuple(sorted(local)), tuple(sorted(third_party)))


def collect_modules(custom_modules: Sequence[str | os.PathLike[str]], names: Iterable[str] = ()) -> FoundModules:
    """Return the files that the user listed: files, folders (with hidden files) and importable modules.

    Modules that the model needs, given by `names`, and that are not listed do not travel.

    They are placed so that they are imported as they are here, by their place below the entries of `sys.path`;
    what lies below none of them is placed as below the current folder. Left out: `.git`, `__pycache__` and
    virtual environments.

    Raises:
        TypeError: not a list of str or paths.
        ValueError: a name that is neither a file, a folder nor an importable module.
    """
    if not isinstance(custom_modules, (list, tuple)):
        raise TypeError(
            "custom_modules must be a list of files, folders and module names, or None; "
            f"found {type(custom_modules).__name__}"
        )
    files: dict[str, Path] = {}
    for item in custom_modules:
        if not isinstance(item, (str, os.PathLike)):
            raise TypeError(f"custom_modules must hold str or paths; found {type(item).__name__}: {item!r}")
        path = Path(item).expanduser()
        if str(item) and path.exists():  # '' would be the current folder
            for source, destination in _places(Path(os.path.abspath(path))):
                if source.is_dir():
                    _add_listed(files, destination, source)
                else:
                    files.setdefault(destination, source)
            continue
        located = locate(str(item)) if isinstance(item, str) else None
        if located is None:
            raise ValueError(f"custom_modules contains {str(item)!r}: no file, folder or importable module")
        for source, destination in _roots({located.name: located}, namespaces=True):
            if source.is_dir():
                _add_listed(files, destination, source)
            else:
                files.setdefault(destination, source)
    local, third_party = reachable(names)
    return FoundModules(tuple(sorted(files.items())), tuple(sorted(local)), tuple(sorted(third_party)))


def stage_modules(destination: str | os.PathLike[str], found: FoundModules) -> None:
    """Copy the files into the folder `destination`, made if need be; it then works as one entry of `sys.path`."""
    destination = Path(destination)
    destination.mkdir(parents=True, exist_ok=True)
    for relative, source in found.files:
        target = destination / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        shutil.copymode(source, target)


# What Verta puts beside the modules, for code that gets them with `get_artifact` or `download_artifact`. Differs:
# without the variable the folder is where this file lies, and not /app/custom_modules/ of Verta's own server.
_ENTRY_TEXTS = {
    INIT_FILE: "",
    CONFIG_FILE: """\
\"\"\"Makes the modules beside this file importable, and their folder the current one: `import _verta_config`.\"\"\"

import os
import sys

folder = os.environ.get("VERTA_CUSTOM_MODULES_DIR") or os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, folder)
os.chdir(folder)
""",
}


def stage_entry_files(destination: str | os.PathLike[str]) -> None:
    """Writes `_verta_config.py` and `__init__.py` into a folder of staged modules, but never over the user's own."""
    for name, text in _ENTRY_TEXTS.items():
        path = Path(destination, name)
        if not path.exists():
            path.write_text(text, encoding="utf-8")


def _roots(local: dict[str, Located], namespaces: bool = False) -> Iterator[tuple[Path, str]]:
    """(folder or file, destination) for the modules, outer packages first.

    A destination follows the module's name, not its file's: a module may have been loaded under another name.
    `namespaces`: a namespace package that is asked for itself brings its folders.
    """
    done: set[str] = set()
    for name in sorted(local):
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            prefix = ".".join(parts[:end])
            located = local.get(prefix) or locate(prefix)
            if located is not None and located.file is not None:
                break
        else:
            located, prefix = local[name], name
        if prefix in done:
            continue
        done.add(prefix)
        destination = prefix.replace(".", "/")
        if located.folders is not None:
            if located.file is not None or namespaces:
                for folder in located.folders:
                    yield folder, destination
        elif located.file is not None:
            if "." in prefix:  # in a namespace package: the folder that holds it
                yield located.file.parent, destination.rpartition("/")[0]
            yield located.file, destination + _suffix_of(located.file)


def _suffix_of(file: Path) -> str:
    """`.py`, or all of `.cpython-311-x86_64-linux-gnu.so`."""
    return next((suffix for suffix in _CODE_SUFFIXES if file.name.endswith(suffix)), file.suffix)


def _places(path: Path) -> Iterator[tuple[Path, str]]:
    """(source, destination) for a file or folder of the user's list, so that it is imported as it is here."""
    entries = [Path(os.path.abspath(entry)) for entry in sys.path]
    entries = [entry for entry in dict.fromkeys(entries) if entry.is_dir() and is_local_file(entry)]
    found = False
    for entry in entries:
        if path.is_relative_to(entry):
            found = True
            yield path, "" if path == entry else path.relative_to(entry).as_posix()
    for entry in entries:
        # A folder that holds entries of sys.path: modules are imported from there by their short names.
        if path.is_dir() and entry != path and entry.is_relative_to(path):
            yield entry, ""
    if found:
        return
    current = Path.cwd()
    yield path, path.relative_to(current).as_posix() if path.is_relative_to(current) else path.name
    if path.is_dir() and not (path / "__init__.py").exists():
        yield path, ""  # no package: as likely meant to be on sys.path itself


def _add_listed(files: dict[str, Path], destination: str, folder: Path) -> None:
    """Add all files of a folder that the user named."""
    for source in _files_in(folder, with_hidden=True):
        files.setdefault((Path(destination) / source.relative_to(folder)).as_posix(), source)


def _add_package(files: dict[str, Path], destination: str, folder: Path) -> None:
    """Add the code and, within bounds, the data of a package that was found."""
    code, data, large, data_bytes = [], [], [], 0
    for source in _files_in(folder, with_hidden=False):
        if source.name.endswith(_CODE_SUFFIXES):
            code.append(source)
        elif (size_bytes := source.stat().st_size) > _MAX_DATA_FILE_BYTES:
            large.append(f"{source.relative_to(folder.parent)} ({size_bytes // _MEBIBYTE} MiB)")
        else:
            data.append(source)
            data_bytes += size_bytes
    if len(data) > _MAX_DATA_FILES or data_bytes > _MAX_DATA_BYTES:
        large.append(f"{len(data)} data files of {folder.name} ({data_bytes // _MEBIBYTE} MiB)")
        data = []
    if large:
        warnings.warn(
            f"too large to travel with the model's modules: {', '.join(large)}; log what the model needs of it with "
            "log_artifact() and name the key in `artifacts`, or list the folder in `custom_modules`",
            stacklevel=5,
        )
    for source in (*code, *data):
        files.setdefault((Path(destination) / source.relative_to(folder)).as_posix(), source)


def _files_in(folder: Path, with_hidden: bool) -> Iterator[Path]:
    visited: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:  # a symbolic link that leads back up
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(each for each in folders if not _is_left_out(place, each, with_hidden))
        for name in sorted(names):
            source = Path(place, name)
            if source.is_file() and (with_hidden or not name.startswith(".")):  # no FIFO: it would block
                yield source


def _is_left_out(place: str, folder: str, with_hidden: bool) -> bool:
    if folder in ("__pycache__", ".git") or os.path.exists(os.path.join(place, folder, "pyvenv.cfg")):
        return True
    return folder.startswith(".") and not with_hidden
