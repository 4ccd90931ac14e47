"""What the crashing process does: a little of everything that writes into a store, each step said before and after.

The format of what it says is in `expectation.py`. A second run on the same store goes on with what the first left.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from expectation import Expectation

from verta_store import Ref, Store, close_all, folder_copy, open_store, workers
from verta_store.errors import StoreError, StoreWriteError
from verta_store.fsck import verify
from verta_store.gc import Rules, collect
from verta_store.query import Query
from verta_store.repair import repair

Say = Callable[[dict[str, Any]], None]


def make_sources(folder: Path) -> None:
    """The files and folders that the workload logs; made once, outside of the store."""
    folder.mkdir(parents=True)
    (folder / "small").write_bytes(b"small file")
    (folder / "large").write_bytes(bytes(range(256)) * 5_000)
    for name, count in (("few", 3), ("many", 12)):
        top = folder / name
        (top / "sub" / "empty").mkdir(parents=True)
        for number in range(count):
            (top / "sub" / f"f{number}").write_bytes(b"%d" % number)
        (top / "shard").write_bytes(name.encode() * 20_000)
        (top / "common").write_bytes(b"c" * 70_000)
    with zipfile.ZipFile(folder / "packed.zip", "w") as archive:
        archive.writestr("inner/a.txt", "a" * 100)
        archive.writestr("b.txt", "b")


class Writer:
    """One run of the workload."""

    def __init__(self, root: Path, cache: Path, sources: Path, turn: str, out: TextIO, durability: str) -> None:
        self._root = root
        self._cache = cache
        self._sources = sources
        self._turn = turn
        self._out = out
        self._durability = durability
        self._said: list[str] = []
        self.refusals: list[str] = []

    def run(self) -> None:
        """Does all of it; a step that the drive refuses is said and passed over."""
        store = self._open()
        if store is None:
            return
        for step, action in self._steps(store):
            self._do(step, action)
        self._read(store)
        close_all()

    def _open(self) -> Store | None:
        for _ in range(2):
            try:
                return open_store(self._root, self._cache, create=True, durability=self._durability)
            except StoreWriteError as error:
                self._refuse(error)
        return None

    def _do(self, step: dict[str, Any], action: Callable[[], Any]) -> Any:
        self._say({"try": step})
        try:
            result = action()
        except StoreWriteError as error:
            self._refuse(error)
            return None
        self._say({"done": step})
        return result

    def _say(self, what: dict[str, Any]) -> None:

        self._said.append(json.dumps(what) + "\n")
        self._out.write(self._said[-1])
        self._out.flush()
        if self._durability == "full" and "done" in what:
            self._said.append('{"done": {"flush": true}}\n')
            self._out.write(self._said[-1])
            self._out.flush()

    def _refuse(self, error: StoreWriteError) -> None:
        """A refusal must be one sentence that says what was wanted, what was found and what to do."""
        text = str(error)
        assert "\n" not in text and "could not write" in text and "Nothing that was logged before is lost." in text, (
            text
        )
        self.refusals.append(text)

    def _steps(self, store: Store) -> Iterator[tuple[dict[str, Any], Callable[[], Any]]]:
        turn = self._turn
        made: dict[str, str] = {}

        def create(name: str) -> None:
            above = store.create("project", None, "project")
            above = store.create("experiment", above.id, "experiment")
            made[name] = store.create("run", above.id, name).id

        def step(kind: str, details: Any, action: Callable[[], Any]) -> tuple[dict[str, Any], Callable[[], Any]]:
            return {kind: details}, action

        for name in (f"run {turn}", "doomed"):
            for _ in range(3):
                try:
                    create(name)
                    break
                except StoreWriteError as error:
                    self._refuse(error)
            else:
                return
            yield step("run", [name, made[name]], lambda: None)
        run, doomed = made[f"run {turn}"], made["doomed"]
        for number in range(2):
            values = {f"{turn}m{number}": number / 3}
            yield step("put", [run, {"metrics": values}], lambda v=values: store.put(run, "metrics", v))
        both = {"hyperparameters": {f"{turn}h": [1, {"a": "ü"}]}, "attributes": {f"{turn}a": None}}
        yield step("put", [run, both], lambda: store.put_all(run, both))
        for value in (1, 2):
            over = {"over": f"{turn}{value}"}
            yield step("put", [run, {"metrics": over}], lambda v=over: store.put(run, "metrics", v, overwrite=True))
        for value in (0.5, 0.25):
            yield step(
                "point", [run, f"{turn}loss", value], lambda v=value: store.add_points(run, f"{turn}loss", [(v, 1, 1)])
            )
        yield step("tag", [run, f"{turn}t"], lambda: store.add_tags(run, [f"{turn}t", "same"]))
        yield step("untag", [run, f"{turn}t"], lambda: store.remove_tags(run, [f"{turn}t"]))
        yield step("drop", [run, "metrics", f"{turn}m0"], lambda: store.drop(run, "metrics", [f"{turn}m0"]))
        yield from self._objects(store, run)
        yield from self._artifact(store, doomed, "doomed", lambda: store.put_bytes(b"doomed" + turn.encode()))
        yield step("claim", ["version", turn], lambda: store.claim("version", turn))
        yield step("flush", True, store.flush)
        self._read(store)
        yield step("delete", doomed, lambda: store.delete(doomed))
        store.seal()
        for days in (15, 17):  # to the trash, and out of it
            yield step("collect", True, lambda d=days: self._collect(store, d))
        yield step("repair", True, lambda: repair(store))
        values = {f"{turn}after": "the seal"}
        yield step("put", [run, {"metrics": values}], lambda: store.put(run, "metrics", values))
        yield step("flush", True, store.flush)

    def _objects(self, store: Store, run: str) -> Iterator[tuple[dict[str, Any], Callable[[], Any]]]:
        """Artifacts: the object first, then the record that names it."""
        puts: dict[str, Callable[[], Ref]] = {
            "bytes": lambda: store.put_bytes(b"bytes of " + self._turn.encode()),
            "small": lambda: store.put_file(self._sources / "small"),
            "large": lambda: store.put_file(self._sources / "large"),
            "few": lambda: store.put_tree(self._sources / "few"),
            "many": self._by_workers(lambda: store.put_tree(self._sources / "many")),
            "packed.zip": lambda: store.put_file(self._sources / "packed.zip"),
        }
        for name, put in puts.items():
            yield from self._artifact(store, run, name, put)

    def _by_workers(self, put: Callable[[], Ref]) -> Callable[[], Ref]:
        """The same, in the first run, by worker processes, which die with the one that is killed."""

        def helped() -> Ref:
            kept = folder_copy.WORKERS_FROM, folder_copy._TASK_FILES, workers.worker_count
            if self._turn == "a":
                folder_copy.WORKERS_FROM, folder_copy._TASK_FILES, workers.worker_count = 10, 4, lambda: 2
            try:
                return put()
            finally:
                folder_copy.WORKERS_FROM, folder_copy._TASK_FILES, workers.worker_count = kept

        return helped

    def _artifact(
        self, store: Store, run: str, name: str, put: Callable[[], Ref]
    ) -> Iterator[tuple[dict[str, Any], Callable[[], Any]]]:
        try:
            ref = put()
        except StoreWriteError as error:
            self._refuse(error)
            return
        yield {"object": [ref.kind, ref.digest]}, lambda: None
        value = {"kind": ref.kind, "digest": ref.digest, "size_bytes": ref.size_bytes, "name": name}
        artifacts = {f"{self._turn}{name}": value}
        yield {"put": [run, {"artifacts": artifacts}]}, lambda: store.put(run, "artifacts", artifacts)
        try:
            path = store.path_of(ref.kind, ref.digest, name)
            assert os.path.exists(path)
            if name == "packed.zip":
                inside = Path(store.unpacked_path_of(ref.digest, name))
                assert (inside / "inner" / "a.txt").read_text() == "a" * 100
        except StoreWriteError as error:
            self._refuse(error)

    @staticmethod
    def _collect(store: Store, days: int) -> None:
        """A collection as it would be run so many days later."""
        close_all()  # by then nobody is at work
        collect(store, rules=Rules(clock=lambda now_ns: now_ns + days * 24 * 3600 * 10**9, fewest_packed=1))

    def _read(self, store: Store) -> None:
        """Reading works in every state, and shows what was acknowledged."""
        wrong = Expectation([(self._said, False)]).check(store)
        assert not wrong, wrong
        store.find(Query("run"))
        assert verify(store, deep=True).is_clean
        assert issubclass(StoreWriteError, StoreError)
