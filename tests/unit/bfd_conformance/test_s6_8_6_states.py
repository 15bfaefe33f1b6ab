"""RFC 5880 section 6.8.6: what a packet that is not discarded does, in every state of the session."""

from __future__ import annotations

import itertools

import pytest
from veg_bfd.core.model import Changed, Diagnostic, State

from tests.unit.bfd_conformance.rig import (
    ADMIN_DOWN,
    DOWN,
    INIT,
    MS,
    PEER_DISCRIMINATOR,
    SECOND,
    STATES,
    UP,
    Rig,
)

KEEP, SIGNALED = None, Diagnostic.NEIGHBOR_SIGNALED_SESSION_DOWN
# (state, received state): (next state, bfd.LocalDiag set to)
TABLE = {
    (ADMIN_DOWN, ADMIN_DOWN): (ADMIN_DOWN, KEEP),
    (ADMIN_DOWN, DOWN): (ADMIN_DOWN, KEEP),
    (ADMIN_DOWN, INIT): (ADMIN_DOWN, KEEP),
    (ADMIN_DOWN, UP): (ADMIN_DOWN, KEEP),
    (DOWN, ADMIN_DOWN): (DOWN, KEEP),
    (DOWN, DOWN): (INIT, KEEP),
    (DOWN, INIT): (UP, Diagnostic.NONE),
    (DOWN, UP): (DOWN, KEEP),
    (INIT, ADMIN_DOWN): (DOWN, SIGNALED),
    (INIT, DOWN): (INIT, KEEP),
    (INIT, INIT): (UP, Diagnostic.NONE),
    (INIT, UP): (UP, Diagnostic.NONE),
    (UP, ADMIN_DOWN): (DOWN, SIGNALED),
    (UP, DOWN): (DOWN, SIGNALED),
    (UP, INIT): (UP, KEEP),
    (UP, UP): (UP, KEEP),
}
NAMES = [f"{state.name}-hears-{received.name}" for state, received in TABLE]


def test_table_is_complete() -> None:
    """Sixteen cases, none forgotten."""
    assert set(TABLE) == set(itertools.product(STATES, STATES))


@pytest.mark.parametrize("case", TABLE, ids=NAMES)
def test_transition(case: tuple[State, State]) -> None:
    """The next state and bfd.LocalDiag; a change is told once, with its time, and the peer at once."""
    state, received = case
    expected, diagnostic = TABLE[case]
    rig = Rig().reach(state)
    expected_diagnostic = rig.s.diagnostic if diagnostic is KEEP else diagnostic
    since, downs = rig.s.since, rig.s.downs
    rig.engine.events.clear()
    rig.advance(10 * MS)
    answers = rig.hear(received)
    assert (rig.s.state, rig.s.diagnostic) == (expected, expected_diagnostic)
    changes = [event for event in rig.engine.events if isinstance(event, Changed)]
    assert [(event.previous, event.view.state) for event in changes] == (
        [(state, expected)] if state != expected else []
    )
    assert rig.s.since == (rig.now if state != expected else since)
    assert rig.s.downs == downs + (state is UP and expected is not UP)
    if state != expected:
        assert [(packet.state, packet.diagnostic) for packet in answers] == [(expected, expected_diagnostic)]


@pytest.mark.parametrize("case", TABLE, ids=NAMES)
def test_variables(case: tuple[State, State]) -> None:
    """Whatever the states, the packet sets bfd.RemoteDiscr, RemoteState, RemoteMinRxInterval and the diagnostic."""
    state, received = case
    rig = Rig().reach(state)
    rig.hear(received, mine=0x12345678, rx=123_456, tx=234_567, mult=7, diagnostic=31, flags="CD")
    s = rig.s
    assert (s.remote_discriminator, s.remote_state, s.remote_diagnostic) == (0x12345678, received, 31)
    assert (s.remote_min_rx_us, s.remote_min_tx_us, s.remote_multiplier) == (123_456, 234_567, 7)
    assert s.remote_demand


@pytest.mark.parametrize("case", TABLE, ids=NAMES)
def test_poll_is_answered(case: tuple[State, State]) -> None:
    """The RFC: "If the Poll (P) bit is set, send a BFD Control packet … with the Poll (P) bit clear, and the Final (F) bit
    set": at once, with what is true after the transition. Only a session in AdminDown discards before that step.
    """
    state, received = case
    rig = Rig().reach(state)
    answers = rig.hear(received, flags="P")
    finals = [packet for packet in answers if packet.final]
    if state is ADMIN_DOWN:
        assert finals == []
        return
    (final,) = finals
    assert (final.poll, final.state, final.yours) == (False, rig.s.state, PEER_DISCRIMINATOR)
    assert final == answers[-1]


@pytest.mark.parametrize("received", STATES, ids=lambda state: state.name)
def test_admin_down_discards_before_detection(received: State) -> None:
    """In AdminDown nothing that arrives leads to a state or to an expiry."""
    rig = Rig().reach(ADMIN_DOWN)
    rig.hear(received)
    rig.advance(20 * SECOND)
    assert (rig.s.state, rig.s.diagnostic) == (ADMIN_DOWN, Diagnostic.ADMINISTRATIVELY_DOWN)


def test_three_way_handshake() -> None:
    """Section 6.2: Down, Init, Up takes a packet that proves that the peer hears us; Up alone does not."""
    rig = Rig()
    rig.hear(UP)
    rig.hear(UP)
    assert rig.s.state is DOWN
    rig.hear(DOWN, yours=0)
    rig.hear(DOWN, yours=0)
    assert rig.s.state is INIT
    rig.hear(UP)
    assert rig.s.state is UP


def test_restarted_peer() -> None:
    """A peer that lost its memory (Your Discriminator 0, Down, another discriminator) takes an Up session Down,
    and then up with the new discriminator.
    """
    rig = Rig().up()
    rig.hear(DOWN, yours=0, mine=77)
    assert (rig.s.state, rig.s.remote_discriminator) == (DOWN, 77)
    assert rig.sent[-1].yours == 77
    rig.hear(DOWN, mine=77)
    rig.hear(INIT, mine=77)
    assert rig.s.state is UP


def test_peer_that_changes_its_discriminator_while_up() -> None:
    """My Discriminator of a packet that names our session is taken as it is, and used at once."""
    rig = Rig().up()
    answers = rig.hear(UP, mine=4242)
    assert rig.s.state is UP
    assert [packet.yours for packet in answers] == [4242]


def test_flapping_peer_is_counted() -> None:
    """Each leaving of Up is one down."""
    rig = Rig()
    for downs in range(1, 20):
        rig.hear(DOWN)
        rig.hear(INIT)
        assert rig.s.state is UP
        rig.hear(DOWN)
        assert rig.s.downs == downs
