"""Who wrote what: the author of an entity, and whose value lost against whose.

The author stands in the first line of every journal; how a conflict is decided is in `store/README.md`, section
"Order and conflicts".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from . import ids
from .records import decode_value, same_value, value_of


class Author(NamedTuple):  # and no dataclass, here and below: it is made at every start
    """A person at a host, as their journal states it."""

    user: str
    host: str

    def __str__(self) -> str:
        return f"{self.user} on {self.host}"


class Conflict(NamedTuple):
    """A value that lost against another writer's: what, by whom (`user`, `host`), and what and who won."""

    entity: str
    section: str
    key: str
    value: Any
    time_ms: int
    host: str
    user: str
    journal: str = ""  # the loser's, `<host id>/<name>`
    kind: str = ""  # of the entity: "run", "experiment", "project"
    name: str = ""  # of the entity
    winner_value: Any = None
    winner_time_ms: int = 0
    winner_host: str = ""
    winner_user: str = ""
    winner_is_overwrite: bool = False

    @property
    def loser(self) -> Author:
        """Who logged the value that does not count."""
        return Author(self.user, self.host)

    @property
    def winner(self) -> Author:
        """Who logged the value that counts."""
        return Author(self.winner_user, self.winner_host)


def conflicts_sql(journals: Sequence[str] | None) -> tuple[str, Sequence[str]]:
    """A SELECT over the index for `conflicts_of`, with its parameters; only of what these journals lost, if given."""
    only = "" if journals is None else f" AND j.stem IN ({','.join('?' * len(journals))})"
    sql = (
        "SELECT e.id, k.section, k.key, l.json, l.time, j.host, j.user, j.stem, e.kind, e.name, v.num, v.text, v.json,"
        " v.time, w.host, w.user, v.seen IS NOT NULL FROM journals j JOIN losers l ON l.writer = j.id"
        " JOIN vals v ON v.entity = l.entity AND v.key = l.key"
        " JOIN journals w ON w.id = v.writer JOIN entities e ON e.num = l.entity JOIN keys k ON k.id = l.key"
        f" WHERE e.deleted IS NULL{only} ORDER BY l.time, j.stem, k.section, k.key"
    )
    return sql, journals or ()


def conflicts_of(rows: Iterable[Sequence[Any]]) -> list[Conflict]:
    """What the rows of `conflicts_sql` mean. Raises ValueError and its like for a row that is damaged."""
    found = []
    for row in rows:
        entity, section, key, text, time, host, user, stem, kind, name = row[:10]
        won, winner_host, winner_user, is_overwrite = row[13:]
        value, winner_value = decode_value(text), value_of(*row[10:13])
        if same_value(value, winner_value):
            continue
        found.append(
            Conflict(
                entity,
                section,
                key,
                value,
                ids.milliseconds(time),
                host,
                user,
                stem,
                kind or "",
                name or "",
                winner_value,
                ids.milliseconds(won),
                winner_host,
                winner_user,
                bool(is_overwrite),
            )
        )
    return found
