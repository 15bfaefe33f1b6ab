"""The values that the core computes with: configuration, kernel objects, a snapshot of the kernel.

Addresses and prefixes are canonical text ("10.16.0.0/16", "fd00::1"), as the kernel's tools print them, so that
equality is equality of strings. Everything is frozen and hashable.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Routes and rules of ours carry this number in their protocol field (rtm_protocol, FRA_PROTOCOL). It is free in
# iproute2's rt_protos and in the kernel's rtnetlink.h; 118 is "v" in ASCII.
OUR_PROTOCOL = 118
# rtnetlink.h RTPROT_BOOT: what `ip route add` writes by default and what `ip route show` does not print. The default
# route carries it, because its printed form is part of the contract with users.
BOOT_PROTOCOL = 3

ALLOW_PRIORITY = 18600
DENY_PRIORITY = 18601

BFD_PORT = 3784  # RFC 5881 section 4
SIBLING_PORT = 18600  # UDP: replicas of a gateway ask each other about their uplinks
OWN_PORTS = (BFD_PORT, SIBLING_PORT)


class Family(IntEnum):
    """An IP family, by the number people say."""

    V4 = 4
    V6 = 6

    @property
    def label(self) -> str:
        """IPv4 or IPv6."""
        return f"IPv{int(self)}"

    @property
    def everything(self) -> str:
        """The prefix that holds every address."""
        return "0.0.0.0/0" if self is Family.V4 else "::/0"

    @property
    def metric(self) -> int:
        """The metric of routes that `ip route add` writes: none for IPv4, IP6_RT_PRIO_USER for IPv6."""
        return 0 if self is Family.V4 else 1024


@functools.lru_cache(maxsize=16384)
def network(cidr: str) -> Network:
    """Parse a prefix once; ValueError when it has host bits."""
    return ipaddress.ip_network(cidr)


class Prefixes:
    """A set of prefixes of one family that tells whether another one lies in any of them."""

    def __init__(self, cidrs: Iterable[str] = ()) -> None:
        self._by_length: dict[int, set[int]] = {}
        for cidr in cidrs:
            self.add(cidr)

    def add(self, cidr: str) -> None:
        """Take one more."""
        net = network(cidr)
        bits = int(net.network_address) >> (net.max_prefixlen - net.prefixlen)
        self._by_length.setdefault(net.prefixlen, set()).add(bits)

    def cover(self, cidr: str) -> bool:
        """Whether every address of `cidr` lies in one of the prefixes."""
        net = network(cidr)
        return any(
            int(net.network_address) >> (net.max_prefixlen - length) in starts
            for length, starts in self._by_length.items()
            if length <= net.prefixlen
        )


@dataclass(frozen=True)
class Source:
    """Whose traffic is taken out: masqueraded, or forwarded with its own address."""

    cidr: str
    snat: bool


@dataclass(frozen=True)
class FamilyConfig:
    """One family of the configuration; see veg.agent.v1.AgentFamily."""

    family: Family
    internal_gateway: str
    external_gateway: str
    vpc_cidrs: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True)
class Timers:
    """What this end of a BFD session asks for, ms; see veg.bfd.v1.Timers."""

    min_rx_ms: int
    min_tx_ms: int
    multiplier: int


@dataclass(frozen=True)
class BfdConfig:
    """BFD with OVN: the peers, at most one a family; see veg.agent.v1.AgentBfd."""

    peers: tuple[str, ...]
    timers: Timers
    min_ttl: int
    nudge_ms: int = 0


@dataclass(frozen=True)
class UplinkConfig:
    """The probe of the way out; see veg.agent.v1.UplinkProbe. `replicas` may name this one among them."""

    interval_ms: int
    multiplier: int
    replicas: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    """A valid configuration; see veg.agent.v1.AgentConfig."""

    gateway: str
    internal: str
    external: str
    families: tuple[FamilyConfig, ...]
    bfd: BfdConfig | None = None
    uplink: UplinkConfig | None = None

    @property
    def untracked_ports(self) -> tuple[int, ...]:
        """UDP ports of the pod's own packets that connection tracking and NAT must leave alone."""
        ports = ((BFD_PORT, self.bfd), (SIBLING_PORT, self.uplink))
        return tuple(port for port, used in ports if used is not None)


@dataclass(frozen=True)
class Interface:
    """A link and its global addresses with their prefix lengths ("10.16.0.12/16")."""

    name: str
    up: bool
    addresses: tuple[str, ...] = ()
    index: int = 0
    mac: str = ""

    def networks(self, family: Family) -> tuple[str, ...]:
        """The connected prefixes of a family, canonical."""
        found = (ipaddress.ip_interface(a).network for a in self.addresses)
        return tuple(str(n) for n in found if n.version == family)


@dataclass(frozen=True)
class Route:
    """A unicast route of the main table.

    `dst` is a prefix, `Family.everything` for the default. `gateway` is empty for a connected route. `extra` is empty
    for a plain route and tells what else it has (type, tos, nexthops, …) otherwise: ours never have any.
    """

    family: Family
    dst: str
    gateway: str
    dev: str
    metric: int
    protocol: int
    extra: str = ""

    @property
    def is_default(self) -> bool:
        """Whether it is a default route."""
        return self.dst == self.family.everything

    def __str__(self) -> str:
        words = [self.extra] if self.extra else []
        words.append("default" if self.is_default else self.dst)
        words += ["via", self.gateway] if self.gateway else []
        words += ["dev", self.dev] if self.dev else []
        words += ["proto", str(self.protocol)] if self.protocol != BOOT_PROTOCOL else []
        words += ["metric", str(self.metric)] if self.metric else []
        return " ".join(words)


@dataclass(frozen=True)
class Rule:
    """A policy routing rule that bears our protocol number: one end of the source guard.

    `action` is "lookup main" or "blackhole" (or, in one that was tampered with, something else).
    """

    family: Family
    priority: int
    iif: str
    action: str
    src: str = ""
    dst: str = ""
    extra: str = ""

    @property
    def opens(self) -> bool:
        """Whether packets get through by it."""
        return self.action != "blackhole"

    def __str__(self) -> str:
        words = [f"from {self.src or 'all'}"]
        words += [f"to {self.dst}"] if self.dst else []
        words += [f"iif {self.iif}"] if self.iif else []
        words += [self.extra] if self.extra else []
        words.append(self.action)
        return " ".join([*words, "proto", str(OUR_PROTOCOL)])


@dataclass(frozen=True)
class NatRule:
    """A rule of exactly our shape in the nat table's POSTROUTING: a source and a target, nothing else.

    `masquerade` false: `-j RETURN`, which ends the table for a source that keeps its address although a less specific
    prefix is masqueraded.
    """

    family: Family
    cidr: str
    masquerade: bool

    @property
    def spec(self) -> str:
        """The rule in the words of iptables, after `-A POSTROUTING `."""
        source = "" if network(self.cidr).prefixlen == 0 else f"-s {self.cidr} "
        return source + ("-j MASQUERADE --random-fully" if self.masquerade else "-j RETURN")

    def __str__(self) -> str:
        return f"-A POSTROUTING {self.spec}"


ExemptionChain = Literal["PREROUTING", "OUTPUT"]
EXEMPTION_COMMENT = "vpc-egress-gateway leaves its own packets untracked"


@dataclass(frozen=True)
class Exemption:
    """A rule in the raw table that keeps the pod's own packets to a UDP port out of connection tracking, so that no
    masquerading changes their source port and a full tracking table drops none of them.

    PREROUTING takes packets to the pod's own addresses on the VPC's interface `link` only: what passes through the pod stays
    tracked, and so do answers from outside, which come to the pod's own address and to any port that masquerading chose.
    """

    family: Family
    chain: ExemptionChain
    port: int
    link: str = ""

    @property
    def spec(self) -> str:
        """The rule in the words of iptables, after the chain's name. The comment marks it as ours."""
        link, local = (f"-i {self.link} ", " -m addrtype --dst-type LOCAL") if self.link else ("", "")
        port = f"-p udp -m udp --dport {self.port}"
        return f'{link}{port}{local} -m comment --comment "{EXEMPTION_COMMENT}" -j CT --notrack'

    def __str__(self) -> str:
        return f"-A {self.chain} {self.spec}"


def exemptions(family: Family, ports: Iterable[int], internal: str) -> tuple[Exemption, ...]:
    """The exemptions of these ports on a pod whose VPC interface is `internal`, in the order in which they are set."""
    links: dict[ExemptionChain, str] = {"PREROUTING": internal, "OUTPUT": ""}
    return tuple(Exemption(family, chain, port, link) for port in ports for chain, link in links.items())


# The comment marks the rule as ours.
TRACKING_COMMENT = "vpc-egress-gateway keeps connections tracked"


@dataclass(frozen=True)
class Tracking:
    """A rule in the mangle table that keeps connections tracked.

    The kernel tracks connections only while some rule of the namespace needs it (nf_ct_netns_get). When the last NAT
    rule of a family goes - a policy that is no longer masqueraded, or a table flushed by hand - it stops at once, and
    every masqueraded connection would go on with its inner address and break.

    With `link`, the external interface, it also drops what is to leave there and belongs to no connection, such as the FIN
    of one that is forgotten, or that another replica carried so far: NAT passes over it, and it would leave with its inner
    address. Without, it does nothing to packets: a source that keeps its address may answer what came another way.
    """

    family: Family
    link: str = ""

    @property
    def spec(self) -> str:
        """The rule in the words of iptables, after -A or -D."""
        link, target = (f"-o {self.link} ", " -j DROP") if self.link else ("", "")
        match = "-m conntrack --ctstate INVALID"
        return f'FORWARD {link}{match} -m comment --comment "{TRACKING_COMMENT}"{target}'

    def __str__(self) -> str:
        return f"-A {self.spec}"


def trackings(family: Family, external: str) -> tuple[Tracking, Tracking]:
    """Both kinds, on a pod whose way out is `external`."""
    return Tracking(family), Tracking(family, external)


# POSTROUTING of one family in its order; None stands for a rule of another shape, which is never ours.
Chain = tuple[NatRule | None, ...]


@dataclass(frozen=True)
class Snapshot:
    """What the kernel of one network namespace holds, as far as the agent looks.

    `routes`: all of the main table; `rules`: those with our mark; `nat`: the chains of the families that were asked
    for; `unreadable`: those whose chain could not be read, and why; `sysctls`: path below /proc/sys to value, None when
    it does not exist; `tracked`: our tracking rules; `exempt`: our rules in the raw table.
    """

    interfaces: Mapping[str, Interface] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()
    nat: Mapping[Family, Chain] = field(default_factory=dict)
    unreadable: Mapping[Family, str] = field(default_factory=dict)
    tracked: frozenset[Tracking] = frozenset()
    exempt: frozenset[Exemption] = frozenset()
    sysctls: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What was last applied and can not bear a visible mark: NAT rules, default routes, sysctls; and the families
    whose tracking rule (`tracked`) and whose rules in the raw table (`exempt`) are there to be looked for.

    Written before an operation (with what it will add) and after (with what is left), so that a killed agent's
    successor knows what is ours. `sysctls` holds the values that were there before us.
    """

    nat: frozenset[NatRule] = frozenset()
    defaults: frozenset[Route] = frozenset()
    tracked: frozenset[Family] = frozenset()
    exempt: frozenset[Family] = frozenset()
    sysctls: Mapping[str, str] = field(default_factory=dict)
