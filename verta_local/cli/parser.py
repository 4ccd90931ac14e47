"""The commands of `verta-local`, their options, and an example of each."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from .._version import __version__
from . import commands, doctor, maintenance, serving

_EPILOG = """\
RUN is a run's id, the beginning of one, or a name that only one run has.
The store: --store, else VERTA_LOCAL_STORE, else the nearest .verta_local folder from here upwards, else your own.

example:
  verta-local demo
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line; the chosen command's function is in `run`, None where none is chosen."""
    words = list(arguments)
    while words and words[0].startswith("--store"):
        del words[: 1 if "=" in words[0] else 2]
    return make_parser(words[0] if words else "").parse_args(arguments)


class _Help(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal. argparse would ask `shutil`, which it imports for that alone: 3 ms of each command."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    """As `shutil.get_terminal_size` finds it."""
    try:
        columns = int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        columns = 0
    if columns <= 0:
        try:
            columns = os.get_terminal_size(sys.__stdout__.fileno()).columns  # type: ignore[union-attr]
        except (AttributeError, ValueError, OSError):
            columns = 0
    return columns if columns > 0 else 80


class _Unused:
    """A command that was not chosen."""

    def add_argument(self, *words: Any, **settings: Any) -> None:
        """Nobody will read it."""


def make_parser(only: str = "") -> argparse.ArgumentParser:
    """The parser of all commands; of one where there is one of that name: making all takes longer than `--version`."""
    parser = argparse.ArgumentParser(
        prog="verta-local",
        description="A local-first, file-backed experiment store that deploys classes as models.",
        epilog=_EPILOG,
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"verta-local {__version__}")
    parser.add_argument("--store", metavar="PATH", default=None, help="the store's folder")
    parser.set_defaults(run=None)
    group = parser.add_subparsers(metavar="COMMAND", title="commands")

    def add(
        name: str, run: Callable[[argparse.Namespace], int], about: str, example: str
    ) -> argparse.ArgumentParser | _Unused:
        if only not in ("", name):
            return _Unused()
        command = group.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            epilog=f"example:\n  {example}\n",
            formatter_class=_Help,
        )
        # After the command too; SUPPRESS, so that it does not undo the one before the command.
        command.add_argument("--store", metavar="PATH", default=argparse.SUPPRESS, help="the store's folder")
        command.set_defaults(run=run)
        return command

    def add_process_settings(command: argparse.ArgumentParser | _Unused) -> None:
        command.add_argument("--trust", action="store_true", help="run the code that others logged, from now on")
        command.add_argument("--replicas", type=int, default=None, help="processes of each model (1)")
        command.add_argument("--threads", type=int, default=None, help="predictions at a time in each process (4)")
        command.add_argument("--queue", type=int, default=None, metavar="COUNT", help="requests that may wait (128)")
        command.add_argument("--timeout", type=float, default=None, metavar="S", help="for one prediction (60)")

    add("demo", commands.demo, "train, log, deploy and query a small search model, offline", "verta-local demo")
    init = add("init", commands.init, "make a store", "verta-local init /mnt/team/store --shared")
    init.add_argument("path", nargs="?", default=".verta_local", help="the new folder (.verta_local)")
    init.add_argument(
        "--shared",
        nargs="?",
        choices=("user", "group", "all"),
        const="group",
        default="user",
        help="for a team: everybody of the folder's group may use it (group), or everybody (all)",
    )

    serve = add(
        "serve", serving.serve, "serve the models of runs in the foreground, until Ctrl-C", "verta-local serve RUN"
    )
    serve.add_argument("runs", metavar="RUN", nargs="*", help="the runs, or paths of endpoints, to serve")
    serve.add_argument("--all", action="store_true", help="those that are deployed on this machine, as after a restart")
    serve.add_argument("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1)")
    serve.add_argument("--port", type=int, default=0, help="the port (0: a free one)")
    serve.add_argument("--token", default=None, help="what callers must send as Access-Token (a random one)")
    serve.add_argument("--no-token", action="store_true", help="let everybody on this machine call the model")
    serve.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME:PORT",
        help="a Host name to answer to; may be repeated; * for any, behind a proxy or in a cluster",
    )
    serve.add_argument("--slow", type=float, default=None, metavar="S", help="a request that takes so long is slow (1)")
    add_process_settings(serve)

    predict = add(
        "predict",
        serving.predict,
        "ask a deployed model",
        "verta-local predict RUN '\"how do I sort a list?\"'",
    )
    predict.add_argument("run_name", metavar="RUN", help="a run whose model is deployed, or the URL of a served model")
    predict.add_argument("data", nargs="?", default="-", help="the input as JSON; without it standard input")
    predict.add_argument("--token", default=None, help="the token, with a URL (--token=TOKEN if it begins with a dash)")

    deploy = add("deploy", serving.deploy, "serve a run's model in the background", "verta-local deploy RUN")
    deploy.add_argument("run_name", metavar="RUN")
    deploy.add_argument("--path", default=None, help="the last part of the URL (the run's id)")
    deploy.add_argument(
        "--engine", default="local", metavar="NAME", help="what serves it: local, or ray for a Ray cluster (local)"
    )
    deploy.add_argument("--token", default=None, help="what callers must send as Access-Token (a random one)")
    deploy.add_argument("--no-token", action="store_true", help="let everybody on this machine call the model")
    deploy.add_argument("--canary", default=None, metavar="SHARE", help="its share of the requests at --path, as 10%%")
    add_process_settings(deploy)
    build = add(
        "build",
        serving.build,
        "write a run's model as a folder that serves without the store: on KServe, in a container, anywhere",
        "verta-local build RUN -o model",
    )
    build.add_argument("run_name", metavar="RUN")
    build.add_argument("-o", "--output", required=True, metavar="DIR", help="the new folder")
    undeploy = add("undeploy", serving.undeploy, "end a run's deployment", "verta-local undeploy RUN")
    undeploy.add_argument("run_name", metavar="RUN")
    logs = add("logs", serving.logs, "show what a run's model printed while it was served", "verta-local logs RUN -f")
    logs.add_argument("run_name", metavar="RUN")
    logs.add_argument("-f", "--follow", action="store_true", help="go on showing what it prints, until Ctrl-C")
    logs.add_argument("-n", type=int, default=100, metavar="COUNT", help="the last so many lines (100); 0 for all")
    logs.add_argument("--access", action="store_true", help="its requests instead, a line of JSON each")
    token = add(
        "token", serving.token, "show or change what callers of a deployed run send", "verta-local token RUN --rotate"
    )
    token.add_argument("run_name", metavar="RUN")
    token.add_argument("--rotate", action="store_true", help="make another one")
    token.add_argument(
        "--grace", type=maintenance.duration_s, default=0.0, metavar="TIME", help="the old one is good for so long (0)"
    )
    trust = add("trust", serving.trust, "let the code that others logged in a run run as you", "verta-local trust RUN")
    trust.add_argument("run_name", metavar="RUN")
    status = add("status", serving.status, "list this user's deployments on this machine", "verta-local status")
    status.add_argument("--json", action="store_true", help="for programs")

    ls = add(
        "ls",
        commands.ls,
        "list runs (or datasets, models, endpoints), the last changed first",
        "verta-local ls --where 'metrics.recall > 0.9' --sort metrics.recall",
    )
    ls.add_argument("what", nargs="?", choices=("runs", "datasets", "models", "endpoints"), default="runs")
    ls.add_argument("--where", action="append", default=[], metavar="PREDICATE", help="a condition; may be repeated")
    ls.add_argument("--sort", metavar="KEY", default=None, help="the highest value of this key first")
    ls.add_argument("-n", type=int, default=20, metavar="COUNT", help="at most so many (20); 0 for all")
    ls.add_argument("--json", action="store_true", help="for programs")

    show = add("show", commands.show, "show all that a run (or dataset, model, endpoint) holds", "verta-local show RUN")
    show.add_argument("run_name", metavar="RUN", help="a run, or the name or id of something else that `ls` lists")
    show.add_argument("--json", action="store_true", help="for programs")

    artifacts = add(
        "artifacts", commands.artifacts, "list or copy out a run's artifacts", "verta-local artifacts get RUN index ."
    )
    artifacts.add_argument("action", metavar="ls|get", help="list them, or copy one out; without it they are listed")
    artifacts.add_argument("run_name", metavar="RUN", nargs="?")
    artifacts.add_argument("key", nargs="?", help="the artifact to copy out")
    artifacts.add_argument("target", nargs="?", default=".", help="the folder to copy it into, or the new path (.)")

    verify = add("verify", maintenance.verify, "look for damage in the store", "verta-local verify --deep")
    verify.add_argument("--deep", action="store_true", help="hash every stored byte again")
    verify.add_argument(
        "--repair",
        action="store_true",
        help="put what is damaged aside, restore what the store holds twice, make the index anew; nothing is deleted",
    )
    verify.add_argument(
        "--accept-loss",
        action="store_true",
        help="with --repair: what is lost of the journals counts as damage no longer, and gc goes on without it",
    )
    verify.add_argument("--json", action="store_true", help="for programs")

    gc = add(
        "gc",
        maintenance.gc,
        "move what no run names any more to the trash, and delete what has waited there",
        "verta-local gc --dry-run",
    )
    gc.add_argument("--dry-run", action="store_true", help="only say what would go, and whose it was")
    gc.add_argument(
        "--grace", type=maintenance.duration_s, default=None, metavar="TIME", help="what is younger stays (14d)"
    )
    gc.add_argument(
        "--i-am-alone",
        action="store_true",
        help="nobody else uses this store: allows a grace below 24h; with --grace 0 all goes at once",
    )
    gc.add_argument("--no-pack", action="store_true", help="leave small journals as they are, one file each")
    gc.add_argument("--json", action="store_true", help="for programs")

    conflicts = add(
        "conflicts", doctor.conflicts, "list the values that lost against another writer's", "verta-local conflicts"
    )
    conflicts.add_argument("--json", action="store_true", help="for programs")

    check_up = add(
        "doctor",
        doctor.doctor,
        "say what a store's drive can do, and where its index is",
        "verta-local doctor /mnt/team/store",
    )
    check_up.add_argument("path", nargs="?", default=None, help="a store, or a folder that might become one")
    check_up.add_argument("--json", action="store_true", help="for programs")

    query = add(
        "query",
        commands.query,
        "run a SELECT over the index",
        "verta-local query 'SELECT name FROM entities WHERE kind = \"run\"'",
    )
    query.add_argument("sql", help="one SELECT; the tables are described in store/README.md")
    query.add_argument("--json", action="store_true", help="for programs")
    return parser if group.choices else make_parser()
