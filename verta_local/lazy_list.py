"""Lazy lists of what a store holds: queried again at each access, fetched in pages. As in Verta."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from verta_store.query import Query

if TYPE_CHECKING:
    from typing_extensions import Self

    from verta_store import Store
    from verta_store.query import EntityRow

Item = TypeVar("Item")

PAGE = 100


class LazyList(Generic[Item]):
    """A query that behaves like a list. Newest change first unless sorted, so `[0]` may change with every write."""

    _noun = "entities"
    # What the client was told, for the items.
    _use_git = True

    def __init__(self, store: Store, query: Query, make: Callable[[Store, EntityRow], Item]) -> None:
        self._store = store
        self._query = query
        self._make = make
        self._page_limit = PAGE

    def __repr__(self) -> str:
        return f"<{type(self).__name__} containing {len(self)} {self._noun}>"

    def __len__(self) -> int:
        return self._store.count(self._query)

    def __getitem__(self, index: int) -> Item:
        """The item at a place; negative counts from the end. Raises IndexError; TypeError for slices, as in Verta."""
        if isinstance(index, bool) or not hasattr(type(index), "__index__"):
            raise TypeError(f"the index must be an int, not {type(index).__name__}; use list(...) for slices")
        index = index.__index__()
        count = len(self) if index < 0 else 0
        if index < 0:
            index += count
        found = self._store.find(self._query, 1, index) if index >= 0 else []
        if not found:
            raise IndexError(f"the list has {len(self)} {self._noun}")
        return self._made(found[0])

    def __iter__(self) -> Iterator[Item]:
        """Every item once, in pages, also when the order changes meanwhile."""
        seen: set[str] = set()
        offset = 0
        while page := self._store.find(self._query, self._page_limit, offset):
            for row in page:
                if row.id not in seen:
                    seen.add(row.id)
                    yield self._made(row)
            offset += len(page)
            if len(page) < self._page_limit:
                return

    def _made(self, row: EntityRow) -> Item:
        item = self._make(self._store, row)
        if not self._use_git:
            item._use_git = False  # type: ignore[attr-defined]
        return item

    def set_page_limit(self, limit: int) -> None:
        """How many items are fetched at a time while iterating; 100 by default."""
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"a page has at least one item, not {limit!r}")
        self._page_limit = limit

    def find(self, *args: str | list[str]) -> Self:
        """Those that fulfil every predicate, on top of those asked for before.

        Args:
            args: predicates `"<key> <operator> <value>"`, one by one or as a list. Keys: id, project_id,
                experiment_id, name, date_created, date_updated, tags, attributes.*, hyperparameters.*, metrics.*;
                operators: == != > >= < <= ~= (contains). Text may be quoted or bare; numbers compare as numbers.

        Raises:
            TypeError: a predicate that is not a str. ValueError: one that cannot be read.
        """
        predicates = args[0] if len(args) == 1 and isinstance(args[0], (list, tuple)) else args
        if not predicates:
            return self._with(self._query)
        return self._with(self._settled().where(*predicates))

    def sort(self, key: str, descending: bool = False) -> Self:
        """Sorted by a key such as "metrics.accuracy"; those without the key come last. Replaces an earlier sort."""
        return self._with(self._query._replace(sort=self._query.sort_key(key, is_descending=descending)))

    def top_k(self, key: str, k: int) -> Self:
        """The `k` items with the highest values of a key, the highest first. Those without it do not count."""
        return self._best(key, k, is_descending=True)

    def bottom_k(self, key: str, k: int) -> Self:
        """The `k` items with the lowest values of a key, the lowest first. Those without it do not count."""
        return self._best(key, k, is_descending=False)

    def _best(self, key: str, k: int, *, is_descending: bool) -> Self:
        if isinstance(k, bool) or not isinstance(k, int) or k < 0:
            raise ValueError(f"k must be a whole number, not {k!r}")
        top = (self._query.sort_key(key, is_descending=is_descending), k)
        return self._with(self._settled()._replace(top=top, sort=None))

    def _settled(self) -> Query:
        """The query, in which the best k are these, by now: what is asked for next, is asked of them. As in Verta."""
        query = self._query
        if query.top is None:
            return query
        found = tuple(row.id for row in self._store.find(query))
        return Query(query.kind, sort=query.sort or query.top[0], ids=found)

    def _with(self, query: Query) -> Self:
        """The same list of another query."""
        found = object.__new__(type(self))
        vars(found).update(vars(self))
        found._query = query
        return found


class Entities(LazyList[Item]):
    """Projects or experiments."""
