"""What is wanted, and whose rows are whose, where the topology is Kube-OVN's."""

from __future__ import annotations

import pytest
from veg_ovn_programmer.agenda import BATCH, Agenda
from veg_ovn_programmer.core import desired, rows
from veg_ovn_programmer.core.book import Book, Job
from veg_ovn_programmer.core.intents import Bfd, BfdPort, Gateway, GatewayFamily, Key, Kind, Subnet, Vpc
from veg_ovn_programmer.core.validate import check
from veg_ovn_programmer.core.view import Variant, View
from veg_ovn_programmer.errors import RefusedError

VPC = Vpc("vpc1", default_vpc=True, bfd_port=BfdPort(("10.255.255.255",), ("node1",)))
FAMILY = GatewayFamily(4, ("192.168.0.0/24",), ("192.168.0.2",))
GATEWAY = Gateway("default", "a", "vpc1", False, (FAMILY,), Bfd("bfd@vpc1", 1000, 1000, 3))


def view(variant: Variant, *, theirs: bool = False, present: bool = True) -> View:
    """Beside Kube-OVN, with or without a BFD port of its making."""
    return View(variant=variant, managed=False, foreign_port=lambda _: theirs, has_port=lambda _: present)


def tables(wanted: tuple[rows.Row, ...]) -> set[str]:
    """Where rows are wanted."""
    return {row.table for row in wanted}


@pytest.mark.parametrize("variant", list(Variant))
def test_vpc_is_its_bfd_port(variant: Variant) -> None:
    """A VPC's router is never wanted, only the port and what carries it; every row bears the port's mark."""
    wanted = desired.desired(check(VPC, managed=False), view(variant))
    assert not any(row.table == rows.ROUTER and row.columns["name"] == "vpc1" for row in wanted)
    assert rows.ROUTER_PORT in tables(wanted)
    for row in wanted:
        assert not rows.is_topology(Kind.VPC, row.columns[rows.MARKS])


def test_their_port_is_taken() -> None:
    """Kube-OVN's own port serves where its OVN does; on a stock OVN ours is wanted, and finds its name taken."""
    assert desired.desired(VPC, view(Variant.K, theirs=True)) == ()
    assert desired.desired(VPC, view(Variant.S3, theirs=True)) != ()
    assert desired.desired(Vpc("vpc1"), view(Variant.K)) == ()


def test_default_routes_are_theirs() -> None:
    """A default VPC beside Kube-OVN asks for no default route of ours."""
    vpc = check(VPC, managed=False)
    assert not desired.needs_default_route(vpc)
    assert desired.needs_default_route(check(VPC, managed=True))
    with pytest.raises(RefusedError, match="TopologyNotManaged"):
        check(Subnet("s", "vpc1", ("10.0.0.0/8",), ("10.0.0.1",)), managed=False)


def test_port_that_is_missing() -> None:
    """The rows are wanted all the same, for they close; what is missing is told, in this topology only."""
    assert desired.desired(GATEWAY, view(Variant.K, present=False))
    missing = desired.lack(GATEWAY, view(Variant.K, present=False))
    assert missing is not None
    assert missing.until == (rows.ROUTER_PORT, "bfd@vpc1")
    assert desired.lack(GATEWAY, view(Variant.K)) is None
    assert desired.lack(GATEWAY, View()) is None
    assert desired.lack(None, view(Variant.K, present=False)) is None


def test_whose_row() -> None:
    """Of a gateway nobody asked for, only what names its holder is ours; a topology's rows never are."""
    key = Key(Kind.GATEWAY, "default/a")
    ours, theirs = rows.marks(key, "vpc1", 4), rows.marks(key, None, 4)
    assert rows.bears_our_mark(Kind.GATEWAY, ours)
    assert not rows.bears_our_mark(Kind.GATEWAY, theirs)
    for kind, name in ((Kind.VPC, "vpc1"), (Kind.SUBNET, "s"), (Kind.PORT, "p.default")):
        assert rows.is_topology(kind, rows.marks(Key(kind, name)))
    assert not rows.is_topology(Kind.VPC, rows.marks(Key(Kind.VPC, "vpc1"), word=rows.BFD_PORT_WORD))
    assert not rows.is_topology(Kind.DEFAULT_ROUTE, rows.marks(Key(Kind.DEFAULT_ROUTE, "vpc1")))


def test_orphans_are_named_as_such() -> None:
    """A key that nobody has asked for is an orphan; one that was deleted is not: its rows go whoever wrote them."""
    book = Book()
    book.resync("one", [])
    key = Key(Kind.GATEWAY, "default/a")
    assert book.job(key) == Job(key, None, orphan=True)
    book.put(GATEWAY, 1)
    book.remove(key)
    assert book.job(key) == Job(key, None)


def test_agenda() -> None:
    """Holders come first, a batch is bounded, and what was asked for is told from what was broken."""
    woken = []
    agenda = Agenda(lambda key: int(key.kind == Kind.GATEWAY), lambda: woken.append(1))
    gateways = [Key(Kind.GATEWAY, f"default/{n}") for n in range(BATCH)]
    agenda.look(gateways)
    agenda.ask([Key(Kind.VPC, "vpc1"), gateways[0]])
    assert gateways[5] in agenda
    batch, asked = agenda.take()
    assert (batch[0], len(batch), asked) == (
        Key(Kind.VPC, "vpc1"),
        BATCH,
        {Key(Kind.VPC, "vpc1"), gateways[0]},
    )
    assert len(agenda) == 1
    agenda.put_back(batch, asked)
    assert agenda.take()[1] == asked
    assert woken
