"""The rows of BFD, as tables: the port of a VPC in both variants, and a gateway's rows by what OVN says."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

import pytest
from veg_ovn_programmer.core import rows
from veg_ovn_programmer.core.bfd import JOIN_ADDRESSES, second_router, spare
from veg_ovn_programmer.core.desired import desired, sessions
from veg_ovn_programmer.core.intents import Bfd, BfdPort, Gateway, GatewayFamily, Intent, Key, Vpc, Waker
from veg_ovn_programmer.core.parts import link_local, stable_mac
from veg_ovn_programmer.core.rows import Row, show
from veg_ovn_programmer.core.validate import check
from veg_ovn_programmer.core.view import Scene, Variant, View
from veg_ovn_programmer.errors import RefusedError, WaitingError

PORT = BfdPort(("10.255.255.255", "fdff::1"), ("worker2", "worker1"))
VPC = Vpc("vpc1", bfd_port=PORT)
MAC = stable_mac("bfd@vpc1")
NEAR = stable_mac("vpc1-bfd@vpc1")
LOCAL = ("192.168.0.0/24",)
BOTH = ("192.168.0.2", "192.168.0.3")
THIRD = Gateway(
    "default",
    "gateway2",
    "vpc1",
    default_vpc=False,
    families=(GatewayFamily(4, ("192.168.0.0/24",), BOTH, LOCAL),),
    bfd=Bfd("bfd@vpc1", 1000, 1000, 3),
)
IN_DEFAULT = Gateway(
    "default",
    "gw",
    "ovn-cluster",
    default_vpc=True,
    families=(GatewayFamily(4, ("10.16.0.0/16",), ("10.16.0.12", "10.16.0.13"), ("10.16.0.0/16",)),),
    bfd=Bfd("bfd@ovn-cluster", 100, 200, 5),
)
SELECT = "selection_fields=ip_dst,ip_proto,ip_src,tp_dst,tp_src"


def view(variant: Variant, statuses: Mapping[str, str] | None = None, **more: object) -> View:
    """A view in which OVN says this of the sessions, by peer."""
    told = statuses or {}
    return View(variant=variant, status=lambda _port, peer: told.get(peer, ""), **more)  # type: ignore[arg-type]


def line(row: Row) -> str:
    """A row in a line: short table, holder, and every column that holds something but the marks."""
    short = "".join(re.findall("[A-Z]", row.table))
    columns = {name: show(value) for name, value in row.columns.items() if name != rows.MARKS}
    return " ".join([short, str(row.holder), *(f"{name}={text}" for name, text in columns.items() if text)])


def lines(intent: Intent, seen: View) -> list[str]:
    """Every row of an intent."""
    return [line(row) for row in desired(intent, seen)]


def routes(*peers: str) -> list[str]:
    """The routes of the specification's third example."""
    return [
        f"LRSR vpc1 ip_prefix=192.168.0.0/24 nexthop={peer} policy=src-ip options=ecmp_symmetric_reply=true"
        f" bfd={peer} {SELECT}"
        for peer in peers
    ]


def bfd_rows(port: str, peers: tuple[str, ...], tx: int, rx: int, mult: int) -> list[str]:
    """BFD rows."""
    return [
        f"BFD None logical_port={port} dst_ip={peer} min_tx={tx} min_rx={rx} detect_mult={mult}"
        for peer in peers
    ]


THIRD_ROWS = bfd_rows("bfd@vpc1", BOTH, 1000, 1000, 3)
CLOSED = [
    "LRP vpc1 priority=31000 match=ip4.src == 192.168.0.0/24 && ip4.dst == 192.168.0.0/24 action=allow",
    "LRP vpc1 priority=29090 match=ip4.src == 192.168.0.0/24 action=drop",
]


def test_port_k() -> None:
    """Kube-OVN's OVN: one port on the VPC's router, in a group whose first node goes first."""
    port = f"LRP vpc1 name=bfd@vpc1 mac={MAC} networks=10.255.255.255,fdff::1 ha_chassis_group=bfd@vpc1"
    assert lines(VPC, view(Variant.K)) == [
        "LR None name=vpc1",
        "HACG None name=bfd@vpc1",
        "HAC bfd@vpc1 chassis_name=worker2 priority=2",
        "HAC bfd@vpc1 chassis_name=worker1 priority=1",
        f"{port} options=bfd-only=true",
    ]


def test_port_s3() -> None:
    """Stock OVN: the same port on a second router, joined; the BFD address is its only one of a family."""
    lla = link_local(NEAR)
    assert lines(VPC, view(Variant.S3)) == [
        "LR None name=vpc1",
        "HACG None name=bfd@vpc1",
        "HAC bfd@vpc1 chassis_name=worker2 priority=2",
        "HAC bfd@vpc1 chassis_name=worker1 priority=1",
        f"LRP vpc1-bfd name=bfd@vpc1 mac={MAC} networks=10.255.255.255,fdff::1 ha_chassis_group=bfd@vpc1",
        "LR None name=vpc1-bfd",
        "LS None name=bfd@vpc1",
        f"LRP vpc1 name=vpc1-bfd@vpc1 mac={NEAR} networks=169.254.255.1/32",
        "LSP bfd@vpc1 name=bfd@vpc1-vpc1 type=router addresses=router options=router-port=vpc1-bfd@vpc1",
        "LSP bfd@vpc1 name=bfd@vpc1-vpc1-bfd type=router addresses=router options=router-port=bfd@vpc1",
        "LRSR vpc1 ip_prefix=10.255.255.255/32 nexthop=10.255.255.255 policy=dst-ip output_port=vpc1-bfd@vpc1",
        "LRSR vpc1-bfd ip_prefix=0.0.0.0/0 nexthop=169.254.255.1 policy=dst-ip output_port=bfd@vpc1",
        "LRP vpc1 priority=31000 match=ip4.dst == 10.255.255.255 action=allow",
        "LRSR vpc1 ip_prefix=fdff::1/128 nexthop=fdff::1 policy=dst-ip output_port=vpc1-bfd@vpc1",
        f"LRSR vpc1-bfd ip_prefix=::/0 nexthop={lla} policy=dst-ip output_port=bfd@vpc1",
        "LRP vpc1 priority=31000 match=ip6.dst == fdff::1 action=allow",
    ]


def test_no_port() -> None:
    """A VPC without a BFD port is its router."""
    assert lines(Vpc("vpc1"), view(Variant.S3)) == ["LR None name=vpc1"]


def test_link_local() -> None:
    """As RFC 4291 makes it of a MAC address; OVN showed this one."""
    assert link_local("0a:00:00:00:0b:02") == "fe80::800:ff:fe00:b02"


def join_address(prefixes: tuple[str, ...], port: BfdPort = PORT) -> str:
    """The join's address beside these subnets."""
    scene = Scene(prefixes={"vpc1": prefixes, "other": ("0.0.0.0/0",)})
    near = [
        row
        for row in desired(Vpc("vpc1", bfd_port=port), View(scene=scene))
        if row.columns.get("name") == "vpc1-bfd@vpc1"
    ]
    return show(near[0].columns["networks"]).partition("/")[0]


def test_join_keeps_clear_of_subnets() -> None:
    """The first address that lies in no subnet of the VPC and is not the port's; with none left it waits."""
    assert join_address(()) == JOIN_ADDRESSES[0]
    assert join_address(("169.254.255.0/24", "fd00::/64")) == JOIN_ADDRESSES[1]
    assert join_address(("169.254.0.0/16",)) == JOIN_ADDRESSES[2]
    assert join_address((), BfdPort((JOIN_ADDRESSES[0],), ("a",))) == JOIN_ADDRESSES[1]
    with pytest.raises(WaitingError, match="NoJoinAddress"):
        join_address(("0.0.0.0/0",))


@pytest.mark.parametrize("variant", Variant)
def test_third_example(variant: Variant) -> None:
    """With all sessions up the rows are the specification's, in either variant."""
    up = dict.fromkeys(BOTH, "up")
    assert lines(THIRD, view(variant, up)) == [*THIRD_ROWS, *routes(*BOTH)]
    marks = desired(THIRD, view(variant, up))[0].columns[rows.MARKS]
    assert marks == {"vendor": "kube-ovn", "vpc-egress-gateway": "default/gateway2", "af": "4"}


@pytest.mark.parametrize("variant", Variant)
@pytest.mark.parametrize("status", ["", "down", "admin_down"])
def test_routes_close_when_no_session_is_left(variant: Variant, status: str) -> None:
    """OVN takes a dead route away by itself; with the last one a drop policy stands below nothing."""
    one = dict(zip(BOTH, ("up", status), strict=True))
    assert lines(THIRD, view(variant, one)) == [*THIRD_ROWS, *routes(*BOTH)]
    none = dict.fromkeys(BOTH, status)
    assert lines(THIRD, view(variant, none)) == [*THIRD_ROWS, *routes(*BOTH), *CLOSED]
    # OVN uses a route while its session is not down, so it is not closed then.
    assert lines(THIRD, view(variant, none | {"192.168.0.2": "init"})) == [*THIRD_ROWS, *routes(*BOTH)]


def test_routes_beside_a_foreign_default_route() -> None:
    """What leaves by another port than the replicas' is dropped all the time: OVN may be faster than we are."""
    seen = view(
        Variant.K,
        dict.fromkeys(BOTH, "up"),
        foreign_default=lambda router, family: (router, family) == ("vpc1", 4),
        port_towards=lambda router, _address: f"{router}-subnet1",
    )
    assert lines(THIRD, seen)[4:] == [
        CLOSED[0],
        'LRP vpc1 priority=29090 match=ip4.src == 192.168.0.0/24 && outport != "vpc1-subnet1" action=drop',
    ]


KEPT = [
    f"LRSR ovn-cluster-bfd ip_prefix=10.16.0.{n}/32 nexthop=10.16.0.{n} policy=dst-ip route_table=bfd"
    f" output_port=bfd@ovn-cluster bfd=10.16.0.{n}"
    for n in (12, 13)
]
DEFAULT_ROWS = bfd_rows("bfd@ovn-cluster", ("10.16.0.12", "10.16.0.13"), 200, 100, 5)
REROUTE = "LRP ovn-cluster priority=29100 match=ip4.src == 10.16.0.0/16 action=reroute nexthops="
DROP = "LRP ovn-cluster priority=29090 match=ip4.src == 10.16.0.0/16 action=drop"


@pytest.mark.parametrize(
    ("statuses", "policy"),
    [
        (("up", "up"), REROUTE + "10.16.0.12,10.16.0.13"),
        (("up", "down"), REROUTE + "10.16.0.12"),
        (("init", "up"), REROUTE + "10.16.0.12,10.16.0.13"),
        (("admin_down", "init"), REROUTE + "10.16.0.13"),
        (("admin_down", "down"), DROP),
        (("", ""), DROP),
    ],
)
def test_policies_on_stock_ovn(statuses: tuple[str, str], policy: str) -> None:
    """A policy names the replicas that OVN hears, or drops when there is none; routes elsewhere keep the sessions."""
    told = dict(zip(("10.16.0.12", "10.16.0.13"), statuses, strict=True))
    assert lines(IN_DEFAULT, view(Variant.S3, told)) == [*DEFAULT_ROWS, *KEPT, policy]


def test_policies_where_ovn_follows_bfd() -> None:
    """All replicas and their sessions in the policy, whatever OVN says, and a drop policy below for when it is taken away."""
    for status in ("up", "down", ""):
        told = dict.fromkeys(("10.16.0.12", "10.16.0.13"), status)
        sessions_of = " bfd_sessions=10.16.0.12,10.16.0.13"
        assert lines(IN_DEFAULT, view(Variant.K, told)) == [
            *DEFAULT_ROWS,
            REROUTE + "10.16.0.12,10.16.0.13" + sessions_of,
            DROP,
        ]


def test_an_old_schema_has_no_bfd_sessions() -> None:
    """Variant K without the column does as stock OVN does."""
    told = {"10.16.0.12": "up"}
    assert lines(IN_DEFAULT, view(Variant.K, told, bfd_sessions=False)) == [
        *DEFAULT_ROWS,
        *KEPT,
        REROUTE + "10.16.0.12",
    ]


@pytest.mark.parametrize("variant", Variant)
def test_nothing_refers_to_a_held_session(variant: Variant) -> None:
    """No route or policy names the replica, and its row stays or is away."""
    up = dict.fromkeys((*BOTH, "10.16.0.12", "10.16.0.13"), "up")
    held = Scene(held=frozenset({(THIRD.key, BOTH[0]), (IN_DEFAULT.key, "10.16.0.12")}))
    assert lines(THIRD, view(variant, up, scene=held)) == [*THIRD_ROWS, *routes(BOTH[1])]
    text = "\n".join(lines(IN_DEFAULT, view(variant, up, scene=held))[2:])
    assert "10.16.0.12" not in text
    assert "10.16.0.13" in text
    gone = frozenset({(THIRD.key, BOTH[0])})
    away = Scene(held=gone, away=gone)
    assert lines(THIRD, view(variant, up, scene=away)) == [THIRD_ROWS[1], *routes(BOTH[1])]


def test_the_waker_differs_with_every_nudge() -> None:
    """Whatever the number of nudges between two commits, within reason; one row, with a valid address."""
    seen = [desired(Waker(), View(scene=Scene(wakes=wakes))) for wakes in range(600)]
    assert {len(some) for some in seen} == {1}
    texts = [show(row.columns["addresses"]) for (row,) in seen]
    assert all(ipaddress.ip_address(text) in ipaddress.ip_network("192.0.2.0/24") for text in texts)
    assert all(len(set(texts[at : at + 100])) == 100 for at in range(500))


def test_without_nexthops_it_is_closed() -> None:
    """A gateway with BFD and no replica drops its sources."""
    none = Gateway(
        "default", "g", "vpc1", False, (GatewayFamily(4, ("192.168.0.0/24",), (), LOCAL),), THIRD.bfd
    )
    assert lines(none, view(Variant.S3)) == CLOSED


def test_serving() -> None:
    """Whom traffic goes to: as OVN judges routes, while up or on the way."""
    told = dict(zip((*BOTH, "10.16.0.12", "10.16.0.13"), ("init", "down", "init", "up"), strict=True))
    seen = view(Variant.S3, told)
    assert [(one.peer, one.status, one.serving) for one in sessions(THIRD, seen)] == [
        ("192.168.0.2", "init", True),
        ("192.168.0.3", "down", False),
    ]
    assert [one.serving for one in sessions(IN_DEFAULT, seen)] == [True, True]
    assert sessions(VPC, seen) == sessions(None, seen) == ()


@pytest.mark.parametrize(
    ("statuses", "asked", "expected"),
    [
        (("up", "up"), [BOTH[0]], [BOTH[0]]),
        (("up", "up"), [], []),
        (("up", "up"), list(BOTH), []),
        (("up", "down"), [BOTH[0]], []),
        (("up", "down"), [], [BOTH[1]]),
        (("down", "admin_down"), [], list(BOTH)),
        (("up", "up"), ["10.9.9.9"], []),
    ],
)
def test_the_last_that_serve_are_spared(
    statuses: tuple[str, str], asked: list[str], expected: list[str]
) -> None:
    """When nobody agrees with OVN its own speaker is away: then its rows are what traffic lives by."""
    seen = sessions(THIRD, view(Variant.S3, dict(zip(BOTH, statuses, strict=True))))
    assert spare(THIRD, asked, seen) == expected


@pytest.mark.parametrize(
    ("port", "reason"),
    [
        (BfdPort(("10.255.255.255",), ()), "NoNodes"),
        (BfdPort((), ("a",)), "InvalidAddress"),
        (BfdPort(("10.255.255.255", "10.0.0.1"), ("a",)), "InvalidFamily"),
        (BfdPort(("10.255.255.256",), ("a",)), "InvalidAddress"),
        (BfdPort(("10.255.255.255",), ("a b",)), "InvalidName"),
    ],
    ids=str,
)
def test_bad_ports_are_refused(port: BfdPort, reason: str) -> None:
    """An emptied group above all: the last good nodes stay."""
    with pytest.raises(RefusedError, match=reason):
        check(Vpc("vpc1", bfd_port=port), managed=True)


@pytest.mark.parametrize(
    "bfd", [Bfd("", 1, 1, 1), Bfd("p", 0, 1, 1), Bfd("p", 1, 3_600_001, 1), Bfd("p", 1, 1, 256)], ids=str
)
def test_bad_timers_are_refused(bfd: Bfd) -> None:
    """Outside of what the contract allows."""
    with pytest.raises(RefusedError, match=r"InvalidTimers|InvalidName"):
        check(Gateway("default", "g", "vpc1", False, (), bfd), managed=True)


def test_port_becomes_canonical() -> None:
    """IPv4 first, RFC 5952, nodes once each in their order."""
    port = BfdPort(("FDFF:0::1", "10.255.255.255"), ("b", "a", "b"))
    checked = check(Vpc("vpc1", bfd_port=port), managed=True)
    assert checked == Vpc("vpc1", bfd_port=BfdPort(("10.255.255.255", "fdff::1"), ("b", "a")))


def test_port_rows_bear_marks_of_their_own() -> None:
    """They belong to the VPC's intent, and say what they are for."""
    for row in desired(VPC, view(Variant.S3))[1:]:
        marks = row.columns[rows.MARKS]
        assert isinstance(marks, dict)
        assert marks["veg-topology"] == "bfd-port/vpc1"
        assert rows.owner_of(marks) == row.owner == VPC.key == Key(VPC.key.kind, "vpc1")
    assert second_router("vpc1") == "vpc1-bfd"
