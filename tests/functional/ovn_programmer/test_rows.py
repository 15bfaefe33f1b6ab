"""What the database holds, as OVN's own tools print it, and what northd makes of it."""

from __future__ import annotations

import asyncio
from typing import Any

from veg.programmer.v1 import programmer_pb2 as pb

DEFAULT_V4 = "0.0.0.0/0 192.0.0.8 dst-ip"
DEFAULT_V6 = "::/0 100:: dst-ip"


async def default_vpc(client: Any, make: Any) -> None:
    """The default VPC with a dual-stack subnet, and one pod."""
    await client.commit(
        make.vpc("ovn-cluster", default_vpc=True),
        make.subnet(
            "ovn-default",
            "ovn-cluster",
            ["10.16.0.0/16", "fd00:10:16::/112"],
            ["10.16.0.1", "fd00:10:16::1"],
        ),
        make.port("client.default", "ovn-default", "0A:00:00:00:00:09", ["10.16.0.9", "fd00:10:16::9"]),
    )


async def custom_vpc(client: Any, make: Any) -> None:
    """A custom VPC with two subnets."""
    await client.commit(
        make.vpc("vpc1"),
        make.subnet("subnet1", "vpc1", ["192.168.0.0/24"], ["192.168.0.1"]),
        make.subnet("subnet2", "vpc1", ["192.168.1.0/24"], ["192.168.1.1"]),
    )


async def test_topology_reads_as_kube_ovns_does(nb: Any, client: Any, make: Any) -> None:
    """Routers, switches and ports bear Kube-OVN's names; the MAC is stable and locally administered."""
    await default_vpc(client, make)
    shown = "\n".join(line.strip() for line in nb.nbctl("show").splitlines())
    assert "port ovn-default-ovn-cluster\ntype: router\nrouter-port: ovn-cluster-ovn-default" in shown
    assert 'port client.default\naddresses: ["0a:00:00:00:00:09 10.16.0.9 fd00:10:16::9"]' in shown
    assert 'networks: ["10.16.0.1/16", "fd00:10:16::1/112"]' in shown
    mac = nb.nbctl("get", "logical_router_port", "ovn-cluster-ovn-default", "mac").strip().strip('"')
    assert int(mac[:2], 16) & 0x03 == 0x02
    assert (
        nb.nbctl("--bare", "--columns=port_security", "list", "logical_switch_port", "client.default").strip()
        == ""
    )


async def test_default_vpc_gets_reroute_policies(nb: Any, client: Any, make: Any) -> None:
    """The specification's list, with all replicas in one policy; single addresses are spelt without a length."""
    await default_vpc(client, make)
    await client.commit(
        make.gateway(
            "gateway1",
            "ovn-cluster",
            ["10.16.0.0/16", "10.20.0.5/32", "FD00:10:16:0::/112"],
            ["10.16.0.12", "10.16.0.13", "fd00:10:16::000c"],
            default_vpc=True,
        )
    )
    assert nb.policies("ovn-cluster") == [
        "31000 ip4.dst == 10.16.0.0/16 allow",
        "31000 ip6.dst == fd00:10:16::/112 allow",
        "29100 ip4.src == 10.16.0.0/16 reroute 10.16.0.12, 10.16.0.13",
        "29100 ip4.src == 10.20.0.5 reroute 10.16.0.12, 10.16.0.13",
        "29100 ip6.src == fd00:10:16::/112 reroute fd00:10:16::c",
    ]
    assert nb.routes("ovn-cluster") == [DEFAULT_V4, DEFAULT_V6]


async def test_custom_vpc_gets_static_routes(nb: Any, client: Any, make: Any) -> None:
    """One src-ip route a source and replica, hashed on all five fields, and no default route."""
    await custom_vpc(client, make)
    local = ["192.168.0.0/24", "192.168.1.0/24"]
    await client.commit(make.gateway("one", "vpc1", ["192.168.1.0/24"], ["192.168.0.4"], local=local))
    assert nb.routes("vpc1") == ["192.168.1.0/24 192.168.0.4 src-ip ecmp-symmetric-reply"]
    await client.commit(
        make.gateway("two", "vpc1", ["192.168.0.0/24"], ["192.168.0.2", "192.168.0.3"], local=local)
    )
    assert nb.routes("vpc1") == [
        "192.168.0.0/24 192.168.0.2 src-ip ecmp ecmp-symmetric-reply",
        "192.168.0.0/24 192.168.0.3 src-ip ecmp ecmp-symmetric-reply",
        "192.168.1.0/24 192.168.0.4 src-ip ecmp-symmetric-reply",
    ]
    assert nb.policies("vpc1") == []
    fields = nb.nbctl("--bare", "--columns=selection_fields", "list", "logical_router_static_route").split()
    assert fields == ["ip_dst", "ip_proto", "ip_src", "tp_dst", "tp_src"] * 3


async def test_source_inside_a_subnet_takes_a_policy(nb: Any, client: Any, make: Any) -> None:
    """A source longer than a local prefix is rerouted by policy, below an allow policy for the VPC's own networks."""
    await custom_vpc(client, make)
    local = ["192.168.0.0/24", "192.168.1.0/24"]
    await client.commit(make.gateway("one", "vpc1", ["192.168.1.7/32"], ["192.168.0.2"], local=local))
    assert nb.policies("vpc1") == [
        "31000 ip4.src == 192.168.1.7 && ip4.dst == {192.168.0.0/24, 192.168.1.0/24} allow",
        "29116 ip4.src == 192.168.1.7 reroute 192.168.0.2",
    ]
    assert nb.routes("vpc1") == [DEFAULT_V4, DEFAULT_V6]
    await client.commit(
        make.gateway("one", "vpc1", ["192.168.1.0/24"], ["192.168.0.2"], local=local, generation=2)
    )
    assert nb.policies("vpc1") == []
    await client.resync()
    assert nb.routes("vpc1") == ["192.168.1.0/24 192.168.0.2 src-ip ecmp-symmetric-reply"]


async def test_nobody_can_serve(nb: Any, client: Any, make: Any) -> None:
    """Without nexthops the sources' traffic is dropped, the VPC's own is not."""
    await default_vpc(client, make)
    await custom_vpc(client, make)
    await client.commit(
        make.gateway("a", "ovn-cluster", ["10.16.0.0/16"], [], default_vpc=True),
        make.gateway("b", "vpc1", ["192.168.0.0/24"], [], local=["192.168.0.0/24"]),
    )
    assert nb.policies("ovn-cluster")[2:] == ["29090 ip4.src == 10.16.0.0/16 drop"]
    assert nb.policies("vpc1") == [
        "31000 ip4.src == 192.168.0.0/24 && ip4.dst == 192.168.0.0/24 allow",
        "29090 ip4.src == 192.168.0.0/24 drop",
    ]
    assert nb.routes("vpc1") == []


async def test_every_row_bears_our_marks(nb: Any, client: Any, make: Any) -> None:
    """vendor, owner, family; and the name of the holder."""
    await default_vpc(client, make)
    await client.commit(
        make.gateway("gateway1", "ovn-cluster", ["10.16.0.0/16"], ["10.16.0.12"], default_vpc=True)
    )
    ids = nb.nbctl(
        "--bare", "--columns=external_ids", "find", "logical_router_policy", "priority=29100"
    ).split()
    assert ids == ["af=4", "veg-parent=ovn-cluster", "vendor=kube-ovn", "vpc-egress-gateway=default/gateway1"]
    for table in ("Logical_Router", "Logical_Switch", "Logical_Router_Port", "Logical_Switch_Port"):
        for row in nb.select(table).values():
            marks = dict(row["external_ids"][1])
            assert marks["vendor"] == "kube-ovn"
            assert "/" in marks["veg-topology"]


async def test_northd_takes_it(nb: Any, northd: Any, client: Any, make: Any) -> None:
    """Real northd makes flows of every row and complains of none; what no gateway takes ends at a port without peer."""
    await default_vpc(client, make)
    await custom_vpc(client, make)
    await client.commit(
        make.port("gw.default", "ovn-default", "0a:00:00:00:00:0c", ["10.16.0.12", "fd00:10:16::c"]),
        make.port("pod.one", "subnet2", "0a:00:00:00:01:05", ["192.168.1.5"]),
        make.port("pod.two", "subnet2", "0a:00:00:00:01:07", ["192.168.1.7"]),
        make.port("gw.one", "subnet1", "0a:00:00:00:00:02", ["192.168.0.2"]),
        make.gateway(
            "g1",
            "ovn-cluster",
            ["10.16.0.9/32", "fd00:10:16::/112"],
            ["10.16.0.12", "fd00:10:16::c"],
            default_vpc=True,
        ),
        make.gateway(
            "g2", "vpc1", ["192.168.1.7/32"], ["192.168.0.2"], local=["192.168.0.0/24", "192.168.1.0/24"]
        ),
    )
    flows = await asyncio.to_thread(northd.flows, "ovn-cluster")
    assert "priority=29100, match=(ip4.src == 10.16.0.9)" in flows
    assert "priority=29100, match=(ip6.src == fd00:10:16::/112)" in flows

    def trace(port: str, mac: str, lrp: str, ips: str) -> str:
        router_mac = nb.nbctl("get", "logical_router_port", lrp, "mac").strip().strip('"')
        return str(
            northd.trace(
                f'inport=="{port}" && eth.src=={mac} && eth.dst=={router_mac} && {ips} && ip.ttl==64 && udp'
            )
        )

    taken = trace(
        "client.default",
        "0a:00:00:00:00:09",
        "ovn-cluster-ovn-default",
        "ip4.src==10.16.0.9 && ip4.dst==8.8.8.8",
    )
    assert 'output("gw.default")' in taken
    other = trace(
        "gw.default",
        "0a:00:00:00:00:0c",
        "ovn-cluster-ovn-default",
        "ip4.src==10.16.0.12 && ip4.dst==8.8.8.8",
    )
    assert "output(" not in other.replace('output("blackhole@ovn-cluster")', "")
    # In the custom VPC: one address is taken, its neighbour is not, and the VPC's own traffic stays inside.
    assert 'output("gw.one")' in trace(
        "pod.two", "0a:00:00:00:01:07", "vpc1-subnet2", "ip4.src==192.168.1.7 && ip4.dst==8.8.8.8"
    )
    assert "gw.one" not in trace(
        "pod.one", "0a:00:00:00:01:05", "vpc1-subnet2", "ip4.src==192.168.1.5 && ip4.dst==8.8.8.8"
    )
    await client.commit(make.port("peer.one", "subnet1", "0a:00:00:00:00:09", ["192.168.0.9"]))
    assert 'output("peer.one")' in trace(
        "pod.two", "0a:00:00:00:01:07", "vpc1-subnet2", "ip4.src==192.168.1.7 && ip4.dst==192.168.0.9"
    )
    assert northd.complaints() == []


async def test_ecmp_routes_make_flows(nb: Any, northd: Any, client: Any, make: Any) -> None:
    """Two gateways by policy in one VPC share its default route, and routes of two replicas make an ECMP group."""
    await custom_vpc(client, make)
    local = ["192.168.0.0/24", "192.168.1.0/24"]
    await client.commit(
        make.gateway("a", "vpc1", ["192.168.1.7/32"], ["192.168.0.2"], local=local),
        make.gateway("b", "vpc1", ["192.168.1.8/32"], ["192.168.0.3"], local=local),
        make.gateway("c", "vpc1", ["192.168.0.0/24"], ["192.168.1.2", "192.168.1.3"], local=local),
    )
    assert nb.routes("vpc1").count(DEFAULT_V4) == 1
    flows = await asyncio.to_thread(northd.flows, "vpc1")
    assert "ip4.src == 192.168.0.0/24" in flows
    assert "hash_fields=" in flows
    assert northd.complaints() == []
    assert (await client.delete(pb.IntentKey(kind=pb.INTENT_KIND_GATEWAY, name="default/a")))[0].state
    await client.resync()
    assert DEFAULT_V4 in nb.routes("vpc1")
    await client.delete(pb.IntentKey(kind=pb.INTENT_KIND_GATEWAY, name="default/b"))
    assert DEFAULT_V4 not in nb.routes("vpc1")
