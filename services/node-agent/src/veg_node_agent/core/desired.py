"""What the kernel should hold for a configuration: routes, source guard, NAT, sysctls, family by family.

Called by `diff`. Knows the configuration and the pod's own addresses, never the rest of the kernel.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from veg_node_agent.core.model import (
    ALLOW_PRIORITY,
    BOOT_PROTOCOL,
    DENY_PRIORITY,
    OUR_PROTOCOL,
    Config,
    Exemption,
    Family,
    FamilyConfig,
    Interface,
    NatRule,
    Prefixes,
    Route,
    Rule,
    Source,
    Tracking,
    exemptions,
    network,
)


@dataclass(frozen=True)
class DesiredFamily:
    """What one family should have in the kernel.

    `forwarding` are the sysctls without which nothing works; `hardening` those that a router with two links should
    have beside them.
    """

    family: Family
    default: Route
    routes: tuple[Route, ...]
    deny: tuple[Rule, ...]
    allow: tuple[Rule, ...]
    tracking: Tracking
    nat: tuple[NatRule, ...]
    exempt: tuple[Exemption, ...]
    forwarding: tuple[tuple[str, str], ...]
    hardening: tuple[tuple[str, str], ...]

    @property
    def sysctls(self) -> tuple[tuple[str, str], ...]:
        """Every kernel parameter, in the order in which they are set."""
        return self.forwarding + self.hardening


def desired(config: Config, entry: FamilyConfig, interfaces: Mapping[str, Interface]) -> DesiredFamily:
    """What `entry` of `config` asks for on a pod with these interfaces (both must be there)."""
    family = entry.family
    return DesiredFamily(
        family=family,
        default=Route(
            family, family.everything, entry.external_gateway, config.external, family.metric, BOOT_PROTOCOL
        ),
        routes=_vpc_routes(config, entry, interfaces),
        deny=tuple(
            Rule(family, DENY_PRIORITY, iif, "blackhole") for iif in (config.internal, config.external)
        ),
        allow=_allow_rules(config, entry, interfaces[config.internal]),
        tracking=Tracking(family, config.external if all(s.snat for s in entry.sources) else ""),
        nat=nat_rules(family, entry.sources),
        exempt=exemptions(family, config.untracked_ports, config.internal),
        forwarding=_forwarding(family, config),
        hardening=_hardening(family, config),
    )


def sysctl_paths(config: Config) -> tuple[str, ...]:
    """The kernel parameters that `desired` has an opinion on, paths below /proc/sys."""
    return tuple(
        path
        for entry in config.families
        for path, _ in (*_forwarding(entry.family, config), *_hardening(entry.family, config))
    )


def missing(config: Config, entry: FamilyConfig, interfaces: Mapping[str, Interface]) -> tuple[str, ...]:
    """What the pod lacks before this family can be set up, for people; empty when nothing."""
    problems = []
    for name in (config.internal, config.external):
        interface = interfaces.get(name)
        if interface is None:
            problems.append(f"interface {name} does not exist")
        elif not interface.up:
            problems.append(f"interface {name} is down")
        elif not interface.networks(entry.family):
            problems.append(f"interface {name} has no {entry.family.label} address")
    return tuple(problems)


def _vpc_routes(
    config: Config, entry: FamilyConfig, interfaces: Mapping[str, Interface]
) -> tuple[Route, ...]:
    """The way back into the VPC: its prefixes, and the sources that lie in none of them.

    What is connected needs no route. A source that is everything has none either: that is the default route's prefix.
    """
    reached = Prefixes(n for i in interfaces.values() for n in i.networks(entry.family))
    wanted = [cidr for cidr in dict.fromkeys(entry.vpc_cidrs) if not reached.cover(cidr)]
    for cidr in wanted:
        reached.add(cidr)
    for cidr in sorted({s.cidr for s in entry.sources}, key=lambda c: network(c).prefixlen):
        if cidr != entry.family.everything and not reached.cover(cidr):
            wanted.append(cidr)
            reached.add(cidr)
    return tuple(
        Route(entry.family, cidr, entry.internal_gateway, config.internal, entry.family.metric, OUR_PROTOCOL)
        for cidr in sorted(wanted, key=_order)
        if cidr != entry.family.everything
    )


def _allow_rules(config: Config, entry: FamilyConfig, internal: Interface) -> tuple[Rule, ...]:
    """Sources may come in from the VPC, and only towards them may come in from outside. Where everything is a source that
    is what lies in the VPC: the pod is no router for its neighbours outside.
    """
    rules = []
    for cidr in _merged(source.cidr for source in entry.sources):
        inward = [cidr] if cidr else _merged([*entry.vpc_cidrs, *internal.networks(entry.family)])
        rules.append(Rule(entry.family, ALLOW_PRIORITY, config.internal, "lookup main", src=cidr))
        rules += [Rule(entry.family, ALLOW_PRIORITY, config.external, "lookup main", dst=to) for to in inward]
    return tuple(rules)


def _merged(cidrs: Iterable[str]) -> list[str]:
    """Prefixes of one family without neighbouring and nested ones, because the kernel walks rules one by one for every
    packet; "" for everything.
    """
    # One family at a time, which the annotation of collapse_addresses wants to know.
    nets = cast("list[ipaddress.IPv4Network]", [network(cidr) for cidr in cidrs])
    return ["" if n.prefixlen == 0 else str(n) for n in ipaddress.collapse_addresses(nets)]


def nat_rules(family: Family, sources: tuple[Source, ...]) -> tuple[NatRule, ...]:
    """Masquerading in the order of the chain: longer prefixes first, then by address.

    A source that keeps its address needs a rule only where a masqueraded prefix around it would take it.
    """
    masqueraded = [s.cidr for s in sources if s.snat]
    rules = [NatRule(family, cidr, masquerade=True) for cidr in dict.fromkeys(masqueraded)]
    around = Prefixes(masqueraded)
    rules += [
        NatRule(family, cidr, masquerade=False)
        for cidr in dict.fromkeys(s.cidr for s in sources if not s.snat)
        if around.cover(cidr)
    ]
    return tuple(sorted(rules, key=lambda rule: _order(rule.cidr)))


def _order(cidr: str) -> tuple[int, int]:
    net = network(cidr)
    return -net.prefixlen, int(net.network_address)


def _forwarding(family: Family, config: Config) -> tuple[tuple[str, str], ...]:
    links = (config.internal, config.external)
    if family is Family.V4:
        # Setting ip_forward resets other parameters (ip-sysctl.rst), so it comes first. Reverse path filtering takes
        # the larger of `all` and the link's value; the source guard does that work here, also for IPv6.
        return (
            ("net/ipv4/ip_forward", "1"),
            *((f"net/ipv4/conf/{link}/forwarding", "1") for link in links),
            *((f"net/ipv4/conf/{link}/rp_filter", "0") for link in ("all", *links)),
        )
    return (
        ("net/ipv6/conf/all/forwarding", "1"),
        *((f"net/ipv6/conf/{link}/forwarding", "1") for link in links),
    )


def _hardening(family: Family, config: Config) -> tuple[tuple[str, str], ...]:
    links = (config.internal, config.external)
    if family is Family.V4:
        values = {
            "accept_redirects": "0",
            "accept_source_route": "0",
            "send_redirects": "0",
            # The two links are different networks: never answer for, or ask as, the other one's address.
            "arp_ignore": "1",
            "arp_announce": "2",
        }
        # Redirects are sent when `all` or the link allows them (ip-sysctl.rst): both must be off.
        return (
            ("net/ipv4/conf/all/send_redirects", "0"),
            *((f"net/ipv4/conf/{link}/{key}", value) for link in links for key, value in values.items()),
        )
    values = {
        "accept_ra": "0",
        "accept_redirects": "0",
        "accept_source_route": "0",
        # Without it a link that goes down and up comes back without its address, which nobody would restore.
        "keep_addr_on_down": "1",
    }
    return tuple((f"net/ipv6/conf/{link}/{key}", value) for link in links for key, value in values.items())
