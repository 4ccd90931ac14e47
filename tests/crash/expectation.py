"""What must be in a store after what its writer said: each acknowledged step whole, each other one whole or not at all.

A writer says `{"try": step}` before and `{"done": step}` after each step. A step is one of
    {"run": [name, id]}                       a run exists
    {"put": [name, {section: {key: value}}]}  values, new or overwritten
    {"drop": [name, section, key]}, {"tag": [name, tag]}, {"untag": [name, tag]}, {"point": [name, key, value]}
    {"delete": name}                          the run is gone
    {"object": [kind, digest]}                an object is whole, until a collection finds that nothing names it
    {"claim": [kind, name]}                   a name is taken for good
    {"collect": true}                         a garbage collection
    {"repair": true}                          a repair, which has nothing to do
    {"flush": true}                           everything so far survives a power cut
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from verta_store import Store
from verta_store.errors import MissingObject, StoreError, UnknownEntity
from verta_store.fsck import verify

_ABSENT = "absent"
# What is durable when it is acknowledged, without a flush.
_DURABLE = {"object", "delete", "claim", "flush"}


class Expectation:
    """Reads what writers said and compares a store with it."""

    def __init__(self, turns: Iterable[tuple[Iterable[str], bool]]) -> None:
        """`turns`: of each writer, one after the other, the lines that it said and whether the power was cut later."""
        self._turns = [
            ([json.loads(line) for line in lines if line.endswith("\n")], was_cut) for lines, was_cut in turns
        ]

    def is_promised(self) -> bool:
        """Whether anything at all was acknowledged as durable, or as done before a mere crash."""
        return any(
            "done" in said and (not was_cut or _DURABLE & said["done"].keys())
            for lines, was_cut in self._turns
            for said in lines
        )

    def check(self, store: Store) -> list[str]:
        """What is wrong, in sentences; an empty list when every promise was kept."""
        wrong = []
        for what, allowed in self._possible().items():
            try:
                found = json.dumps(_look(store, json.loads(what)), sort_keys=True)
            except StoreError as error:
                wrong.append(str(error))
                continue
            if found not in allowed:
                wrong.append(f"{what} is {found} instead of {' or '.join(sorted(allowed))}")
        wrong.extend(str(problem) for problem in verify(store, deep=True).problems)
        return wrong

    def _possible(self) -> dict[str, set[str]]:
        """Question (as JSON) -> the answers (as JSON) that keep the promise."""
        states: dict[str, set[str]] = {}
        deleted: set[str] = set()
        for lines, was_cut in self._turns:
            durable_until = len(lines)
            if was_cut:  # a writer's flush makes durable what he himself logged
                durable_until = max((n for n, said in enumerate(lines) if "flush" in said.get("done", {})), default=-1)
            for number, said in enumerate(lines):
                ((kind, details),) = (said.get("try") or said["done"]).items()
                is_certain = "done" in said and (number <= durable_until or kind in _DURABLE)
                for question, answer in _effects(kind, details):
                    key = json.dumps(question)
                    after = json.dumps(answer, sort_keys=True)
                    states[key] = {after} if is_certain else states.get(key, {json.dumps(_ABSENT)}) | {after}
                if kind == "delete":
                    deleted.add(details)
                if kind == "collect":
                    _free_garbage(states, deleted)
        # Of a run that may be deleted, nothing else is promised.
        return {
            key: allowed
            for key, allowed in states.items()
            if json.loads(key)[0] in ("run", "object", "claim") or json.loads(key)[1] not in deleted
        }


def _free_garbage(states: dict[str, set[str]], deleted: set[str]) -> None:
    """Objects that no certain value of a living run names may go."""
    named = {
        json.loads(answer)["digest"]
        for question, allowed in states.items()
        if len(allowed) == 1 and json.loads(question)[2:3] == ["artifacts"] and json.loads(question)[1] not in deleted
        for answer in allowed
    }
    for question, allowed in states.items():
        kind, *rest = json.loads(question)
        if kind == "object" and rest[1] not in named:
            allowed.add(json.dumps(_ABSENT))


def _effects(kind: str, details: Any) -> list[tuple[list[Any], Any]]:
    """The questions whose answers a step changes, with the answers after it."""
    if kind == "run":
        return [(["run", details[1]], True)]
    if kind == "delete":
        return [(["run", details], _ABSENT)]
    if kind == "put":
        return [
            (["value", details[0], section, key], value)
            for section, values in details[1].items()
            for key, value in values.items()
        ]
    if kind == "drop":
        return [(["value", *details], _ABSENT)]
    if kind in ("tag", "untag"):
        return [(["tag", *details], True if kind == "tag" else _ABSENT)]
    if kind == "point":
        return [(["point", *details], True)]
    if kind in ("object", "claim"):
        return [([kind, *details], True)]
    return []


def _look(store: Store, question: list[Any]) -> Any:
    kind, *rest = question
    if kind == "object":
        try:
            store.check(rest[0], rest[1])  # a damaged one raises, which is wrong in any case
        except MissingObject:
            return _ABSENT
        return True
    if kind == "claim":
        return _ABSENT if store.claimed(*rest) is None else True
    try:
        store.entity(rest[0])
    except UnknownEntity:
        return _ABSENT
    if kind == "run":
        return True
    if kind == "value":
        return store.values(rest[0], rest[1]).get(rest[2], _ABSENT)
    if kind == "tag":
        return True if rest[1] in store.tags(rest[0]) else _ABSENT
    return True if [p.value for p in store.points(rest[0], rest[1])].count(rest[2]) == 1 else _ABSENT
