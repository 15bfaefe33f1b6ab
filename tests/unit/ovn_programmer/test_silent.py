"""Nexthops without a speaker: BFD was switched on under a running gateway, and not all pods are replaced yet."""

from __future__ import annotations

from dataclasses import replace

import pytest
from veg_ovn_programmer.core import rows
from veg_ovn_programmer.core.bfd import spare
from veg_ovn_programmer.core.desired import desired, sessions
from veg_ovn_programmer.core.intents import Bfd, Gateway
from veg_ovn_programmer.core.view import Variant

from tests.unit.ovn_programmer.test_bfd import BOTH, IN_DEFAULT, THIRD, view

OLD, NEW = BOTH


def half(gateway: Gateway, silent: str) -> Gateway:
    """A gateway one of whose replicas has no speaker."""
    assert isinstance(gateway.bfd, Bfd)
    return replace(gateway, bfd=replace(gateway.bfd, silent=(silent,)))


@pytest.mark.parametrize("status", ["", "down", "up"])
def test_routes_go_to_the_silent_in_any_case(status: str) -> None:
    """A BFD row and a reference for the one that speaks only; nothing is closed while the other one is there."""
    seen = view(Variant.S3, {NEW: status})
    wanted = desired(half(THIRD, OLD), seen)
    assert [row.columns["dst_ip"] for row in wanted if row.table == rows.BFD] == [NEW]
    routes = {str(row.columns["nexthop"]): row.columns["bfd"] for row in wanted if row.table == rows.ROUTE}
    assert not routes[OLD]
    assert routes[NEW]
    assert not [row for row in wanted if row.table == rows.POLICY]
    assert [one.peer for one in sessions(half(THIRD, OLD), seen)] == [NEW]


@pytest.mark.parametrize(("variant", "links"), [(Variant.S3, 0), (Variant.K, 1)])
def test_policies_go_to_the_silent_in_any_case(variant: Variant, links: int) -> None:
    """The one that speaks joins when its session is up; OVN takes a nexthop without a session for alive (northd, check_bfd_state)."""
    first, second = IN_DEFAULT.families[0].nexthops
    (reroute,) = [
        row
        for row in desired(half(IN_DEFAULT, first), view(variant, {second: "down"}))
        if row.table == rows.POLICY and row.columns["action"] == "reroute"
    ]
    found = reroute.columns["nexthops"]
    assert isinstance(found, frozenset)
    assert first in found
    assert len(reroute.columns.get("bfd_sessions") or ()) == links  # type: ignore[arg-type]


def test_the_last_speaker_may_start_afresh_beside_the_silent() -> None:
    """They serve meanwhile; and they themselves have nothing to start."""
    seen = view(Variant.S3, {NEW: "up"})
    gateway = half(THIRD, OLD)
    assert spare(gateway, BOTH, sessions(gateway, seen)) == [NEW]
