"""The rows that intents ask for, as tables."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from veg_ovn_programmer.core import rows
from veg_ovn_programmer.core.desired import desired, needs_default_route, priorities, takes_policy
from veg_ovn_programmer.core.intents import DefaultRoute, Gateway, GatewayFamily, Intent, Port, Subnet, Vpc
from veg_ovn_programmer.core.parts import stable_mac
from veg_ovn_programmer.core.rows import Row, show
from veg_ovn_programmer.core.view import Scene, View
from veg_ovn_programmer.errors import WaitingError

VIEW = View(scene=Scene(vpcs={"ovn-cluster": Vpc("ovn-cluster", default_vpc=True), "vpc1": Vpc("vpc1")}))
BOTH = "{192.168.0.0/24, 192.168.1.0/25}"
LOCAL = ("192.168.0.0/24", "192.168.1.0/25")


def gateway(vpc: str, *families: GatewayFamily) -> Gateway:
    """A gateway default/g."""
    return Gateway("default", "g", vpc, vpc == "ovn-cluster", families)


def line(row: Row) -> str:
    """A row in a line: short table, holder, and every column that holds something but the marks."""
    short = "".join(re.findall("[A-Z]", row.table))
    columns = {name: show(value) for name, value in row.columns.items() if name != rows.MARKS}
    return " ".join([short, str(row.holder), *(f"{name}={text}" for name, text in columns.items() if text)])


SELECT = "selection_fields=ip_dst,ip_proto,ip_src,tp_dst,tp_src"
GOLDEN: dict[str, tuple[Intent, list[str]]] = {
    "vpc": (Vpc("vpc1"), ["LR None name=vpc1"]),
    "custom subnet": (
        Subnet("s", "vpc1", ("192.168.0.0/24", "fd00::/64"), ("192.168.0.1", "fd00::1")),
        [
            "LS None name=s",
            f"LRP vpc1 name=vpc1-s mac={stable_mac('vpc1-s')} networks=192.168.0.1/24,fd00::1/64",
            "LSP s name=s-vpc1 type=router addresses=router options=router-port=vpc1-s",
        ],
    ),
    "a subnet named as its VPC": (
        Subnet("vpc1", "vpc1", ("192.168.0.0/24",), ("192.168.0.1",)),
        [
            "LS None name=vpc1",
            f"LRP vpc1 name=vpc1-vpc1 mac={stable_mac('vpc1-vpc1')} networks=192.168.0.1/24",
            "LSP vpc1 name=vpc1-vpc1-switch type=router addresses=router options=router-port=vpc1-vpc1",
        ],
    ),
    "default subnet": (
        Subnet("s", "ovn-cluster", ("10.16.0.0/16",), ("10.16.0.1",)),
        [
            "LS None name=s",
            f"LRP ovn-cluster name=ovn-cluster-s mac={stable_mac('ovn-cluster-s')} networks=10.16.0.1/16",
            "LSP s name=s-ovn-cluster type=router addresses=router options=router-port=ovn-cluster-s",
            "LRP ovn-cluster priority=31000 match=ip4.dst == 10.16.0.0/16 action=allow",
        ],
    ),
    "port": (
        Port("p.default", "s", "0a:00:00:00:00:01", ("10.16.0.9", "fd00::9")),
        ["LSP s name=p.default addresses=0a:00:00:00:00:01 10.16.0.9 fd00::9"],
    ),
    "default route": (
        DefaultRoute("vpc1"),
        [
            f"LRP vpc1 name=blackhole@vpc1 mac={stable_mac('blackhole@vpc1')} networks=100::/128,192.0.0.8/32",
            "LRSR vpc1 ip_prefix=0.0.0.0/0 nexthop=192.0.0.8 policy=dst-ip",
            "LRSR vpc1 ip_prefix=::/0 nexthop=100:: policy=dst-ip",
        ],
    ),
    "default vpc, two sources, two replicas": (
        gateway(
            "ovn-cluster", GatewayFamily(4, ("10.16.0.0/16", "10.17.0.5/32"), ("10.16.0.13", "10.16.0.12"))
        ),
        [
            "LRP ovn-cluster priority=29100 match=ip4.src == 10.16.0.0/16 action=reroute nexthops=10.16.0.12,10.16.0.13",
            "LRP ovn-cluster priority=29100 match=ip4.src == 10.17.0.5 action=reroute nexthops=10.16.0.12,10.16.0.13",
        ],
    ),
    "default vpc, single IPv6 address": (
        gateway("ovn-cluster", GatewayFamily(6, ("fd00::5/128",), ("fd00::c",), ("fd00::/64",))),
        ["LRP ovn-cluster priority=29228 match=ip6.src == fd00::5 action=reroute nexthops=fd00::c"],
    ),
    "default vpc, nobody serves": (
        gateway("ovn-cluster", GatewayFamily(4, ("10.16.0.0/16",), (), ("10.16.0.0/16",))),
        ["LRP ovn-cluster priority=29090 match=ip4.src == 10.16.0.0/16 action=drop"],
    ),
    "custom vpc": (
        gateway(
            "vpc1", GatewayFamily(4, ("192.168.0.0/24",), ("192.168.1.2", "192.168.1.3"), ("192.168.0.0/24",))
        ),
        [
            f"LRSR vpc1 ip_prefix=192.168.0.0/24 nexthop=192.168.1.{n} policy=src-ip"
            f" options=ecmp_symmetric_reply=true {SELECT}"
            for n in (2, 3)
        ],
    ),
    "custom vpc, one address inside": (
        gateway("vpc1", GatewayFamily(4, ("192.168.0.9/32",), ("192.168.1.2",), LOCAL)),
        [
            f"LRP vpc1 priority=31000 match=ip4.src == 192.168.0.9 && ip4.dst == {BOTH} action=allow",
            "LRP vpc1 priority=29116 match=ip4.src == 192.168.0.9 action=reroute nexthops=192.168.1.2",
        ],
    ),
    "custom vpc, a subnet longer than its neighbour": (
        gateway("vpc1", GatewayFamily(4, ("192.168.1.0/25",), ("192.168.0.2",), ("192.168.0.0/24",))),
        [
            "LRP vpc1 priority=31000 match=ip4.src == 192.168.1.0/25 && ip4.dst == 192.168.0.0/24 action=allow",
            "LRP vpc1 priority=29100 match=ip4.src == 192.168.1.0/25 action=reroute nexthops=192.168.0.2",
        ],
    ),
    "custom vpc, everything": (
        gateway("vpc1", GatewayFamily(4, ("0.0.0.0/0",), ("192.168.0.2",))),
        ["LRP vpc1 priority=29100 match=ip4.src == 0.0.0.0/0 action=reroute nexthops=192.168.0.2"],
    ),
    "custom vpc, nobody serves": (
        gateway("vpc1", GatewayFamily(6, ("fd01::/64",), (), ("fd01::/64",))),
        [
            "LRP vpc1 priority=31000 match=ip6.src == fd01::/64 && ip6.dst == fd01::/64 action=allow",
            "LRP vpc1 priority=29090 match=ip6.src == fd01::/64 action=drop",
        ],
    ),
    "no sources": (gateway("vpc1", GatewayFamily(4, (), ("192.168.0.2",))), []),
    "no families": (gateway("vpc1"), []),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_rows(case: str) -> None:
    """Each intent gives exactly these rows."""
    intent, expected = GOLDEN[case]
    assert [line(row) for row in desired(intent, VIEW)] == expected


@pytest.mark.parametrize("case", GOLDEN)
def test_marks_name_the_owner(case: str) -> None:
    """Every row's external_ids lead back to its owner and its holder."""
    intent, _ = GOLDEN[case]
    for row in desired(intent, VIEW):
        ids = row.columns[rows.MARKS]
        assert isinstance(ids, dict)
        assert rows.owner_of(ids) == intent.key == row.owner
        assert ids.get("veg-parent") == row.holder
        assert ids["vendor"] == "kube-ovn"


@pytest.mark.parametrize(
    "ids",
    [
        {},
        {"vendor": "kube-ovn"},
        {"vpc-egress-gateway": ""},
        {"veg-topology": "vpc"},
        {"veg-topology": "moon/x"},
    ],
    ids=str,
)
def test_foreign_rows_have_no_owner(ids: dict[str, str]) -> None:
    """The vendor alone, or half a mark, does not make a row ours."""
    assert rows.owner_of(ids) is None


def test_subnet_waits_for_its_vpc() -> None:
    """Without the VPC in the picture it is not known whether the subnet needs allow policies."""
    with pytest.raises(WaitingError, match="VpcMissing"):
        desired(Subnet("s", "nowhere", ("10.0.0.0/8",), ("10.0.0.1",)), VIEW)


def test_old_schema_has_no_selection_fields() -> None:
    """The column is left out where the schema lacks it."""
    intent = gateway("vpc1", GatewayFamily(4, ("10.0.0.0/24",), ("10.0.0.1",)))
    (row,) = desired(intent, View(selection_fields=False))
    assert "selection_fields" not in row.columns


def test_foreign_default_routes_are_enough() -> None:
    """Beside somebody else's default route ours would take a share of the packets."""
    only_v4 = View(foreign_default=lambda _router, family: family == 6)
    assert [show(row.columns.get("ip_prefix", "")) for row in desired(DefaultRoute("vpc1"), only_v4)] == [
        "",
        "0.0.0.0/0",
    ]
    assert desired(DefaultRoute("vpc1"), View(foreign_default=lambda _router, _family: True)) == ()


@pytest.mark.parametrize(
    ("source", "local", "expected"),
    [
        ("10.0.0.0/24", ("10.0.0.0/24",), False),
        ("10.0.0.0/16", ("10.0.0.0/24",), False),
        ("10.0.0.5/32", ("10.0.0.0/24",), True),
        ("10.9.0.0/25", ("10.0.0.0/24", "10.0.1.0/26"), True),
        ("10.9.0.0/25", (), False),
        ("::/0", (), True),
    ],
)
def test_when_a_route_would_be_wrong(source: str, local: tuple[str, ...], expected: bool) -> None:
    """A src-ip route longer than a connected one outranks it, and one for everything does not work at all."""
    assert takes_policy(source, local) is expected


LOCALS = ("10.16.0.0/16", "10.20.0.0/24", "fd00:10:16::/112")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("10.16.0.0/16", (29100, 29090)),
        ("10.20.0.0/24", (29100, 29090)),
        ("10.99.0.0/16", (29100, 29090)),
        ("fd00:10:16::/112", (29100, 29090)),
        ("10.16.0.0/17", (29102, 29101)),
        ("10.16.0.9/32", (29132, 29131)),
        ("fd00:10:16::9/128", (29132, 29131)),
        ("0.0.0.0/0", (29040, 29001)),
        ("10.0.0.0/8", (29049, 29010)),
    ],
)
def test_priorities(source: str, expected: tuple[int, int]) -> None:
    """A prefix of the VPC, or one outside, has the priorities of the specification; nested ones go before or after."""
    assert priorities(source, LOCALS) == expected


def nested_prefixes() -> st.SearchStrategy[tuple[str, str, tuple[str, ...]]]:
    """A prefix, a longer one inside it, and a VPC prefix that contains, equals or lies inside one of them."""

    def chain(address: int, lengths: list[int]) -> tuple[str, str, tuple[str, ...]]:
        prefixes = [str(ipaddress.ip_network((address, length), strict=False)) for length in lengths]
        return prefixes[0], prefixes[1], (prefixes[2],)

    cut = st.lists(st.integers(0, 32), min_size=2, max_size=2, unique=True).map(sorted)
    return st.builds(
        lambda address, two, local: chain(address, [*two, local]),
        st.integers(0, 2**32 - 1),
        cut,
        st.integers(8, 32),
    )


@given(nested_prefixes())
def test_the_longer_source_decides(case: tuple[str, str, tuple[str, ...]]) -> None:
    """Inside a VPC prefix or around it: both policies of the inner source never lose to the outer one's reroute."""
    outer, inner, locals_ = case
    (local,) = map(ipaddress.ip_network, locals_)
    wide, narrow = priorities(outer, locals_), priorities(inner, locals_)
    assert 29000 < min(wide + narrow) <= max(wide + narrow) < 31000
    wide_net, narrow_net = ipaddress.ip_network(outer), ipaddress.ip_network(inner)
    if wide_net.prefixlen <= local.prefixlen <= narrow_net.prefixlen and narrow_net.overlaps(local):
        assert min(narrow) > wide[0] or narrow_net == local == wide_net
    if wide_net.prefixlen >= local.prefixlen and wide_net.overlaps(local):
        assert min(narrow) > wide[0]


def test_who_needs_a_default_route() -> None:
    """The default VPC always; a custom one only for policies that send traffic out."""
    inside = GatewayFamily(4, ("192.168.0.9/32",), ("192.168.1.2",), LOCAL)
    closed = GatewayFamily(4, ("192.168.0.9/32",), (), LOCAL)
    whole = GatewayFamily(4, ("192.168.0.0/24",), ("192.168.1.2",), ("192.168.0.0/24",))
    assert needs_default_route(Vpc("v", default_vpc=True))
    assert not needs_default_route(Vpc("v"))
    assert needs_default_route(gateway("vpc1", whole, inside))
    assert not needs_default_route(gateway("vpc1", whole, closed))
    assert not needs_default_route(gateway("ovn-cluster", inside))


def test_mac_is_stable() -> None:
    """It depends on the name only, is unicast and locally administered."""
    assert stable_mac("vpc1-subnet1") == stable_mac("vpc1-subnet1") != stable_mac("vpc1-subnet2")
    for name in ("a", "b", "c", "d"):
        assert int(stable_mac(name)[:2], 16) & 3 == 2
