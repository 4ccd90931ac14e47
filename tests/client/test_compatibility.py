"""The page of Verta's names tells the truth: each name is looked up in the code, with its arguments in their order."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from verta_local import Client
from verta_local.errors import MissingExtra

DOCS = Path(__file__).parents[2] / "docs"
TOOL = runpy.run_path(str(DOCS / "make_compatibility.py"))
NAMES = TOOL["read_names"]((DOCS / "verta-names.txt").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.verta)
def test_a_name_is_as_the_page_says(name: Any) -> None:
    """One that is there takes Verta's arguments in Verta's order; one that is said to be missing is missing."""
    try:
        assert TOOL["faults"](name) == []
    except MissingExtra as error:
        pytest.skip(str(error))


def test_what_only_objects_have_is_there(client: Client) -> None:
    """On the client, the only class with such names."""
    names = [name.ours for name in NAMES if name.is_of_instances]
    assert names and all(name.startswith("Client.") for name in names)
    for name in names:
        assert hasattr(client, name.partition(".")[2]), name


def test_the_page_is_made_from_the_table() -> None:
    """When this fails: run docs/make_compatibility.py."""
    assert (DOCS / "verta-compatibility.md").read_text(encoding="utf-8") == TOOL["page"](NAMES)


def test_no_name_is_listed_twice_and_what_differs_or_is_missing_says_how() -> None:
    listed = [name.verta for name in NAMES]
    assert sorted(listed) == sorted(set(listed))
    assert [name.verta for name in NAMES if name.state != "done" and not name.note] == []


def test_a_wrong_table_is_found() -> None:
    """The look-up itself can fail."""
    table = """
Client.set_project | nane | done |
Client.no_such_method | | done |
Client.set_project | name | not done | why
Client.set_project | desc name | done |
"""
    found = [TOOL["faults"](name) for name in TOOL["read_names"](table)]
    assert [len(each) for each in found] == [1, 1, 1, 1]
    assert "does not take nane" in found[0][0] and "another order" in found[3][0]
    with pytest.raises(ValueError, match="line 1 of"):
        TOOL["read_names"]("Client | name | perhaps |")
