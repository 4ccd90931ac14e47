"""Artifacts: from a path, a stream or an object to a record with a digest, and back."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import IO, Any, NamedTuple

from verta_store import Store
from verta_store.names import is_archive

from . import progress
from .errors import LoadError

SETUP_SCRIPT_KEY = "setup_script"
# As in Verta (later clients): what `log_model` and its like write under these keys is theirs.
RESERVED_KEYS = (
    "custom_modules",
    "model.pkl",
    "model_api.json",
    "requirements.txt",
    "train_data",
    "tf_saved_model",
    SETUP_SCRIPT_KEY,
)
EMPTY = "object contains no data"
_COPY_BYTES = 1 << 20


class Artifact(NamedTuple):
    """What a run records of an artifact. `name` is the user's file name; `method` says how an object was pickled."""

    kind: str  # "blob", "tree" or "path"
    name: str
    digest: str = ""
    size_bytes: int = 0
    file_count: int = 1
    extension: str = ""
    method: str = ""
    type: str = "BLOB"

    def to_record(self) -> dict[str, Any]:
        """What goes into the journal: the fields that are not empty."""
        return {name: value for name, value in self._asdict().items() if value != "" and value != 0}

    @staticmethod
    def from_record(record: dict[str, Any]) -> Artifact:
        """The artifact of a record; fields of later versions are passed over."""
        return Artifact(**{name: value for name, value in record.items() if name in Artifact._fields})

    @property
    def is_unpacked_for_models(self) -> bool:
        """As in Verta: an archive file is handed to a model as the folder that it holds."""
        return self.kind == "blob" and not self.method and is_archive(self.name)


def check_not_reserved(key: str) -> None:
    """Raises ValueError for a key that belongs to `log_model` and its like. As in Verta's later clients."""
    if key in RESERVED_KEYS:
        raise ValueError(f"the artifact key {key!r} is reserved for internal use; please use a different key")


def check_artifact_keys(artifacts: object, logged: Collection[str], argument: str = "artifacts") -> list[str] | None:
    """Return the artifact keys that a class model asks for, in the order given; None for None or an empty list.

    Raises:
        TypeError: neither None nor a list of str.
        ValueError: keys that are not in `logged`.
    """
    if artifacts is None:
        return None
    if not isinstance(artifacts, list) or not all(isinstance(key, str) for key in artifacts):
        found = type(artifacts).__name__ if not isinstance(artifacts, list) else repr(artifacts)
        raise TypeError(f"`{argument}` must be a list of str, the keys of logged artifacts; found {found}")
    unlogged = sorted(set(artifacts) - set(logged))
    if unlogged:
        raise ValueError(f"`{argument}` contains keys that have not been logged: {unlogged}")
    return list(artifacts) or None


def store_artifact(store: Store, key: str, artifact: object, type: str = "BLOB") -> Artifact:
    """Stores a path (file or folder), a file-like object's bytes, or any object pickled. Durable on return.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: "object contains no data", or something in a folder cannot be stored.
        TypeError: an object that cannot be pickled.
    """
    if isinstance(artifact, (str, os.PathLike)):
        return store_path(store, os.fspath(artifact), type)
    if hasattr(artifact, "read"):
        return _store_stream(store, key, artifact, type)
    return _store_object(store, key, artifact, type)


def store_path(store: Store, path: str, type: str = "BLOB", name: str = "") -> Artifact:
    """Stores a file or folder under its own name (or `name`)."""
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not os.path.exists(path) and path.startswith("~"):
        path = os.path.expanduser(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"no file or folder {path!r}{_looked_in(path)}; give the path of what is to be logged")
    name = name or os.path.basename(os.path.abspath(path))
    if os.path.isdir(path):
        inside = os.path.realpath(path)
        if os.path.commonpath([inside, store.root]) == inside:
            raise ValueError(
                f"the folder {path!r} holds the store {store.root} itself; log the folders in it one by one"
            )
        with _progress_of_logging(store, path, name):
            ref = store.put_tree(path)
        return Artifact("tree", name, ref.digest, ref.size_bytes, ref.file_count, type=type)
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        raise ValueError(f"{EMPTY}: the file {path!r} is empty; log one that has content")
    with _progress_of_logging(store, path, name):
        ref = store.put_file(path)
    return Artifact("blob", name, ref.digest, ref.size_bytes, extension=extension_of(name), type=type)


def _progress_of_logging(store: Store, path: str, name: str) -> AbstractContextManager[None]:
    return progress.shown(f"logging {name}", lambda: progress.size_below(path), store.bytes_being_written)


def _looked_in(path: str) -> str:
    if os.path.isabs(path):
        return ""
    try:
        return f" (looked in {os.getcwd()})"
    except FileNotFoundError:
        return " (the current folder was deleted)"


def _store_stream(store: Store, key: str, stream: Any, type: str) -> Artifact:
    if hasattr(stream, "seek"):
        try:
            stream.seek(0)
        except (OSError, ValueError, io.UnsupportedOperation):
            pass  # a pipe: what is left of it is what is logged

    def read(size_bytes: int) -> bytes:
        data = stream.read(size_bytes)
        return data.encode("utf-8") if isinstance(data, str) else bytes(data or b"")

    first = read(_COPY_BYTES)
    if not first:
        raise ValueError(f"{EMPTY}: the stream given for {key!r} is empty; log one that has content")
    parts = [first]
    ref = store.put_stream(lambda size_bytes: parts.pop() if parts else read(size_bytes))
    origin = getattr(stream, "name", None)
    name = os.path.basename(origin) if isinstance(origin, str) and not origin.startswith("<") else key
    return Artifact("blob", name or key, ref.digest, ref.size_bytes, extension=extension_of(name), type=type)


def _store_object(store: Store, key: str, artifact: object, type: str) -> Artifact:
    data, method = pickle_object(artifact)
    ref = store.put_bytes(data)
    name = key if key.endswith(".pkl") else f"{key}.pkl"
    return Artifact("blob", name, ref.digest, ref.size_bytes, extension="pkl", method=method, type=type)


def pickle_object(value: object) -> tuple[bytes, str]:
    """(bytes, method) of any object: cloudpickle.

    As in Verta, whose two further tries (joblib, pickle) can take nothing that cloudpickle cannot.

    Raises:
        TypeError: it cannot be pickled; the message says why.
    """
    import cloudpickle  # noqa: PLC0415 - start-up time

    try:
        return cloudpickle.dumps(value), "cloudpickle"
    except Exception as error:
        raise TypeError(
            f"an object of type {type(value).__name__} cannot be pickled ({error}); save it to a file and log the path"
        ) from error


def extension_of(name: str) -> str:
    """Everything behind the first dot of a base name, as in Verta: `a.tar.gz` -> `tar.gz`; '' without one."""
    return name.lstrip(".").partition(".")[2]


def path_for_model(store: Store, artifact: Artifact) -> str:
    """The path that `__init__(self, artifacts)` gets: a tree itself, a file under its name, an archive unpacked."""
    if artifact.kind == "path":
        return artifact.name
    if artifact.is_unpacked_for_models:
        return store.unpacked_path_of(artifact.digest, artifact.name)
    return store.path_of(artifact.kind, artifact.digest, artifact.name)


def read_artifact(store: Store, artifact: Artifact, unpickle: Callable[[Store, str], Any]) -> Any:
    """What `get_artifact` returns: the object of a pickle, the text of a path, else a BytesIO.

    As in Verta a folder comes back as the BytesIO of a zip.
    """
    if artifact.kind == "path":
        return artifact.name
    if artifact.kind == "tree":
        store.check("tree", artifact.digest)
        return zip_of(store.path_of("tree", artifact.digest, artifact.name))
    if artifact.method:
        return unpickle(store, artifact.digest)
    if _looks_pickled(store, artifact):
        try:
            return unpickle(store, artifact.digest)  # as in Verta; a user's own pickle that does not load...
        except LoadError:
            pass  # ...comes back as its bytes
    return io.BytesIO(store.read_verified(artifact.digest))


def _looks_pickled(store: Store, artifact: Artifact) -> bool:
    """Whether a file of the user's is a pickle, by its name or by how pickles begin (protocol 2 and later) and end; or
    one of PyTorch's, which is a zip with a pickle in it."""
    if artifact.name.lower().endswith((".pkl", ".pickle")):
        return True
    with open(store.object_path(artifact.digest), "rb") as file:
        head = file.read(2)
        if head == b"PK":
            return _is_of_torch(file)
        if head[:1] != b"\x80" or head[1:] not in (b"\2", b"\3", b"\4", b"\5"):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"."


def _is_of_torch(file: IO[bytes]) -> bool:
    import zipfile  # noqa: PLC0415 - start-up time

    try:
        with zipfile.ZipFile(file) as archive:
            members = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError):
        return False
    return "data.pkl" in members and "constants.pkl" not in members  # with these it is a TorchScript program


def zip_of(folder: str) -> io.BytesIO:
    """The files and folders of a folder, as a zip in memory."""
    import zipfile  # noqa: PLC0415 - start-up time

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for parent, folders, names in os.walk(folder):
            folders.sort()
            for name in [*(f"{folder}/" for folder in folders), *sorted(names)]:
                path = os.path.join(parent, name)
                archive.write(path, os.path.relpath(path, folder))
    stream.seek(0)
    return stream


def copy_out(store: Store, artifact: Artifact, target: str) -> str:
    """Copies an artifact to a path of the user's, checked and writable; returns the absolute path.

    Parent folders are made, an existing file is replaced, a folder is written into.

    Raises:
        MissingObject, CorruptObject: nothing is written.
        ValueError: the artifact is only the text of a path.
        IsADirectoryError, FileExistsError: a folder stands where the file is to be, or the other way round.
    """
    if artifact.kind == "path":
        raise ValueError(f"only the path {artifact.name!r} was logged, not its content; there is nothing to download")
    target = os.path.abspath(os.path.expanduser(target))
    if artifact.kind != "tree" and os.path.isdir(target):
        raise IsADirectoryError(f"{target} is a folder; give the path of the file to write")
    if artifact.kind == "tree" and os.path.isfile(target):
        raise FileExistsError(f"{target} is a file, and a folder was logged; give the path of a folder")
    store.check(artifact.kind, artifact.digest)
    # Not the path under the user's name: that may have to be made, in a store that may only be read.
    source = store.tree_path(artifact.digest) if artifact.kind == "tree" else store.object_path(artifact.digest)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    partial = target if artifact.kind == "tree" else f"{target}.{os.getpid()}.part"
    with progress.shown(f"copying {artifact.name}", lambda: artifact.size_bytes, lambda: progress.size_below(partial)):
        if artifact.kind == "tree":
            _copy_folder(source, target)
            return target
        try:
            copy_writable(source, partial)
            os.replace(partial, target)
        finally:
            if os.path.exists(partial):
                os.unlink(partial)
    return target


def _copy_folder(source: str, target: str) -> None:
    """Like `shutil.copytree` into a folder that may exist, but the folders are the user's own: a shared store's
    modes and group stay in the store."""
    for parent, _, names in os.walk(source, onerror=_refuse):
        folder = os.path.join(target, os.path.relpath(parent, source))
        os.makedirs(folder, exist_ok=True)
        for name in names:
            copy_writable(os.path.join(parent, name), os.path.join(folder, name))


def _refuse(error: OSError) -> None:
    raise error


def copy_writable(source: str, target: str) -> str:
    """Like `shutil.copyfile`, and the copy may be written whatever the mode of the stored file."""
    import shutil  # noqa: PLC0415 - start-up time

    if os.path.isfile(target):
        os.unlink(target)
    shutil.copyfile(source, target)
    os.chmod(target, os.stat(target).st_mode | 0o200 | (os.stat(source).st_mode & 0o111))
    return target
