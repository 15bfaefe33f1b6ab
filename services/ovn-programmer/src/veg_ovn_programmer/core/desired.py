"""The rows that an intent asks for.

Facts of OVN that shape them (ovn-nb(5), ovn-northd(8), tried on 25.03):

* A policy is asked only for packets that a route took, so a router with policies needs a default route.
* A connected route outranks a src-ip route of the same length, but a longer src-ip prefix outranks it: such a source
  would drag the VPC's own traffic to the gateway, and takes a policy instead.
* Of two policies of one priority that match one packet OVN takes either, so the longer source has the higher one.
* A src-ip route for 0.0.0.0/0 shares its priority with the table's drop and does not work: it takes a policy too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from veg_ovn_programmer.core import bfd, parts, rows
from veg_ovn_programmer.core.intents import (
    DefaultRoute,
    Gateway,
    GatewayFamily,
    Intent,
    Port,
    Subnet,
    Vpc,
    Waker,
)
from veg_ovn_programmer.core.parts import ALLOW_PRIORITY, ANYWHERE
from veg_ovn_programmer.core.rows import Link, Row, Value
from veg_ovn_programmer.core.view import View
from veg_ovn_programmer.errors import WaitingError

REROUTE_PRIORITY = 29100
DROP_PRIORITY = 29090
# Sources that contain a prefix of the VPC lie below both, and above Kube-OVN's own policies at 29000.
_WIDE_REROUTE_PRIORITY = 29040
_WIDE_DROP_PRIORITY = 29001

# What an ECMP member is chosen by; without it OVN hashes UDP of one pair of hosts to one member.
SELECTION_FIELDS = frozenset({"ip_src", "ip_dst", "ip_proto", "tp_src", "tp_dst"})

# Nobody's addresses: the dummy address of RFC 7600 and the discard-only prefix of RFC 6666.
DUMMIES = {4: "192.0.0.8", 6: "100::"}

# What wakes ovn-controller: every one of them copies every address set, northd passes a change of one on without computing
# anything else (a change of a BFD row has it compute all flows anew, twice), and no flow refers to this one.
WAKER_NAME = "vpc_egress_gateway_waker"


def desired(intent: Intent, view: View) -> tuple[Row, ...]:
    """Every row of the intent's owner. Raises WaitingError when something it stands on is not in the picture."""
    match intent:
        case Gateway():
            return _gateway(intent, view)
        case Vpc():
            return _vpc(intent, view)
        case Subnet():
            return _subnet(intent, view)
        case Port():
            return (_port(intent),)
        case DefaultRoute():
            return _default_route(intent, view)
        case Waker():
            return (_waker(intent, view),)


def sessions(intent: Intent | None, view: View) -> tuple[bfd.Session, ...]:
    """OVN's view of an intent's BFD sessions; none but for a gateway with BFD."""
    return bfd.sessions(intent, view) if isinstance(intent, Gateway) else ()


def lack(intent: Intent | None, view: View) -> WaitingError | None:
    """What an intent's rows can not work without; they are written all the same, for they close what is not served."""
    return bfd.lack(intent, view) if isinstance(intent, Gateway) else None


def takes_policy(source: str, local_cidrs: Iterable[str]) -> bool:
    """Whether a source of a custom VPC must take a policy instead of static routes."""
    length = parts.length(source)
    return length == 0 or any(length > parts.length(local) for local in local_cidrs)


def priorities(source: str, local_cidrs: Iterable[str]) -> tuple[int, int]:
    """Priorities of a source's reroute and drop policies, in that order.

    A whole prefix of the VPC has 29100 and 29090, and so has what lies outside. What lies inside a prefix of the VPC
    goes before it, the longer the earlier, and what contains one goes after it: so the longest source decides whose
    gateway takes a packet, and a gateway that nobody serves is closed even where a wider source is served.
    """
    network = ipaddress.ip_network(source)
    lengths = [parts.length(local) for local in local_cidrs if _covers(local, network)]
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


def _vpc(vpc: Vpc, view: View) -> tuple[Row, ...]:
    router = (parts.row(rows.ROUTER, vpc.key, None, {"name": vpc.name}),) if view.managed else ()
    if vpc.bfd_port is None or bfd.serves_already(vpc, view):
        return router
    return (*router, *bfd.port_rows(vpc, vpc.bfd_port, view))


def _gateway(gateway: Gateway, view: View) -> tuple[Row, ...]:
    wanted: list[Row] = []
    for family in gateway.families:
        wanted += bfd.session_rows(gateway, family, view)
        if any(_by_policy(gateway, family, source) for source in family.sources):
            wanted += bfd.keepalive_rows(gateway, family, view)
        for source in family.sources:
            if family.nexthops and _by_policy(gateway, family, source):
                wanted += _policies(gateway, family, source, view)
            elif family.nexthops:
                wanted += _routes(gateway, family, source, view)
            else:
                wanted += _closed(gateway, family, source, view)
    return tuple(wanted)


def _by_policy(gateway: Gateway, family: GatewayFamily, source: str) -> bool:
    return gateway.default_vpc or takes_policy(source, family.local_cidrs)


def _policies(gateway: Gateway, family: GatewayFamily, source: str, view: View) -> list[Row]:
    native = view.native_policies
    if native or gateway.bfd is None:
        nexthops = bfd.alive(gateway, family.nexthops, view)
    else:
        nexthops = bfd.serving(gateway, family.nexthops, view)
    if not nexthops:
        return _closed(gateway, family, source, view)
    links = [link for peer in nexthops if native and (link := bfd.link(gateway, peer)) is not None]
    reroute = priorities(source, family.local_cidrs)[0]
    match = _match(family, source)
    wanted = [
        *_local(gateway, family, source, view),
        _policy(gateway, family, view, reroute, match, "reroute", nexthops, links),
    ]
    if gateway.bfd is not None and native:
        # OVN takes the whole policy away with its last nexthop: what lies below must not be another way out.
        wanted.append(_drop(gateway, family, source, view, match))
    return wanted


def _routes(gateway: Gateway, family: GatewayFamily, source: str, view: View) -> list[Row]:
    more: dict[str, Value] = {"options": {"ecmp_symmetric_reply": "true"}}
    if view.selection_fields:
        more["selection_fields"] = SELECTION_FIELDS
    wanted = []
    for peer in bfd.alive(gateway, family.nexthops, view):
        link = bfd.link(gateway, peer)
        wanted.append(
            parts.route(gateway.key, gateway.vpc, source, peer, by="src-ip", session=link, more=more)
        )
    if not bfd.serving(gateway, family.nexthops, view):
        # OVN has taken all routes away, so a shorter one of somebody else's would be asked.
        return [*wanted, *_closed(gateway, family, source, view)]
    if gateway.bfd is not None and view.foreign_default(gateway.vpc, family.family):
        wanted += _guard(gateway, family, source, view)
    return wanted


def _guard(gateway: Gateway, family: GatewayFamily, source: str, view: View) -> list[Row]:
    """Beside somebody else's default route: drops what leaves by another port than the replicas'.

    It stands while all is well, so that not one packet escapes between OVN's taking away the last route and our
    closing. Where the replicas' port is not known, or is the default route's own, that moment stays open.
    """
    ports = sorted({view.port_towards(gateway.vpc, peer) for peer in family.nexthops} - {""})
    if not ports:
        return []
    match = " && ".join([_match(family, source), *(f'outport != "{port}"' for port in ports)])
    return [*_local(gateway, family, source, view), _drop(gateway, family, source, view, match)]


def _closed(gateway: Gateway, family: GatewayFamily, source: str, view: View) -> list[Row]:
    """Fail closed: nobody can serve, and nothing else may let the traffic out."""
    drop = _drop(gateway, family, source, view, _match(family, source))
    return [*_local(gateway, family, source, view), drop]


def _drop(gateway: Gateway, family: GatewayFamily, source: str, view: View, match: str) -> Row:
    return _policy(gateway, family, view, priorities(source, family.local_cidrs)[1], match, "drop")


def _local(gateway: Gateway, family: GatewayFamily, source: str, view: View) -> list[Row]:
    """Traffic inside the VPC stays there; in the default VPC its subnets see to that."""
    if not family.local_cidrs or gateway.default_vpc:
        return []
    match = f"{_match(family, source)} && ip{family.family}.dst == {parts.operands(family.local_cidrs)}"
    return [_policy(gateway, family, view, ALLOW_PRIORITY, match, "allow")]


def _policy(  # noqa: PLR0913, PLR0917  # a policy has that many sides
    gateway: Gateway,
    family: GatewayFamily,
    view: View,
    priority: int,
    match: str,
    action: str,
    nexthops: Iterable[str] = (),
    links: Iterable[Link] = (),
) -> Row:
    return parts.policy(
        gateway.key,
        gateway.vpc,
        priority,
        match,
        action,
        family=family.family,
        nexthops=nexthops,
        sessions=links if view.bfd_sessions else None,
    )


def _match(family: GatewayFamily, source: str) -> str:
    return f"ip{family.family}.src == {parts.operand(source)}"


def _subnet(subnet: Subnet, view: View) -> tuple[Row, ...]:
    vpc = view.scene.vpcs.get(subnet.vpc)
    if vpc is None:
        raise WaitingError("VpcMissing", f"VPC {subnet.vpc} is not there")
    name = parts.router_port_name(subnet.vpc, subnet.name)
    networks = frozenset(
        f"{gateway}/{parts.length(cidr)}" for gateway, cidr in zip(subnet.gateways, subnet.cidrs, strict=True)
    )
    port: dict[str, Value] = {"name": name, "mac": parts.stable_mac(name), "networks": networks}
    plug: dict[str, Value] = {
        "name": parts.switch_port_name(subnet.vpc, subnet.name),
        "type": "router",
        "addresses": frozenset({"router"}),
        "options": {"router-port": name},
    }
    wanted = [
        parts.row(rows.SWITCH, subnet.key, None, {"name": subnet.name}),
        parts.row(rows.ROUTER_PORT, subnet.key, subnet.vpc, port),
        parts.row(rows.SWITCH_PORT, subnet.key, subnet.name, plug),
    ]
    if vpc.default_vpc:
        for cidr in subnet.cidrs:
            match = f"ip{parts.version(cidr)}.dst == {parts.operand(cidr)}"
            wanted.append(parts.policy(subnet.key, subnet.vpc, ALLOW_PRIORITY, match, "allow"))
    return tuple(wanted)


def _port(port: Port) -> Row:
    # No port_security: a gateway pod forwards packets of other senders back into the VPC.
    columns: dict[str, Value] = {
        "name": port.name,
        "type": "",
        "addresses": frozenset({" ".join((port.mac, *port.addresses))}),
        "port_security": frozenset[str](),
    }
    return parts.row(rows.SWITCH_PORT, port.key, port.subnet, columns)


def _default_route(route: DefaultRoute, view: View) -> tuple[Row, ...]:
    # Its port has no peer, so what no policy takes away ends there. Someone else's default route serves as well,
    # and beside it ours would take a share of the packets (ECMP).
    families = [family for family in DUMMIES if not view.foreign_default(route.vpc, family)]
    if not families:
        return ()
    name = f"blackhole@{route.vpc}"
    networks = frozenset(parts.host(DUMMIES[family]) for family in families)
    port: dict[str, Value] = {"name": name, "mac": parts.stable_mac(name), "networks": networks}
    return (
        parts.row(rows.ROUTER_PORT, route.key, route.vpc, port),
        *(parts.route(route.key, route.vpc, ANYWHERE[family], DUMMIES[family]) for family in families),
    )


def _waker(waker: Waker, view: View) -> Row:
    # Another one each time, from the block for documentation (RFC 5737).
    address = f"192.0.2.{1 + view.scene.wakes % 254}"
    return parts.row(
        rows.ADDRESS_SET, waker.key, None, {"name": WAKER_NAME, "addresses": frozenset({address})}
    )


def _covers(prefix: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    outer = ipaddress.ip_network(prefix)
    return outer.version == network.version and outer.supernet_of(network)  # type: ignore[arg-type]
