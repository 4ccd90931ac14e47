"""`verta-local demo`: real figures, right answers over HTTP, a store to look at, nothing left running."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from verta_local import demo

RUN_DEMO = "import sys; from verta_local.demo import run_demo; sys.exit(run_demo())"


@pytest.fixture(scope="module")
def paragraphs() -> list[demo.Paragraph]:
    return demo.read_paragraphs()


def test_demo_ends_with_right_answers_over_http(
    run_python: Callable[..., object], assert_nothing_runs: Callable[[], None]
) -> None:
    output = run_python("-c", RUN_DEMO)
    assert "anonymous function -> lambda," in output.text
    assert "private names of a class -> id-classes," in output.text
    # Words without weights find half of the topics, the most frequent topic is right for a tenth.
    assert output.number(r"on 250 other sentences ([\d.]+)% are found first") >= 56
    assert output.number(r"(?m)^   word or no word +([\d.]+)%") < 56
    # It fits on a screen; the line that names the store is as long as its path.
    lines = [line for line in output.text.splitlines() if not line.startswith("new store: ")]
    assert len(lines) <= 42 and max(map(len, lines)) <= 96
    assert_nothing_runs()


def test_commands_that_the_demo_ends_with_work_as_printed(
    run_python: Callable[..., object], assert_nothing_runs: Callable[[], None], tmp_path: Path
) -> None:
    store = tmp_path / "a store"  # with a blank, which the printed lines must quote
    lines = run_python("-m", "verta_local", "--store", store, "demo").text.splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("   verta-local ")]
    verbs = [command[2] for command in commands]
    assert verbs == ["ls", "show", "deploy", "predict", "undeploy", "serve", "verify"]
    outputs = {
        verb: run_python("-m", "verta_local", *command).text
        for verb, command in zip(verbs, commands, strict=True)
        if verb != "serve"  # has tests of its own, runs until Ctrl-C
    }
    assert all(name in outputs["ls"] for name in demo.RUNS)
    assert "index.json" in outputs["show"] and "check/found_first" in outputs["show"]
    assert json.loads(outputs["predict"])[0]["topic"] == "lambda"
    assert outputs["verify"].startswith("sound")
    assert_nothing_runs()


def test_second_demo_in_the_same_store_is_as_the_first(run_python: Callable[..., object]) -> None:
    first, second = run_python("-c", RUN_DEMO), run_python("-c", RUN_DEMO)
    figures = r"(?m)^   (?:BM25|word or|all of)[^%]*% +[\d.]+% +[\d.]+"
    assert re.findall(figures, first.text) == re.findall(figures, second.text)
    assert len(re.findall(figures, first.text)) == len(demo.RUNS)


def test_hidden_sentences_are_in_no_index(paragraphs: list[demo.Paragraph]) -> None:
    hidden, choosing, checking = demo.hide_sentences(paragraphs)
    assert len(choosing) == len(checking) == 250
    assert not set(choosing) & set(checking)
    visible = "\n".join(hidden.get(i, paragraph.text) for i, paragraph in enumerate(paragraphs))
    for topic, sentence in choosing + checking:
        assert sentence not in visible
        assert any(paragraph.topic == topic and sentence in paragraph.text for paragraph in paragraphs)


def test_same_sentences_are_hidden_each_time(paragraphs: list[demo.Paragraph]) -> None:
    assert demo.hide_sentences(paragraphs) == demo.hide_sentences(demo.read_paragraphs())


def test_index_answers_alike_after_json(paragraphs: list[demo.Paragraph]) -> None:
    index = demo.build_index(paragraphs, demo.RUNS["all of that, k1=2 b=0.9"], {})
    read = demo.Index.from_json(index.to_json())
    for question in demo.QUESTIONS:
        assert [topic for topic, _, _ in read.best_topics(question, 3)] == [
            topic for topic, _, _ in index.best_topics(question, 3)
        ]


def test_words_that_no_text_has_find_nothing(paragraphs: list[demo.Paragraph]) -> None:
    index = demo.build_index(paragraphs, demo.RUNS["BM25"], {})
    assert index.best_topics("xyzzy plugh", 3) == []
    assert index.best_topics("", 3) == []


def test_python_without_its_help_texts_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ModuleNotFoundError, match="no module pydoc_data; run it with"):
        demo.read_paragraphs()
