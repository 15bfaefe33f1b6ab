"""Intents: what the sender wants of OVN, one frozen value an object.

`validate.check` makes them canonical; everything behind it relies on that. The kinds carry the numbers of the
contract (veg.programmer.v1.IntentKind), so that sorting by kind means the same on both sides.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.IntEnum):
    """What an intent, and therefore an owner of rows, is about."""

    GATEWAY = 1
    VPC = 2
    SUBNET = 3
    PORT = 4
    DEFAULT_ROUTE = 100
    """Not in the contract: derived from the others, see DefaultRoute."""
    WAKER = 101
    """As above, see Waker."""


@dataclass(frozen=True, order=True)
class Key:
    """Names an intent and the owner of its rows."""

    kind: Kind
    name: str
    """`<namespace>/<name>` of a gateway, the name of a VPC or Subnet, `<pod>.<namespace>` of a port."""

    def __str__(self) -> str:
        return f"{self.kind.name.lower().replace('_', '-')} {self.name}"


@dataclass(frozen=True)
class GatewayFamily:
    """One IP family of a gateway."""

    family: int
    """4 or 6."""
    sources: tuple[str, ...]
    """Prefixes whose traffic the gateway takes, with their length."""
    nexthops: tuple[str, ...] = ()
    """Replicas' addresses; none: the sources' traffic is dropped."""
    local_cidrs: tuple[str, ...] = ()
    """Prefixes inside the VPC, never sent to the gateway."""


@dataclass(frozen=True)
class Bfd:
    """BFD of a gateway with OVN: OVN's side."""

    logical_port: str
    """The router port that speaks, `bfd@<vpc>`."""
    min_rx_ms: int
    min_tx_ms: int
    multiplier: int
    silent: tuple[str, ...] = ()
    """Nexthops without a speaker: they get traffic without a session."""
    chassis: tuple[tuple[str, str], ...] = ()
    """(address, chassis) of the nexthops whose chassis is known."""


@dataclass(frozen=True)
class Gateway:
    """A VpcEgressGateway's share of OVN."""

    namespace: str
    name: str
    vpc: str
    default_vpc: bool
    families: tuple[GatewayFamily, ...]
    bfd: Bfd | None = None
    """None: no BFD."""

    @property
    def key(self) -> Key:
        """Its owner key."""
        return Key(Kind.GATEWAY, f"{self.namespace}/{self.name}")


@dataclass(frozen=True)
class BfdPort:
    """The router port that speaks BFD for a VPC."""

    addresses: tuple[str, ...]
    """One a family, without a length."""
    nodes: tuple[str, ...]
    """Chassis names, the first is preferred."""


@dataclass(frozen=True)
class Vpc:
    """A logical router."""

    name: str
    default_vpc: bool = False
    bfd_port: BfdPort | None = None
    """None: no BFD port."""

    @property
    def key(self) -> Key:
        """Its owner key."""
        return Key(Kind.VPC, self.name)


@dataclass(frozen=True)
class Subnet:
    """A logical switch and its port on the VPC's router."""

    name: str
    vpc: str
    cidrs: tuple[str, ...]
    gateways: tuple[str, ...]

    @property
    def key(self) -> Key:
        """Its owner key."""
        return Key(Kind.SUBNET, self.name)


@dataclass(frozen=True)
class Port:
    """A pod's port on a logical switch."""

    name: str
    subnet: str
    mac: str
    addresses: tuple[str, ...]

    @property
    def key(self) -> Key:
        """Its owner key."""
        return Key(Kind.PORT, self.name)


@dataclass(frozen=True)
class DefaultRoute:
    """A way out of a router that leads nowhere, so that routing matches and policies are asked.

    OVN asks its policies only for packets that a route took. Derived: the default VPC always has one, another VPC
    while one of its gateways needs policies.
    """

    vpc: str

    @property
    def key(self) -> Key:
        """Its owner key."""
        return Key(Kind.DEFAULT_ROUTE, self.vpc)


@dataclass(frozen=True)
class Waker:
    """A row that means nothing, and wakes every ovn-controller when it changes. Derived: there while a gateway has BFD."""

    @property
    def key(self) -> Key:
        """Its owner key; there is one in a cluster."""
        return WAKER


# Kinds that nobody asks for and nobody is told of.
DERIVED = frozenset({Kind.DEFAULT_ROUTE, Kind.WAKER})
WAKER = Key(Kind.WAKER, "bfd")

Intent = Gateway | Vpc | Subnet | Port | DefaultRoute | Waker
