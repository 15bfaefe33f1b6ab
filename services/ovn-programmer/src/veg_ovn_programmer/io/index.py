"""Indexes of IDL tables that answer in constant time.

ovs's own (ovs.db.custom_index) is a sorted list that calls back into Python for every comparison, and that breaks when an
indexed column of an existing row is assigned. This one offers the same protocol (`columns`, `add`, `remove`, `clear`), so
that a table keeps it up to date through updates, transactions and reloads.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, ItemsView
from typing import Any, NamedTuple
from uuid import UUID


class _Column(NamedTuple):
    column: str


class HashIndex:
    """Rows of one table by a key computed from one column; a key of None is not indexed."""

    def __init__(self, column: str, key: Callable[[Any], Hashable | None]) -> None:
        self.columns = [_Column(column)]
        self._key = key
        self._rows: dict[Hashable, dict[UUID, Any]] = {}
        self._key_of: dict[UUID, Hashable] = {}

    def create(self, rows: Any, name: str) -> None:
        """Put this index on a table's rows (ovs.db.custom_index.IndexedRows), under a name."""
        rows.indexes[name] = self

    def add(self, row: Any) -> None:
        """A row came, or has a new value."""
        self.remove(row)
        try:
            key = self._key(row)
        except AttributeError:
            return  # just inserted into a transaction: called again when the column is set
        if key is not None:
            self._rows.setdefault(key, {})[row.uuid] = row
            self._key_of[row.uuid] = key

    def remove(self, row: Any) -> None:
        """A row goes, or is about to get a new value."""
        key = self._key_of.pop(row.uuid, None)
        if key is not None:
            some = self._rows[key]
            del some[row.uuid]
            if not some:
                del self._rows[key]

    def clear(self) -> None:
        """Every row goes."""
        self._rows.clear()
        self._key_of.clear()

    def find(self, key: Hashable) -> list[Any]:
        """The rows with that key, in no order."""
        return list(self._rows.get(key, {}).values())

    def items(self) -> ItemsView[Hashable, dict[UUID, Any]]:
        """Every key with its rows."""
        return self._rows.items()
