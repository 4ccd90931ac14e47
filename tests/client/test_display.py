"""Runs as a notebook shows them: what is in the HTML, and that no name, key or value becomes markup."""

from __future__ import annotations

import html.parser
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from verta_local import Client, display

NASTY = [
    "<script>window.stolen = 1</script>",
    "<img src=x onerror=window.stolen=1>",
    '"><svg onload=window.stolen=1>',
    "' onmouseover='window.stolen=1",
    "</td></table></div><b>out</b>",
    "</style><script>window.stolen = 1</script>",
    "$\\href{javascript:window.stolen=1}{x}$ \\(a\\)",
    "&lt;script&gt; &amp; &#60;",
    "{{constructor.constructor('window.stolen=1')()}}",
    "\u202egnp.exe\u2066",
    "nul\x00 bell\x07 lone\ud800",
    "x" * 100_000,
]


class Markup(html.parser.HTMLParser):
    """The elements, attributes and texts of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def nasty_run(client: Client, tmp_path: Path) -> Any:
    """A run with every nasty text in every place that takes free text."""
    run = client.set_experiment_run(NASTY[0] + NASTY[2], desc=NASTY[1], tags=NASTY[:-1])
    for number, text in enumerate(NASTY):
        run.log_hyperparameter(f"h{number}", text)
        run.log_attribute(f"a{number}", {text[:500]: [text]})
        run.log_metric(f"m{number}", text)
        run.log_observation("series", text)
        run.log_artifact_path(f"p{number}", text)
    return run


def test_a_card_shows_what_was_logged(client: Client, tmp_path: Path) -> None:
    """Numbers short, and exact for the pointer; series with a line; sizes of artifacts."""
    run = client.set_experiment_run("first", desc="the first one", tags=["best"])
    run.log_metrics({"accuracy": 0.123456789, "count": 12345678901, "nothing": None})
    run.log_hyperparameters({"rate": 0.1, "kernel": "rbf", "bias": True})
    for step in range(1000):
        run.log_observation("loss", 1 / (step + 1))
    run.log_observation("text", "not a number")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.bin").write_bytes(bytes(2_000_000))
    run.log_artifact("index", str(tmp_path / "folder"))
    markup = Markup(run._repr_html_())
    texts = set(markup.texts)
    assert {"first", "the first one", "best", "0.123457", "12345678901", "None", "0.1", "rbf", "True"} <= texts
    assert {"loss", "1000 points", "0.001", "text", "1 point", "index", "folder (1 file, 1.91 MiB)"} <= texts
    assert ("title", "0.123456789") in markup.attributes
    assert markup.elements.count("polyline") == 1 and not markup.open
    (points,) = [value for name, value in markup.attributes if name == "points"]
    assert len((points or "").split()) == 160


def test_a_table_shows_the_first_runs_in_the_lists_order(client: Client) -> None:
    """With the keys of the runs as columns; those without one have an empty cell."""
    client.set_experiment("e")
    for number in range(25):
        run = client.set_experiment_run(f"run {number}")
        run.log_metric("score", number / 10)
        if number % 2:
            run.log_hyperparameter("odd", number)
    runs = client.expt_runs.sort("metrics.score", descending=True)
    markup = Markup(runs._repr_html_())
    texts = markup.texts
    assert "25 runs, the first 20 shown" in texts
    names = [text for text in texts if text.startswith("run ")]
    assert names == [f"run {number}" for number in range(24, 4, -1)]
    assert {"score", "odd", "metrics", "hyperparameters", "2.4", "23"} <= set(texts)
    assert markup.elements.count("tr") == 22 and not markup.open
    empty = client.expt_runs.find("metrics.score > 100")._repr_html_()
    assert "0 runs" in empty and "<table" not in empty


def test_no_text_becomes_markup(client: Client, tmp_path: Path) -> None:
    """Only our own elements and attributes are there; nothing is left open, and no text is longer than a line or two."""
    run = nasty_run(client, tmp_path)
    for shown in (run._repr_html_(), client.expt_runs._repr_html_()):
        markup = Markup(shown)
        assert set(markup.elements) <= {
            "div", "style", "span", "p", "table", "thead", "tbody", "tr", "th", "td", "svg", "polyline",
        }  # fmt: skip
        assert {name for name, _ in markup.attributes} <= {
            "class", "title", "colspan", "width", "height", "role", "points", "fill", "stroke", "stroke-width",
        }  # fmt: skip
        assert not markup.open and shown.count("<style>") == 1
        assert not set("\x00\x07\u202e\u2066\ud800") & set(shown)
        assert any("window.stolen" in text for text in markup.texts)
        assert max(len(text) for text in markup.texts[1:]) < 1000
        shown.encode("utf-8")
        assert 'class="verta-local tex2jax_ignore mathjax_ignore"' in shown


@pytest.mark.parametrize(
    "values",
    [
        [1.0, float("nan"), 2.0],
        [float("inf"), 1.0, 2.0],
        [5, 5, 5],
        [-1.7e308, 1.7e308],
        [True, False, True],
        [10**400, 1],
    ],
)
def test_a_line_of_any_numbers_is_made_of_finite_places(values: list[Any]) -> None:
    """NaN and the infinities are left out."""
    line = display._chart(values)
    assert "nan" not in line and "inf" not in line
    assert not line or "points=" in line


def test_a_deleted_run_is_a_sentence(client: Client) -> None:
    """As its repr; a notebook that shows it goes on."""
    run = client.set_experiment_run("gone <b>")
    run.delete()
    assert "gone &lt;b&gt;" in run._repr_html_() and "deleted" in run._repr_html_()


BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


@pytest.mark.skipif(not BROWSER, reason="no Chromium here")
def test_a_real_browser_runs_nothing_of_it(client: Client, tmp_path: Path) -> None:
    """And shows the texts as they are, also with a page's own text behind the card."""
    run = nasty_run(client, tmp_path)
    page = tmp_path / "page.html"
    body = run._repr_html_() + client.expt_runs._repr_html_() + "<p id=behind>behind</p>"
    watch = "<script>addEventListener('load', () => { document.title = JSON.stringify([typeof window.stolen, document.querySelectorAll('script,img,b,a').length, document.getElementById('behind').parentElement.tagName]) })</script>"
    page.write_text(f"<!doctype html><meta charset=utf-8><body>{body}{watch}", encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=2000", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DBUS")}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env={**environment, "HOME": str(tmp_path)}
    )
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    assert json.loads(title) == ["undefined", 1, "BODY"], done.stderr[-500:]  # the one script is ours
    assert "&lt;script&gt;window.stolen = 1&lt;/script&gt;" in done.stdout


def test_importing_the_client_does_not_import_the_display() -> None:
    """Start-up time."""
    code = (
        "import sys, verta_local.client\nassert 'verta_local.display' not in sys.modules and 'html' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
