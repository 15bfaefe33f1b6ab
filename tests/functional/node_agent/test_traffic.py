"""Real packets through a pod that the agent set up, and what the tools print there."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest

from tests.functional.node_agent.conftest import Family, Lab, eventually, v4, v6

OUTSIDE_V4, OUTSIDE_V6 = "172.17.0.1", "fd17::1"


def test_the_specifications_example_is_printed_word_for_word(lab: Lab) -> None:
    """`ip route show` and `iptables -t nat -S` in the pod print what the specification prints."""
    lab.configure(v4())
    lab.start()
    assert [line.rstrip() for line in lab.pod("ip", "route", "show").splitlines()] == [
        "default via 172.17.0.1 dev net1",
        "10.16.0.0/16 dev eth0 proto kernel scope link src 10.16.0.12",
        "172.17.0.0/16 dev net1 proto kernel scope link src 172.17.0.11",
    ]
    assert lab.pod("iptables-legacy", "-t", "nat", "-S").splitlines() == [
        "-P PREROUTING ACCEPT",
        "-P INPUT ACCEPT",
        "-P OUTPUT ACCEPT",
        "-P POSTROUTING ACCEPT",
        "-A POSTROUTING -s 10.16.0.0/16 -j MASQUERADE --random-fully",
    ]


def test_several_sources_of_both_families_are_printed_in_order(lab: Lab) -> None:
    """Longer prefixes first, single addresses with their length, unmasqueraded ones only where needed."""
    lab.configure(
        v4(
            ("10.16.0.0/16", True), ("192.168.0.1/32", True), ("10.16.1.0/24", False), ("10.99.0.0/16", False)
        ),
        v6(("fd00:10:16::/112", True), ("fd00:10:16::9/128", False)),
    )
    lab.start()
    assert lab.pod("iptables-legacy", "-t", "nat", "-S", "POSTROUTING").splitlines()[1:] == [
        "-A POSTROUTING -s 192.168.0.1/32 -j MASQUERADE --random-fully",
        "-A POSTROUTING -s 10.16.1.0/24 -j RETURN",
        "-A POSTROUTING -s 10.16.0.0/16 -j MASQUERADE --random-fully",
    ]
    assert lab.pod("ip6tables-legacy", "-t", "nat", "-S", "POSTROUTING").splitlines()[1:] == [
        "-A POSTROUTING -s fd00:10:16::9/128 -j RETURN",
        "-A POSTROUTING -s fd00:10:16::/112 -j MASQUERADE --random-fully",
    ]
    assert "default via fd17::1 dev net1 metric 1024 pref medium" in lab.pod("ip", "-6", "route", "show")
    assert "192.168.0.1 via 10.16.0.1 dev eth0 proto 118" in lab.pod("ip", "route", "show")


@pytest.mark.parametrize(
    ("families", "expected"),
    [
        pytest.param([v4()], {"10.16.0.9": "172.17.0.11", "fd00:10:16::9": ""}, id="ipv4"),
        pytest.param([v6()], {"10.16.0.9": "", "fd00:10:16::9": "fd17::b"}, id="ipv6"),
        pytest.param([v4(), v6()], {"10.16.0.9": "172.17.0.11", "fd00:10:16::9": "fd17::b"}, id="dual"),
        pytest.param(
            [v4(("10.16.0.0/16", False)), v6(("fd00:10:16::/112", False))],
            {"10.16.0.9": "10.16.0.9", "fd00:10:16::9": "fd00:10:16::9"},
            id="unmasqueraded",
        ),
        pytest.param(
            [v4(("10.16.0.0/16", True), ("10.16.1.7/32", False)), v6(("fd99::9/128", True))],
            {
                "10.16.0.9": "172.17.0.11",
                "10.16.1.7": "10.16.1.7",
                "10.99.0.9": "",
                "fd00:10:16::9": "",
                "fd99::9": "fd17::b",
            },
            id="mixed and nested",
        ),
    ],
)
def test_each_source_leaves_as_it_is_configured(
    lab: Lab, families: list[Family], expected: dict[str, str]
) -> None:
    """Sources get out over TCP and UDP with the address that they should have; strangers do not get out."""
    lab.configure(*families)
    lab.start()
    for source, address in expected.items():
        target = OUTSIDE_V6 if ":" in source else OUTSIDE_V4
        assert lab.udp(source, target, timeout=2.0 if address else 0.3) == address, source
        if address:
            assert lab.seen(source, target) == address, source


def test_the_outside_reaches_sources_only(lab: Lab) -> None:
    """From outside, the pod routes towards its sources and to nobody else in the VPC."""
    lab.configure(v4(("10.16.1.7/32", False)))
    lab.start()
    lab.outside("ping", "-n", "-c", "1", "-W", "2", "10.16.1.7")
    assert ", 0 received" in lab.outside("ping", "-n", "-c", "1", "-W", "1", "10.16.0.9", check=False)


def test_neighbours_outside_are_not_forwarded(lab: Lab) -> None:
    """Even where everything is a source, the pod carries nothing from the outside to the outside."""
    lab.configure(v4(("0.0.0.0/0", True)))
    lab.start()
    assert lab.seen("10.16.0.9", OUTSIDE_V4) == "172.17.0.11"
    lab.outside("ip", "route", "add", "198.51.100.1", "via", "172.17.0.11")
    before = lab.pod("cat", "/proc/net/snmp")
    lab.outside("ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", "198.51.100.1", check=False)
    assert forwarded(lab.pod("cat", "/proc/net/snmp")) == forwarded(before)


def forwarded(snmp: str) -> int:
    """ForwDatagrams of /proc/net/snmp."""
    names, values = (line.split() for line in snmp.splitlines() if line.startswith("Ip:"))
    return int(values[names.index("ForwDatagrams")])


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_the_end_of_a_connection_that_nobody_knows_stays_inside(lab: Lab, backend: str) -> None:
    """A FIN without its connection (forgotten, or another replica's) is passed over by NAT: it does not leave with its inner
    address. Where a source keeps its address it does leave.
    """
    lab.configure(v4(), v6())
    lab.start("--nat-backend", backend)
    assert lab.seen("10.16.0.9", OUTSIDE_V4) == "172.17.0.11"
    assert strays(lab) == set()
    lab.configure(v4(("10.16.0.0/16", False)), v6(("fd00:10:16::/112", False)))
    eventually(lambda: strays(lab) == {"10.16.0.9", "fd00:10:16::9"}, 10, lab.log)
    lab.configure(v4(), v6())
    eventually(lambda: strays(lab) == set(), 10, lab.log)
    comment = '-m comment --comment "vpc-egress-gateway keeps connections tracked"'
    rules = lab.pod(f"iptables-{backend}", "-t", "mangle", "-S", "FORWARD").splitlines()
    assert rules[1:] == [f"-A FORWARD -o net1 -m conntrack --ctstate INVALID {comment} -j DROP"]


def strays(lab: Lab) -> set[str]:
    """The inner addresses with which FINs of unknown connections come out."""
    sniffer: socket.socket = lab.outside.call(
        socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)
    )
    with sniffer:
        sniffer.settimeout(0.3)
        for source, target in (("10.16.0.9", OUTSIDE_V4), ("fd00:10:16::9", OUTSIDE_V6)):
            family = socket.AF_INET6 if ":" in source else socket.AF_INET
            raw: socket.socket = lab.vpc.call(socket.socket, family, socket.SOCK_RAW, socket.IPPROTO_TCP)
            with raw:
                raw.bind((source, 0))
                raw.sendto(
                    fin(socket.inet_pton(family, source), socket.inet_pton(family, target)), (target, 0)
                )
        found = set()
        with contextlib.suppress(TimeoutError):
            while True:
                data, (_, _, kind, *_) = sniffer.recvfrom(2048)
                six = data[0] >> 4 == 6
                inner = data[8:24] if six else data[12:16]
                if kind != socket.PACKET_OUTGOING and data[6 if six else 9] == socket.IPPROTO_TCP:
                    found.add(socket.inet_ntop(socket.AF_INET6 if six else socket.AF_INET, inner))
    return found - {"172.17.0.11", "fd17::b"}


def fin(source: bytes, target: bytes) -> bytes:
    """A TCP header with FIN and ACK, from port 4711 to 7777, and its checksum."""
    header = struct.pack("!HHIIBBHHH", 4711, 7777, 1, 1, 5 << 4, 0x11, 1024, 0, 0)
    words = source + target + struct.pack("!HH", socket.IPPROTO_TCP, len(header)) + header
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:16] + struct.pack("!H", ~total & 0xFFFF) + header[18:]


def test_an_address_that_somebody_else_has_is_none(lab: Lab) -> None:
    """With a duplicate outside, the kernel would send with an address of the VPC: the family waits until it has its own."""
    lab.outside("ip", "address", "add", "fd17::b/64", "dev", "out0", "nodad")
    lab.pod("sysctl", "-qw", "net.ipv6.conf.net1.accept_dad=1")
    lab.pod("ip", "address", "del", "fd17::b/64", "dev", "net1")
    lab.pod("ip", "address", "add", "fd17::b/64", "dev", "net1")
    eventually(lambda: "dadfailed" in lab.pod("ip", "-6", "address", "show", "dev", "net1"), 10, lab.log)
    lab.configure(v4(), v6())
    lab.start(wait=False)
    eventually(lambda: lab.seen("10.16.0.9", OUTSIDE_V4) == "172.17.0.11", 30, lab.log)
    state = lab.cli("state", "--run-dir", str(lab.run_dir)).stdout
    assert "interface net1 has no IPv6 address" in state
    assert lab.udp("fd00:10:16::9", OUTSIDE_V6, timeout=0.3) == ""
    lab.outside("ip", "address", "del", "fd17::b/64", "dev", "out0")
    lab.pod("ip", "address", "del", "fd17::b/64", "dev", "net1")
    lab.pod("ip", "address", "add", "fd17::b/64", "dev", "net1")
    eventually(lambda: lab.udp("fd00:10:16::9", OUTSIDE_V6, timeout=0.3) == "fd17::b", 20, lab.log)


def test_the_pod_itself_is_reachable_and_reaches_out(lab: Lab) -> None:
    """The guard does not stand between the pod and its neighbours: ping, BFD's UDP and neighbour discovery work,
    also from addresses that are no source.
    """
    lab.configure(v4(("10.77.0.0/16", True)), v6(("fd77::/64", True)))
    lab.start()
    for command in (
        ["ping", "-n", "-c", "1", "-W", "2", "-I", "10.16.0.1", "10.16.0.12"],
        ["ping", "-n", "-c", "1", "-W", "2", "fd00:10:16::c"],
    ):
        lab.vpc("ip", "neighbour", "flush", "all")
        lab.vpc(*command)
    lab.outside("ping", "-n", "-c", "1", "-W", "2", "172.17.0.11")
    lab.pod("ping", "-n", "-c", "1", "-W", "2", "172.17.0.1")
    lab.pod("ping", "-n", "-c", "1", "-W", "2", "fd17::1")


def test_errors_from_the_way_reach_the_source(lab: Lab) -> None:
    """A source learns of a smaller MTU behind the pod, for both families (path MTU discovery)."""
    lab.configure(v4(), v6())
    lab.start()
    lab.pod("ip", "link", "set", "net1", "mtu", "1300")
    for target in (OUTSIDE_V4, OUTSIDE_V6):
        lab.vpc("ping", "-n", "-M", "do", "-s", "1400", "-c", "1", "-W", "1", target, check=False)
        assert "mtu 1300" in lab.vpc("ip", "route", "get", target)


def test_nft_where_it_is_asked_for(lab: Lab) -> None:
    """With the nft variant the same rules stand in nf_tables, print the same, and carry the same traffic."""
    lab.configure(v4(("10.16.0.0/16", True), ("10.16.1.7/32", False)), v6())
    lab.start("--nat-backend", "nft")
    assert lab.pod("iptables-nft", "-t", "nat", "-S", "POSTROUTING").splitlines()[1:] == [
        "-A POSTROUTING -s 10.16.1.7/32 -j RETURN",
        "-A POSTROUTING -s 10.16.0.0/16 -j MASQUERADE --random-fully",
    ]
    assert "MASQUERADE" not in lab.pod("iptables-legacy", "-t", "nat", "-S")
    assert "nat backend: nft" in lab.cli("state", "--run-dir", str(lab.run_dir)).stdout
    assert lab.seen("10.16.0.9", OUTSIDE_V4) == "172.17.0.11"
    assert lab.seen("10.16.1.7", OUTSIDE_V4) == "10.16.1.7"
    assert lab.seen("fd00:10:16::9", OUTSIDE_V6) == "fd17::b"
    lab.pod("iptables-nft", "-t", "nat", "-I", "POSTROUTING", "1", "-o", "eth0", "-j", "ACCEPT")
    lab.pod(
        "iptables-nft",
        "-t",
        "nat",
        "-D",
        "POSTROUTING",
        "-s",
        "10.16.0.0/16",
        "-j",
        "MASQUERADE",
        "--random-fully",
    )
    lab.configure(v4(("10.16.0.0/17", True), ("10.16.1.7/32", False)), v6())
    eventually(
        lambda: (
            lab.pod("iptables-nft", "-t", "nat", "-S", "POSTROUTING").splitlines()[1:]
            == [
                "-A POSTROUTING -o eth0 -j ACCEPT",
                "-A POSTROUTING -s 10.16.1.7/32 -j RETURN",
                "-A POSTROUTING -s 10.16.0.0/17 -j MASQUERADE --random-fully",
            ]
        ),
        5,
        lab.log,
    )
