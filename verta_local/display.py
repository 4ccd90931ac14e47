"""What a run and a list of runs look like in a notebook: HTML without scripts, safe whatever names and values hold.

All text of users goes through `_text`. Nothing is fetched, the colours are the page's own (light or dark), and where
a page strips styles (as GitHub does) a plain table remains.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .run import ExperimentRun

_LONGEST_TEXT = 200  # characters of a value; the rest is a getter away
_MOST_ENTRIES = 40  # of a section
_MOST_SERIES = 12
_MOST_ROWS = 20
_MOST_COLUMNS = 8  # of metrics, and of hyperparameters
_CHART_WIDTH, _CHART_HEIGHT = 160, 28  # pixels
_MOST_CHART_POINTS = 160  # one a pixel

# Control characters, lone surrogates, and those that turn the direction of the text around them: shown, not obeyed.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# The classes keep MathJax, which notebooks run over every output, away from what users wrote between dollar signs.
_OPEN = '<div class="verta-local tex2jax_ignore mathjax_ignore">'
_STYLE = """<style>
.verta-local{font-size:13px;line-height:1.45}
.verta-local table{border-collapse:collapse;margin:2px 16px 8px 0;font-size:inherit;line-height:inherit}
.verta-local th,.verta-local td{text-align:left;vertical-align:top;padding:2px 10px 2px 0;border:0;background:none}
.verta-local thead th{border-bottom:1px solid currentColor}
.verta-local td.number{text-align:right;font-variant-numeric:tabular-nums}
.verta-local .title{font-size:16px;font-weight:600}
.verta-local .quiet{opacity:.65}
.verta-local .tag{border:1px solid currentColor;border-radius:9px;padding:0 7px;margin-right:4px;opacity:.85}
.verta-local .sections{display:flex;flex-wrap:wrap;align-items:flex-start}
.verta-local .sections td.number{text-align:left}
.verta-local svg{vertical-align:middle}
</style>"""


class Artifact(NamedTuple):
    """What a card shows of an artifact; a size of 0 is that of a path alone."""

    key: str
    name: str
    size_bytes: int
    file_count: int
    is_folder: bool


class RunRow(NamedTuple):
    """What a table shows of a run."""

    name: str
    id: str
    changed: str
    tags: Sequence[str]
    metrics: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]


def run_card(
    run: ExperimentRun, facts: Mapping[str, str], series: Mapping[str, Sequence[Any]], artifacts: Iterable[Artifact]
) -> str:
    """The HTML of a run.

    Args:
        facts: what stands below the name, title -> text.
        series: key -> values in the order of logging.
        artifacts: their keys, file names, numbers of files and sizes.
    """
    tags = "".join(f'<span class="tag">{_text(tag)}</span>' for tag in run.get_tags())
    head = " · ".join(f"{_text(title)}: {_text(text)}" for title, text in facts.items() if text)
    sections = [
        _section("metrics", run.get_metrics()),
        _section("hyperparameters", run.get_hyperparameters()),
        _series(series),
        _section("attributes", run.get_attributes()),
        _section("artifacts", {artifact.key: _described(artifact) for artifact in artifacts}),
    ]
    description = run.get_description()
    return "".join(
        [
            _OPEN,
            _STYLE,
            f'<div class="title">{_text(run.name)}</div>',
            f'<div class="quiet">{head}</div>',
            f"<div>{tags}</div>" if tags else "",
            f"<p>{_text(description)}</p>" if description else "",
            f'<div class="sections">{"".join(sections)}</div>',
            "</div>",
        ]
    )


def message(text: str) -> str:
    """One sentence as HTML."""
    return f"{_OPEN}{_text(text)}</div>"


def runs_table(rows: Sequence[RunRow], count: int) -> str:
    """The HTML of a list of `count` runs of which `rows` are the first."""
    metrics = _first(key for row in rows for key in row.metrics)
    settings = _first(key for row in rows for key in row.hyperparameters)
    titles = ["run", "changed", "tags", *metrics, *settings]
    lines = []
    for row in rows:
        cells = [
            f'<td title="{_text(row.id)}">{_text(row.name)}</td>',
            f'<td class="quiet">{_text(row.changed)}</td>',
            f"<td>{''.join(f'<span class=tag>{_text(tag)}</span>' for tag in row.tags)}</td>",
            *(_cell(row.metrics[key]) if key in row.metrics else "<td></td>" for key in metrics),
            *(_cell(row.hyperparameters[key]) if key in row.hyperparameters else "<td></td>" for key in settings),
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    shown = f", the first {len(rows)} shown" if count > len(rows) else ""
    head = "".join(f"<th>{_text(title)}</th>" for title in titles)
    groups = (
        f'<tr><th colspan="3"></th>{_group("metrics", len(metrics))}{_group("hyperparameters", len(settings))}</tr>'
        if metrics or settings
        else ""
    )
    return "".join(
        [
            _OPEN,
            _STYLE,
            f'<div class="quiet">{count} run{"" if count == 1 else "s"}{shown}</div>',
            f"<table><thead>{groups}<tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>" if rows else "",
            "</div>",
        ]
    )


def most_rows() -> int:
    """How many runs a table shows at most."""
    return _MOST_ROWS


# Parts


def _described(artifact: Artifact) -> str:
    files = f"{artifact.file_count} file{'' if artifact.file_count == 1 else 's'}, " if artifact.is_folder else ""
    size = f"{files}{_size(artifact.size_bytes)}" if artifact.size_bytes else "a path"
    return f"{artifact.name} ({size})"


def _size(size_bytes: int) -> str:
    size, units = float(size_bytes), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1000 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size_bytes} bytes" if units[0] == "bytes" else f"{size:.3g} {units[0]}"


def _section(title: str, entries: Mapping[str, Any]) -> str:
    if not entries:
        return ""
    rows = [f"<tr><td>{_text(key)}</td>{_cell(value)}</tr>" for key, value in list(entries.items())[:_MOST_ENTRIES]]
    if len(entries) > _MOST_ENTRIES:
        rows.append(f'<tr><td class="quiet" colspan="2">and {len(entries) - _MOST_ENTRIES} more</td></tr>')
    return f'<table><thead><tr><th colspan="2">{_text(title)}</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _series(series: Mapping[str, Sequence[Any]]) -> str:
    if not series:
        return ""
    rows = []
    for key, values in list(series.items())[:_MOST_SERIES]:
        points = f"{len(values)} point{'' if len(values) == 1 else 's'}"
        rows.append(
            f'<tr><td>{_text(key)}</td><td>{_chart(values)}</td>{_cell(values[-1])}<td class="quiet">{points}</td></tr>'
        )
    if len(series) > _MOST_SERIES:
        rows.append(f'<tr><td class="quiet" colspan="4">and {len(series) - _MOST_SERIES} more</td></tr>')
    return f'<table><thead><tr><th colspan="4">observations</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _chart(values: Sequence[Any]) -> str:
    """A line over the numbers of a series, thinned to one point a pixel; '' with less than two."""
    numbers = [number for value in values if (number := _finite(value)) is not None]
    if len(numbers) < 2:
        return ""
    if len(numbers) > _MOST_CHART_POINTS:
        numbers = [
            numbers[place * (len(numbers) - 1) // (_MOST_CHART_POINTS - 1)] for place in range(_MOST_CHART_POINTS)
        ]
    low, high = min(numbers), max(numbers)
    # Halved first: the difference of the largest and the smallest float is more than a float holds.
    span = high / 2 - low / 2
    wide, tall = _CHART_WIDTH - 4, _CHART_HEIGHT - 4
    points = " ".join(
        f"{2 + wide * place / (len(numbers) - 1):.1f},"
        f"{2 + tall * (0.5 if span == 0 else 1 - (number / 2 - low / 2) / span):.1f}"
        for place, number in enumerate(numbers)
    )
    return (
        f'<svg width="{_CHART_WIDTH}" height="{_CHART_HEIGHT}" role="img">'
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>'
    )


def _finite(value: object) -> float | None:
    try:
        number = float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:  # an integer beyond all floats
        return None
    return number if math.isfinite(number) else None


def _group(title: str, count: int) -> str:
    return f'<th colspan="{count}">{title}</th>' if count else ""


def _first(keys: Iterable[str]) -> list[str]:
    """The first different keys, in the order seen."""
    return list(dict.fromkeys(keys))[:_MOST_COLUMNS]


def _cell(value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        exact = repr(value)
        short = f"{value:.6g}" if isinstance(value, float) else exact
        title = f' title="{_text(exact)}"' if short != exact else ""
        return f'<td class="number"{title}>{_text(short)}</td>'
    text = value if isinstance(value, str) else repr(value)
    return f"<td>{_text(text)}</td>"


def _text(text: str) -> str:
    """Text for an element or a quoted attribute: no markup, no control characters, not too long."""
    if len(text) > _LONGEST_TEXT:
        text = text[:_LONGEST_TEXT] + "…"
    return html.escape(_UNPRINTABLE.sub("\ufffd", text), quote=True)
