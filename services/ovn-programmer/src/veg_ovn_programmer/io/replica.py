"""Our copy of the Northbound database: found by owner and by name, never by scanning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from veg_ovn_programmer.core import rows
from veg_ovn_programmer.core.intents import Key
from veg_ovn_programmer.core.rows import Found, Row
from veg_ovn_programmer.io import schema

_BY_OWNER = "veg_owner"
_BY_NAME = "veg_name"


def owner(row: Any) -> Key | None:
    """Whose an IDL row is by its marks."""
    return rows.owner_of(row.external_ids)


class Replica:
    """Reads rows of an IDL. Only to be used where the IDL may be: its thread, or under the connection's lock."""

    def __init__(self, idl: Any, *, managed: bool) -> None:
        self.idl = idl
        self.tables = schema.tables(managed=managed)
        self._columns = {table: schema.columns_of(idl, table) for table in self.tables}
        self.misplaced: set[UUID] = set()
        """Rows whose mark does not name the holder that holds them."""
        for table in self.tables:
            _index(idl, table)

    def owned(self, key: Key) -> list[Found]:
        """The owner's rows."""
        return [Found(row.uuid, self.row(table, key, row)) for table, row in self._owned(key)]

    def row(self, table: str, key: Key, row: Any) -> Row:
        """An IDL row as ours."""
        columns = {column: schema.read(row, column) for column in self._columns[table]}
        holder = row.external_ids.get(rows.HOLDER_MARK) if table in rows.HOLDERS else None
        return Row(table, key, columns, holder)

    def owners(self) -> set[Key]:
        """Every owner that has a row: a scan, for the end of a resynchronisation only."""
        everyone = (owner(row) for table in self.tables for row in list(self.idl.tables[table].rows.values()))
        return {key for key in everyone if key is not None}

    def named(self, table: str, name: str) -> list[Any]:
        """The IDL rows of a table with that name."""
        idl_rows = self.idl.tables[table].rows
        entry = idl_rows.IndexEntry(name=name)
        return list(idl_rows.indexes[_BY_NAME].irange(entry, entry))

    def get(self, table: str, handle: object) -> Any:
        """The IDL row with that UUID; None when it is gone."""
        return self.idl.tables[table].rows.get(handle)

    def has_selection_fields(self) -> bool:
        """Whether this schema's static routes can choose what ECMP hashes."""
        return "selection_fields" in self._columns[rows.ROUTE]

    def foreign_default(self, router: str, family: int) -> bool:
        """Whether a router has a default route of a family that is not ours.

        Only the kube-ovn topology copies what tells that; elsewhere nobody else writes routes to our routers.
        """
        anywhere = "0.0.0.0/0" if family == 4 else "::/0"
        if (rows.ROUTER, "static_routes") in self._uncopied():
            return False
        return any(
            route.ip_prefix == anywhere
            and "src-ip" not in route.policy
            and not route.route_table
            and owner(route) is None
            for row in self.named(rows.ROUTER, router)
            for route in row.static_routes
        )

    def _uncopied(self) -> set[tuple[str, str]]:
        return {(rows.ROUTER, column) for column in self.idl.readonly.get(rows.ROUTER, ())}

    def _owned(self, key: Key) -> Iterator[tuple[str, Any]]:
        for table in rows.TABLES_OF[key.kind]:
            if table not in self.tables:
                continue
            idl_rows = self.idl.tables[table].rows
            entry = idl_rows.IndexEntry(external_ids=rows.marks(key))
            for row in idl_rows.indexes[_BY_OWNER].irange(entry, entry):
                yield table, row


def _index(idl: Any, table: str) -> None:
    idl_rows = idl.tables[table].rows
    # ovs keeps an index as a sorted list and looks for an entry to remove among all that sort alike: what is not ours
    # must not sort alike.
    idl_rows.index_create(_BY_OWNER).add_column("external_ids", key=_sort_by_owner)
    if table in rows.NAMED:
        idl_rows.index_create(_BY_NAME).add_column("name")


def _sort_by_owner(entry: Any) -> tuple[int, str, int]:
    key = rows.owner_of(entry.external_ids)
    if key is not None:
        return (key.kind, key.name, 0)
    uuid: UUID | None = entry.uuid
    return (0, "", uuid.int if uuid is not None else 0)
