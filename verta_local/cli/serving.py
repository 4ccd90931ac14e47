"""The commands about served models: serve, deploy, undeploy, status, predict, logs, token, trust."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from ..built_files import TOKEN_VARIABLE
from ..plain_text import plain
from .commands import open_chosen_store, row_of, run_of
from .terminal import print_json, print_table

if TYPE_CHECKING:
    from verta_store import Store
    from verta_store.query import EntityRow

    from ..run import ExperimentRun
    from ..serving import ModelToServe, ServedModel


def serve(options: argparse.Namespace) -> int:
    """`verta-local serve RUN ...` and `verta-local serve --all`"""
    gc.disable()  # until it serves, see `cli.main`
    try:
        return _serve(options)
    finally:
        gc.enable()


def _serve(options: argparse.Namespace) -> int:
    from ..serving import serve_foreground  # noqa: PLC0415 - start-up time
    from ..serving.nursery import fork_from_here  # noqa: PLC0415 - start-up time
    from ..serving.scheduling import work_in_batches  # noqa: PLC0415 - start-up time

    def announce(models: list[ServedModel]) -> None:
        for model in models:
            print(f"serving {plain(model.run_name)}\n  url    {model.url}\n  token  {model.token or '(none)'}")
            print(f"  try    {model.curl}\n  page   {model.page}")
        print("Ctrl-C ends it; requests in flight are answered.", flush=True)

    if options.all == bool(options.runs):
        raise ValueError("say which runs to serve, or --all for those that are deployed on this machine")
    work_in_batches()
    # Before the store is open: a fork has nothing of it. These two import what loads a model, as we do from here on.
    nursery = fork_from_here(("verta_store.contents", "verta_local.trust"))
    models = _deployed(open_chosen_store(options), options) if options.all else _named(options)
    if nursery is not None:  # this process does nothing else: what is there now, stays
        gc.freeze()
    gc.enable()
    code: int = serve_foreground(
        models,
        host=options.host,
        port=options.port,
        token=options.token or os.environ.get(TOKEN_VARIABLE) or None,
        no_token=options.no_token,
        on_ready=announce,
        allowed_hosts=tuple(options.allow_host),
        _nursery=nursery,
        **({} if options.slow is None else {"slow_s": options.slow}),
        **_process_settings(options),
    )
    return code


def _named(options: argparse.Namespace) -> list[ModelToServe]:
    """The models of runs and endpoints of the store, and of folders that `verta-local build` made."""
    from ..built_files import is_built  # noqa: PLC0415 - start-up time
    from ..serving import ModelToServe  # noqa: PLC0415 - start-up time

    found = []
    for word in options.runs:
        if not is_built(word):
            found.append(_to_serve(open_chosen_store(options), word, options))
            continue
        from ..built import built_by_this_user, read_spec  # noqa: PLC0415 - start-up time

        if not options.trust and not built_by_this_user(word):
            raise ValueError(f"{word} belongs to another user, and its code will run as you: if you trust it, --trust")
        found.append(ModelToServe(read_spec(word)))
    return found


def build(options: argparse.Namespace) -> int:
    """`verta-local build RUN -o DIR`"""
    from ..built import build as build_folder  # noqa: PLC0415 - start-up time

    run = run_of(options)
    folder = build_folder(open_chosen_store(options), run.model_spec(for_deployment=True), options.output)
    print(f"built {plain(run.name)}\n  folder  {folder}\n  serve   python {folder / 'serve.py'}")
    return 0


def _to_serve(store: Store, word: str, options: argparse.Namespace) -> ModelToServe:
    """The model of a run, or what the endpoint of that path serves."""
    from ..run import ExperimentRun  # noqa: PLC0415 - start-up time
    from ..serving import ModelToServe  # noqa: PLC0415 - start-up time

    row = store.named("endpoint", None, word if word.startswith("/") else f"/{word}")
    if row is not None:
        return _endpoint_to_serve(store, row)
    run = ExperimentRun(store, row_of(store, word))
    _require_trust(run, options)
    return ModelToServe(run.model_spec(for_deployment=True))


def _endpoint_to_serve(store: Store, row: EntityRow) -> ModelToServe:
    from ..endpoint import Endpoint  # noqa: PLC0415 - start-up time
    from ..serving import ModelToServe  # noqa: PLC0415 - start-up time

    endpoint = Endpoint(store, row)
    spec, settings = endpoint.last_served()
    return ModelToServe(spec, endpoint.path, endpoint.get_access_token(), settings)


def _deployed(store: Store, options: argparse.Namespace) -> list[ModelToServe]:
    """What the store notes as deployed on this machine, as it was: at its path, with its settings."""
    from ..deployment.tokens import kept_token  # noqa: PLC0415 - start-up time
    from ..run import ExperimentRun  # noqa: PLC0415 - start-up time
    from ..run_model import deployed_here  # noqa: PLC0415 - start-up time
    from ..serving import ModelToServe  # noqa: PLC0415 - start-up time

    found = []
    for row, note in deployed_here(store):
        if row.kind == "run":
            run = ExperimentRun(store, row)
            _require_trust(run, options)
            spec = run.model_spec(for_deployment=True)
            token = kept_token(spec, note.get("path"))
            found.append(ModelToServe(spec, note.get("path"), token, note.get("settings") or {}))
        else:
            found.append(_endpoint_to_serve(store, row))
    if not found:
        raise ValueError(
            f"nothing of {store.root} is deployed on this machine; deploy a run with: verta-local deploy RUN"
        )
    if options.token is not None or options.no_token:
        return [model._replace(token=None) for model in found]
    return found


def predict(options: argparse.Namespace) -> int:
    """`verta-local predict RUN [JSON]`"""
    text = sys.stdin.read() if options.data == "-" else options.data
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the input is not JSON ({error}); text needs quotes of its own: '\"like this\"'") from error
    if options.run_name.startswith(("http://", "https://")):
        from ..deployment import DeployedModel  # noqa: PLC0415 - start-up time

        model = DeployedModel.from_url(options.run_name, options.token)
    else:
        run = run_of(options)
        if run.get_deployment_status()["status"] not in ("deployed", "deploying"):
            raise ValueError(
                f"the model of run {run.name!r} is not currently deployed; deploy it with: "
                f"verta-local deploy {run.id[:8]}"
            )
        model = run.get_deployed_model()
    print_json(model.predict(data), indent=None)
    return 0


def deploy(options: argparse.Namespace) -> int:
    """`verta-local deploy RUN`"""
    run = run_of(options)
    _require_trust(run, options)
    status = run.deploy(
        path=options.path,
        token=options.token,
        no_token=options.no_token,
        wait=True,
        canary=options.canary,
        engine=options.engine,
        **_process_settings(options),
    )
    print(f"{status['status']}\n  url    {status['url']}\n  token  {status['token'] or '(none)'}")
    if status.get("canary"):
        print(
            f"  canary {plain(str(status['canary']['run_name']))} gets {status['canary']['share']:.0%} of the requests"
        )
    return 0


def _process_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What was said of a model's processes; what was not said keeps its default."""
    said = {
        "threads": options.threads,
        "replicas": options.replicas,
        "queue_limit": options.queue,
        "predict_timeout_s": options.timeout,
    }
    return {name: value for name, value in said.items() if value is not None}


def undeploy(options: argparse.Namespace) -> int:
    """`verta-local undeploy RUN`"""
    print(run_of(options).undeploy(wait=True)["status"])
    return 0


def status(options: argparse.Namespace) -> int:
    """`verta-local status`"""
    from ..deployment import local  # noqa: PLC0415 - start-up time

    found = local.list_deployments()
    if options.json:
        print_json(found)
        return 0
    if not found:
        print("nothing is deployed")
        return 0
    rows = []
    for deployment in found:
        rows.append(_row_of_status(deployment, _state_word(deployment)))
        canary = deployment.get("canary")
        if canary:
            word = f"{canary['status']} (canary, {canary['share']:.0%})"
            rows.append(_row_of_status({**deployment, **canary, "restarts": 0}, word))
    print_table(("RUN", "NAME", "STATUS", "PROCESSES", "RESTARTS", "URL"), rows)
    return 0


def _row_of_status(deployment: dict[str, Any], word: str) -> tuple[str, ...]:
    name = plain(str(deployment.get("run_name") or ""))
    counts = str(len(deployment["pids"])), str(deployment["restarts"])
    return (str(deployment["run_id"])[:8], name, word, *counts, str(deployment["url"] or ""))


def _state_word(deployment: dict[str, Any]) -> str:
    return f"{deployment['status']}{' (foreground)' if deployment.get('is_foreground') else ''}"


def logs(options: argparse.Namespace) -> int:
    """`verta-local logs RUN [-f] [-n COUNT] [--access]`"""
    import time  # noqa: PLC0415 - only here

    from .. import config  # noqa: PLC0415
    from ..deployment_settings import ACCESS_LOG, log_name  # noqa: PLC0415 - start-up time

    store = open_chosen_store(options)
    served_id = _served_id(store, options.run_name)
    folder = config.serving_dir() / "logs"
    path = folder / (ACCESS_LOG if options.access else log_name(store.id, served_id))
    wanted = json.dumps(served_id).encode() if options.access else b""
    before = path.with_name(path.name + ".1")
    parts = [part.read_bytes() for part in (before, path) if part.exists()]
    if not parts and not options.follow:
        raise ValueError(f"the model of {options.run_name!r} has no log on this machine: it was not served here")
    at_byte = len(parts[-1]) if path.exists() else 0
    lines = [line for line in b"".join(parts).splitlines() if wanted in line]
    for line in lines[-options.n :] if options.n else lines:
        print(plain(line.decode("utf-8", "replace")))
    while options.follow:
        sys.stdout.flush()
        time.sleep(0.2)
        try:
            with path.open("rb") as stream:
                if stream.seek(0, os.SEEK_END) < at_byte:
                    at_byte = 0  # it was cut, or moved away
                stream.seek(at_byte)
                text = stream.read()
        except FileNotFoundError:
            at_byte = 0
            continue
        whole = text[: text.rfind(b"\n") + 1]
        at_byte += len(whole)
        for line in whole.splitlines():
            if wanted in line:
                print(plain(line.decode("utf-8", "replace")))
    return 0


def _served_id(store: Store, word: str) -> str:
    """Under which id a run, or what an endpoint serves, is known to the serving process."""
    row = store.named("endpoint", None, word if word.startswith("/") else f"/{word}")
    if row is None:
        return row_of(store, word).id
    from ..endpoint import Endpoint  # noqa: PLC0415 - start-up time

    return str(Endpoint(store, row).last_served()[0]["run_id"])


def token(options: argparse.Namespace) -> int:
    """`verta-local token RUN [--rotate [--grace TIME]]`"""
    from ..deployment import local  # noqa: PLC0415 - start-up time
    from ..deployment_settings import new_token  # noqa: PLC0415 - start-up time

    run = run_of(options)
    found = run.get_deployment_status()
    if found["status"] == "not deployed" or found.get("is_foreground"):
        raise ValueError(f"run {run.name!r} is not deployed in the background; deploy it with: verta-local deploy RUN")
    if not options.rotate:
        print(found["token"] or "(none)")
        return 0
    made = new_token()
    spec = {"store_id": run._store.id, "run_id": run.id, "project_id": run._project_id()}
    route = str(found["route"])
    path = route[len(spec["project_id"]) + 1 :] if route.startswith(f"{spec['project_id']}/") else None
    local.set_token(spec, path, made, run.id, grace_s=options.grace)
    print(made)
    return 0


def trust(options: argparse.Namespace) -> int:
    """`verta-local trust RUN`"""
    run = run_of(options)
    run.trust()
    print(f"the code that others logged in {plain(run.name)} may run as you on this machine")
    return 0


def _require_trust(run: ExperimentRun, options: argparse.Namespace) -> None:
    """Asks once before somebody else's code runs. Raises: ValueError where it may not."""
    from ..trust import code_of, is_trusted  # noqa: PLC0415 - start-up time

    spec = run.model_spec(for_deployment=True)
    others = {author for digest, author in code_of(spec) if not is_trusted(digest, author)}
    if not others:
        return
    who = " and ".join(sorted(plain(str(author)) for author in others))
    said = f"the model of run {plain(run.name)!r} was logged by {who}: its code will run as you"
    if not options.trust:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise ValueError(f"{said}; if you trust them, say --trust, or: verta-local trust {run.id[:8]}")
        print(f"{said}. Trust it? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise ValueError("not trusted: nothing was run")
    run.trust()
