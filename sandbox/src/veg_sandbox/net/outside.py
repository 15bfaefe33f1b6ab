"""The outside host's return routes to the VPCs' networks, for traffic that is not masqueraded."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from veg_sandbox.net.errors import LabError
from veg_sandbox.net.model import OUTSIDE, Layout
from veg_sandbox.net.shell import ip, ip_json

PROTOCOL = 199
"""Route protocol number of the routes made here (rtnetlink(7): above 4 the kernel leaves it to programs)."""

Routes = dict[str, tuple[str, ...]]


def set_routes(layout: Layout, routes: Mapping[str, Sequence[str]]) -> None:
    """Make `routes` (`{cidr: [nexthop, …]}`) all of the outside host's routes of our protocol."""
    netns = layout.netns(OUTSIDE)
    wanted = parse(routes)
    have = _read(netns)
    commands = [f"route del {cidr} proto {PROTOCOL}" for cidr in sorted(set(have) - set(wanted))]
    for cidr, nexthops in sorted(wanted.items()):
        if have.get(cidr) != nexthops:
            hops = " ".join(f"nexthop via {nexthop}" for nexthop in nexthops)
            commands.append(f"route replace {cidr} proto {PROTOCOL} {hops}")
    ip(netns, commands)


def parse(routes: Mapping[str, Sequence[str]]) -> Routes:
    """The routes in canonical text, nexthops sorted; those without a nexthop left out. Raises LabError."""
    parsed: Routes = {}
    for cidr, nexthops in routes.items():
        try:
            network = ipaddress.ip_network(cidr)
            hops = sorted({ipaddress.ip_address(nexthop) for nexthop in nexthops}, key=int)
        except ValueError as error:
            raise LabError(f"return route {cidr}: {error}") from error
        if any(hop.version != network.version for hop in hops):
            raise LabError(f"return route {cidr}: a nexthop of the other family in {', '.join(nexthops)}")
        if hops:
            parsed[str(network)] = tuple(map(str, hops))
    return parsed


def _read(netns: str) -> Routes:
    found: Routes = {}
    for family, default in (("-4", "0.0.0.0/0"), ("-6", "::/0")):
        for route in ip_json(netns, family, "route", "show", "proto", str(PROTOCOL)):
            # ip_network() reads an address without a length, as iproute2 prints a host route, as one.
            cidr = str(ipaddress.ip_network(default if route["dst"] == "default" else route["dst"]))
            # iproute2 lists an IPv6 route of one nexthop flat and merges the others.
            found[cidr] = tuple(sorted({*found.get(cidr, ()), *_gateways(route)}, key=_number))
    return found


def _gateways(route: Mapping[str, Any]) -> list[str]:
    hops = route.get("nexthops") or [route]
    return [hop["gateway"] for hop in hops if "gateway" in hop]


def _number(address: str) -> int:
    return int(ipaddress.ip_address(address))
