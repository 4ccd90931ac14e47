"""The lazy list of runs, with what only runs have."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

from verta_store.query import Query
from verta_store.records import ATTRIBUTES, FIELDS, HYPERPARAMETERS, METRICS

from .errors import MissingExtra
from .lazy_list import LazyList
from .run import ExperimentRun
from .run_status import Life, lives_of

if TYPE_CHECKING:
    from verta_store import Store
    from verta_store.columns import Column, Table


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
        """A pandas DataFrame with a row a run: index = ids, columns sorted by name.

        As in Verta `hpp.*` and `metric.*`; and besides: `attribute.*`, `tags` (lists), `status` ("running", "finished",
        "failed", "killed"), `start_time` and `end_time` (UTC; NaT while a run is running).

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas  # noqa: PLC0415 - optional
        except ImportError as error:
            raise MissingExtra("as_dataframe() needs pandas; install it with: pip install pandas") from error
        prefixes = {HYPERPARAMETERS: "hpp.", METRICS: "metric.", ATTRIBUTES: "attribute."}
        table = self._store.columns(self._query, {*prefixes, FIELDS})
        places = pandas.RangeIndex(len(table.ids))
        series = {
            prefixes[section] + key: _series(pandas, column, places)
            for (section, key), column in table.columns.items()
            if section in prefixes
        }
        tags = self._store.tags_of_many(table.ids)
        series["tags"] = pandas.Series([tags.get(run_id, []) for run_id in table.ids], index=places, dtype=object)
        lives = self._lives(table)
        series["status"] = pandas.Series([life.status for life in lives], index=places, dtype=object)
        for name, times in (
            ("start_time", [life.start_ms for life in lives]),
            ("end_time", [life.end_ms for life in lives]),
        ):
            series[name] = pandas.Series(pandas.to_datetime(times, unit="ms", utc=True), index=places)
        frame = pandas.DataFrame({name: series[name] for name in sorted(series)}, index=places)
        frame.index = pandas.Index(table.ids, name="id")
        return frame

    def _lives(self, table: Table) -> list[Life]:
        """The lives of the runs of a table with the section `fields`."""
        fields: list[dict[str, Any]] = [{} for _ in table.ids]
        for (section, key), column in table.columns.items():
            if section == FIELDS:
                for place, value in zip(column.positions or range(len(fields)), column.values, strict=True):
                    fields[place][key] = value
        found = lives_of(self._store, dict(zip(table.ids, fields, strict=True)))
        deleted = Life("", 0, 0, None)  # since the table was read
        return [found.get(run_id, deleted) for run_id in table.ids]


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
