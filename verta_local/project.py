"""A project: a named group of experiments."""

from __future__ import annotations

from verta_store.query import Query

from .entity_code import EntityWithCode
from .entity_notes import EntityWithNotes
from .experiment import Experiment, Experiments
from .lazy_list import LazyList
from .runs import ExperimentRuns


class Project(EntityWithCode, EntityWithNotes):
    """One project of a store. Made by `Client.set_project`."""

    _kind = "project"

    def __repr__(self) -> str:
        return f"<Project {self._name!r} {self.url}>"

    @property
    def experiments(self) -> Experiments:
        """The experiments of this project, a lazy list."""
        return self._noting(Experiments(self._store, Query("experiment", parent=self._id), Experiment))

    @property
    def expt_runs(self) -> ExperimentRuns:
        """The runs of all experiments of this project, a lazy list."""
        return self._noting(ExperimentRuns(self._store, Query("run", grandparent=self._id)))


class Projects(LazyList[Project]):
    """The projects of a store."""

    _noun = "projects"
