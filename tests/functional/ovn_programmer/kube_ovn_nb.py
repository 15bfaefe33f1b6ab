"""A Northbound database as Kube-OVN keeps it, to work beside.

Written from Kube-OVN's documentation and from what its controller is known to write: the names of its rows, their
priorities and their external_ids. A cluster of three nodes with the default VPC, a join subnet and services; a custom
VPC with a BFD port, and one whose BFD port is still to come; and gateways of Kube-OVN's own making, whose rows bear the
same two keys as ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

VENDOR = {"vendor": "kube-ovn"}
NODES = {"control-plane": "2", "worker": "3", "worker2": "4"}
THEIRS = "default/theirs"
THEIR_MARKS = VENDOR | {"vpc-egress-gateway": THEIRS, "af": "4"}
PORT_GROUP = "VEG.0a1b2c3d4e5f"
ADDRESS_SET = "VEG.0a1b2c3d4e5f.ipv4"

Operation = dict[str, Any]


def operations() -> list[Operation]:
    """The operations of one transaction that fills an empty database."""
    made = _Made()
    _default_vpc(made)
    _custom_vpc(made, "vpc1", "subnet1", "192.168.0.", bfd="10.255.255.255")
    _custom_vpc(made, "vpc2", "subnet2", "192.168.1.", bfd=None)
    _own_gateway(made)
    _cluster_wide(made)
    return made.operations


class _Made:
    """Collects rows; every one is known by a name that others may refer to."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def row(self, table: str, **columns: Any) -> list[str]:
        """Insert a row; returns the reference to it."""
        name = f"row{len(self.operations)}"
        values = {column: _value(value) for column, value in columns.items()}
        self.operations.append({"op": "insert", "table": table, "uuid-name": name, "row": values})
        return ["named-uuid", name]


def _value(value: Any) -> Any:
    """A Python value as RFC 7047 writes it: dicts are maps, lists of anything but one reference are sets."""
    if isinstance(value, Mapping):
        return ["map", [[key, text] for key, text in value.items()]]
    if isinstance(value, list) and value[:1] not in (["named-uuid"], ["uuid"]):
        return ["set", value]
    return value


def _default_vpc(made: _Made) -> None:
    policies = [
        _policy(made, 31000, f"ip4.dst == {cidr}", "allow") for cidr in ("10.16.0.0/16", "100.64.0.0/16")
    ]
    for node, last in NODES.items():
        marks = VENDOR | {"node": node, "address-family": "4"}
        via = f"100.64.0.{last}"
        policies.append(_policy(made, 30000, f"ip4.dst == 172.18.0.{last}", "reroute", [via], marks))
        group = f"ovn.default.{node.replace('-', '.')}"
        match = f"ip4.src == ${group}_ip4"
        marks = VENDOR | {"node": node, "subnet": "ovn-default"}
        policies.append(_policy(made, 29000, match, "reroute", [via], marks))
        made.row("Port_Group", name=group, external_ids=VENDOR | {"node": node, "subnet": "ovn-default"})
        made.row(
            "Port_Group",
            name=f"node.{node.replace('-', '.')}",
            external_ids=VENDOR | {"networkpolicy": "node"},
        )
    balancers = [
        made.row(
            "Load_Balancer",
            name=f"cluster-{protocol}-{kind}loadbalancer",
            protocol=protocol,
            vips={f"10.96.0.{n}:53": "10.16.0.7:53,10.16.0.8:53"},
            options=options,
            external_ids=VENDOR,
        )
        for n, protocol in enumerate(("tcp", "udp", "sctp"), start=10)
        for kind, options in (("", {}), ("session-", {"affinity_timeout": "10800"}))
    ]
    default = made.row(
        "Logical_Router_Port",
        name="ovn-cluster-ovn-default",
        mac="0a:00:00:00:10:01",
        networks=["10.16.0.1/16"],
        external_ids=VENDOR,
    )
    join = made.row(
        "Logical_Router_Port",
        name="ovn-cluster-join",
        mac="0a:00:00:00:64:01",
        networks=["100.64.0.1/16"],
        external_ids=VENDOR,
    )
    route = made.row(
        "Logical_Router_Static_Route",
        ip_prefix="0.0.0.0/0",
        nexthop="100.64.0.1",
        policy="dst-ip",
        external_ids=VENDOR,
    )
    made.row(
        "Logical_Router",
        name="ovn-cluster",
        options={"always_learn_from_arp_request": "false", "dynamic_neigh_routers": "true"},
        ports=[default, join],
        policies=policies,
        static_routes=[route],
        load_balancer=balancers,
        external_ids=VENDOR,
    )
    pods = [
        _pod(made, f"{name}.{namespace}", "ovn-default", f"10.16.0.{last}")
        for last, (name, namespace) in enumerate(
            (("coredns-7c65", "kube-system"), ("coredns-8f21", "kube-system"), ("web-0", "default")), start=7
        )
    ]
    acl = made.row(
        "ACL",
        priority=2001,
        direction="to-lport",
        match="outport == @ns.deny && ip",
        action="drop",
        external_ids=VENDOR,
    )
    made.row(
        "Port_Group", name="ns.deny", ports=pods[2:], acls=[acl], external_ids=VENDOR | {"np": "default/deny"}
    )
    _switch(made, "ovn-default", "ovn-cluster", pods, load_balancer=balancers)
    nodes = [
        made.row(
            "Logical_Switch_Port",
            name=f"node-{node}",
            addresses=[f"0a:00:00:00:64:0{last} 100.64.0.{last}"],
            external_ids=VENDOR | {"ls": "join"},
        )
        for node, last in NODES.items()
    ]
    _switch(made, "join", "ovn-cluster", nodes)


def _custom_vpc(made: _Made, vpc: str, subnet: str, prefix: str, *, bfd: str | None) -> None:
    """A VPC as a tenant has it: a subnet, a route and a policy of the tenant's, and a port of a second network."""
    octet = prefix.split(".")[2]
    ports = [
        made.row(
            "Logical_Router_Port",
            name=f"{vpc}-{subnet}",
            mac=f"0a:00:00:00:{octet.zfill(2)}:01",
            networks=[f"{prefix}1/24"],
            external_ids=VENDOR,
        )
    ]
    if bfd is not None:
        name = f"bfd@{vpc}"
        chassis = [
            made.row("HA_Chassis", chassis_name=f"0000000{n}-chassis", priority=100 - n, external_ids=VENDOR)
            for n in range(3)
        ]
        group = made.row(
            "HA_Chassis_Group", name=name, ha_chassis=chassis, external_ids=VENDOR | {"lrp": name}
        )
        ports.append(
            made.row(
                "Logical_Router_Port",
                name=name,
                mac="0a:00:00:00:ff:01",
                networks=[f"{bfd}/32"],
                ha_chassis_group=group,
                options={"bfd-only": "true"},
                external_ids=VENDOR,
            )
        )
    route = made.row(
        "Logical_Router_Static_Route",
        ip_prefix="172.20.0.0/16",
        nexthop=f"{prefix}254",
        policy="dst-ip",
        external_ids=VENDOR,
    )
    tenant = _policy(made, 10, f"ip4.src == {prefix}200", "drop")
    made.row(
        "Logical_Router",
        name=vpc,
        ports=ports,
        static_routes=[route],
        policies=[tenant],
        external_ids=VENDOR,
    )
    pods = [
        _pod(made, "app-0.tenant", subnet, f"{prefix}10")
        if bfd
        else _pod(made, "db-0.tenant", subnet, f"{prefix}10"),
        _pod(made, f"app-{octet}.tenant.net1.default.ovn", subnet, f"{prefix}11"),
    ]
    _switch(made, subnet, vpc, pods)


def _own_gateway(made: _Made) -> None:
    """A gateway that Kube-OVN's own controller wrote, in the default VPC and in a custom one."""
    made.row("Port_Group", name=PORT_GROUP, external_ids=THEIR_MARKS)
    made.row("Address_Set", name=ADDRESS_SET, addresses=["10.16.9.0/24"], external_ids=THEIR_MARKS)
    session = made.row(
        "BFD",
        logical_port="bfd@vpc1",
        dst_ip="192.168.0.90",
        min_tx=1000,
        min_rx=1000,
        detect_mult=3,
        status="up",
        external_ids=THEIR_MARKS,
    )
    made.row(
        "BFD",
        logical_port="bfd@vpc1",
        dst_ip="192.168.0.91",
        min_tx=1000,
        min_rx=1000,
        detect_mult=3,
        status="down",
        external_ids=THEIR_MARKS,
    )
    policies = [
        _policy(
            made, 29100, f"ip4.src == ${ADDRESS_SET}", "reroute", ["192.168.0.90"], THEIR_MARKS, [session]
        ),
        _policy(
            made, 29100, f"ip4.src == ${PORT_GROUP}_ip4", "reroute", ["192.168.0.90"], THEIR_MARKS, [session]
        ),
        _policy(made, 29090, f"ip4.src == ${ADDRESS_SET}", "drop", [], THEIR_MARKS),
    ]
    route = made.row(
        "Logical_Router_Static_Route",
        ip_prefix="192.168.0.128/25",
        nexthop="192.168.0.90",
        policy="src-ip",
        bfd=session,
        options={"ecmp_symmetric_reply": "true"},
        external_ids=THEIR_MARKS,
    )
    for router, column, references in (
        ("ovn-cluster", "policies", policies),
        ("vpc1", "static_routes", [route]),
    ):
        made.operations.append(
            {
                "op": "mutate",
                "table": "Logical_Router",
                "where": [["name", "==", router]],
                "mutations": [[column, "insert", ["set", references]]],
            }
        )


def _cluster_wide(made: _Made) -> None:
    made.row("Port_Group", name="ovn.sg.kubeovn_deny_all", external_ids=VENDOR | {"type": "security_group"})
    made.row(
        "DHCP_Options",
        cidr="10.16.0.0/16",
        options={"lease_time": "3600"},
        external_ids=VENDOR | {"ls": "ovn-default"},
    )


def _policy(  # noqa: PLR0917  # a row's columns, in the order in which nbctl prints them
    made: _Made,
    priority: int,
    match: str,
    action: str,
    nexthops: Iterable[str] = (),
    marks: Mapping[str, str] = VENDOR,
    sessions: Iterable[Any] = (),
) -> list[str]:
    return made.row(
        "Logical_Router_Policy",
        priority=priority,
        match=match,
        action=action,
        nexthops=list(nexthops),
        bfd_sessions=list(sessions),
        external_ids=marks,
    )


def _pod(made: _Made, name: str, subnet: str, address: str) -> list[str]:
    pod, namespace = name.split(".")[:2]
    mac = "0a:00:" + ":".join(f"{int(octet):02x}" for octet in address.split("."))
    return made.row(
        "Logical_Switch_Port",
        name=name,
        addresses=[f"{mac} {address}"],
        port_security=[f"{mac} {address}"],
        external_ids=VENDOR | {"ls": subnet, "pod": f"{namespace}/{pod}", "ip": address},
    )


def _switch(made: _Made, name: str, router: str, ports: list[Any], **columns: Any) -> None:
    plug = made.row(
        "Logical_Switch_Port",
        name=f"{name}-{router}",
        type="router",
        addresses=["router"],
        options={"router-port": f"{router}-{name}", "arp_proxy": "true"},
        external_ids=VENDOR | {"ls": name},
    )
    made.row("Logical_Switch", name=name, ports=[plug, *ports], external_ids=VENDOR, **columns)
