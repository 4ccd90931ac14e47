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
