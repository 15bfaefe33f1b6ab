"""What the programmer is asked for, and what is known of it, as values. Pure; `rpc.py` turns them into protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

IntentKind = Literal["VPC", "SUBNET", "PORT", "GATEWAY"]
# What is built first when everything is sent at once: a later one stands on an earlier one.
KIND_ORDER: tuple[IntentKind, ...] = ("VPC", "SUBNET", "PORT", "GATEWAY")


@dataclass(frozen=True, order=True)
class IntentKey:
    """Names an intent; see IntentKey in the contract for the form of `name`."""

    kind: IntentKind
    name: str


@dataclass(frozen=True)
class GatewayFamilyIntent:
    """One family of a gateway: canonical prefixes and addresses, each sorted numerically."""

    family: int
    sources: tuple[str, ...]
    nexthops: tuple[str, ...]
    local_cidrs: tuple[str, ...]


@dataclass(frozen=True)
class BfdIntent:
    """OVN's end of a gateway's sessions: timers in ms, and the router port that speaks.

    `silent` are nexthops without a speaker: pods from before BFD was switched on. `nodes` are (address, node) of those
    whose node is known.
    """

    min_rx: int
    min_tx: int
    multiplier: int
    logical_port: str
    silent: tuple[str, ...] = ()
    nodes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class GatewayIntent:
    """A gateway's share of OVN."""

    namespace: str
    name: str
    vpc: str
    default_vpc: bool
    families: tuple[GatewayFamilyIntent, ...]
    bfd: BfdIntent | None = None

    @property
    def key(self) -> IntentKey:
        """GATEWAY <namespace>/<name>."""
        return gateway_key(self.namespace, self.name)


@dataclass(frozen=True)
class BfdPortIntent:
    """The router port that speaks BFD: an address a family, and the nodes that may carry it, the first preferred."""

    addresses: tuple[str, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class VpcIntent:
    """A logical router."""

    name: str
    default_vpc: bool
    bfd_port: BfdPortIntent | None = None

    @property
    def key(self) -> IntentKey:
        """VPC <name>."""
        return IntentKey("VPC", self.name)


@dataclass(frozen=True)
class SubnetIntent:
    """A logical switch joined to its VPC's router; `gateways` in the order of `cidrs`."""

    name: str
    vpc: str
    cidrs: tuple[str, ...]
    gateways: tuple[str, ...]

    @property
    def key(self) -> IntentKey:
        """SUBNET <name>."""
        return IntentKey("SUBNET", self.name)


@dataclass(frozen=True)
class PortIntent:
    """A pod's port."""

    name: str
    subnet: str
    mac: str
    addresses: tuple[str, ...]

    @property
    def key(self) -> IntentKey:
        """PORT <pod>.<namespace>."""
        return IntentKey("PORT", self.name)


Intent = GatewayIntent | VpcIntent | SubnetIntent | PortIntent


@dataclass(frozen=True)
class Outcome:
    """Where an intent stands. `intent` is what was asked for; None: its deletion."""

    intent: Intent | None
    state: Literal["COMMITTED", "WAITING", "REFUSED"]
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Session:
    """OVN's view of its session with one replica's address; `serving`: it sends traffic there because of it."""

    state: Literal["AdminDown", "Down", "Init", "Up"]
    serving: bool


@dataclass(frozen=True)
class ProgrammerView:
    """What is known of the programmer.

    `connecting` is the moment after a start or a break in which nothing is said yet: a quick restart is not reported.
    `outcomes` stay while the connection is away: rows do not vanish with it. `sessions` are OVN's BFD sessions by
    gateway ("<namespace>/<name>") and address of the replica; `settling` is the moment after a connection began in
    which some may not have been told yet.
    """

    link: Literal["connecting", "connected", "unreachable"] = "connecting"
    error: str = ""
    outcomes: Mapping[IntentKey, Outcome] = field(default_factory=dict, hash=False)
    sessions: Mapping[str, Mapping[str, Session]] = field(default_factory=dict, hash=False)
    settling: bool = False


def gateway_key(namespace: str, name: str) -> IntentKey:
    """The key of a gateway's intent."""
    return IntentKey("GATEWAY", f"{namespace}/{name}")
