"""The command: `python -m benchmarks.serving [--peer-venv NAME=FOLDER ...] [--install] [--only PART,PART] ...`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from .. import table
from ..harness import Bench, Sizes
from . import measures, ours, peers
from .measures import CLIENTS, Figure, Plan, Row

PARTS = ("throughput", "scaling", "memory", "deploy", "upgrade")
Told = TypeVar("Told", Row, Figure)
_KNOWN = {peer.name: peer for peer in peers.PEERS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints the tables. Returns 0; with --strict 1 for a missed limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument(
        "--peer-venv", action="append", default=[], metavar="NAME=FOLDER", help=f"where one is: {', '.join(_KNOWN)}"
    )
    parser.add_argument("--install", action="store_true", help="makes the environments of the others, with pip")
    parser.add_argument("--only", metavar="PART,PART", help=f"some parts: {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one load (default 3)")
    parser.add_argument("--starts", type=int, default=3, help="starts that are timed (default 3)")
    parser.add_argument("--large", type=float, default=1.0, metavar="GIB", help="the large artifact (default 1)")
    parser.add_argument("--files", type=int, default=5_000, help="the folder of many files (default 5000)")
    parser.add_argument("--scratch", metavar="FOLDER", help="where to work (default: temporary)")
    parser.add_argument("--json", metavar="FILE", help="writes the numbers to a file, too")
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a limit is missed")
    options = parser.parse_args(arguments)
    chosen = options.only.split(",") if options.only else list(PARTS)
    named = dict(word.partition("=")[::2] for word in options.peer_venv)
    for word in chosen:
        if word not in PARTS:
            parser.error(f"no part {word!r}; there are: {', '.join(PARTS)}")
    for word in named:
        if word not in _KNOWN:
            parser.error(f"no server {word!r}; there are: {', '.join(_KNOWN)}")
    if not sys.platform.startswith("linux"):
        parser.error("this measures by /proc and pins to cores: it needs Linux")
    plan = Plan(options.seconds, options.starts, round(options.large * (1 << 30)), options.files)
    folders = {name: Path(folder).absolute() for name, folder in named.items()}
    with Bench(Sizes(), 2, 0.0, options.scratch) as bench:
        print(table.describe_machine(bench.folder))
        print(f"of verta-local[fast] there is: {', '.join(ours.has_fast()) or 'nothing'}")
        rows, figures = _run(bench, chosen, folders, options.install, plan)
    if rows:
        _print_rows(rows)
    if figures:
        _print_figures(figures)
    if options.json:
        found = {"rows": [asdict(row) for row in rows], "figures": [asdict(figure) for figure in figures]}
        Path(options.json).write_text(json.dumps(found, indent=1))
    return int(options.strict and any(figure.is_met is False for figure in figures))


def _run(
    bench: Bench, chosen: Sequence[str], folders: dict[str, Path], may_install: bool, plan: Plan
) -> tuple[list[Row], list[Figure]]:
    pythons: dict[str, Path] = {}
    for peer in peers.PEERS:
        try:
            pythons[peer.name] = peers.python_of(peer, folders, bench.folder, may_install=may_install)
        except peers.NotInstalled as reason:
            print(f"{reason}")
    store = ours.OurStore(bench.client(), bench.folder)
    run = store.run("echo")
    rows: list[Row] = []
    figures: list[Figure] = []
    if "throughput" in chosen:
        kinds = ["waitress", *(["granian"] if "granian" in ours.has_fast() else [])]
        rows += [_told(f"verta-local ({kind})", measures.our_server(bench, store, run, kind, plan)) for kind in kinds]
        for name, python in pythons.items():
            rows.append(_told(name, measures.their_server(bench, _KNOWN[name], python, plan)))
        figures += _ratios(rows)
    parts: dict[str, Iterator[Figure]] = {
        "scaling": measures.work_that_waits(bench, store, run, plan),
        "memory": measures.memory_of_models(bench, store),
        "deploy": measures.deploying(bench, store, pythons.get("mlflow"), plan),
        "upgrade": measures.upgrading(store, plan),
    }
    for word, part in parts.items():
        if word in chosen:
            figures += [_told(figure.what, figure) for figure in part]
    return rows, figures


def _told(what: str, found: Told) -> Told:
    print(f"  {time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
    return found


def _ratios(rows: Sequence[Row]) -> Iterator[Figure]:
    """Our throughput and start against each of the others, by requests and by processor time."""
    measured = {row.server: row for row in rows if row.loads}
    at = CLIENTS.index(8)
    plain = measured.get("verta-local (waitress)")
    fast = measured.get("verta-local (granian)")
    for peer in peers.PEERS:
        theirs = measured.get(peer.name)
        if theirs is None or plain is None:
            continue
        for ours_row in filter(None, (plain, fast)):
            word = ours_row.server.partition("(")[2].rstrip(")")
            our, their = ours_row.loads[at], theirs.loads[at]
            yield Figure(
                f"{word}, 8 clients: times the requests/s", our.rate / their.rate, "x", None, peer.at_least, peer.name
            )
            yield Figure(f"{word}, 8 clients: processor for one", their.cpu_s / our.cpu_s, "x", against=peer.name)
        if peer.name == "mlflow" and fast is not None:
            our, their = fast.loads[-1], theirs.loads[-1]
            yield Figure("granian, 64 clients: times the requests/s", our.rate / their.rate, "x", None, 60.0, "mlflow")
            yield Figure("granian, 64 clients: processor for one", their.cpu_s / our.cpu_s, "x", against="mlflow")
        limit = {"mlflow": 18.0, "litserve": 5.0}.get(peer.name)
        if plain.cold_s and theirs.cold_s:
            what = "first answer from cold: times as fast"
            yield Figure(what, theirs.cold_s / plain.cold_s, "x", None, limit, peer.name)


def _print_rows(rows: Sequence[Row]) -> None:
    heads = ["server", "cold start", "memory"]
    for clients in CLIENTS:
        heads += [f"{clients}: req/s", "p50 ms", "p99 ms", "cpu us"]
    heads += ["back after a crash"]
    lines = []
    for row in rows:
        if row.note or row.cold_s is None or row.memory_bytes is None:
            print(row.note)
            continue
        cells = [row.server, f"{row.cold_s:.2f} s", f"{row.memory_bytes / 1e6:.0f} MB"]
        for each in row.loads:
            lost = f" ({each.lost} lost: {each.fault[:60]})" if each.lost else ""
            cells += [f"{each.rate:,.0f}{lost}", f"{each.p50_s * 1e3:.2f}", f"{each.p99_s * 1e3:.2f}"]
            cells += [f"{each.cpu_s * 1e6:.0f}"]
        cells += [f"{row.back_s:.2f} s" if row.back_s is not None else row.back_note]
        lines.append(cells)
    _print_table(heads, lines)


def _print_figures(figures: Sequence[Figure]) -> None:
    words = {True: "ok", False: "MISS", None: "-"}
    lines = []
    for each in figures:
        if each.at_most is not None:
            limit = f"<= {each.at_most:,.3g} {each.unit}"
        else:
            limit = f">= {each.at_least:,.3g} {each.unit}" if each.at_least is not None else ""
        theirs = f"{each.theirs:,.3g}" if each.theirs is not None else ""
        lines.append([each.what, each.against, f"{each.ours:,.3g} {each.unit}", theirs, limit, words[each.is_met]])
    _print_table(["figure", "beside", "ours", "theirs, ideal", "limit", "verdict"], lines)


def _print_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[place]) for row in [heads, *lines]) for place in range(len(heads))]
    rule = ["-" * width for width in widths]
    for row in [heads, rule, *lines]:
        print(" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()


if __name__ == "__main__":
    sys.exit(main())
