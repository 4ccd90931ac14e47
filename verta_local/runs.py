"""The lazy list of runs, with what only runs have."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

from verta_store.query import Query
from verta_store.records import HYPERPARAMETERS, METRICS

from .errors import MissingExtra
from .lazy_list import LazyList
from .run import ExperimentRun

if TYPE_CHECKING:
    from verta_store import Store
    from verta_store.columns import Column


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
        prefixes = {HYPERPARAMETERS: "hpp.", METRICS: "metric."}
        table = self._store.columns(self._query, prefixes)
        named = {prefixes[section] + key: column for (section, key), column in table.columns.items()}
        places = pandas.RangeIndex(len(table.ids))
        series = {name: _series(pandas, named[name], places) for name in sorted(named)}
        frame = pandas.DataFrame(series, index=places)
        frame.index = pandas.Index(table.ids, name="id")
        return frame


def _series(pandas: Any, column: Column, places: Any) -> Any:
    """A column of a frame; where a value is missing there is NaN, and whole numbers are floats."""
    import numpy  # noqa: PLC0415 - optional

    values: Any = column.values
    if isinstance(values, array):
        values = numpy.frombuffer(values, dtype="i8" if values.typecode == "q" else "f8")
    if column.positions is None:
        return pandas.Series(values, index=places)
    if isinstance(values, list):
        return pandas.Series(values, index=column.positions).reindex(places)
    whole = numpy.full(len(places), numpy.nan)
    whole[numpy.frombuffer(column.positions, dtype="i8")] = values
    return pandas.Series(whole, index=places)
