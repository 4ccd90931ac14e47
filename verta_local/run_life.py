"""The life of a run: `with`, end, status, parent and children, system metrics. Not in Verta."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from verta_store import ids
from verta_store.query import Predicate, Query
from verta_store.records import DEPLOYMENTS, FIELDS

from . import run_status
from .entity_attributes import EntityWithAttributes
from .entity_notes import NOTES_SECTION
from .errors import RunEnded
from .lazy_list import LazyList
from .run_status import END_TIME, ENDS, ERROR, PARENT, PROCESS, RUNNING, STATUS

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from verta_store import Store

    from .system_metrics import SystemMetrics

Run = TypeVar("Run")

# What may still be logged to a run that has ended: what is about it, and not of it.
_OPEN_SECTIONS = frozenset((FIELDS, DEPLOYMENTS, NOTES_SECTION))


class RunLife(EntityWithAttributes):
    """The part of `ExperimentRun` that is about its beginning and end."""

    # Of this process's own, while it runs.
    _system_metrics: SystemMetrics | None = None

    def __enter__(self) -> Self:
        """The run, until the end of the `with` block, where it ends: "finished", or "failed" with the exception."""
        life = self._life()
        fields = self._values(FIELDS)
        if life.status != RUNNING or PROCESS in fields or not self._is_of_this_process():
            entries = {STATUS: RUNNING, PROCESS: run_status.this_process()}
            ended = [key for key in (END_TIME, ERROR) if key in fields]
            self._store.put_all(self._id, {FIELDS: entries}, overwrite=True, drop={FIELDS: ended} if ended else None)
        run_status.note_created(self._store, self._id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        status, text = run_status.end_by(error)
        self.end(status, text)

    def end(self, status: str = "finished", error: str | None = None) -> None:
        """Ends the run: its status and time are recorded, durable, and this object logs no more.

        A second time nothing changes.

        Args:
            status: "finished", "failed" or "killed".
            error: what went wrong, in words.

        To log more later, get the run again: `client.get_experiment_run(id=run.id)`. Its name, description, tags and
        notes can be changed all the same.

        Raises:
            ValueError: another status.
        """
        if status not in ENDS:
            raise ValueError(f"a run ends {', '.join(ENDS[:-1])} or {ENDS[-1]}, not {status!r}")
        if isinstance(self._store, _EndedStore):
            return
        if self._system_metrics is not None:
            self._system_metrics.stop()
        entries = {STATUS: status, END_TIME: ids.now_ms(), ERROR: error}
        self._store.put(self._id, FIELDS, entries, overwrite=True)
        self._store.flush()
        run_status.note_ended(self._id)
        self._store = _EndedStore(self._store, self._name)  # type: ignore[assignment]  # it is one, but for what it refuses

    def _is_of_this_process(self) -> bool:
        """Whether this process has created the run, so that it runs for as long as this process does."""
        birth = self._store.births([self._id]).get(self._id)
        return birth is not None and birth.writer.is_of_this_process()

    @property
    def status(self) -> str:
        """ "running", "finished", "failed" or "killed". How that is known is said in `verta_local.run_status`."""
        return self._life().status

    @property
    def start_time(self) -> int:
        """When it began: milliseconds since 1970 UTC; the time of creation unless another was given."""
        return self._life().start_ms

    @property
    def end_time(self) -> int | None:
        """When it ended: milliseconds since 1970 UTC; None while it runs, its last change where no end was recorded."""
        return self._life().end_ms

    @property
    def error(self) -> str | None:
        """What made it fail, in words, or None."""
        return self._life().error

    def _life(self) -> run_status.Life:
        found = run_status.lives_of(self._store, {self._id: self._values(FIELDS)})
        if self._id not in found:
            self._row()  # says that it was deleted
        return found[self._id]

    # -- nested runs -----------------------------------------------------------------------------------------------

    @property
    def parent(self) -> Self | None:
        """The run that this one is a part of (`set_experiment_run(parent=...)`); None without one, or once deleted."""
        found = self._values(FIELDS).get(PARENT)
        try:
            return type(self)(self._store, self._store.entity(found)) if found else None
        except KeyError:
            return None

    @property
    def children(self) -> ChildRuns[Self]:
        """The runs that are parts of this one, a lazy list. They are not deleted with it."""
        query = Query("run", predicates=(Predicate(FIELDS, PARENT, "==", self._id),))
        return self._noting(ChildRuns(self._store, query, type(self)))

    # -- system metrics --------------------------------------------------------------------------------------------

    def log_system_metrics(self, interval_s: float = 10.0, prefix: str = "system") -> SystemMetrics:
        """Logs the load of this machine and process as observations, in the background, until the run ends.

        Args:
            interval_s: between two measurements; the first is taken at once.
            prefix: of the keys: `<prefix>/cpu_percent`, `memory_percent`, `process_cpu_percent`,
                `process_memory_bytes`, `disk_read_bytes`, `disk_written_bytes`, `network_received_bytes`,
                `network_sent_bytes`; what this machine does not tell is left out. Percents are of the whole machine,
                of the process of one core; bytes of disk and network are counted from the first measurement.

        Returns:
            What measures; `stop()` ends it earlier. It may be used in a `with` block.

        Raises:
            ImportError: psutil is not installed. ValueError: an interval that is not positive; a bad prefix.
        """
        from .system_metrics import SystemMetrics  # noqa: PLC0415 - start-up time

        if self._system_metrics is not None:
            self._system_metrics.stop()
        self._system_metrics = SystemMetrics(self._store, self._id, interval_s, prefix)
        return self._system_metrics

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_system_metrics"}


class ChildRuns(LazyList[Run]):
    """The parts of a run."""

    _noun = "runs"


class _EndedStore:
    """The store of a run that has ended, for that run's object: it refuses what would change what happened."""

    def __init__(self, store: Store, name: str) -> None:
        self._open_store = store
        self._run_name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # asked for by pickle, before there is anything to hand on to
        return getattr(vars(self)["_open_store"], name)

    def __reduce__(self) -> tuple[object, ...]:
        return (_EndedStore, (self._open_store, self._run_name))

    def put(self, entity: str, section: str, values: Any, *, overwrite: bool = False) -> None:
        self._require_open(section)
        self._open_store.put(entity, section, values, overwrite=overwrite)

    def put_all(self, entity: str, sections: Any, *, overwrite: bool = False, drop: Any = None) -> None:
        self._require_open(*sections)
        self._open_store.put_all(entity, sections, overwrite=overwrite, drop=drop)

    def drop(self, entity: str, section: str, keys: Any) -> None:
        self._require_open(section)
        self._open_store.drop(entity, section, keys)

    def require_absent(self, *arguments: Any) -> None:
        self._refuse()  # asked before gigabytes are copied

    def put_tree(self, *arguments: Any, **more: Any) -> None:
        self._refuse()

    put_file = put_stream = put_bytes = add_points = put_tree

    def _require_open(self, *sections: str) -> None:
        if not _OPEN_SECTIONS.issuperset(sections):
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise RunEnded(
            f"the run {self._run_name!r} has ended and takes no more values; to log more to it, get it again with "
            "client.get_experiment_run(id=run.id)"
        )
