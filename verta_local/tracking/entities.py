"""Verta's public import path `verta.tracking.entities`; the classes live in rooms of their own."""

from __future__ import annotations

from ..experiment import Experiment, Experiments
from ..project import Project, Projects
from ..run import ExperimentRun
from ..runs import ExperimentRuns

__all__ = ["Experiment", "ExperimentRun", "ExperimentRuns", "Experiments", "Project", "Projects"]
