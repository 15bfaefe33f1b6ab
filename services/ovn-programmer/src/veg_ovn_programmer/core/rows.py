"""A neutral model of the Northbound rows that are ours: tables, values, identity and marks.

Values are what OVSDB columns hold (RFC 7047 section 3.2): a scalar, a set or a map. An optional scalar is a set of
at most one, as in OVSDB itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from veg_ovn_programmer.core.intents import DERIVED, Key, Kind


@dataclass(frozen=True, order=True)
class Link:
    """A reference to another row, by what tells that row apart: the database's UUIDs stay out of the model."""

    table: str
    identity: tuple[str, ...]

    def __str__(self) -> str:
        return self.identity[-1]


Value = str | int | frozenset[str] | frozenset[int] | frozenset[Link] | Mapping[str, str]

ADDRESS_SET = "Address_Set"
ROUTER = "Logical_Router"
SWITCH = "Logical_Switch"
HA_GROUP = "HA_Chassis_Group"
HA_CHASSIS = "HA_Chassis"
BFD = "BFD"
ROUTER_PORT = "Logical_Router_Port"
SWITCH_PORT = "Logical_Switch_Port"
POLICY = "Logical_Router_Policy"
ROUTE = "Logical_Router_Static_Route"

# In the order in which rows are made: a holder before what it holds, a row before those that link to it.
TABLES = (ADDRESS_SET, ROUTER, SWITCH, HA_GROUP, HA_CHASSIS, BFD, ROUTER_PORT, SWITCH_PORT, POLICY, ROUTE)

# A row of these tables lives only while the column of a holder refers to it.
HOLDERS: Mapping[str, tuple[str, str]] = {
    HA_CHASSIS: (HA_GROUP, "ha_chassis"),
    ROUTER_PORT: (ROUTER, "ports"),
    SWITCH_PORT: (SWITCH, "ports"),
    POLICY: (ROUTER, "policies"),
    ROUTE: (ROUTER, "static_routes"),
}

# What tells two rows of one owner on one holder apart; a change of anything else is an update in place.
IDENTITY: Mapping[str, tuple[str, ...]] = {
    ADDRESS_SET: ("name",),
    ROUTER: ("name",),
    SWITCH: ("name",),
    HA_GROUP: ("name",),
    HA_CHASSIS: ("chassis_name",),
    BFD: ("logical_port", "dst_ip"),
    ROUTER_PORT: ("name",),
    SWITCH_PORT: ("name",),
    POLICY: ("priority", "match"),
    ROUTE: ("ip_prefix", "nexthop", "policy"),
}

# What an operation calls a row.
TITLES: Mapping[str, str] = {table: columns[0] for table, columns in IDENTITY.items()} | {
    POLICY: "match",
    BFD: "dst_ip",
}

# Names must be unique in these tables: by the schema's index (ports, groups, address sets), by OVN's meaning (routers and switches).
NAMED = frozenset({ADDRESS_SET, ROUTER, SWITCH, HA_GROUP, ROUTER_PORT, SWITCH_PORT})
# Whose coming or going is news to those that wait for a holder.
CONTAINERS = frozenset({ROUTER, SWITCH, HA_GROUP})

TABLES_OF: Mapping[Kind, tuple[str, ...]] = {
    Kind.GATEWAY: (BFD, POLICY, ROUTE),
    Kind.VPC: (ROUTER, SWITCH, HA_GROUP, HA_CHASSIS, ROUTER_PORT, SWITCH_PORT, POLICY, ROUTE),
    Kind.SUBNET: (SWITCH, ROUTER_PORT, SWITCH_PORT, POLICY),
    Kind.PORT: (SWITCH_PORT,),
    Kind.DEFAULT_ROUTE: (ROUTER_PORT, ROUTE),
    Kind.WAKER: (ADDRESS_SET,),
}

MARKS = "external_ids"
VENDOR = "kube-ovn"
GATEWAY_MARK = "vpc-egress-gateway"
TOPOLOGY_MARK = "veg-topology"
# The database does not tell a row which holder refers to it, and reading the holder's column costs as much as the
# column is long; so the row says it itself.
HOLDER_MARK = "veg-parent"

# The BFD port belongs to the VPC's intent; its rows say in their mark what they are for.
BFD_PORT_WORD = "bfd-port"
_TOPOLOGY_WORDS: Mapping[str, Kind] = {
    BFD_PORT_WORD: Kind.VPC,
    "vpc": Kind.VPC,
    "subnet": Kind.SUBNET,
    "port": Kind.PORT,
    "default-route": Kind.DEFAULT_ROUTE,
    "waker": Kind.WAKER,
}
_TOPOLOGY_WORD_OF = {kind: word for word, kind in _TOPOLOGY_WORDS.items()}


@dataclass(frozen=True)
class Row:
    """One row, wanted or found."""

    table: str
    owner: Key
    columns: Mapping[str, Value]
    """Only the columns that we own; another one may hold anything."""
    holder: str | None = None
    """Name of the router, switch or group that refers to it; None for a row that stands by itself."""
    identity: tuple[str, ...] = field(init=False)
    """Sorts and matches rows; text only, so that any two compare."""

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "identity", tuple(_text(self.columns.get(c, "")) for c in IDENTITY[self.table])
        )


@dataclass(frozen=True)
class Found:
    """A row that is in the database."""

    handle: object
    """What names it there (its UUID)."""
    row: Row


def marks(
    owner: Key, holder: str | None = None, family: int | None = None, word: str | None = None
) -> dict[str, str]:
    """external_ids of a row: the vendor, the owner, the address family and the holder, where they apply.

    `word` is how a topology row names its purpose, its kind by default.
    """
    ids = {"vendor": VENDOR}
    if owner.kind is Kind.GATEWAY:
        ids[GATEWAY_MARK] = owner.name
    else:
        ids[TOPOLOGY_MARK] = f"{word or _TOPOLOGY_WORD_OF[owner.kind]}/{owner.name}"
    if family is not None:
        ids["af"] = str(family)
    if holder is not None:
        ids[HOLDER_MARK] = holder
    return ids


def owner_of(external_ids: Mapping[str, str]) -> Key | None:
    """Whose row this is by its marks; None: not ours, never to be touched."""
    gateway = external_ids.get(GATEWAY_MARK)
    if gateway:
        return Key(Kind.GATEWAY, gateway)
    word, _, name = external_ids.get(TOPOLOGY_MARK, "").partition("/")
    kind = _TOPOLOGY_WORDS.get(word)
    return Key(kind, name) if kind is not None and name else None


def bears_our_mark(kind: Kind, external_ids: Value) -> bool:
    """Whether a row beside Kube-OVN's is certainly ours.

    Kube-OVN marks the rows of its own gateways as the specification marks ours. But it names no holder: so a gateway is
    ours when one of its policies or routes does; every gateway of ours has such a row as long as it has any.
    """
    return kind is not Kind.GATEWAY or (isinstance(external_ids, Mapping) and HOLDER_MARK in external_ids)


def is_topology(kind: Kind, external_ids: Value) -> bool:
    """Whether a row is of the topology itself, which is Kube-OVN's where the topology is: a router, a switch, a port.

    A BFD port and what is derived from gateways are no topology.
    """
    if kind is Kind.GATEWAY or kind in DERIVED or not isinstance(external_ids, Mapping):
        return False
    return not external_ids.get(TOPOLOGY_MARK, "").startswith(f"{BFD_PORT_WORD}/")


def show(value: Value) -> str:
    """A value for people: sets and maps sorted."""
    if isinstance(value, frozenset):
        return ",".join(sorted(map(str, value)))
    if isinstance(value, Mapping):
        return ",".join(f"{key}={value[key]}" for key in sorted(value))
    return str(value)


def _text(value: Value) -> str:
    return f"{value:05d}" if isinstance(value, int) else show(value)
