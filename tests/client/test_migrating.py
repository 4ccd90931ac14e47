"""The code on the page for who comes from Verta runs as it stands, and its links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "migrating-from-verta.md").read_text(encoding="utf-8")


def test_the_notebook_of_the_page_runs_and_prints_what_it_says(python: Callable[..., Any]) -> None:
    """Both blocks, one after the other, in a fresh process."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    printed = python("\n".join(blocks)).stdout.splitlines()
    (said,) = re.findall(r"It prints `(\[.*?\])`", PAGE)
    assert printed[-1] == said
    assert any("https://app.verta.ai" in line for line in printed)  # the note that an address is passed over


def test_links_lead_to_files_and_sections() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE):
        assert (DOCS / target).exists(), target
    for target, section in re.findall(r"\]\(([^)#]+)#([^)]*)\)", PAGE):
        titles = re.findall(r"^#+ (.*)", (DOCS / target).read_text(encoding="utf-8"), re.MULTILINE)
        assert section in {title.lower().replace(" ", "-") for title in titles}
