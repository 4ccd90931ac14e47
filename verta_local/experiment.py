"""An experiment: a named group of runs."""

from __future__ import annotations

from verta_store.query import Query

from .entity_code import EntityWithCode
from .entity_notes import EntityWithNotes
from .lazy_list import LazyList
from .runs import ExperimentRuns


class Experiment(EntityWithCode, EntityWithNotes):
    """One experiment of a project. Made by `Client.set_experiment`."""

    _kind = "experiment"

    def __repr__(self) -> str:
        return f"<Experiment {self._name!r} {self.url}>"

    @property
    def expt_runs(self) -> ExperimentRuns:
        """The runs of this experiment, a lazy list with `find`, `sort` and `top_k`."""
        return self._noting(ExperimentRuns(self._store, Query("run", parent=self._id)))


class Experiments(LazyList[Experiment]):
    """The experiments of a project, or of a store."""

    _noun = "experiments"
