"""Links, addresses, routes and rules of this network namespace, by rtnetlink.

Owns the one handle that reads and writes; `io.kernel` calls it, always from the same thread. What it returns has no
pyroute2 in it. Notifications come through a socket of their own (`io.doorbell`).
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator
from typing import Any

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from veg_node_agent.core.model import OUR_PROTOCOL, Family, Interface, Route, Rule
from veg_node_agent.core.operations import RouteOp, RuleOp
from veg_node_agent.errors import KernelError

_AF = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}
_MAIN = 254  # RT_TABLE_MAIN
_SCOPE_UNIVERSE, _SCOPE_NOWHERE = 0, 255
# rtnetlink.h: RTN_UNICAST and those that say what else a route may be.
_UNICAST = 1
_TYPES = {
    2: "local",
    3: "broadcast",
    4: "anycast",
    5: "multicast",
    6: "blackhole",
    7: "unreachable",
    8: "prohibit",
}
_ONLINK, _CLONED = 0x4, 0x200  # RTNH_F_ONLINK, RTM_F_CLONED
# fib_rules.h: FR_ACT_TO_TBL and its relatives.
_TO_TABLE = 1
_ACTIONS = {2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_KNOWN_RULE_ATTRIBUTES = {
    "FRA_TABLE",
    "FRA_PROTOCOL",
    "FRA_PRIORITY",
    "FRA_IIFNAME",
    "FRA_SRC",
    "FRA_DST",
    "FRA_PAD",
}
_NO_SUPPRESSION = 0xFFFFFFFF
_TENTATIVE, _DAD_FAILED = 0x40, 0x08  # IFA_F_* of linux/if_addr.h
_FAMILY_ABSENT = {errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT}
_GONE = {errno.ESRCH, errno.ENOENT, errno.ENODEV}


class Netlink:
    """A rtnetlink handle. Every method raises KernelError when the kernel refuses."""

    def __init__(self) -> None:
        self._ipr: Any = IPRoute()
        self._index: dict[str, int] = {}
        self._name: dict[int, str] = {}

    def close(self) -> None:
        """Give the socket back."""
        self._ipr.close()

    def interfaces(self) -> dict[str, Interface]:
        """The links by name, each with its addresses of global scope that may be used."""
        links = list(self._dump(self._ipr.get_links))
        self._name = {message["index"]: message.get("ifname") for message in links}
        self._index = {name: index for index, name in self._name.items()}
        addresses: dict[int, list[str]] = {}
        for message in self._dump(self._ipr.get_addr):
            # One that somebody else has, or may have, is no source of packets: the kernel would take another.
            if message["scope"] == _SCOPE_UNIVERSE and not message["flags"] & (_TENTATIVE | _DAD_FAILED):
                # On a point-to-point link IFA_ADDRESS is the peer; IFA_LOCAL is always this end.
                text = message.get("local") or message.get("address")
                addresses.setdefault(message["index"], []).append(f"{text}/{message['prefixlen']}")
        return {
            message.get("ifname"): Interface(
                name=message.get("ifname"),
                up=bool(message["flags"] & 1),
                addresses=tuple(sorted(addresses.get(message["index"], []))),
                index=message["index"],
                mac=message.get("address") or "",
            )
            for message in links
        }

    def routes(self, family: Family) -> tuple[Route, ...]:
        """Every route of the main table, in the kernel's order. Call `interfaces` before."""
        return tuple(
            self._route(family, message)
            for message in self._dump(self._ipr.get_routes, family=_AF[family], table=_MAIN)
            if message["family"] == _AF[family]
            and message.get("table") == _MAIN
            and not message["flags"] & _CLONED
        )

    def rules(self, family: Family) -> tuple[Rule, ...]:
        """The rules that bear our protocol number, in the kernel's order."""
        return tuple(
            _rule(family, message)
            for message in self._dump(self._ipr.get_rules, family=_AF[family])
            if message["family"] == _AF[family] and message.get("FRA_PROTOCOL") == OUR_PROTOCOL
        )

    def change(self, op: RouteOp | RuleOp) -> None:
        """Carry out one step. What is there already, or gone already, is as good."""
        ignored = {errno.EEXIST} if op.verb == "add" else _GONE if op.verb == "delete" else set()
        try:
            if isinstance(op, RouteOp):
                self._ipr.route("del" if op.verb == "delete" else op.verb, **self._route_fields(op))
            else:
                self._ipr.rule("del" if op.verb == "delete" else op.verb, **_rule_fields(op.rule))
        except NetlinkError as error:
            if error.code not in ignored:
                raise KernelError(f"{op}: {error.args[1]}") from error
        except (OSError, KeyError) as error:
            raise KernelError(f"{op}: {error}") from error

    def _dump(self, method: Any, **filters: Any) -> Iterator[Any]:
        try:
            yield from method(**filters)
        except NetlinkError as error:
            if error.code not in _FAMILY_ABSENT:
                raise KernelError(f"{method.__name__}: {error.args[1]}") from error
        except OSError as error:
            raise KernelError(f"{method.__name__}: {error}") from error

    def _route(self, family: Family, message: Any) -> Route:
        length = message["dst_len"]
        destination = message.get("dst")
        return Route(
            family=family,
            dst=_canonical(f"{destination}/{length}") if destination else family.everything,
            gateway=_canonical(message.get("gateway") or ""),
            dev=self._name.get(message.get("oif") or 0, ""),
            metric=message.get("priority") or 0,
            protocol=message["proto"],
            extra=" ".join(_route_extras(message)),
        )

    def _route_fields(self, op: RouteOp) -> dict[str, Any]:
        route = op.route
        fields: dict[str, Any] = {
            "family": _AF[route.family],
            "table": _MAIN,
            "dst": "default" if route.is_default else route.dst,
            "proto": route.protocol,
            # The kernel's delete takes any scope for "nowhere", and any type for 0.
            "scope": _SCOPE_NOWHERE if op.verb == "delete" else _SCOPE_UNIVERSE,
            "type": 0 if op.verb == "delete" else _UNICAST,
        }
        if route.metric:
            fields["priority"] = route.metric
        if route.gateway:
            fields["gateway"] = route.gateway
        if route.dev:
            fields["oif"] = self._index[route.dev]
        return fields


def _canonical(text: str) -> str:
    """An address or a prefix in Python's spelling, which is the configuration's.

    The C library writes the last 32 bits of some IPv6 addresses as an IPv4 one (inet_ntop: ::ffff:10.0.0.1).
    """
    if not text:
        return text
    return str(ipaddress.ip_network(text) if "/" in text else ipaddress.ip_address(text))


def _route_extras(message: Any) -> Iterator[str]:
    """What a route has beyond destination, gateway, link, metric and protocol."""
    if message["type"] != _UNICAST:
        yield _TYPES.get(message["type"], f"type {message['type']}")
    if message["tos"]:
        yield f"tos {message['tos']}"
    if message["src_len"]:
        yield "from"
    if message["flags"] & _ONLINK:
        yield "onlink"
    cache = message.get("RTA_CACHEINFO")
    if cache and cache.get("rta_expires"):
        yield "expires"
    if message.get("RTA_PREF"):
        yield f"pref {message.get('RTA_PREF')}"
    if message.get("RTA_PREFSRC"):
        yield f"src {message.get('RTA_PREFSRC')}"
    names = {name for name, _ in message["attrs"]}
    yield from sorted(names & {"RTA_MULTIPATH", "RTA_ENCAP", "RTA_METRICS", "RTA_NH_ID", "RTA_VIA"})


def _rule(family: Family, message: Any) -> Rule:
    def prefix(attribute: str, length: int) -> str:
        address = message.get(attribute)
        return str(ipaddress.ip_network(f"{address}/{length}", strict=False)) if length else ""

    names = {name for name, value in message["attrs"] if name not in _KNOWN_RULE_ATTRIBUTES}
    if message.get("FRA_SUPPRESS_PREFIXLEN") == _NO_SUPPRESSION:
        names.discard("FRA_SUPPRESS_PREFIXLEN")
    if message["tos"]:
        names.add("tos")
    if message["flags"] & 0x2:  # FIB_RULE_INVERT
        names.add("not")
    table = message.get("FRA_TABLE") or message["table"]
    action = f"lookup {'main' if table == _MAIN else table}"
    if message["action"] != _TO_TABLE:
        action = _ACTIONS.get(message["action"], f"action {message['action']}")
    return Rule(
        family=family,
        priority=message.get("FRA_PRIORITY") or 0,
        iif=message.get("FRA_IIFNAME") or "",
        action=action,
        src=prefix("FRA_SRC", message["src_len"]),
        dst=prefix("FRA_DST", message["dst_len"]),
        extra=" ".join(sorted(names)),
    )


def _rule_fields(rule: Rule) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "family": _AF[rule.family],
        "priority": rule.priority,
        "protocol": OUR_PROTOCOL,
    }
    verb, _, table = rule.action.partition(" ")
    if verb == "lookup":
        fields["table"] = _MAIN if table == "main" else int(table)
    else:
        fields["action"] = verb
    if rule.iif:
        fields["iifname"] = rule.iif
    if rule.src:
        fields["src"] = rule.src
    if rule.dst:
        fields["dst"] = rule.dst
    return fields
