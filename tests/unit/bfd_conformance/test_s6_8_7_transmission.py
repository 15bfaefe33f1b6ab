"""RFC 5880 section 6.8.7: when packets leave and what is in them."""

from __future__ import annotations

import itertools

import pytest
from veg_bfd.core.model import Role

from tests.unit.bfd_conformance.rig import (
    DOWN,
    INIT,
    MS,
    PEER_DISCRIMINATOR,
    SECOND,
    STATES,
    UP,
    Rig,
)


def gaps(rig: Rig, count: int) -> list[int]:
    """Times between periodic packets, µs."""
    times: list[int] = []
    while len(times) <= count:
        rig.hear(UP)
        before = len(rig.sent)
        for at in rig.steps(50 * MS):
            if len(rig.sent) > before:
                times.append(at)
                before = len(rig.sent)
    return [after - at for at, after in itertools.pairwise(times)]


@pytest.mark.parametrize(("mult", "highest"), [(1, 0.90), (2, 1.0), (3, 1.0), (255, 1.0)])
def test_jitter(mult: int, highest: float) -> None:
    """75 to 100 % of the interval, at most 90 % with a multiplier of 1; spread over all of that, evenly."""
    rig = Rig(tx=100 * MS, mult=mult).up(tx=100 * MS, rx=100 * MS)
    seen = [gap / (100 * MS) for gap in gaps(rig, 3000)]
    assert 0.75 - 1e-5 <= min(seen) < 0.76
    assert highest - 0.01 < max(seen) <= highest
    assert sum(seen) / len(seen) == pytest.approx((0.75 + highest) / 2, abs=0.005)


def test_jitter_differs_between_sessions() -> None:
    """Two sessions of one start do not go on in step."""
    assert gaps(Rig(seed=1).up(rx=100 * MS), 20) != gaps(Rig(seed=2).up(rx=100 * MS), 20)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_contents(state: object) -> None:
    """Every field that the section lists."""
    rig = Rig(tx=100 * MS, rx=70 * MS, mult=5).reach(state)  # type: ignore[arg-type]
    rig.hear(DOWN if state is INIT else UP)
    packet = rig.advance(2 * SECOND)[-1]
    assert packet.version == 1
    assert packet.diagnostic == rig.s.diagnostic
    assert packet.state == rig.s.state
    flags = (packet.control_plane_independent, packet.authentication, packet.demand, packet.multipoint)
    assert flags == (False, False, False, False)
    assert (packet.multiplier, packet.length) == (5, 24)
    assert (packet.mine, packet.yours) == (rig.s.local_discriminator, PEER_DISCRIMINATOR)
    assert (packet.min_rx, packet.min_echo_rx) == (70 * MS, 0)


def test_news_do_not_wait() -> None:
    """A packet whose contents differ from the last one's leaves at once."""
    rig = Rig()
    rig.advance(300 * MS)
    assert [packet.state for packet in rig.hear(DOWN, yours=0)] == [INIT]
    assert [packet.state for packet in rig.hear(INIT)] == [UP]
    rig.engine.set_admin_down(rig.now, (), down=True)
    rig.drain()
    assert rig.sent[-1].state == 0


def test_no_news_wait() -> None:
    """A packet that changes nothing draws no answer, however often it comes."""
    rig = Rig().up(tx=100 * MS, rx=100 * MS)
    assert [answer for _ in range(100) for answer in rig.hear(UP)] == []


def test_demand_mode() -> None:
    """Sections 6.6 and 6.8.7: no periodic packets while the peer asks for demand mode and both are Up; polls of
    either side go on, and the end of demand mode brings the packets back.
    """
    rig = Rig().up(tx=3600 * SECOND, rx=100 * MS)
    rig.hear(UP, flags="D")
    assert rig.advance(20 * SECOND) == []
    (final,) = rig.hear(UP, flags="PD")
    assert final.final
    rig.retune(rx=50 * MS)
    polls = rig.advance(SECOND)
    assert polls
    assert all(packet.poll for packet in polls)
    rig.hear(UP, flags="FD")
    assert rig.advance(20 * SECOND) == []
    rig.hear(UP)
    assert len(rig.advance(SECOND)) >= 9


@pytest.mark.parametrize("received", [DOWN, INIT], ids=lambda state: state.name)
def test_demand_mode_needs_both_up(received: object) -> None:
    """The D bit of a peer that is not Up does not silence us."""
    rig = Rig().reach(INIT if received is DOWN else UP)
    rig.hear(received, flags="D")  # type: ignore[arg-type]
    assert rig.advance(2 * SECOND)


@pytest.mark.parametrize("flags", ["", "P", "F", "PF", "C", "CD"])
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_bits_never_sent(state: object, flags: str) -> None:
    """C, A, D and M are clear in everything, and P and F never stand together."""
    rig = Rig(role=Role.ACTIVE).reach(state)  # type: ignore[arg-type]
    for received in STATES:
        rig.hear(received, flags=flags)
        rig.advance(SECOND)
    assert rig.sent
    for packet in rig.sent:
        assert not any((packet.authentication, packet.demand, packet.multipoint))
        assert not packet.control_plane_independent
        assert not (packet.poll and packet.final)
        assert packet.mine == rig.s.local_discriminator
