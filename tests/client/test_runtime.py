"""What a model notes while it predicts."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from verta_local import runtime


def test_what_is_noted_in_a_context_is_read_from_it() -> None:
    with runtime.context() as noted:
        runtime.log("words", 2)
        runtime.log("parts", {"a": [1, None, "x"]})
    assert noted.logs() == {"words": 2, "parts": {"a": [1, None, "x"]}}
    noted.logs()["more"] = 1
    assert list(noted.logs()) == ["words", "parts"]


def test_contexts_keep_apart_what_is_nested_or_at_the_same_time() -> None:
    found: list[dict[str, Any]] = []

    def work(number: int) -> None:
        with runtime.context() as noted:
            runtime.log("number", number)
            found.append(noted.logs())

    with runtime.context() as outer:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with runtime.context() as inner:
            runtime.log("place", "inner")
        runtime.log("place", "outer")
    assert sorted(each["number"] for each in found) == list(range(8))
    assert (inner.logs(), outer.logs()) == ({"place": "inner"}, {"place": "outer"})


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [(1, 1, TypeError), (None, 1, TypeError), ("", 1, ValueError), ("k", {1, 2}, TypeError), ("k", b"x", TypeError)],
)
def test_keys_are_texts_and_values_have_a_json_form(key: Any, value: Any, error: type[Exception]) -> None:
    with runtime.context(validate=True) as noted, pytest.raises(error):
        runtime.log(key, value)
    assert json.dumps(noted.logs()) == "{}"


def test_a_key_is_noted_once_a_prediction() -> None:
    with runtime.context():
        runtime.log("k", 1)
        with pytest.raises(ValueError, match="already"):
            runtime.log("k", 2)
    with runtime.context():
        runtime.log("k", 1)


def test_outside_of_a_prediction_nothing_can_be_noted() -> None:
    with pytest.raises(RuntimeError, match="context"):
        runtime.log("k", 1)
    with pytest.raises(ZeroDivisionError), runtime.context():
        print(1 / 0)
    with pytest.raises(RuntimeError):
        runtime.log("k", 1)
