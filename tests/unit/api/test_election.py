"""Who leads, as a matter of Leases and clocks."""

import pytest
from veg_api.core import election
from veg_api.core.election import Timing
from veg_common.objects import Object


def lease(holder: str | None, version: str = "1") -> Object:
    """A Lease of somebody."""
    made = election.new("veg", "api", holder or "", Timing(), "2026-01-01T00:00:00.000000Z")
    made["metadata"] |= {"uid": "u", "resourceVersion": version}
    return made


@pytest.mark.parametrize(
    ("holder", "waited", "allowed"),
    [
        pytest.param("me", 0.0, True, id="ours"),
        pytest.param("", 0.0, True, id="given back"),
        pytest.param("other", 14.9, False, id="may be renewed yet"),
        pytest.param("other", 15.1, True, id="not renewed"),
    ],
)
def test_who_may_take_a_lease(holder: str, waited: float, allowed: bool) -> None:
    """A Lease is for its holder until it has not changed for its whole duration, by our own clock."""
    sight = election.seen(lease(holder), None, 100.0)
    assert election.may_take(lease(holder), "me", sight, 100.0 + waited) is allowed


def test_a_renewal_starts_the_wait_anew() -> None:
    """What counts is when we saw a change, not what is written in it."""
    sight = election.seen(lease("other", "1"), None, 100.0)
    assert election.seen(lease("other", "1"), sight, 110.0) is sight
    assert election.seen(lease("other", "2"), sight, 110.0).since == 110.0


def test_transitions_are_counted() -> None:
    """Taking over counts, renewing does not; both name the version that they saw."""
    renewed = election.taken(lease("me"), "me", Timing(), "t")
    assert "leaseTransitions" not in renewed["spec"]
    over = election.taken(lease("other", "7"), "me", Timing(), "t")
    assert (over["spec"]["leaseTransitions"], over["metadata"]["resourceVersion"]) == (1, "7")
