"""What of ours is in the kernel, as lines that read like the output of ip, iptables and sysctl."""

from __future__ import annotations

from veg_node_agent.core.desired import sysctl_paths
from veg_node_agent.core.model import OUR_PROTOCOL, Config, Family, Record, Snapshot


def applied_lines(config: Config, snapshot: Snapshot, record: Record) -> tuple[str, ...]:
    """Routes, rules, NAT rules and sysctls, IPv4 before IPv6, each in the order of the kernel."""
    lines: list[str] = []
    for family in Family:
        lines += [
            str(route)
            for route in snapshot.routes
            if route.family is family and (route.protocol == OUR_PROTOCOL or route in record.defaults)
        ]
        lines += [f"{rule.priority}: {rule}" for rule in snapshot.rules if rule.family is family]
        lines += [
            str(rule) for rule in snapshot.nat.get(family, ()) if rule is not None and rule in record.nat
        ]
        lines += sorted(str(rule) for rule in snapshot.tracked if rule.family is family)
        lines += sorted(str(rule) for rule in snapshot.exempt if rule.family is family)
    lines += [
        f"{path} = {value}"
        for path in sysctl_paths(config)
        if (value := snapshot.sysctls.get(path)) is not None
    ]
    return tuple(lines)
