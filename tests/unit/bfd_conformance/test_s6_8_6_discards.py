"""RFC 5880 section 6.8.6: every rule that discards a packet, in each state of the session, leaves it as it was."""

from __future__ import annotations

import pytest
from veg_bfd.core.model import Role, State
from veg_bfd.core.packet import Discard

from tests.unit.bfd_conformance.rig import DOWN, INIT, LOCAL, PEER, STATES, UP, Rig, wire

# name: (bytes that differ from a good packet, why they are discarded)
RULES = {
    "empty": (b"", Discard.TOO_SHORT),
    "23 bytes": (wire()[:23], Discard.TOO_SHORT),
    "version 0": (wire(version=0), Discard.VERSION),
    "version 2": (wire(version=2), Discard.VERSION),
    "version 7": (wire(version=7), Discard.VERSION),
    "length 0": (wire(length=0), Discard.LENGTH),
    "length 23": (wire(length=23), Discard.LENGTH),
    "length 25 of 24 bytes": (wire(length=25), Discard.LENGTH),
    "length 255 of 24 bytes": (wire(length=255), Discard.LENGTH),
    "length 24 with A": (wire(flags="A"), Discard.LENGTH),
    "length 25 with A": (wire(flags="A", length=25, tail=b"\1"), Discard.LENGTH),
    "length 26 with A of 24 bytes": (wire(flags="A", length=26), Discard.LENGTH),
    "multiplier 0": (wire(mult=0), Discard.MULTIPLIER),
    "M": (wire(flags="M"), Discard.MULTIPOINT),
    "my discriminator 0": (wire(mine=0), Discard.MY_DISCRIMINATOR),
    "your discriminator unknown": (wire(UP, yours=0xDEAD), Discard.YOUR_DISCRIMINATOR),
    "your discriminator 0 in Init": (wire(INIT), Discard.YOUR_DISCRIMINATOR_ZERO),
    "your discriminator 0 in Up": (wire(UP), Discard.YOUR_DISCRIMINATOR_ZERO),
    "A while nobody authenticates": (
        wire(flags="A", length=26, tail=b"\1\2"),
        Discard.AUTHENTICATION,
    ),
}


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
@pytest.mark.parametrize("rule", RULES)
def test_discarded(rule: str, state: State) -> None:
    """A packet that breaks a rule changes nothing, answers nothing, and is counted under its reason."""
    data, reason = RULES[rule]
    rig = Rig().reach(state)
    before, counted = rig.image(), rig.engine.discards[reason]
    assert rig.raw(data) is reason
    assert rig.image() == before
    assert rig.engine.discards[reason] == counted + 1


@pytest.mark.parametrize("rule", RULES)
def test_discarded_does_not_feed_detection(rule: str) -> None:
    """The RFC: "If the packet was not discarded, it has been received for purposes of the Detection Time": a session that
    hears discarded packets only goes down in time.
    """
    data, _ = RULES[rule]
    rig = Rig().up()
    deadline = rig.s.detect_deadline
    assert deadline is not None
    while rig.now < deadline - 1:
        rig.raw(data)
        rig.advance(min(rig.s.detection_time_us // 7, deadline - 1 - rig.now))
    assert rig.s.state is UP
    rig.advance(1)
    assert rig.s.state is DOWN


@pytest.mark.parametrize("flags", ["", "P", "F", "C", "D", "PFC"])
@pytest.mark.parametrize("rule", [name for name in RULES if "bytes" not in name and name != "empty"])
def test_poll_of_a_discarded_packet_is_not_answered(rule: str, flags: str) -> None:
    """No bit of a discarded packet has an effect."""
    data, reason = RULES[rule]
    bits = sum(1 << 5 - "PFCADM".index(flag) for flag in flags)
    rig = Rig().up()
    before = rig.image()
    assert rig.raw(data[:1] + bytes([data[1] | bits]) + data[2:]) is reason
    assert rig.image() == before


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_your_discriminator_selects(state: State) -> None:
    """A nonzero Your Discriminator selects the session, and it alone: the addresses must be the session's then."""
    rig = Rig().reach(state)
    data = wire(UP, yours=rig.s.local_discriminator)
    before = rig.image()
    assert rig.raw(data, source="192.0.2.99") is Discard.ADDRESS
    assert rig.raw(data, destination="192.0.2.77") is Discard.ADDRESS
    assert rig.raw(data, source=LOCAL, destination=PEER) is Discard.ADDRESS
    assert rig.image() == before
    assert rig.s.rx_discarded == 3
    assert rig.raw(data) is None


@pytest.mark.parametrize("received", [DOWN, State.ADMIN_DOWN])
def test_zero_discriminator_selects_by_addresses(received: State) -> None:
    """Zero selects by the pair of addresses, in Down and AdminDown only; strangers and reflections find nothing."""
    rig = Rig()
    for source, destination in (("192.0.2.99", LOCAL), (PEER, "192.0.2.77"), (LOCAL, PEER), (LOCAL, LOCAL)):
        assert rig.raw(wire(received), source=source, destination=destination) is Discard.NO_SESSION
    assert rig.engine.unknown == 4
    assert rig.raw(wire(received)) is None


def test_the_peer_may_choose_our_discriminator() -> None:
    """Discriminators are unique at one end only: two ends may have chosen the same (two bfdd of FRR often do)."""
    rig = Rig()
    same = rig.s.local_discriminator
    assert rig.raw(wire(DOWN, mine=same)) is None
    assert rig.raw(wire(INIT, mine=same, yours=same)) is None
    assert rig.s.state is UP


def test_longer_payload() -> None:
    """More payload than Length, or a Length above 24 within the payload, breaks no rule."""
    rig = Rig()
    assert rig.raw(wire(DOWN, tail=b"\0" * 40)) is None
    assert rig.s.state is INIT
    assert rig.raw(wire(INIT, yours=rig.s.local_discriminator, length=30, tail=b"\0" * 6)) is None
    assert rig.s.state is UP


def test_interface() -> None:
    """A session of one interface hears nothing from another."""
    rig = Rig(interface="e0")
    before = rig.image()
    assert rig.raw(wire(DOWN), interface="e1") is Discard.INTERFACE
    assert rig.image() == before
    assert rig.raw(wire(DOWN), interface="e0") is None


@pytest.mark.parametrize("role", Role, ids=lambda role: role.value)
@pytest.mark.parametrize("min_ttl", [1, 2, 253, 254, 255])
def test_ttl(min_ttl: int, role: Role) -> None:
    """RFC 5881 section 5: a packet below the minimum TTL is discarded, one at it or above is taken."""
    rig = Rig(min_ttl=min_ttl, role=role)
    before = rig.image()
    for ttl in {0, 1, min_ttl - 1}:
        if ttl < min_ttl:
            assert rig.raw(wire(DOWN), ttl=ttl) is Discard.TTL
    assert rig.image() == before
    for ttl in {min_ttl, 255}:
        assert rig.raw(wire(DOWN), ttl=ttl) is None
    assert rig.s.state is INIT


def test_ttl_of_an_established_session() -> None:
    """The rule holds for the very bytes that were taken a moment ago with a good TTL."""
    rig = Rig().up()
    data = wire(UP, yours=rig.s.local_discriminator)
    assert rig.raw(data) is None
    assert rig.raw(data) is None
    deadline = rig.s.detect_deadline
    rig.now += 1000
    assert rig.raw(data, ttl=254) is Discard.TTL
    assert rig.raw(data, source="192.0.2.99") is Discard.ADDRESS
    assert rig.s.detect_deadline == deadline
