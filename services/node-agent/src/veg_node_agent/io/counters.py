"""What the kernel counted in this network namespace, for the drain."""

from __future__ import annotations

from pathlib import Path

from veg_node_agent.core.drain import Counters

_NET = Path("/proc/thread-self/net")


def read(interface: str) -> Counters:
    """Packets forwarded, and sent on `interface` (0 when it is not there). Raises OSError."""
    return Counters(_forwarded_v4() + _forwarded_v6(), _sent(interface))


def _forwarded_v4() -> int:
    names, values = [
        line.split() for line in (_NET / "snmp").read_text().splitlines() if line.startswith("Ip:")
    ]
    return int(dict(zip(names, values, strict=True))["ForwDatagrams"])


def _forwarded_v6() -> int:
    try:
        lines = (_NET / "snmp6").read_text().splitlines()
    except FileNotFoundError:  # a kernel without IPv6
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Ip6OutForwDatagrams")), 0)


def _sent(interface: str) -> int:
    for line in (_NET / "dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == interface:
            return int(numbers.split()[9])
    return 0
