"""RFC 5880 section 6.8.4: the detection time, to the microsecond."""

from __future__ import annotations

import itertools

import pytest
from veg_bfd.core.model import Changed, Diagnostic

from tests.unit.bfd_conformance.rig import (
    ADMIN_DOWN,
    DOWN,
    INIT,
    MAX,
    MS,
    PEER_DISCRIMINATOR,
    SECOND,
    UP,
    Rig,
)


@pytest.mark.parametrize("mult", [1, 2, 3, 50, 255])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(100 * MS, 50 * MS), (50 * MS, 100 * MS), (MS, 1), (MS, 0), (SECOND, MAX), (MS, MAX)]
)
def test_value(ours: int, theirs: int, mult: int) -> None:
    """The peer's Detect Mult times the greater of our Required Min RX and the peer's last Desired Min TX."""
    rig = Rig(rx=ours).up()
    rig.hear(UP, tx=theirs, mult=mult)
    assert rig.s.detection_time_us == mult * max(ours, theirs)


@pytest.mark.parametrize("state", [INIT, UP], ids=lambda state: state.name)
def test_not_a_moment_early_nor_late(state: object) -> None:
    """Silence takes Init and Up to Down with diagnostic 1, exactly at the end of the detection time."""
    rig = Rig().reach(state)  # type: ignore[arg-type]
    detection = rig.s.detection_time_us
    assert detection
    rig.advance(detection - 1)
    assert rig.s.state is state
    rig.engine.events.clear()
    sent = rig.advance(1)
    assert (rig.s.state, rig.s.diagnostic) == (DOWN, Diagnostic.CONTROL_DETECTION_TIME_EXPIRED)
    assert [(p.state, p.diagnostic, p.yours) for p in sent] == [(DOWN, 1, 0)]
    (event,) = rig.engine.events
    assert isinstance(event, Changed)
    assert (event.previous, event.late_us) == (state, 0)


def test_each_packet_starts_it_anew() -> None:
    """A session that hears a packet one microsecond before the end, every time, stays up."""
    rig = Rig().up(tx=100 * MS)
    for _ in range(100):
        rig.advance(rig.s.detection_time_us - 1)
        rig.hear(UP)
    assert (rig.s.state, rig.s.downs) == (UP, 0)


def test_packet_in_the_last_moment_counts() -> None:
    """A packet handed over before `advance` counts, even when both happen after the deadline: the caller drains the
    socket first, and what was there had arrived.
    """
    rig = Rig().up(tx=100 * MS)
    rig.now += rig.s.detection_time_us + 5 * SECOND
    rig.hear(UP)
    rig.engine.advance(rig.now)
    assert rig.s.state is UP


def test_advance_without_expiry() -> None:
    """Packets can be sent without declaring anything dead, and an overdue expiry is caught up on later."""
    rig = Rig().up(tx=100 * MS)
    rig.now += 10 * SECOND
    rig.engine.advance(rig.now, expire=False)
    assert rig.s.state is UP
    rig.engine.events.clear()
    rig.engine.advance(rig.now)
    assert rig.s.state is DOWN
    (event,) = rig.engine.events
    assert isinstance(event, Changed)
    assert event.late_us == 10 * SECOND - 300 * MS


def test_peer_is_forgotten() -> None:
    """Section 6.8.1: bfd.RemoteDiscr is zero after a detection time of silence, in every state, and sent as zero."""
    for state in (DOWN, INIT, UP, ADMIN_DOWN):
        rig = Rig().reach(state)
        rig.hear(DOWN if state is INIT else UP)
        assert rig.s.remote_discriminator == PEER_DISCRIMINATOR
        rig.advance(rig.s.detection_time_us + 3 * SECOND)
        assert rig.s.remote_discriminator == 0, state
        assert rig.sent[-1].yours == 0, state


def test_silence_in_down_is_no_change() -> None:
    """A Down session that forgets its peer keeps the diagnostic that says why it went down, and tells nobody."""
    rig = Rig().up()
    rig.hear(DOWN)
    rig.engine.events.clear()
    rig.advance(20 * SECOND)
    assert rig.engine.events == []
    assert rig.s.diagnostic == Diagnostic.NEIGHBOR_SIGNALED_SESSION_DOWN


def test_forgotten_peer_cannot_silence_us() -> None:
    """Neither an interval of zero, nor demand mode, nor the longest interval outlives the peer that asked for it."""
    for field, flags in itertools.product(({"rx": 0}, {"rx": MAX}, {}), ("", "D")):
        rig = Rig().up(tx=100 * MS)
        rig.hear(UP, flags=flags, **field)
        rig.advance(rig.s.detection_time_us)
        assert rig.s.state is DOWN
        rig.advance(SECOND)  # what was due before
        assert len(rig.advance(10 * SECOND)) >= 9


@pytest.mark.parametrize("state", [DOWN, INIT, UP], ids=lambda state: state.name)
def test_longest_times(state: object) -> None:
    """The largest intervals and multiplier that fit do not overflow, and still end."""
    rig = Rig(tx=3600 * SECOND, rx=3600 * SECOND, mult=255).reach(state)  # type: ignore[arg-type]
    rig.hear(DOWN if state is INIT else UP, tx=MAX, rx=MAX, mult=255)
    assert rig.s.detection_time_us == 255 * MAX
    rig.advance(255 * MAX - 1)
    assert rig.s.state is state
    rig.advance(1)
    assert rig.s.state is DOWN
    assert rig.s.remote_discriminator == 0


def test_clock_that_goes_back() -> None:
    """A clock that goes back neither expires nor freezes a session."""
    rig = Rig().up(tx=100 * MS, rx=100 * MS)
    late = rig.now
    rig.now -= 3 * SECOND
    rig.hear(UP)
    rig.engine.advance(rig.now)
    rig.now = late
    rig.hear(UP)
    rig.advance(299 * MS)
    assert rig.s.state is UP
    rig.advance(2 * MS)
    assert rig.s.state is DOWN


def test_clock_that_jumps_ahead_sends_one_packet() -> None:
    """A day without `advance` is no reason for a burst."""
    rig = Rig()
    rig.now += 86_400 * SECOND
    rig.engine.advance(rig.now)
    assert len(rig.engine.outbox) == 1
