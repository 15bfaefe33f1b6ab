"""The rows of BFD: a VPC's port, and the sessions of a gateway with its replicas.

Facts of OVN that shape them (its source, and tried on 25.03):

* Stock OVN speaks only on a port that has a peer, and must be sure of the chassis: so the port sits on a second router
  (variant S3), and all that goes there passes the chassis that is active. Neither router needs an address of the
  other's network: a route names its port, and OVN knows the MAC addresses of a switch's routers. So the BFD address is
  the port's only one, and OVN can take no other for its source.
* A session runs while a route or policy refers to its row; else it is `admin_down`.
* A route with a row is used while its row's status is not `down`; a policy too, but only where OVN honours
  `bfd_sessions` (variant K): elsewhere the nexthop is taken out here.
* OVN knows a session by port and peer: a new row in the place of the old one changes nothing. What starts a session
  afresh is a moment without a reference, or a moment without the row.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from veg_ovn_programmer.core import parts, rows
from veg_ovn_programmer.core.intents import BfdPort, Gateway, GatewayFamily, Key, Vpc
from veg_ovn_programmer.core.rows import Link, Row, Value
from veg_ovn_programmer.core.view import Variant, View
from veg_ovn_programmer.errors import WaitingError

UP = "up"
INIT = "init"
DOWN = "down"
ADMIN_DOWN = "admin_down"

# A route table that no port looks into: its routes lead nobody anywhere and only keep sessions running.
KEEPALIVE_TABLE = "bfd"

# Addresses for the VPC's side of the join, best first: nobody is ever sent there, but a port needs one.
JOIN_ADDRESSES = ("169.254.255.1", "169.254.253.1", "100.127.255.1", "198.19.255.1", "192.0.0.9")


@dataclass(frozen=True)
class Session:
    """OVN's view of one session, and what follows from it."""

    gateway: Key
    peer: str
    status: str
    """Of the row; "" when OVN has said nothing yet."""
    serving: bool
    """OVN sends traffic to the peer."""


def second_router(vpc: str) -> str:
    """The router that carries a VPC's BFD port in variant S3."""
    return f"{vpc}-bfd"


def port_name(vpc: str) -> str:
    """The BFD port of a VPC, as Kube-OVN names it; in variant S3 also the join's switch. No object can be called so."""
    return f"bfd@{vpc}"


def port_owner(port: str) -> str | None:
    """The VPC of a BFD port, by its name; None for another port."""
    mark, _, vpc = port.partition("@")
    return vpc if mark == "bfd" and vpc else None


def port_rows(vpc: Vpc, port: BfdPort, view: View) -> list[Row]:
    """A VPC's BFD port. Raises WaitingError when no address is left for the join."""
    name = port_name(vpc.name)
    wanted = [_own(rows.HA_GROUP, vpc, None, {"name": name})]
    # The node that carries the port comes first: when one that had it returns, moving it back would end every session
    # of the VPC for a second or two. While it returns both may say that they have it: what they say in turn is not followed.
    first = view.scene.carriers.get(name) or view.carrier(name)
    nodes = sorted(port.nodes, key=lambda node: node != first)
    for place, node in enumerate(nodes):
        columns: dict[str, Value] = {"chassis_name": node, "priority": len(nodes) - place}
        wanted.append(_own(rows.HA_CHASSIS, vpc, name, columns))
    router = vpc.name if view.variant is Variant.K else second_router(vpc.name)
    lrp: dict[str, Value] = {
        "name": name,
        "mac": parts.stable_mac(name),
        "networks": frozenset(port.addresses),
        "ha_chassis_group": frozenset({Link(rows.HA_GROUP, (name,))}),
        "options": {"bfd-only": "true"} if view.variant is Variant.K else {},
    }
    wanted.append(_own(rows.ROUTER_PORT, vpc, router, lrp))
    if view.variant is Variant.S3:
        wanted += _join(vpc, port, view)
    return wanted


def serves_already(vpc: Vpc, view: View) -> bool:
    """Whether Kube-OVN has made the VPC's BFD port itself: then that is the one."""
    return not view.managed and view.variant is Variant.K and view.foreign_port(port_name(vpc.name))


def lack(gateway: Gateway, view: View) -> WaitingError | None:
    """Beside Kube-OVN: the port that a gateway's sessions speak from is not there; None when it is."""
    if gateway.bfd is None or view.managed or view.has_port(gateway.bfd.logical_port):
        return None
    port = gateway.bfd.logical_port
    return WaitingError(
        "BfdPortMissing", f"Logical_Router_Port {port} is not there", (rows.ROUTER_PORT, port)
    )


def session_rows(gateway: Gateway, family: GatewayFamily, view: View) -> list[Row]:
    """The BFD rows of a family's replicas, and what keeps their sessions running where nothing else does."""
    bfd = gateway.bfd
    if bfd is None:
        return []
    wanted = []
    for peer in speaking(gateway, family.nexthops):
        if (gateway.key, peer) in view.scene.away:
            continue
        columns: dict[str, Value] = {
            "logical_port": bfd.logical_port,
            "dst_ip": peer,
            "min_tx": frozenset({bfd.min_tx_ms}),
            "min_rx": frozenset({bfd.min_rx_ms}),
            "detect_mult": frozenset({bfd.multiplier}),
        }
        wanted.append(parts.row(rows.BFD, gateway.key, None, columns, family=family.family))
    return wanted


def keepalive_rows(gateway: Gateway, family: GatewayFamily, view: View) -> list[Row]:
    """Routes that refer to the sessions where policies can not: they lead nobody anywhere."""
    bfd = gateway.bfd
    if bfd is None or view.native_policies:
        return []
    return [
        parts.route(
            gateway.key,
            second_router(gateway.vpc),
            parts.host(peer),
            peer,
            port=bfd.logical_port,
            table=KEEPALIVE_TABLE,
            session=link(gateway, peer),
        )
        for peer in alive(gateway, speaking(gateway, family.nexthops), view)
    ]


def speaking(gateway: Gateway, peers: Iterable[str]) -> list[str]:
    """The replicas that OVN has sessions with: all but those that have no speaker yet."""
    return [peer for peer in peers if gateway.bfd is not None and peer not in gateway.bfd.silent]


def link(gateway: Gateway, peer: str) -> Link | None:
    """The reference to a replica's BFD row; None without BFD."""
    if gateway.bfd is None or peer in gateway.bfd.silent:
        return None
    return Link(rows.BFD, (gateway.bfd.logical_port, peer))


def alive(gateway: Gateway, peers: Iterable[str], view: View) -> list[str]:
    """The replicas whose sessions may be referred to: all but those that OVN shall forget for a moment."""
    return [peer for peer in peers if (gateway.key, peer) not in view.scene.held]


def serving(gateway: Gateway, peers: Iterable[str], view: View) -> list[str]:
    """The replicas that traffic goes to by their sessions; without BFD all of them.

    As OVN judges routes: while the session is up, or on its way up. A BFD port that moves to another chassis takes its
    sessions through `init`, and nobody is the worse for it.
    """
    if gateway.bfd is None:
        return list(peers)
    port, silent = gateway.bfd.logical_port, gateway.bfd.silent
    return [p for p in alive(gateway, peers, view) if p in silent or view.status(port, p) in {UP, INIT}]


def sessions(gateway: Gateway, view: View) -> tuple[Session, ...]:
    """OVN's view of every session of a gateway."""
    if gateway.bfd is None:
        return ()
    port = gateway.bfd.logical_port
    return tuple(
        Session(gateway.key, peer, view.status(port, peer), peer in serving(gateway, [peer], view))
        for family in gateway.families
        for peer in speaking(gateway, family.nexthops)
    )


def carrier(intent: object, view: View) -> str:
    """The chassis that a VPC's BFD port is on; "" when OVN says none, or there is no port of ours."""
    if isinstance(intent, Vpc) and intent.bfd_port is not None:
        return view.carrier(port_name(intent.name))
    return ""


def sharing_fate(gateway: Gateway, chassis: str, view_of: Iterable[Session]) -> list[str]:
    """The peers on a chassis whose sessions OVN believes in."""
    if gateway.bfd is None:
        return []
    serving_now = {one.peer for one in view_of if one.serving}
    return [peer for peer, on in gateway.bfd.chassis if on == chassis and peer in serving_now]


def spare(gateway: Gateway, peers: Iterable[str], view_of: Iterable[Session]) -> list[str]:
    """Which of these peers' sessions may start afresh: never all that serve a family.

    When no end agrees with OVN, OVN's own speaker is away, and its rows are what traffic still lives by.
    """
    asked = set(peers)
    active = {one.peer for one in view_of if one.serving}.union(gateway.bfd.silent if gateway.bfd else ())
    chosen = []
    for family in gateway.families:
        here = [peer for peer in speaking(gateway, family.nexthops) if peer in asked or not asked]
        others = active.intersection(family.nexthops).difference(here)
        chosen += [peer for peer in here if others or peer not in active]
    return chosen


def _join(vpc: Vpc, port: BfdPort, view: View) -> list[Row]:
    """The second router and how it and the VPC's router reach each other."""
    name, router = port_name(vpc.name), second_router(vpc.name)
    near = parts.router_port_name(vpc.name, name)
    mac = parts.stable_mac(near)
    address = _join_address(vpc, port, view)
    side: dict[str, Value] = {"name": near, "mac": mac, "networks": frozenset({parts.host(address)})}
    wanted = [
        _own(rows.ROUTER, vpc, None, {"name": router}),
        _own(rows.SWITCH, vpc, None, {"name": name}),
        _own(rows.ROUTER_PORT, vpc, vpc.name, side),
        _plug(vpc, f"{name}-{vpc.name}", near),
        _plug(vpc, f"{name}-{router}", name),
    ]
    back = {4: address, 6: parts.link_local(mac)}
    word = rows.BFD_PORT_WORD
    for own in port.addresses:
        family = parts.version(own)
        wanted += [
            parts.route(vpc.key, vpc.name, parts.host(own), own, port=near, word=word),
            parts.route(vpc.key, router, parts.ANYWHERE[family], back[family], port=name, word=word),
            # No policy for a replica's own prefix may take away its answers.
            parts.policy(
                vpc.key,
                vpc.name,
                parts.ALLOW_PRIORITY,
                f"ip{family}.dst == {own}",
                "allow",
                family=family,
                word=word,
            ),
        ]
    return wanted


def _plug(vpc: Vpc, name: str, router_port: str) -> Row:
    columns: dict[str, Value] = {
        "name": name,
        "type": "router",
        "addresses": frozenset({"router"}),
        "options": {"router-port": router_port},
    }
    return _own(rows.SWITCH_PORT, vpc, port_name(vpc.name), columns)


def _own(table: str, vpc: Vpc, holder: str | None, columns: dict[str, Value]) -> Row:
    return parts.row(table, vpc.key, holder, columns, word=rows.BFD_PORT_WORD)


def _join_address(vpc: Vpc, port: BfdPort, view: View) -> str:
    taken = [ipaddress.ip_network(prefix) for prefix in view.scene.prefixes.get(vpc.name, ())]
    for text in JOIN_ADDRESSES:
        address = ipaddress.ip_address(text)
        if text not in port.addresses and not any(address in network for network in taken):
            return text
    raise WaitingError(
        "NoJoinAddress", f"VPC {vpc.name} has a subnet around each of {', '.join(JOIN_ADDRESSES)}"
    )
