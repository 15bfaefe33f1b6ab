"""Which tables and columns of OVN_Northbound are copied, and how a column's value becomes ours and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovs.db import idl as ovs_idl

from veg_ovn_programmer.core import rows
from veg_ovn_programmer.core.desired import WAKER_NAME
from veg_ovn_programmer.core.rows import Value

DATABASE = "OVN_Northbound"

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    rows.ADDRESS_SET: ("name", "addresses", "external_ids"),
    rows.ROUTER: ("name", "external_ids"),
    rows.SWITCH: ("name", "external_ids"),
    rows.HA_GROUP: ("name", "external_ids"),
    rows.HA_CHASSIS: ("chassis_name", "priority", "external_ids"),
    rows.BFD: ("logical_port", "dst_ip", "min_tx", "min_rx", "detect_mult", "status", "external_ids"),
    rows.ROUTER_PORT: ("name", "mac", "networks", "ha_chassis_group", "options", "status", "external_ids"),
    rows.SWITCH_PORT: ("name", "type", "addresses", "port_security", "options", "external_ids"),
    rows.POLICY: (
        "priority",
        "match",
        "action",
        "nexthop",
        "nexthops",
        "bfd_sessions",
        "options",
        "external_ids",
    ),
    rows.ROUTE: (
        "route_table",
        "ip_prefix",
        "policy",
        "nexthop",
        "output_port",
        "options",
        "selection_fields",
        "bfd",
        "external_ids",
    ),
}
# Network policies have address sets by the thousand.
_CONDITIONS: Mapping[str, list[list[str]]] = {rows.ADDRESS_SET: [["name", "==", WAKER_NAME]]}
# In the kube-ovn topology the ports of pods, as many as the cluster has, are none of our business.
_KUBE_OVN_CONDITIONS: Mapping[str, list[list[str]]] = {rows.SWITCH_PORT: [["type", "==", "router"]]}

# Written by mutation and not copied: a copy would cost as much a change as the column is long.
_HOLDER_COLUMNS: Mapping[str, tuple[str, ...]] = {
    rows.ROUTER: ("ports", "policies", "static_routes"),
    rows.SWITCH: ("ports",),
    rows.HA_GROUP: ("ha_chassis",),
}

# Columns that refer to other rows, and to rows of which table.
LINKS: Mapping[tuple[str, str], str] = {
    (rows.ROUTER_PORT, "ha_chassis_group"): rows.HA_GROUP,
    (rows.POLICY, "bfd_sessions"): rows.BFD,
    (rows.ROUTE, "bfd"): rows.BFD,
}


def conditions(*, managed: bool) -> Mapping[str, list[list[str]]]:
    """Which rows of a table are copied, where it is not all of them (RFC 7047 section 5.1)."""
    return _CONDITIONS if managed else {**_CONDITIONS, **_KUBE_OVN_CONDITIONS}


def register(schema: Mapping[str, Any], *, managed: bool) -> ovs_idl.SchemaHelper:
    """A helper that copies only what is needed of a server's schema (as JSON).

    Columns that an older schema lacks are left out. In the kube-ovn topology the routers' static_routes are copied:
    that tells which router has a default route of somebody else's.
    """
    helper = ovs_idl.SchemaHelper(None, schema)
    for table in rows.TABLES:
        there = schema["tables"][table]["columns"]
        holders = list(_HOLDER_COLUMNS.get(table, ()))
        copied = {"static_routes"} if table == rows.ROUTER and not managed else set()
        columns = [column for column in _COLUMNS[table] if column in there]
        helper.register_columns(table, columns + holders, [c for c in holders if c not in copied])
    return helper


def columns_of(idl: Any, table: str) -> tuple[str, ...]:
    """The columns of ours that this connection copies."""
    there = idl.tables[table].columns
    return tuple(column for column in _COLUMNS[table] if column in there)


def read(row: Any, column: str) -> Value:
    """A column's value: scalar, frozenset (sets and optional scalars) or dict."""
    fields = row.__dict__
    if fields["_data"] is not None and not fields["_changes"] and not fields["_mutations"]:
        # ovs's own attribute access looks for changes of an open transaction, by way of two conversions.
        value = fields["_data"][column].to_python(row._uuid_to_row)  # noqa: SLF001
    else:
        value = getattr(row, column)
    if isinstance(value, list):
        return frozenset(value)
    return value  # type: ignore[no-any-return]  # a scalar or a dict, by the column's type


def linked(row: Any, column: str) -> list[Any]:
    """The IDL rows that a column refers to."""
    value = getattr(row, column)
    return [one for one in (value if isinstance(value, list) else [value]) if one is not None]


def write(value: Value) -> Any:
    """A value as the IDL wants it, sets in a stable order; not for links."""
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    return value
