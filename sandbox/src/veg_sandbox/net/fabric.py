"""Namespaces and links of a lab that exist before any OVN process: nodes, fabric, outside host."""

from __future__ import annotations

from veg_sandbox.net.model import FABRIC, OUTSIDE, UNDERLAY_NETWORK, LabSpec, Layout, Node
from veg_sandbox.net.shell import ip, sysctl


def build(layout: Layout, spec: LabSpec) -> None:
    """Make the namespaces and everything in them that needs no OVN. Raises LabError."""
    nodes = layout.nodes(spec)
    fabric, outside = layout.netns(FABRIC), layout.netns(OUTSIDE)
    names = [fabric, outside, *(node.netns for node in nodes)]
    ip(None, [f"netns add {name}" for name in names])
    for name in names:
        # Duplicate address detection would keep addresses unusable for a second; the lab knows its own.
        sysctl(name, {"net/ipv6/conf/default/accept_dad": "0", "net/ipv6/conf/all/accept_dad": "0"})
    ip(fabric, _fabric_commands(layout, nodes))
    _outside(outside, spec)
    for node in nodes:
        ip(
            node.netns,
            ["link set lo up", "link set eth0 up", "link set eth1 up"],
        )


def _fabric_commands(layout: Layout, nodes: list[Node]) -> list[str]:
    commands = ["link set lo up"]
    for bridge in ("underlay", "external"):
        # No snooping and no forward delay: the bridges are wires, not part of what is tested.
        commands += [
            f"link add {bridge} type bridge forward_delay 0 mcast_snooping 0",
            f"link set {bridge} up",
        ]
    for index, node in enumerate(nodes, start=1):
        commands += _wire(f"u{index}", "underlay", "eth0", node.netns)
        commands += _wire(f"x{index}", "external", "eth1", node.netns)
    commands += _wire("x0", "external", "eth0", layout.netns(OUTSIDE))
    return commands


def _wire(port: str, bridge: str, far_name: str, far_netns: str) -> list[str]:
    return [
        f"link add {port} type veth peer name {far_name} netns {far_netns}",
        f"link set {port} master {bridge} up",
    ]


def _outside(netns: str, spec: LabSpec) -> None:
    sysctl(
        netns,
        {
            "net/ipv4/conf/all/rp_filter": "0",
            "net/ipv4/conf/default/rp_filter": "0",
            "net/ipv4/conf/eth0/rp_filter": "0",
            # Return routes over several gateways share flows, not only pairs of hosts.
            "net/ipv4/fib_multipath_hash_policy": "1",
            "net/ipv6/fib_multipath_hash_policy": "1",
        },
    )
    commands = ["link set lo up", "link set eth0 up"]
    commands += [f"address add {address} {_flags(address)} dev eth0" for address in spec.outside_addresses]
    commands += [f"address add {address} {_flags(address)} dev lo" for address in spec.beyond_addresses]
    ip(netns, commands)


def _flags(address: str) -> str:
    if ":" in address:
        return "nodad"
    return "" if address.endswith("/32") else "broadcast +"


def underlay_up(node: Node) -> None:
    """Give the node's underlay bridge its encap address. To be repeated whenever ovs-vswitchd has made the
    bridge anew: in the userspace datapath its interface dies with the daemon.
    """
    ip(
        node.netns,
        [
            f"address replace {node.underlay_ip}/{UNDERLAY_NETWORK.prefixlen} broadcast + dev br-phys",
            "link set br-phys up",
        ],
    )
