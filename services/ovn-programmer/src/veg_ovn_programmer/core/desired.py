"""The rows that an intent asks for.

Facts of OVN that shape them (ovn-nb(5), ovn-northd(8), tried on 25.03):

* A policy is asked only for packets that a route took, so a router with policies needs a default route.
* A connected route outranks a src-ip route of the same length, but a longer src-ip prefix outranks it: such a source
  would drag the VPC's own traffic to the gateway, and takes a policy instead.
* Of two policies of one priority that match one packet OVN takes either, so the longer source has the higher one.
* A src-ip route for 0.0.0.0/0 shares its priority with the table's drop and does not work: it takes a policy too.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from veg_ovn_programmer.core import rows
from veg_ovn_programmer.core.intents import (
    DefaultRoute,
    Gateway,
    GatewayFamily,
    Intent,
    Key,
    Port,
    Subnet,
    Vpc,
)
from veg_ovn_programmer.core.rows import Row, Value
from veg_ovn_programmer.errors import WaitingError

ALLOW_PRIORITY = 31000
REROUTE_PRIORITY = 29100
DROP_PRIORITY = 29090
# Sources that contain a prefix of the VPC lie below both, and above Kube-OVN's own policies at 29000.
_WIDE_REROUTE_PRIORITY = 29040
_WIDE_DROP_PRIORITY = 29001

# What an ECMP member is chosen by; without it OVN hashes UDP of one pair of hosts to one member.
SELECTION_FIELDS = frozenset({"ip_src", "ip_dst", "ip_proto", "tp_src", "tp_dst"})

# Nobody's addresses: the dummy address of RFC 7600 and the discard-only prefix of RFC 6666.
DUMMIES = {4: "192.0.0.8", 6: "100::"}
ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}


def _no_foreign_default(_router: str, _family: int) -> bool:
    return False


@dataclass(frozen=True)
class View:
    """What desired() must know beside the intent."""

    vpcs: Mapping[str, Vpc] = field(default_factory=dict)
    """The VPCs of the picture; only the managed topology has any."""
    selection_fields: bool = True
    """The schema has Logical_Router_Static_Route.selection_fields."""
    foreign_default: Callable[[str, int], bool] = _no_foreign_default
    """Whether a router has a default route of a family that is not ours."""


def desired(intent: Intent, view: View) -> tuple[Row, ...]:
    """Every row of the intent's owner. Raises WaitingError when something it stands on is not in the picture."""
    match intent:
        case Gateway():
            return _gateway(intent, view)
        case Vpc():
            return (_row(rows.ROUTER, intent.key, None, {"name": intent.name}),)
        case Subnet():
            return _subnet(intent, view)
        case Port():
            return (_port(intent),)
        case DefaultRoute():
            return _default_route(intent, view)


def takes_policy(source: str, local_cidrs: Iterable[str]) -> bool:
    """Whether a source of a custom VPC must take a policy instead of static routes."""
    length = _length(source)
    return length == 0 or any(length > _length(local) for local in local_cidrs)


def priorities(source: str, local_cidrs: Iterable[str]) -> tuple[int, int]:
    """Priorities of a source's reroute and drop policies, in that order.

    A whole prefix of the VPC has 29100 and 29090, and so has what lies outside. What lies inside a prefix of the VPC
    goes before it, the longer the earlier, and what contains one goes after it: so the longest source decides whose
    gateway takes a packet, and a gateway that nobody serves is closed even where a wider source is served.
    """
    network = ipaddress.ip_network(source)
    lengths = [_length(local) for local in local_cidrs if _covers(local, network)]
    if lengths and network.prefixlen > max(lengths):
        reroute = REROUTE_PRIORITY + 2 * (network.prefixlen - max(lengths))
        return reroute, reroute - 1
    if not lengths and any(_covers(source, ipaddress.ip_network(local)) for local in local_cidrs):
        step = network.prefixlen * 38 // network.max_prefixlen
        return _WIDE_REROUTE_PRIORITY + step, _WIDE_DROP_PRIORITY + step
    return REROUTE_PRIORITY, DROP_PRIORITY


def needs_default_route(intent: Intent) -> bool:
    """Whether the intent puts policies that send traffic out on a router that may have no default route."""
    if isinstance(intent, Vpc):
        return intent.default_vpc
    return (
        isinstance(intent, Gateway)
        and not intent.default_vpc
        and any(
            family.nexthops and any(takes_policy(source, family.local_cidrs) for source in family.sources)
            for family in intent.families
        )
    )


def router_port_name(vpc: str, subnet: str) -> str:
    """The router's port of a subnet, as Kube-OVN names it."""
    return f"{vpc}-{subnet}"


def stable_mac(name: str) -> str:
    """A locally administered unicast MAC address that depends on nothing but the name."""
    octets = bytearray(hashlib.sha256(name.encode()).digest()[:6])
    octets[0] = octets[0] & 0xFC | 0x02
    return ":".join(f"{octet:02x}" for octet in octets)


def _gateway(gateway: Gateway, view: View) -> tuple[Row, ...]:
    wanted: list[Row] = []
    for family in gateway.families:
        for source in family.sources:
            wanted += _source(gateway, family, source, view)
    return tuple(wanted)


def _source(gateway: Gateway, family: GatewayFamily, source: str, view: View) -> list[Row]:
    by_policy = gateway.default_vpc or not family.nexthops or takes_policy(source, family.local_cidrs)
    if not by_policy:
        return [_ecmp_route(gateway, family, source, nexthop, view) for nexthop in family.nexthops]
    version = family.family
    match = f"ip{version}.src == {_operand(source)}"
    reroute, drop = priorities(source, family.local_cidrs)
    policies = []
    if family.local_cidrs and not gateway.default_vpc:
        local = f"{match} && ip{version}.dst == {_operands(family.local_cidrs)}"
        policies.append(_policy(ALLOW_PRIORITY, local, "allow"))
    if family.nexthops:
        policies.append(_policy(reroute, match, "reroute", family.nexthops))
    else:
        # Fail closed: nobody can serve, and nothing else may let the traffic out.
        policies.append(_policy(drop, match, "drop"))
    return [_row(rows.POLICY, gateway.key, gateway.vpc, policy, version) for policy in policies]


def _ecmp_route(gateway: Gateway, family: GatewayFamily, source: str, nexthop: str, view: View) -> Row:
    columns: dict[str, Value] = {
        "ip_prefix": source,
        "nexthop": nexthop,
        "policy": frozenset({"src-ip"}),
        "options": {"ecmp_symmetric_reply": "true"},
    }
    if view.selection_fields:
        columns["selection_fields"] = SELECTION_FIELDS
    return _route(gateway.key, gateway.vpc, family.family, columns)


def _subnet(subnet: Subnet, view: View) -> tuple[Row, ...]:
    vpc = view.vpcs.get(subnet.vpc)
    if vpc is None:
        raise WaitingError("VpcMissing", f"VPC {subnet.vpc} is not there")
    name = router_port_name(subnet.vpc, subnet.name)
    networks = frozenset(
        f"{gateway}/{_length(cidr)}" for gateway, cidr in zip(subnet.gateways, subnet.cidrs, strict=True)
    )
    wanted = [
        _row(rows.SWITCH, subnet.key, None, {"name": subnet.name}),
        _row(
            rows.ROUTER_PORT,
            subnet.key,
            subnet.vpc,
            {"name": name, "mac": stable_mac(name), "networks": networks},
        ),
        _row(
            rows.SWITCH_PORT,
            subnet.key,
            subnet.name,
            {
                "name": f"{subnet.name}-{subnet.vpc}",
                "type": "router",
                "addresses": frozenset({"router"}),
                "options": {"router-port": name},
            },
        ),
    ]
    if vpc.default_vpc:
        for cidr in subnet.cidrs:
            version = ipaddress.ip_network(cidr).version
            match = f"ip{version}.dst == {_operand(cidr)}"
            policy = _policy(ALLOW_PRIORITY, match, "allow")
            wanted.append(_row(rows.POLICY, subnet.key, subnet.vpc, policy))
    return tuple(wanted)


def _port(port: Port) -> Row:
    # No port_security: a gateway pod forwards packets of other senders back into the VPC.
    columns: dict[str, Value] = {
        "name": port.name,
        "type": "",
        "addresses": frozenset({" ".join((port.mac, *port.addresses))}),
        "port_security": frozenset(),
    }
    return _row(rows.SWITCH_PORT, port.key, port.subnet, columns)


def _default_route(route: DefaultRoute, view: View) -> tuple[Row, ...]:
    # Its port has no peer, so what no policy takes away ends there. Someone else's default route serves as well,
    # and beside it ours would take a share of the packets (ECMP).
    families = [family for family in DUMMIES if not view.foreign_default(route.vpc, family)]
    if not families:
        return ()
    name = f"blackhole@{route.vpc}"
    networks = frozenset(f"{DUMMIES[family]}/{32 if family == 4 else 128}" for family in families)
    port: dict[str, Value] = {"name": name, "mac": stable_mac(name), "networks": networks}
    return (
        _row(rows.ROUTER_PORT, route.key, route.vpc, port),
        *(
            _route(
                route.key,
                route.vpc,
                family,
                {
                    "ip_prefix": ANYWHERE[family],
                    "nexthop": DUMMIES[family],
                    "policy": frozenset({"dst-ip"}),
                    "options": {},
                },
            )
            for family in families
        ),
    )


def _policy(priority: int, match: str, action: str, nexthops: Iterable[str] = ()) -> dict[str, Value]:
    return {
        "priority": priority,
        "match": match,
        "action": action,
        "nexthops": frozenset(nexthops),
        "nexthop": frozenset(),
        "options": {},
    }


def _route(owner: Key, router: str, family: int, columns: Mapping[str, Value]) -> Row:
    everything = {**columns, "route_table": "", "output_port": frozenset[str]()}
    return _row(rows.ROUTE, owner, router, everything, family)


def _row(
    table: str, owner: Key, holder: str | None, columns: Mapping[str, Value], family: int | None = None
) -> Row:
    return Row(table, owner, {**columns, rows.MARKS: rows.marks(owner, holder, family)}, holder)


def _covers(prefix: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    outer = ipaddress.ip_network(prefix)
    return outer.version == network.version and outer.supernet_of(network)  # type: ignore[arg-type]


def _length(prefix: str) -> int:
    return int(prefix.rpartition("/")[2])


def _operand(prefix: str) -> str:
    """A prefix as an OVN match spells it: a single address without its length."""
    address, _, length = prefix.partition("/")
    return address if length == ("128" if ":" in address else "32") else prefix


def _operands(prefixes: Iterable[str]) -> str:
    texts = [_operand(prefix) for prefix in sorted(set(prefixes))]
    return texts[0] if len(texts) == 1 else "{" + ", ".join(texts) + "}"
