"""The client: opens a store and makes the active project, experiment and run. Names and behaviour are Verta's."""

from __future__ import annotations

import os
import re
from typing import Any

from verta_store import Store, open_store
from verta_store.query import Query

from . import config, creation
from .client_datasets import ClientDatasets
from .conflicts import warn_of_lost
from .creation import Given
from .experiment import Experiment
from .lazy_list import Entities
from .project import Project
from .run import ExperimentRun
from .runs import ExperimentRuns

# What notebooks gave as `host`: an address, never a folder.
_ADDRESS = re.compile(r"(?i)[a-z]+://.*|[\w.-]+:\d+|localhost|.*\.verta\.ai/?")


class Client(ClientDatasets):
    """A store, and the project, experiment and run that are active in it.

    Args:
        host: the folder of the store. By default `VERTA_LOCAL_STORE`, else the nearest `.verta_local` from the
            current folder upwards, else one in the user's data folder; made when it does not exist. The address of
            a Verta server is passed over with a word, so that notebooks run unchanged.
        durability: "normal": a call that returned survives the death of the process, and a power cut at most a
            second later; "full": the power cut too, at once. By default `VERTA_LOCAL_DURABILITY`, else "normal".

    The other arguments are Verta's and have no meaning without a server.

    Raises:
        StoreFormatError: a store of a newer format. StoreWriteError: the folder cannot be written.

    Differs from Verta: there is no connection, so nothing is retried, and no credentials.
    """

    def __init__(
        self,
        host: str | os.PathLike[str] | None = None,
        port: Any = None,
        email: str | None = None,
        dev_key: str | None = None,
        max_retries: int = 5,
        ignore_conn_err: bool = False,
        use_git: bool = True,
        debug: bool = False,
        extra_auth_headers: dict[str, str] | None = None,
        jwt_token: str | None = None,
        jwt_token_sig: str | None = None,
        organization_id: str | None = None,
        organization_name: str | None = None,
        _connect: bool = True,
        *,
        durability: str | None = None,
    ) -> None:
        if host is not None and not os.path.isdir(host) and _ADDRESS.fullmatch(os.fspath(host)):
            print(
                f"note: {os.fspath(host)!r} is a server's address; verta_local needs none and keeps a store in a folder"
            )
            host = None
        folder, reason = config.choose_store(host)
        self._open(folder, config.choose_durability(durability), reason)
        self.max_retries = max_retries
        self.ignore_conn_err = ignore_conn_err
        self.debug = debug
        self._use_git = use_git
        self._project: Project | None = None
        self._experiment: Experiment | None = None

    def _open(self, folder: str, durability: str, reason: str) -> None:
        self._store: Store = open_store(folder, config.cache_dir(), create=True, durability=durability)
        self._store.on_lost = warn_of_lost
        if self._store.root not in _said:
            _said.add(self._store.root)
            made = "new store" if self._store.was_created else "store"
            print(f"{made}: {self._store.root} ({reason})")
            for note in self._store.notes:
                print(f"note: {note}")

    def __repr__(self) -> str:
        return f"<Client of the store {self._store.root}>"

    # -- what is active --------------------------------------------------------------------------------------------

    @property
    def store_path(self) -> str:
        """The store's folder."""
        return self._store.root

    @property
    def use_git(self) -> bool:
        """Whether `log_code` looks for a git repository. Read-only, as in Verta."""
        return self._use_git

    @property
    def proj(self) -> Project | None:
        """The active project, or None."""
        return self._project

    @property
    def expt(self) -> Experiment | None:
        """The active experiment, or None."""
        return self._experiment

    @property
    def projects(self) -> Entities[Project]:
        """All projects of the store, a lazy list."""
        return Entities(self._store, Query("project"), Project)

    @property
    def experiments(self) -> Entities[Experiment]:
        """All experiments of the store, a lazy list."""
        return Entities(self._store, Query("experiment"), Experiment)

    @property
    def expt_runs(self) -> ExperimentRuns:
        """All runs of the store, a lazy list with `find`, `sort` and `top_k`."""
        return ExperimentRuns(self._store, Query("run"))

    # -- get or create ---------------------------------------------------------------------------------------------

    def set_project(
        self,
        name: str | None = None,
        desc: str | None = None,
        tags: Any = None,
        attrs: dict[str, Any] | None = None,
        workspace: str | None = None,
        public_within_org: bool | None = None,
        visibility: Any = None,
        id: str | None = None,
    ) -> Project:
        """Gets or creates a project and makes it the active one; no experiment is active then.

        Args:
            name: any text; by default a generated one.
            desc, tags, attrs: for a new project; with an existing one they are passed over with a UserWarning.
            id: of an existing project, instead of a name.

        Raises:
            ValueError: name and id together, or an unknown id. TypeError: tags or attrs of another type.
        """
        if id is not None:
            self._project = creation.by_id(self._store, Project, name, id)
        else:
            given = Given(desc, tags, attrs)
            self._project = creation.get_or_create(self._store, Project, None, name, "Proj", given)
        self._experiment = None
        return self._project

    def set_experiment(
        self,
        name: str | None = None,
        desc: str | None = None,
        tags: Any = None,
        attrs: dict[str, Any] | None = None,
        id: str | None = None,
    ) -> Experiment:
        """Gets or creates an experiment under the active project (a new one where none is) and makes it active.

        Arguments and errors as `set_project`; by id, its project becomes active too.
        """
        if id is not None:
            experiment = creation.by_id(self._store, Experiment, name, id)
            self._project = Project(self._store, self._store.entity(experiment._parent or ""))
        else:
            project = self._project or self.set_project()
            given = Given(desc, tags, attrs)
            experiment = creation.get_or_create(self._store, Experiment, project.id, name, "Expt", given)
        self._experiment = experiment
        return experiment

    def set_experiment_run(
        self,
        name: str | None = None,
        desc: str | None = None,
        tags: Any = None,
        attrs: dict[str, Any] | None = None,
        id: str | None = None,
        date_created: int | None = None,
        start_time: int | None = None,
        end_time: int | None = None,
    ) -> ExperimentRun:
        """Gets or creates a run under the active experiment (a new one where none is).

        Args:
            date_created: milliseconds since 1970, for the import of old runs; now by default.

        Other arguments and errors as `set_project`; by id, its experiment and project become active too.
        """
        if id is not None:
            run = creation.by_id(self._store, ExperimentRun, name, id)
            experiment = self._store.entity(run._parent or "")
            self._experiment = Experiment(self._store, experiment)
            self._project = Project(self._store, self._store.entity(experiment.parent or ""))
            return run
        parent = self._experiment or self.set_experiment()
        given = Given(desc, tags, attrs, at_ms=date_created)
        return creation.get_or_create(self._store, ExperimentRun, parent.id, name, "Run", given)

    get_or_create_project = set_project
    get_or_create_experiment = set_experiment
    get_or_create_experiment_run = set_experiment_run

    def flush(self) -> None:
        """Returns when everything logged so far, to any run, survives a power cut."""
        self._store.flush()


# Stores that were named to the user already: once a process is enough.
_said: set[str] = set()
