"""RFC 5880 sections 6.8.16 to 6.8.18: administrative control, concatenated paths, holding down sessions."""

from __future__ import annotations

import pytest
from veg_bfd.core.model import Changed, Diagnostic, Ended, Role, SessionConfig, State, checked

from tests.unit.bfd_conformance.rig import (
    ADMIN_DOWN,
    DOWN,
    INIT,
    LOCAL,
    MS,
    PEER,
    SECOND,
    STATES,
    UP,
    Rig,
    wire,
)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_disable(state: State) -> None:
    """bfd.SessionState becomes AdminDown with diagnostic 7 in every state; a peer that is there hears it at once."""
    rig = Rig().reach(state)
    rig.engine.set_admin_down(rig.now, (), down=True)
    rig.drain()
    assert (rig.s.state, rig.s.diagnostic, rig.s.admin_down) == (ADMIN_DOWN, 7, True)
    if state in (INIT, UP):
        assert (rig.sent[-1].state, rig.sent[-1].diagnostic) == (ADMIN_DOWN, 7)
    assert rig.s.downs == (state is UP)


def test_goes_on_sending() -> None:
    """The RFC: "BFD Control packets SHOULD be transmitted for at least a Detection Time after transitioning to AdminDown": they
    go on for as long as it lasts.
    """
    rig = Rig().up()
    rig.engine.set_admin_down(rig.now, (), down=True)
    sent = rig.advance(60 * SECOND)
    assert len(sent) >= 59
    assert {packet.state for packet in sent} == {ADMIN_DOWN}


def test_enable() -> None:
    """AdminDown ends in Down, from where the session comes up again by itself."""
    rig = Rig().up()
    rig.engine.set_admin_down(rig.now, (), down=True)
    rig.advance(SECOND)
    rig.engine.set_admin_down(rig.now, (), down=False)
    rig.drain()
    assert (rig.s.state, rig.s.admin_down) == (DOWN, False)
    assert rig.sent[-1].state == DOWN
    rig.hear(DOWN)
    rig.hear(INIT)
    assert rig.s.state is UP


def test_idempotent() -> None:
    """Saying it twice changes and sends nothing more."""
    rig = Rig().up()
    for down in (True, False):
        rig.engine.set_admin_down(rig.now, (), down=down)
        rig.drain()
        before = rig.image()
        rig.engine.events.clear()
        rig.engine.set_admin_down(rig.now, (), down=down)
        rig.drain()
        assert rig.image() == before
        assert rig.engine.events == []


def test_enable_what_is_up() -> None:
    """Enabling a session that is not disabled does nothing to it."""
    rig = Rig().up()
    before = rig.image()
    rig.engine.set_admin_down(rig.now, (), down=False)
    rig.drain()
    assert rig.image() == before


@pytest.mark.parametrize("diagnostic", [Diagnostic.PATH_DOWN, Diagnostic.CONCATENATED_PATH_DOWN])
def test_reason(diagnostic: Diagnostic) -> None:
    """The diagnostic that was asked for is sent, and can be changed while down."""
    rig = Rig().up()
    rig.engine.set_admin_down(rig.now, (), down=True, diagnostic=diagnostic, reason="uplink")
    rig.drain()
    assert rig.sent[-1].diagnostic == diagnostic
    assert rig.s.admin_reason == "uplink"
    rig.engine.set_admin_down(rig.now, (), down=True)
    rig.drain()
    assert rig.sent[-1].diagnostic == Diagnostic.ADMINISTRATIVELY_DOWN


def test_one_peer_only() -> None:
    """Naming a peer leaves the others alone, and those to come."""
    rig = Rig().up()
    other = rig.engine.put(rig.now, "test", checked(SessionConfig(LOCAL, "192.0.2.3")))
    rig.engine.set_admin_down(rig.now, ["192.0.2.3"], down=True)
    assert (rig.s.state, other.state) == (UP, ADMIN_DOWN)
    later = rig.engine.put(rig.now, "test", checked(SessionConfig("192.0.2.9", "192.0.2.3")))
    assert later.state is DOWN


def test_all_and_those_to_come() -> None:
    """Naming no peer holds sessions made later too, until it is taken back."""
    rig = Rig().up()
    rig.engine.set_admin_down(rig.now, (), down=True, diagnostic=Diagnostic.PATH_DOWN)
    later = rig.engine.put(rig.now, "test", checked(SessionConfig(LOCAL, "192.0.2.3")))
    assert (later.state, later.diagnostic) == (ADMIN_DOWN, Diagnostic.PATH_DOWN)
    rig.engine.set_admin_down(rig.now, (), down=False)
    assert later.state is DOWN
    assert rig.engine.put(rig.now, "test", checked(SessionConfig(LOCAL, "192.0.2.4"))).state is DOWN


def test_retune_while_down() -> None:
    """New timers do not end AdminDown."""
    rig = Rig().up()
    rig.engine.set_admin_down(rig.now, (), down=True)
    rig.retune(tx=50 * MS)
    assert rig.s.state is ADMIN_DOWN


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_deleted(state: State) -> None:
    """A session that is deleted says AdminDown at once and for a detection time if it has a peer, then is silent; its
    discriminator finds nothing from the first moment, and what the peer sends revives nothing.
    """
    rig = Rig().reach(state)
    mine = rig.s.local_discriminator
    sent = len(rig.sent)
    rig.engine.events.clear()
    rig.engine.end(rig.now, rig.s.id)
    rig.drain()
    assert rig.engine.events == [Ended(rig.s.id)]
    assert rig.engine.views() == []
    if state in (INIT, UP):
        assert [packet.state for packet in rig.sent[sent:]] == [ADMIN_DOWN]
        assert len(rig.advance(SECOND)) >= 1
    assert rig.raw(wire(UP, yours=mine)) is not None
    assert rig.raw(wire(DOWN)) is not None
    rig.advance(20 * SECOND)
    assert rig.advance(60 * SECOND) == []
    assert rig.engine.gone == [rig.s]


def test_deleted_and_made_anew() -> None:
    """The same name again is another session: another id, another discriminator, Down."""
    rig = Rig().up()
    old = rig.s
    rig.engine.end(rig.now, old.id)
    new = rig.engine.put(rig.now, "test", rig.config)
    assert new.id > old.id
    assert new.local_discriminator not in (0, old.local_discriminator)
    assert new.state is DOWN
    rig.s = new
    rig.sent.clear()
    rig.hear(DOWN)
    rig.hear(INIT)
    assert new.state is UP
    rig.keep_up(20 * SECOND)
    assert new.state is UP


def test_demultiplexing_of_many() -> None:
    """Section 6.3: among many sessions a packet changes the one that it names and no other."""
    rig = Rig()
    engine = rig.engine
    others = [
        engine.put(
            rig.now,
            "test",
            checked(SessionConfig(f"192.0.2.{10 + n % 5}", f"198.51.100.{1 + n}", role=Role.PASSIVE)),
        )
        for n in range(200)
    ]
    assert len({s.local_discriminator for s in others} | {0, rig.s.local_discriminator}) == 202
    engine.events.clear()
    rig.hear(DOWN, yours=0)
    rig.hear(INIT)
    changed = {event.view.id for event in engine.events if isinstance(event, Changed)}
    assert changed == {rig.s.id}
    assert {s.state for s in others} == {DOWN}
    chosen = others[57]
    assert rig.raw(wire(DOWN), source=chosen.config.peer, destination=chosen.config.local) is None
    assert [s for s in others if s.state is not DOWN] == [chosen]
    assert rig.raw(wire(DOWN), source=chosen.config.peer, destination=PEER) is not None


@pytest.mark.parametrize("state", [DOWN, INIT, UP], ids=lambda s: s.name)
def test_silent_first(state: State) -> None:
    """Taken down silently, nothing leaves until a second after the peer's detection time is over, not even an answer to a
    Poll; then AdminDown does, for as long as it lasts. One that is not up at this end says it once before, for the peer
    may think otherwise, and with it how soon its silence means something.
    """
    rig = Rig().reach(state)
    timers = rig.s.config.timers
    quiet = timers.multiplier * max(timers.min_tx_us, rig.s.remote_min_rx_us) + SECOND
    first = len(rig.sent)
    rig.engine.set_admin_down(rig.now, (), down=True, diagnostic=Diagnostic.PATH_DOWN, silent_first=True)
    rig.drain()
    said = [(one.state, one.diagnostic, one.min_tx) for one in rig.sent[first:]]
    assert said == [(ADMIN_DOWN, Diagnostic.PATH_DOWN, timers.min_tx_us)] * (state is not UP)
    before = len(rig.sent)
    rig.hear(UP, flags="P")
    rig.hear(DOWN)
    rig.advance(quiet - MS)
    assert (rig.s.state, rig.s.admin_down) == (ADMIN_DOWN, True)
    assert len(rig.sent) == before
    sent = rig.advance(2 * SECOND)
    assert {(packet.state, packet.diagnostic) for packet in sent} == {(ADMIN_DOWN, Diagnostic.PATH_DOWN)}


def test_silent_first_when_it_is_down_already() -> None:
    """What has said AdminDown goes on saying it."""
    loud, silent = Rig().reach(ADMIN_DOWN), Rig().reach(ADMIN_DOWN)
    for rig in (loud, silent):
        rig.engine.set_admin_down(rig.now, (), down=True, silent_first=rig is silent)
        rig.drain()
    assert [packet.state for packet in silent.sent] == [packet.state for packet in loud.sent]
    assert silent.s.next_tx == loud.s.next_tx


def test_silence_ends_with_the_withdrawal() -> None:
    """Allowed up again in the middle of its silence, a session speaks at once."""
    rig = Rig().up()
    rig.engine.set_admin_down(rig.now, (), down=True, silent_first=True)
    rig.advance(MS)
    rig.engine.set_admin_down(rig.now, (), down=False)
    rig.drain()
    assert rig.sent[-1].state == DOWN
    rig.hear(DOWN)
    rig.hear(INIT)
    assert rig.s.state is UP
