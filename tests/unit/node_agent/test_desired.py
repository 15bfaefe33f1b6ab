"""What the kernel should hold for a configuration."""

from __future__ import annotations

import pytest
from veg_node_agent.core.desired import desired, missing, nat_rules
from veg_node_agent.core.model import Config, Family, FamilyConfig, Interface, Source

INTERFACES = {
    "eth0": Interface("eth0", up=True, addresses=("10.16.0.12/16", "fd00:10:16::c/112")),
    "net1": Interface("net1", up=True, addresses=("172.17.0.11/16", "fd17::b/64")),
}


def config(*sources: tuple[str, bool], vpc: tuple[str, ...] = (), family: Family = Family.V4) -> Config:
    """A configuration of one family."""
    gateways = ("10.16.0.1", "172.17.0.1") if family is Family.V4 else ("fd00:10:16::1", "fd17::1")
    entry = FamilyConfig(family, *gateways, vpc, tuple(Source(cidr, snat) for cidr, snat in sources))
    return Config("default/g", "eth0", "net1", (entry,))


@pytest.mark.parametrize(
    ("sources", "lines"),
    [
        pytest.param(
            [("10.16.0.0/16", True)],
            ["-s 10.16.0.0/16 -j MASQUERADE --random-fully"],
            id="the specification's example",
        ),
        pytest.param([("10.16.0.0/16", False)], [], id="unmasqueraded alone needs no rule"),
        pytest.param(
            [("192.168.0.1/32", True)],
            ["-s 192.168.0.1/32 -j MASQUERADE --random-fully"],
            id="single address",
        ),
        pytest.param(
            [
                ("10.16.0.0/16", True),
                ("10.16.1.0/24", False),
                ("10.16.1.7/32", True),
                ("10.17.0.0/24", False),
            ],
            [
                "-s 10.16.1.7/32 -j MASQUERADE --random-fully",
                "-s 10.16.1.0/24 -j RETURN",
                "-s 10.16.0.0/16 -j MASQUERADE --random-fully",
            ],
            id="nested both ways, longer prefixes first",
        ),
        pytest.param(
            [("10.18.0.0/16", True), ("10.9.0.0/16", True)],
            [
                "-s 10.9.0.0/16 -j MASQUERADE --random-fully",
                "-s 10.18.0.0/16 -j MASQUERADE --random-fully",
            ],
            id="then by address, not by text",
        ),
        pytest.param(
            [("0.0.0.0/0", True)], ["-j MASQUERADE --random-fully"], id="everything, as iptables prints it"
        ),
    ],
)
def test_nat_rules(sources: list[tuple[str, bool]], lines: list[str]) -> None:
    """Each masqueraded source has its rule; an unmasqueraded one only where another's rule would take it."""
    rules = nat_rules(Family.V4, tuple(Source(cidr, snat) for cidr, snat in sources))
    assert [rule.spec for rule in rules] == lines


def test_routes_of_the_example() -> None:
    """The default route prints as in the specification; a connected prefix of the VPC needs no route."""
    wanted = config(("10.16.0.0/16", True), vpc=("10.16.0.0/16",))
    want = desired(wanted, wanted.families[0], INTERFACES)
    assert str(want.default) == "default via 172.17.0.1 dev net1"
    assert want.routes == ()


def test_the_way_back_reaches_every_source() -> None:
    """VPC prefixes go to the VPC's router, and so do sources that lie in none of them: replies must find back."""
    wanted = config(
        ("10.16.3.0/24", True), ("10.17.4.0/24", True), ("192.168.7.0/24", False), vpc=("10.17.0.0/16",)
    )
    want = desired(wanted, wanted.families[0], INTERFACES)
    assert [str(route) for route in want.routes] == [
        "192.168.7.0/24 via 10.16.0.1 dev eth0 proto 118",
        "10.17.0.0/16 via 10.16.0.1 dev eth0 proto 118",
    ]


def test_everything_as_a_source_does_not_take_the_default_route() -> None:
    """A source of all addresses opens the guard for all of the VPC, but the default route stays the outside's, and nobody
    outside is forwarded to the outside.
    """
    wanted = config(("::/0", True), family=Family.V6, vpc=("fd00:11::/64", "fd00:10:16::/113"))
    want = desired(wanted, wanted.families[0], INTERFACES)
    assert str(want.default) == "default via fd17::1 dev net1 metric 1024"
    assert [str(route) for route in want.routes] == [
        "fd00:11::/64 via fd00:10:16::1 dev eth0 proto 118 metric 1024"
    ]
    assert [str(rule) for rule in want.allow] == [
        "from all iif eth0 lookup main proto 118",
        "from all to fd00:10:16::/112 iif net1 lookup main proto 118",
        "from all to fd00:11::/64 iif net1 lookup main proto 118",
    ]


def test_what_belongs_to_no_connection_is_dropped_where_nobody_keeps_an_address() -> None:
    """A source that keeps its address may be answered by another way than it asked."""
    for sources, link in (
        ([("10.16.0.0/16", True)], "net1"),
        ([("10.16.0.0/16", True), ("10.17.0.0/16", False)], ""),
    ):
        wanted = config(*sources)
        assert desired(wanted, wanted.families[0], INTERFACES).tracking.link == link


def test_the_guard_merges_what_is_nested_or_adjacent() -> None:
    """The guard opens for exactly the union of the sources with as few rules as that takes, in both directions."""
    wanted = config(
        ("10.16.0.0/24", True), ("10.16.1.0/24", False), ("10.16.1.9/32", True), ("10.9.0.1/32", True)
    )
    want = desired(wanted, wanted.families[0], INTERFACES)
    assert [f"{rule.priority}: {rule}" for rule in (*want.allow, *want.deny)] == [
        "18600: from 10.9.0.1/32 iif eth0 lookup main proto 118",
        "18600: from all to 10.9.0.1/32 iif net1 lookup main proto 118",
        "18600: from 10.16.0.0/23 iif eth0 lookup main proto 118",
        "18600: from all to 10.16.0.0/23 iif net1 lookup main proto 118",
        "18601: from all iif eth0 blackhole proto 118",
        "18601: from all iif net1 blackhole proto 118",
    ]


@pytest.mark.parametrize(
    ("interfaces", "text"),
    [
        ({}, "interface eth0 does not exist; interface net1 does not exist"),
        ({**INTERFACES, "net1": Interface("net1", up=False)}, "interface net1 is down"),
        (
            {**INTERFACES, "net1": Interface("net1", up=True, addresses=("fd17::b/64",))},
            "interface net1 has no IPv4 address",
        ),
        (INTERFACES, ""),
    ],
    ids=["none", "down", "other family", "complete"],
)
def test_what_is_missing_is_said(interfaces: dict[str, Interface], text: str) -> None:
    """A family that can not be set up yet says what it waits for."""
    wanted = config(("10.16.0.0/16", True))
    assert "; ".join(missing(wanted, wanted.families[0], interfaces)) == text
