"""The lazy list of runs, with what only runs have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verta_store.query import Query
from verta_store.records import HYPERPARAMETERS, METRICS

from .errors import MissingExtra
from .lazy_list import LazyList
from .run import ExperimentRun

if TYPE_CHECKING:
    from verta_store import Store


class ExperimentRuns(LazyList[ExperimentRun]):
    """The runs of an experiment, a project or the whole store."""

    _noun = "runs"

    def __init__(self, store: Store, query: Query) -> None:
        super().__init__(store, query, ExperimentRun)

    def _repr_html_(self) -> str:
        """The first runs as a table, where a notebook shows the list."""
        from . import display, observations  # noqa: PLC0415 - start-up time

        found = self._store.find(self._query, display.most_rows())
        values: dict[str, dict[str, dict[str, Any]]] = {row.id: {HYPERPARAMETERS: {}, METRICS: {}} for row in found}
        for run_id, section, key, value in self._store.values_of_many(list(values)):
            if section in values[run_id]:
                values[run_id][section][key] = value
        changed = [text[:19] for text in observations.to_texts([row.updated_ms for row in found])]
        rows = [
            display.RunRow(
                row.name,
                row.id,
                when,
                self._store.tags(row.id),
                values[row.id][METRICS],
                values[row.id][HYPERPARAMETERS],
            )
            for row, when in zip(found, changed, strict=True)
        ]
        return display.runs_table(rows, len(self))

    def as_dataframe(self) -> Any:
        """A pandas DataFrame: index = ids, columns `hpp.*` and `metric.*`, sorted. As in Verta.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas  # noqa: PLC0415 - optional
        except ImportError as error:
            raise MissingExtra("as_dataframe() needs pandas; install it with: pip install pandas") from error
        run_ids = [row.id for row in self._store.find(self._query)]
        prefixes = {HYPERPARAMETERS: "hpp.", METRICS: "metric."}
        rows: dict[str, dict[str, Any]] = {run_id: {} for run_id in run_ids}
        for run_id, section, key, value in self._store.values_of_many(run_ids):
            if section in prefixes:
                rows[run_id][prefixes[section] + key] = value
        frame = pandas.DataFrame.from_dict(rows, orient="index")
        frame = frame.reindex(index=run_ids, columns=sorted(frame.columns))
        frame.index.name = "id"
        return frame
