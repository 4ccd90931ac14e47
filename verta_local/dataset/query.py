"""The result of a query against a database as the content of a dataset version: what was asked, not the rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .content import Content


class Query(Content):
    """A query, for datasets of the types "big query", "postgres" and "atlas hive" of Verta's first clients.

    Args:
        query: its text.
        source: where it is asked, such as a connection text; a password in it is not recorded.
        template, parameters: what the text was made of.
        executed_at: milliseconds since 1970 UTC.
        record_count: how many rows it had.
    """

    _type = "query"

    def __init__(
        self,
        query: str,
        source: str = "",
        template: str = "",
        parameters: list[Any] | None = None,
        executed_at: int | None = None,
        record_count: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(query, str):
            raise TypeError(f"query must be a str, not {type(query).__name__}")
        self.query = query
        self.source = _without_password(source)
        self.template = template
        self.parameters = list(parameters or [])
        self.executed_at = executed_at
        self.record_count = record_count

    def __repr__(self) -> str:
        return f"Query {self.query!r} at {self.source!r}"

    def to_record(self) -> dict[str, Any]:
        """The query as JSON values."""
        names = ("query", "source", "template", "parameters", "executed_at", "record_count")
        return {**super().to_record(), **{name: getattr(self, name) for name in names}}

    def _fill(self, record: Mapping[str, Any]) -> None:
        super()._fill(record)
        for name in ("query", "source", "template", "parameters", "executed_at", "record_count"):
            setattr(self, name, record.get(name))


def _without_password(source: str) -> str:
    import re  # noqa: PLC0415 - only where a source is given

    return re.sub(r"(//[^/@\s:]*):[^/@\s]*@", r"\1@", source)
