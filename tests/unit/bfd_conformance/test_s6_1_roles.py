"""RFC 5880 sections 6.1 and 6.8.1: active and passive, and what a session starts with."""

from __future__ import annotations

import random

import pytest
from veg_bfd.core.engine import Engine
from veg_bfd.core.model import Diagnostic, Role, SessionConfig, Timers, checked
from veg_bfd.errors import ConfigError

from tests.unit.bfd_conformance.rig import ADMIN_DOWN, DOWN, INIT, LOCAL, MS, PEER, SECOND, UP, Rig


def test_start() -> None:
    """Down, no diagnostic, no remote discriminator, remote state Down, remote min RX 1, a random nonzero local one."""
    s = Rig().s
    assert (s.state, s.remote_state, s.diagnostic) == (DOWN, DOWN, Diagnostic.NONE)
    assert (s.remote_discriminator, s.remote_min_rx_us) == (0, 1)
    assert s.local_discriminator
    assert s.local_discriminator != Rig(seed=2).s.local_discriminator


def test_active_speaks_first() -> None:
    """An active session sends at once and goes on, once a second, to a peer that never answered."""
    rig = Rig()
    sent = rig.advance(60 * SECOND)
    assert 60 <= len(sent) <= 81
    assert {(packet.state, packet.yours) for packet in sent} == {(DOWN, 0)}


def test_passive_leaves_the_first_second() -> None:
    """A passive session sends nothing in the first interval; a peer that sleeps is woken after it (a departure from
    section 6.8.7 on purpose: OVN's thread may sleep for a minute until a packet comes).
    """
    rig = Rig(role=Role.PASSIVE)
    assert rig.advance(SECOND * 3 // 4 - MS) == []
    sent = rig.advance(60 * SECOND)
    assert 59 <= len(sent) <= 81
    assert {(packet.state, packet.yours) for packet in sent} == {(DOWN, 0)}
    assert [packet.state for packet in rig.hear(DOWN, yours=0)] == [INIT]


def test_passive_retuned_waits() -> None:
    """Neither new timers nor AdminDown make a passive session speak earlier."""
    rig = Rig(role=Role.PASSIVE)
    rig.retune(tx=10 * MS)
    rig.engine.set_admin_down(rig.now, (), down=True)
    rig.engine.set_admin_down(rig.now, (), down=False)
    rig.drain()
    assert rig.advance(SECOND * 3 // 4 - MS) == []


@pytest.mark.parametrize("after", [INIT, UP, ADMIN_DOWN], ids=lambda state: state.name)
def test_passive_is_never_silent_again(after: object) -> None:
    """Once it has heard its peer, a passive session goes on sending through any silence (a departure from section
    6.8.7 on purpose: two ends that both wait stay down for good).
    """
    rig = Rig(role=Role.PASSIVE)
    if after is ADMIN_DOWN:
        rig.hear(ADMIN_DOWN, yours=0)
    else:
        rig.reach(after)  # type: ignore[arg-type]
    rig.advance(10 * SECOND)
    for _ in range(20):
        sent = rig.advance(600 * SECOND)
        assert len(sent) >= 599
    assert {(packet.state, packet.yours) for packet in sent} == {(DOWN, 0)}
    rig.hear(DOWN, yours=0)
    rig.hear(INIT)
    assert rig.s.state is UP


@pytest.mark.parametrize("role", Role, ids=lambda role: role.value)
def test_both_roles_come_up(role: Role) -> None:
    """Two of our own sessions come up when one of them is active at least."""
    ours, theirs = (Engine(random.Random(seed)) for seed in (1, 2))  # noqa: S311 - repeatable
    a = ours.put(0, "test", checked(SessionConfig(LOCAL, PEER, Timers(100 * MS, 100 * MS, 3))))
    b = theirs.put(0, "test", checked(SessionConfig(PEER, LOCAL, Timers(100 * MS, 100 * MS, 3), role=role)))
    from veg_bfd.core.model import Arrival

    for now in range(0, 5 * SECOND, 10 * MS):
        for engine, other in ((ours, theirs), (theirs, ours)):
            engine.advance(now)
            for session, data in engine.outbox:
                other.receive(now, data, Arrival(session.config.local, session.config.peer, 255, "e0"))
            engine.outbox.clear()
    assert (a.state, b.state) == (UP, UP)
    assert a.tx_interval_us == b.tx_interval_us == 100 * MS
    assert a.detection_time_us == b.detection_time_us == 300 * MS


@pytest.mark.parametrize(
    "wrong",
    [
        SessionConfig(LOCAL, "fd00::1"),
        SessionConfig(LOCAL, LOCAL),
        SessionConfig(LOCAL, "224.0.0.1"),
        SessionConfig(LOCAL, "0.0.0.0"),
        SessionConfig(LOCAL, "ff02::1"),
        SessionConfig(LOCAL, "nonsense"),
        SessionConfig("", PEER),
        SessionConfig("fe80::1", "fe80::2"),
        SessionConfig(LOCAL, PEER, Timers(0, 1000, 3)),
        SessionConfig(LOCAL, PEER, Timers(1000, 0, 3)),
        SessionConfig(LOCAL, PEER, Timers(1000, 3_600_000_001, 3)),
        SessionConfig(LOCAL, PEER, Timers(1000, 1000, 0)),
        SessionConfig(LOCAL, PEER, Timers(1000, 1000, 256)),
        SessionConfig(LOCAL, PEER, min_ttl=0),
        SessionConfig(LOCAL, PEER, min_ttl=256),
        SessionConfig(LOCAL, PEER, interface="a" * 16),
        SessionConfig(LOCAL, PEER, interface="a b"),
    ],
    ids=repr,
)
def test_configuration_without_sense(wrong: SessionConfig) -> None:
    """Values that no packet could carry or no peer could have are refused in one line."""
    with pytest.raises(ConfigError) as caught:
        checked(wrong)
    assert "\n" not in str(caught.value)
