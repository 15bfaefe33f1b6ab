"""From rows found to rows wanted."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from veg_ovn_programmer.core import rows
from veg_ovn_programmer.core.desired import desired
from veg_ovn_programmer.core.diff import Action, Op, diff
from veg_ovn_programmer.core.intents import Gateway, GatewayFamily, Vpc
from veg_ovn_programmer.core.rows import Found, Row
from veg_ovn_programmer.core.view import View

SOURCES = [f"10.{n}.0.0/16" for n in range(4)] + ["192.168.0.9/32", "192.168.0.8/32"]
NEXTHOPS = [f"192.168.1.{n}" for n in range(2, 6)]


def gateway(
    sources: list[str], nexthops: list[str], vpc: str = "vpc1", *, default_vpc: bool = False
) -> tuple[Row, ...]:
    """Rows of a gateway."""
    family = GatewayFamily(4, tuple(sources), tuple(nexthops), ("192.168.0.0/24",))
    return desired(Gateway("default", "g", vpc, default_vpc, (family,)), View())


def found(wanted: tuple[Row, ...]) -> list[Found]:
    """The rows as if they were in the database."""
    return [Found(number, row) for number, row in enumerate(wanted)]


def apply(there: list[Found], ops: tuple[Op, ...]) -> list[Found]:
    """What the database holds after the operations."""
    by_handle = {one.handle: one.row for one in there}
    for op in ops:
        if op.action is Action.DELETE:
            del by_handle[op.handle]
        elif op.action is Action.CREATE:
            by_handle[max((h for h in by_handle if isinstance(h, int)), default=-1) + 1] = op.row
        else:
            old = by_handle[op.handle]
            columns = {**old.columns, **op.changed}
            by_handle[op.handle] = Row(old.table, old.owner, columns, op.row.holder)
    return [Found(handle, row) for handle, row in by_handle.items()]


def test_nothing_to_do() -> None:
    """Rows that are as wanted give no operation, whatever others have added to their marks."""
    wanted = gateway(SOURCES, NEXTHOPS)
    there = []
    for handle, row in enumerate(wanted):
        ids = {**rows.marks(row.owner, row.holder, 4), "theirs": "x"}
        there.append(Found(handle, Row(row.table, row.owner, {**row.columns, rows.MARKS: ids}, row.holder)))
    assert diff(there, wanted) == ()


def test_replicas_change_a_policy_in_place() -> None:
    """In the default VPC another replica is one update of one column."""
    there = found(gateway(["10.0.0.0/16"], NEXTHOPS[:1], default_vpc=True))
    (op,) = diff(there, gateway(["10.0.0.0/16"], NEXTHOPS[:2], default_vpc=True))
    assert (op.action, op.handle, dict(op.changed)) == (
        Action.UPDATE,
        0,
        {"nexthops": frozenset(NEXTHOPS[:2])},
    )
    assert (op.name, op.detail) == ("ip4.src == 10.0.0.0/16", "on vpc1 nexthops=192.168.1.2,192.168.1.3")


def test_replicas_leave_other_routes_alone() -> None:
    """In a custom VPC a replaced replica is one route made and one removed."""
    there = found(gateway(["10.0.0.0/16"], NEXTHOPS[:3]))
    ops = diff(there, gateway(["10.0.0.0/16"], [*NEXTHOPS[1:3], NEXTHOPS[3]]))
    assert [(op.action.name, op.row.columns["nexthop"]) for op in ops] == [
        ("CREATE", NEXTHOPS[3]),
        ("DELETE", NEXTHOPS[0]),
    ]


def test_surplus_copies_go() -> None:
    """Of two equal rows the first stays."""
    row = gateway(["10.0.0.0/16"], NEXTHOPS[:1])
    ops = diff([Found(7, row[0]), Found(3, row[0])], row)
    assert [(op.action, op.handle) for op in ops] == [(Action.DELETE, 7)]


def test_holders_come_first_and_go_last() -> None:
    """A router is made before what it holds, and removed after it."""
    wanted = (*gateway(["192.168.0.9/32"], NEXTHOPS), *desired(Vpc("vpc1"), View()))
    assert diff([], wanted)[0].row.table == rows.ROUTER
    assert diff(found(wanted), ())[-1].row.table == rows.ROUTER


@given(
    st.lists(st.sampled_from(SOURCES), unique=True),
    st.lists(st.sampled_from(NEXTHOPS), unique=True),
    st.lists(st.sampled_from(SOURCES), unique=True),
    st.lists(st.sampled_from(NEXTHOPS), unique=True),
    st.randoms(use_true_random=False),
)
def test_operations_lead_there(
    sources: list[str],
    nexthops: list[str],
    to_sources: list[str],
    to_nexthops: list[str],
    shuffle: random.Random,
) -> None:
    """From any state to any other: applied, nothing is left to do, what was wanted before and after is not remade,
    and the order of the rows found does not matter.
    """
    before, after = gateway(sources, nexthops), gateway(to_sources, to_nexthops, "vpc1")
    there = found(before)
    ops = diff(there, after)
    shuffled = list(there)
    shuffle.shuffle(shuffled)
    assert diff(shuffled, after) == ops
    assert diff(apply(there, ops), after) == ()
    same = {(row.table, row.identity) for row in before} & {(row.table, row.identity) for row in after}
    touched = {(op.row.table, op.row.identity) for op in ops if op.action is not Action.UPDATE}
    assert not same & touched
