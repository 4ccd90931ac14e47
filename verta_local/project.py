"""A project: a named group of experiments."""

from __future__ import annotations

from verta_store.query import Query

from .entity import Entity
from .experiment import Experiment
from .lazy_list import Entities
from .runs import ExperimentRuns


class Project(Entity):
    """One project of a store. Made by `Client.set_project`."""

    _kind = "project"

    def __repr__(self) -> str:
        return f"<Project {self._name!r} {self.url}>"

    @property
    def experiments(self) -> Entities[Experiment]:
        """The experiments of this project, a lazy list."""
        return Entities(self._store, Query("experiment", parent=self._id), Experiment)

    @property
    def expt_runs(self) -> ExperimentRuns:
        """The runs of all experiments of this project, a lazy list."""
        return ExperimentRuns(self._store, Query("run", grandparent=self._id))
