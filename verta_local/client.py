"""The client: opens a store and makes the active project, experiment and run. Names and behaviour are Verta's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from verta_store import Store, open_store
from verta_store.query import Query
from verta_store.records import FIELDS

from . import config, creation
from .client_datasets import ClientDatasets
from .client_endpoints import ClientEndpoints
from .client_registry import ClientRegistry
from .client_settings import read_settings
from .conflicts import warn_of_lost
from .creation import Given
from .entity import WORKSPACE, WORKSPACE_KIND, Entity
from .errors import UnknownId
from .experiment import Experiment, Experiments
from .lazy_list import LazyList
from .project import Project, Projects
from .run import ExperimentRun
from .run_status import END_TIME, PARENT, START_TIME, note_created
from .runs import ExperimentRuns

Noted = TypeVar("Noted", bound="Entity | LazyList[Any]")


class Client(ClientDatasets, ClientRegistry, ClientEndpoints):
    """A store, and the project, experiment and run that are active in it.

    Args:
        host: the folder of the store. By default `VERTA_LOCAL_STORE`, else the nearest `.verta_local` from the
            current folder upwards, else one in the user's data folder; made when it does not exist. The address of
            a Verta server (also in `VERTA_HOST` or a config file) is passed over with a word, so that notebooks run
            unchanged.
        port: deprecated, as in Verta; part of an address.
        email, dev_key: of a Verta server: not used, but only both or neither may be given.
        use_git: whether `log_code` looks for a git repository.
        durability: "normal": a call that returned survives the death of the process, and a power cut at most a
            second later; "full": the power cut too, at once. By default `VERTA_LOCAL_DURABILITY`, else "normal".

    The other arguments are Verta's and have no meaning without a server; `max_retries`, `ignore_conn_err` and `debug`
    are attributes that can be set. What is not given is looked up in the environment (`VERTA_HOST`, `VERTA_EMAIL`,
    `VERTA_DEV_KEY`, `VERTA_WORKSPACE` ...), then in the config files `verta_config.yaml` and `verta_config.json`, which
    may also name a default project and experiment. As in Verta.

    Raises:
        ValueError: email or dev_key alone; a config file that cannot be read.
        StoreFormatError: a store of a newer format. StoreWriteError: the folder cannot be written.

    Differs from Verta: there is no connection, so nothing is retried, and no host is needed. May be pickled, and used
    from many threads, and processes (forked ones too).
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
        given = {
            "host": host,
            "email": email,
            "dev_key": dev_key,
            "jwt_token": jwt_token,
            "jwt_token_sig": jwt_token_sig,
            "organization_id": organization_id,
            "organization_name": organization_name,
        }
        self._settings = read_settings(given, port)
        if self._settings.address:
            print(
                f"note: {self._settings.address!r} is a server's address; verta_local needs none and keeps a store in "
                "a folder"
            )
        folder, reason = self._settings.folder, self._settings.reason
        by_caller = host is not None
        found, why = config.choose_store(folder if by_caller else None, None if by_caller else folder, reason)
        self._open(found, config.choose_durability(durability), why)
        self.max_retries = max_retries
        self.ignore_conn_err = ignore_conn_err
        self.debug = debug
        self._use_git = bool(use_git)
        self._workspace: str | None = None
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
    def projects(self) -> Projects:
        """All projects of the store, a lazy list."""
        return self._noting(Projects(self._store, Query("project"), Project))

    @property
    def experiments(self) -> Experiments:
        """All experiments of the store, a lazy list."""
        return self._noting(Experiments(self._store, Query("experiment"), Experiment))

    @property
    def expt_runs(self) -> ExperimentRuns:
        """All runs of the store, a lazy list with `find`, `sort` and `top_k`."""
        return self._noting(ExperimentRuns(self._store, Query("run")))

    def get_workspace(self) -> str:
        """The workspace that projects, datasets and models are made in by default. As in Verta.

        It is the one set, else that of `VERTA_WORKSPACE` or a config file, else "personal".
        """
        return self._workspace or self._settings.workspace or WORKSPACE

    def set_workspace(self, workspace: str) -> None:
        """Chooses the workspace that projects, datasets and models are made and looked for in by default.

        A workspace here is a name space for projects and nothing else: it begins with the first project made in it
        (`set_project(name, workspace=...)`).

        Raises:
            TypeError: not a text. ValueError: no project of the store is in it.
        """
        if not isinstance(workspace, str):
            raise TypeError(f"workspace must be a str, not {type(workspace).__name__}")
        known = (WORKSPACE, self._settings.workspace)
        if workspace not in known and self._store.named(WORKSPACE_KIND, None, workspace) is None:
            raise UnknownId(
                f"Workspace not found: no project of the store {self._store.root} is in a workspace {workspace!r}; "
                f"make one with set_project(name, workspace={workspace!r})"
            )
        self._workspace = workspace

    # -- projects --------------------------------------------------------------------------------------------------

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
            name: any text; by default that of a config file, else a generated one.
            desc, tags, attrs: for a new project; with an existing one they are passed over with a UserWarning.
            workspace: a name space for project names; `get_workspace()` by default.
            public_within_org, visibility: accepted and passed over: a folder's modes decide who sees it.
            id: of an existing project, instead of a name.

        Raises:
            ValueError: name and id together, or an unknown id. TypeError: tags or attrs of another type.
        """
        given = _given(desc, tags, attrs, public_within_org=public_within_org, visibility=visibility)
        if id is not None:
            found = creation.by_id(self._store, Project, name, id, given)
        else:
            name = self._name_of("project", name)
            place = self._workspace_id(workspace, make=True)
            found = creation.get_or_create(self._store, Project, place, name, "Proj", given)
        return self._activate_project(found)

    def create_project(
        self,
        name: str | None = None,
        desc: str | None = None,
        tags: Any = None,
        attrs: dict[str, Any] | None = None,
        workspace: str | None = None,
        public_within_org: bool | None = None,
        visibility: Any = None,
    ) -> Project:
        """Creates a project and makes it the active one. Arguments as `set_project`.

        Raises:
            EntityExists: there is one of that name: a ValueError with "409" and "already exists" in its text and, as in
                Verta, a `requests.HTTPError` where the process has imported `requests`.
        """
        given = _given(desc, tags, attrs, public_within_org=public_within_org, visibility=visibility)
        place = self._workspace_id(workspace, make=True)
        name = self._name_of("project", name)
        return self._activate_project(creation.create_new(self._store, Project, place, name, "Proj", given))

    def get_project(self, name: str | None = None, workspace: str | None = None, id: str | None = None) -> Project:
        """Gets a project by name or id and makes it the active one.

        Raises:
            ValueError: neither or both are given; "Project not found".
        """
        if id is None:
            name = self._name_of("project", name)
        return self._activate_project(
            creation.get(self._store, Project, self._workspace_id(workspace, make=False), name, id)
        )

    # -- experiments -----------------------------------------------------------------------------------------------

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
        given = _given(desc, tags, attrs)
        if id is not None:
            return self._activate_experiment(creation.by_id(self._store, Experiment, name, id, given))
        given.check()
        name = self._name_of("experiment", name)
        project = self._project or self.set_project()
        found = creation.get_or_create(self._store, Experiment, project.id, name, "Expt", given)
        return self._activate_experiment(found, project)

    def create_experiment(
        self,
        name: str | None = None,
        desc: str | None = None,
        tags: Any = None,
        attrs: dict[str, Any] | None = None,
    ) -> Experiment:
        """Creates an experiment under the active project (a new one where none is). Raises as `create_project`."""
        given = _given(desc, tags, attrs)
        given.check()
        name = self._name_of("experiment", name)
        project = self._project or self.set_project()
        made = creation.create_new(self._store, Experiment, project.id, name, "Expt", given)
        return self._activate_experiment(made, project)

    def get_experiment(self, name: str | None = None, id: str | None = None) -> Experiment:
        """Gets an experiment by name, under the active project, or by id, and makes it and its project active.

        Raises:
            ValueError: neither or both are given; "Experiment not found". Differs from Verta: where no project is
                active, none is made to look in.
        """
        if id is None:
            name = self._name_of("experiment", name)
            if name is not None and self._project is None:
                raise UnknownId(f"Experiment not found: {name!r} is looked for in the active project; set one first")
        return self._activate_experiment(
            creation.get(self._store, Experiment, self._project.id if self._project else None, name, id)
        )

    # -- runs ------------------------------------------------------------------------------------------------------

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
        parent: ExperimentRun | str | None = None,
    ) -> ExperimentRun:
        """Gets or creates a run under the active experiment (a new one where none is).

        Args:
            date_created, start_time, end_time: milliseconds since 1970, for the import of old runs.
            parent: a run, or its id, that the new one is a part of; the new one goes to its experiment. Not in Verta.

        Other arguments and errors as `set_project`; by id, its experiment and project become active too.
        """
        given = _given_of_run(desc, tags, attrs, date_created, start_time, end_time, parent)
        if id is not None:
            return self._activate_run(creation.by_id(self._store, ExperimentRun, name, id, given))
        experiment_id = self._experiment_of(parent, given)
        return self._begun(creation.get_or_create(self._store, ExperimentRun, experiment_id, name, "Run", given))

    def create_experiment_run(
        self,
        name: str | None = None,
        desc: str | None = None,
        tags: Any = None,
        attrs: dict[str, Any] | None = None,
        date_created: int | None = None,
        start_time: int | None = None,
        end_time: int | None = None,
        parent: ExperimentRun | str | None = None,
    ) -> ExperimentRun:
        """Creates a run under the active experiment (a new one where none is). Raises as `create_project`."""
        given = _given_of_run(desc, tags, attrs, date_created, start_time, end_time, parent)
        experiment_id = self._experiment_of(parent, given)
        return self._begun(creation.create_new(self._store, ExperimentRun, experiment_id, name, "Run", given))

    def get_experiment_run(self, name: str | None = None, id: str | None = None) -> ExperimentRun:
        """Gets a run by name, under the active experiment, or by id, and makes its experiment and project active.

        Raises:
            ValueError: neither or both are given; "Run not found". Differs from Verta: where no experiment is
                active, none is made to look in.
        """
        if id is None and name is not None and self._experiment is None:
            raise UnknownId(f"Run not found: {name!r} is looked for in the active experiment; set one first")
        parent = self._experiment.id if self._experiment else None
        return self._activate_run(creation.get(self._store, ExperimentRun, parent, name, id))

    get_or_create_project = set_project
    get_or_create_experiment = set_experiment
    get_or_create_experiment_run = set_experiment_run

    def query(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> list[dict[str, Any]]:
        """Rows of a SELECT over the index, as dicts; nothing can be changed by it. Not in Verta.

        The tables are those of `store/README.md`, section "The index": `entities`, `keys`, `vals`, `tags` ...

        Raises:
            ValueError: what SQLite cannot run, or would write.
        """
        import sqlite3  # noqa: PLC0415 - start-up time

        connection = self._store.reading_connection()
        try:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql, parameters)]
        except sqlite3.Error as error:
            raise ValueError(f"the index cannot run this: {error}; give one SELECT") from error
        finally:
            connection.close()

    def flush(self) -> None:
        """Returns when everything logged so far, to any run, survives a power cut."""
        self._store.flush()

    # -- what a call makes active ----------------------------------------------------------------------------------

    def _activate_project(self, project: Project) -> Project:
        self._project = self._noting(project)
        self._experiment = None
        return project

    def _activate_experiment(self, experiment: Experiment, project: Project | None = None) -> Experiment:
        if project is None:
            project = Project(self._store, self._store.entity(experiment._parent or ""))
        self._project = self._noting(project)
        self._experiment = self._noting(experiment)
        return experiment

    def _activate_run(self, run: ExperimentRun) -> ExperimentRun:
        self._activate_experiment(Experiment(self._store, self._store.entity(run._parent or "")))
        return self._noting(run)

    def _experiment_of(self, parent: ExperimentRun | str | None, given: Given) -> str:
        """The id of the experiment that a new run goes to."""
        given.check()
        if parent is not None:
            run_id = parent.id if isinstance(parent, ExperimentRun) else parent
            return creation.by_id(self._store, ExperimentRun, None, run_id)._parent or ""
        return (self._experiment or self.set_experiment()).id

    def _begun(self, run: ExperimentRun) -> ExperimentRun:
        if run._is_new:
            note_created(self._store, run._id)
        return self._noting(run)

    def _noting(self, made: Noted) -> Noted:
        """Tells what was made of this client's word about git."""
        if not self._use_git:
            made._use_git = False
        return made

    def _name_of(self, kind: str, name: str | None) -> str | None:
        return name if name is not None else self._settings.default_name(kind)

    def _workspace_id(self, workspace: str | None, *, make: bool) -> str | None:
        """What projects of a workspace lie below: nothing for the personal one, which so is that of older stores."""
        if workspace is not None and not isinstance(workspace, str):
            raise TypeError(f"workspace must be a str, not {type(workspace).__name__}")
        name = workspace or self.get_workspace()
        if name == WORKSPACE:
            return None
        found = (
            self._store.create(WORKSPACE_KIND, None, name) if make else self._store.named(WORKSPACE_KIND, None, name)
        )
        if found is None:
            raise UnknownId(f"Project not found: no project of the store {self._store.root} is in {name!r}")
        return found.id


def _given(desc: str | None, tags: Any, attrs: dict[str, Any] | None, **others: Any) -> Given:
    return Given(desc, tags, attrs, others=others)


def _given_of_run(
    desc: str | None,
    tags: Any,
    attrs: dict[str, Any] | None,
    created: Any,
    start: Any,
    end: Any,
    parent: ExperimentRun | str | None,
) -> Given:
    times = {"date_created": created, "start_time": start, "end_time": end}
    for argument, value in times.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise TypeError(f"{argument} must be a whole number of milliseconds, not {type(value).__name__}")
    fields = {name: times[name] for name in (START_TIME, END_TIME) if times[name] is not None}
    if parent is not None:
        fields[PARENT] = parent.id if isinstance(parent, ExperimentRun) else parent
    return Given(desc, tags, attrs, created, {FIELDS: fields} if fields else {}, {**times, "parent": parent})


# Stores that were named to the user already: once a process is enough.
_said: set[str] = set()
