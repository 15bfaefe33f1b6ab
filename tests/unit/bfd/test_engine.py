"""The table of sessions: names, owners, demultiplexing, heaps. The state machine has its tests by RFC section."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from veg_bfd.core.engine import Engine
from veg_bfd.core.model import Arrival, Changed, Ended, Role, SessionConfig, State, Timers
from veg_bfd.core.packet import Discard, Packet, encode
from veg_bfd.core.session import Session
from veg_bfd.errors import OwnerError

MS = 1000
S = 1_000_000
FAST = Timers(50 * MS, 50 * MS, 3)
A, B = "10.0.0.1", "10.0.0.2"
CONFIG = SessionConfig(A, B, FAST)


def engine(seed: int = 1) -> Engine:
    return Engine(random.Random(seed))  # noqa: S311 (jitter)


@dataclass
class Wire:
    """Two engines and an ideal link between them; `cut` loses everything."""

    a: Engine = field(default_factory=lambda: engine(1))
    b: Engine = field(default_factory=lambda: engine(2))
    now: int = 0
    cut: bool = False

    def carry(self) -> None:
        for _ in range(4):
            for source, target in ((self.a, self.b), (self.b, self.a)):
                packets = list(source.outbox)
                source.outbox.clear()
                for session, data in packets:
                    if not self.cut:
                        target.receive(
                            self.now, data, Arrival(session.config.local, session.config.peer, 255, "e")
                        )

    def run(self, until: int) -> None:
        while True:
            self.a.advance(self.now)
            self.b.advance(self.now)
            self.carry()
            due = [d for d in (self.a.next_deadline(), self.b.next_deadline()) if d is not None]
            if not due or min(due) > until:
                break
            self.now = max(self.now + 1, *[min(due)])
        self.now = until

    def up(self, timers: Timers = FAST) -> tuple[Session, Session]:
        one = self.a.put(self.now, "x", replace(CONFIG, timers=timers))
        two = self.b.put(self.now, "x", SessionConfig(B, A, timers, role=Role.PASSIVE))
        self.run(self.now + 3 * S)
        assert (one.state, two.state) == (State.UP, State.UP)
        return one, two


def states(target: Engine) -> list[State]:
    """The states that events told, in order; the events are taken."""
    told = [State(event.view.state) for event in target.events if isinstance(event, Changed)]
    target.events.clear()
    return told


def test_ids_and_discriminators() -> None:
    """Ids are 1, 2, 3 and never used again; discriminators are unique and not zero."""
    table = engine()
    made = [table.put(0, "x", SessionConfig(A, f"10.0.1.{n}", FAST)) for n in range(1, 200)]
    table.end(0, 199)
    made.append(table.put(0, "x", SessionConfig(A, "10.0.1.199", FAST)))
    assert [session.id for session in made] == list(range(1, 201))
    numbers = {session.local_discriminator for session in made}
    assert len(numbers) == 200
    assert 0 not in numbers


def test_discriminator_that_is_remembered() -> None:
    """A discriminator asked for is given, unless it is in use or none at all."""
    table = engine()
    first = table.put(0, "x", CONFIG, 77)
    others = [
        table.put(0, "x", SessionConfig(A, f"10.0.1.{n}"), d) for n, d in ((1, 77), (2, 0), (3, 1 << 32))
    ]
    assert first.local_discriminator == 77
    assert all(s.local_discriminator not in {0, 77, 1 << 32} for s in others)


def test_set_sessions() -> None:
    """What is new is made, what is missing ends, what is there keeps its identity; other owners are not touched."""
    table = engine()
    other = table.put(0, "y", SessionConfig(A, "10.9.9.9"))
    first, second = table.set_sessions(0, "x", [CONFIG, SessionConfig(A, "10.0.0.3")])
    after = table.set_sessions(
        1, "x", [replace(CONFIG, timers=Timers(1 * S, 2 * S, 5)), SessionConfig(A, "10.0.0.4")]
    )
    assert after[0] is first
    assert first.config.timers.multiplier == 5
    assert set(table.sessions()) == {other, first, after[1]}
    assert Ended(second.id) in table.events


def test_owner_conflict_changes_nothing() -> None:
    """A request with another owner's session is refused as a whole."""
    table = engine()
    table.put(0, "y", CONFIG)
    with pytest.raises(OwnerError, match="belongs to y"):
        table.set_sessions(0, "x", [SessionConfig(A, "10.0.0.3"), CONFIG])
    assert [s.owner for s in table.sessions()] == ["y"]


def test_ended_session_says_goodbye_and_goes() -> None:
    """AdminDown for a detection time, then nothing, and its resources can be freed; the peer is Down."""
    link = Wire()
    one, two = link.up()
    link.a.end(link.now, one.id)
    link.carry()
    assert two.state is State.DOWN
    assert two.remote_state is State.ADMIN_DOWN
    before = one.tx_packets
    link.run(link.now + 20 * S)
    assert one.tx_packets >= before + 2
    assert link.a.gone == [one]
    after = one.tx_packets
    link.run(link.now + 20 * S)
    assert one.tx_packets == after
    assert link.a.next_deadline() is None


def test_ended_before_anyone_heard_it() -> None:
    """Nobody to say goodbye to: gone at once."""
    table = engine()
    session = table.put(0, "x", CONFIG)
    table.end(0, session.id)
    table.end(0, session.id)
    assert table.gone == [session]


def test_made_again_at_once() -> None:
    """A session that returns takes the place of the one that says goodbye, and comes up."""
    link = Wire()
    one, _ = link.up()
    link.a.end(link.now, one.id)
    again = link.a.put(link.now, "x", CONFIG)
    assert link.a.gone == [one]
    link.run(link.now + 3 * S)
    assert again.state is State.UP


def test_hold_of_all_and_later_sessions() -> None:
    """A hold without peers holds for sessions made later; releasing it releases all."""
    table = engine()
    first = table.put(0, "x", CONFIG)
    table.set_admin_down(0, (), down=True, reason="draining", diagnostic=5)
    second = table.put(0, "x", SessionConfig(A, "10.0.0.3"))
    assert [(s.state, s.diagnostic, s.admin_reason) for s in (first, second)] == [
        (State.ADMIN_DOWN, 5, "draining")
    ] * 2
    table.set_admin_down(0, (), down=False)
    assert [s.state for s in (first, second)] == [State.DOWN, State.DOWN]
    assert table.put(0, "x", SessionConfig(A, "10.0.0.4")).state is State.DOWN


def test_hold_of_a_peer() -> None:
    """A hold with peers concerns these alone."""
    table = engine()
    first, second = table.set_sessions(0, "x", [CONFIG, SessionConfig(A, "10.0.0.3")])
    assert table.set_admin_down(0, {B}, down=True) == [first]
    assert (first.state, second.state) == (State.ADMIN_DOWN, State.DOWN)


def test_events_tell_every_change() -> None:
    """Made, up, expired (with how late that was noticed), ended; in order."""
    link = Wire()
    one, _ = link.up()
    assert states(link.a)[-1] is State.UP
    link.cut = True
    late = one.last_rx + one.detection_time_us + 7
    link.a.advance(late)
    (event,) = [e for e in link.a.events if isinstance(e, Changed)]
    assert (event.previous, event.view.state, event.late_us) == (State.UP, State.DOWN, 7)
    link.a.end(late, one.id)
    assert link.a.events[-1] == Ended(one.id)


@pytest.mark.parametrize(
    ("arrival", "reason"),
    [
        (Arrival("10.0.0.9", A, 255, "e0"), Discard.ADDRESS),
        (Arrival(B, "10.0.0.9", 255, "e0"), Discard.ADDRESS),
        (Arrival(B, A, 255, "e1"), Discard.INTERFACE),
        (Arrival(B, A, 252, "e0"), Discard.TTL),
    ],
    ids=["source", "destination", "interface", "ttl"],
)
def test_packet_of_someone_else(arrival: Arrival, reason: Discard) -> None:
    """A right discriminator from a wrong place moves nothing, also when the right packet came before."""
    table = engine()
    session = table.put(0, "x", replace(CONFIG, interface="e0", min_ttl=253))
    packets = [
        encode(Packet(state, 9, session.local_discriminator, S, S)) for state in (State.INIT, State.UP)
    ]
    for data in packets * 2:
        assert table.receive(1, data, Arrival(B, A, 253, "e0")) is None
    before = session.last_rx
    assert table.receive(2, packets[1], arrival) is reason
    assert (session.state, session.last_rx, session.rx_discarded) == (State.UP, before, 1)
    assert (table.discards[reason], table.unknown) == (1, 0)


def test_unknown_packets_are_counted() -> None:
    """Packets that name no session."""
    table = engine()
    arrival = Arrival(B, A, 255, "e0")
    assert table.receive(0, b"", arrival) is Discard.TOO_SHORT
    assert table.receive(0, encode(Packet(State.UP, 1, 5)), arrival) is Discard.YOUR_DISCRIMINATOR
    assert table.receive(0, encode(Packet(State.DOWN, 1)), arrival) is Discard.NO_SESSION
    assert table.unknown == 3


def test_allow() -> None:
    """The first packet of an allowed peer makes a session; others make none, nor does one from too far away."""
    table = engine()
    table.allow(B, "manual", SessionConfig("", "", FAST, role=Role.PASSIVE))
    data = encode(Packet(State.DOWN, 1, 0, S, S))
    assert table.receive(0, data, Arrival("10.0.0.3", A, 255, "")) is Discard.NO_SESSION
    assert table.receive(0, data, Arrival(B, A, 254, "")) is Discard.NO_SESSION
    assert table.receive(0, data, Arrival(B, A, 255, "")) is None
    (session,) = table.sessions()
    assert (session.owner, session.state, session.config.key) == ("manual", State.INIT, (A, B))
    table.block(B)
    assert table.receive(0, data, Arrival(B, "10.0.0.7", 255, "")) is Discard.NO_SESSION


def test_steady_path_ends_with_any_change() -> None:
    """The same bytes as last time are looked at again after the session changed."""
    link = Wire()
    one, two = link.up()
    data = encode(
        Packet(State.UP, two.local_discriminator, one.local_discriminator, 50 * MS, 50 * MS, multiplier=3)
    )
    arrival = Arrival(B, A, 255, "e")
    assert link.a.receive(link.now, data, arrival) is None
    link.a.put(link.now, "x", replace(one.config, min_ttl=200))
    link.a.put(link.now, "x", replace(one.config, min_ttl=255))
    assert link.a.receive(link.now, data, arrival._replace(ttl=254)) is Discard.TTL
    link.a.set_admin_down(link.now, (), down=True)
    link.a.receive(link.now, data, arrival)
    assert one.state is State.ADMIN_DOWN


def test_heaps_stay_small() -> None:
    """A peer that changes its intervals with every packet does not fill memory with outdated timers."""
    link = Wire()
    one, two = link.up()
    for step in range(20_000):
        interval = 3_000 * S if step % 2 else 10 * MS
        packet = Packet(State.UP, two.local_discriminator, one.local_discriminator, interval, interval)
        link.now += MS
        link.a.receive(link.now, encode(packet), Arrival(B, A, 255, "e"))
        link.a.advance(link.now)
        link.a.outbox.clear()
    assert len(link.a._tx) + len(link.a._detect) < 500


def test_clock_jump_is_no_burst() -> None:
    """After hours without the processor a session sends one packet and is declared down once."""
    link = Wire()
    one, _ = link.up()
    states(link.a)
    sent = one.tx_packets
    link.a.outbox.clear()
    link.a.advance(link.now + 3600 * S)
    assert states(link.a) == [State.DOWN]
    assert one.tx_packets <= sent + 2


def test_caller_may_forbid_expiry() -> None:
    """Without `expire` periodic packets go on and no session goes down."""
    link = Wire()
    one, _ = link.up()
    later = link.now + 10 * S
    assert link.a.overdue(later)
    link.a.advance(later, expire=False)
    assert one.state is State.UP
    assert link.a.next_deadline(later + 5) == later + 5 or link.a.next_deadline(later + 5) == one.next_tx
    link.a.advance(later)
    assert states(link.a)[-1:] == [State.DOWN]
