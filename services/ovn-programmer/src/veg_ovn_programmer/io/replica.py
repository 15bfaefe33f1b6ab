"""Our copy of the Northbound database: found by owner and by name, never by scanning."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from veg_ovn_programmer.core import rows
from veg_ovn_programmer.core.intents import Key
from veg_ovn_programmer.core.rows import Found, Link, Row, Value
from veg_ovn_programmer.io import schema
from veg_ovn_programmer.io.index import HashIndex


def owner(row: Any) -> Key | None:
    """Whose an IDL row is by its marks."""
    marks = schema.read(row, rows.MARKS)
    return rows.owner_of(marks) if isinstance(marks, Mapping) else None


class Replica:
    """Reads rows of an IDL. Only to be used where the IDL may be: its thread, or under the connection's lock."""

    def __init__(self, idl: Any, *, managed: bool) -> None:
        self.idl = idl
        self._managed = managed
        self._columns = {table: schema.columns_of(idl, table) for table in rows.TABLES}
        self.misplaced: set[UUID] = set()
        """Rows whose mark does not name the holder that holds them."""
        self._by_owner = {table: HashIndex(rows.MARKS, owner) for table in rows.TABLES}
        self._by_name = {table: HashIndex("name", _name) for table in rows.TABLES if table in rows.NAMED}
        # Its logical port is set before it, see `read` of a row that is being made.
        self._by_session = HashIndex("dst_ip", _session)
        self._by_session.create(idl.tables[rows.BFD].rows, "veg_session")
        for table in rows.TABLES:
            self._by_owner[table].create(idl.tables[table].rows, "veg_owner")
            if table in self._by_name:
                self._by_name[table].create(idl.tables[table].rows, "veg_name")

    def owned(self, key: Key) -> list[Found]:
        """The owner's rows."""
        return [Found(row.uuid, self.row(table, key, row)) for table, row in self._owned(key)]

    def row(self, table: str, key: Key, row: Any) -> Row:
        """An IDL row as ours."""
        columns = {column: self._read(table, row, column) for column in self._columns[table]}
        marks = columns[rows.MARKS]
        holder = marks.get(rows.HOLDER_MARK) if table in rows.HOLDERS and isinstance(marks, Mapping) else None
        return Row(table, key, columns, holder)

    def owners(self) -> set[Key]:
        """Every owner that has a row of ours."""
        keys = {key for index in self._by_owner.values() for key, _ in index.items() if isinstance(key, Key)}
        return {key for key in keys if self.is_ours(key)}

    def is_ours(self, key: Key) -> bool:
        """Whether the rows of an owner that nobody asked for are of our making, see core.rows.bears_our_mark."""
        return self._managed or any(
            rows.bears_our_mark(key.kind, schema.read(row, rows.MARKS)) for _, row in self._owned(key)
        )

    def foreign(self, table: str, name: str) -> bool:
        """Whether somebody else's row has that name."""
        return any(owner(row) is None for row in self.named(table, name))

    def named(self, table: str, name: str) -> list[Any]:
        """The IDL rows of a table with that name."""
        return self._by_name[table].find(name)

    def sessions(self, logical_port: str, peer: str) -> list[Any]:
        """The BFD rows (IDL) of a logical port and peer: one at most, but for a moment within a transaction."""
        return self._by_session.find((logical_port, peer))

    def status(self, logical_port: str, peer: str) -> str:
        """Status of a BFD row; "" when there is none."""
        for row in self.sessions(logical_port, peer):
            # A row that is being made in this transaction has none.
            for status in getattr(row, "status", ()):
                return str(status)
        return ""

    def carrier(self, port: str) -> str:
        """The chassis that has a router port now (Logical_Router_Port.status:hosting-chassis); "" when OVN says none."""
        for row in self.named(rows.ROUTER_PORT, port):
            # A row that is being made in this transaction, or of an older schema, has no status.
            return str((getattr(row, "status", None) or {}).get("hosting-chassis", ""))
        return ""

    def linked(self, link: Link) -> Any:
        """The IDL row that a link names; None when there is none."""
        found = (
            self.sessions(*link.identity)
            if link.table == rows.BFD
            else self.named(link.table, link.identity[0])
        )
        return found[0] if found else None

    def port_towards(self, router: str, address: str) -> str:
        """A router's port whose networks hold the address; "" for none.

        By Kube-OVN's names: which router has a port is not copied. Reads every port.
        """
        target = ipaddress.ip_address(address)
        for row in self.idl.tables[rows.ROUTER_PORT].rows.values():
            if row.name.startswith(f"{router}-") and any(
                target in ipaddress.ip_network(network, strict=False) for network in row.networks
            ):
                return str(row.name)
        return ""

    def get(self, table: str, handle: object) -> Any:
        """The IDL row with that UUID; None when it is gone."""
        return self.idl.tables[table].rows.get(handle)

    def has_selection_fields(self) -> bool:
        """Whether this schema's static routes can choose what ECMP hashes."""
        return "selection_fields" in self._columns[rows.ROUTE]

    def has_bfd_sessions(self) -> bool:
        """Whether this schema's policies can name BFD sessions."""
        return "bfd_sessions" in self._columns[rows.POLICY]

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

    def _read(self, table: str, row: Any, column: str) -> Value:
        target = schema.LINKS.get((table, column))
        if target is None:
            return schema.read(row, column)
        return frozenset(
            Link(target, tuple(str(schema.read(one, name)) for name in rows.IDENTITY[target]))
            for one in schema.linked(row, column)
        )

    def _uncopied(self) -> set[tuple[str, str]]:
        return {(rows.ROUTER, column) for column in self.idl.readonly.get(rows.ROUTER, ())}

    def _owned(self, key: Key) -> Iterator[tuple[str, Any]]:
        for table in rows.TABLES_OF[key.kind]:
            for row in self._by_owner[table].find(key):
                if self._managed or not rows.is_topology(key.kind, schema.read(row, rows.MARKS)):
                    yield table, row


def _session(row: Any) -> tuple[str, str]:
    return row.logical_port, row.dst_ip


def _name(row: Any) -> str:
    name: str = row.name
    return name
