"""The JSON of the prediction routes, with and without orjson."""

from __future__ import annotations

import gzip
import json
import math
from typing import Any

import pytest

from verta_local.serving import wire


@pytest.fixture(params=["orjson", "standard library"])
def codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "standard library":
        monkeypatch.setattr(wire, "_orjson", None)
    elif wire._orjson is None:
        pytest.skip("orjson is not installed")
    return str(request.param)


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1, 1.0, 2**63, -(2**63) - 1, 2**70 + 1, 0.1, 1e-320, "é\ud800\u2028", [], {}, {"": [[]]}, [None]],
)
def test_values_come_back_exactly(codec: str, value: Any) -> None:
    back = wire.parse(wire.encode(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("text", [b"NaN", b"[1, NaN]", b'{"a": Infinity}', b"-Infinity"])
def test_non_finite_numbers_are_read(codec: str, text: bytes) -> None:
    assert "nan" in repr(wire.parse(text)) or "inf" in repr(wire.parse(text))


def test_non_finite_numbers_never_become_null(codec: str) -> None:
    back = json.loads(wire.encode({"a": [math.nan, None], "b": math.inf}))
    assert math.isnan(back["a"][0])
    assert back["a"][1] is None
    assert back["b"] == math.inf


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{", "not JSON"),
        (b"[1,]", "not JSON"),
        (b'"\xff"', "UTF-8"),
        ("[1]".encode("utf-16"), "UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "not JSON"),
    ],
)
def test_a_bad_body_is_one_sentence(codec: str, body: bytes, part: str) -> None:
    with pytest.raises(wire.BadBody, match=part) as caught:
        wire.parse(body)
    assert caught.value.status == 400
    assert len(str(caught.value)) < 200


def test_what_has_no_json_form_is_named_with_its_place(codec: str) -> None:
    with pytest.raises(wire.NotJson, match=r"answer\['a'\]\[2\] is of type complex"):
        wire.encode({"a": [1, 2, 3j]})
    with pytest.raises(wire.NotJson, match=r"answer has a key of type tuple"):
        wire.encode({(1, 2): 3})


def test_unzipping_stops_at_the_limit() -> None:
    bomb = gzip.compress(b"0" * 10_000_000)
    with pytest.raises(wire.BadBody) as caught:
        wire.unzip(bomb, 1_000_000)
    assert caught.value.status == 413
    with pytest.raises(wire.BadBody, match="gzip"):
        wire.unzip(bomb[:-20], 100_000_000)
    assert wire.unzip(gzip.compress(b"[1]"), 3) == b"[1]"
