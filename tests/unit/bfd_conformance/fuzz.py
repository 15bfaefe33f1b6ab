"""Hostile packets by the hundred thousand, against an engine of many sessions. Deterministic for a seed.

An attacker on the link knows everything but what travels inside our sessions' packets: he forges lengths, versions,
flags, intervals, addresses, TTLs, and discriminators near and far from real ones. Two kinds of session are watched:

- *bystanders*, whose addresses he never uses together: nothing he sends may change them in any way;
- *targets*, to whom he sends with the right addresses, TTL and sometimes discriminators, so that everything that may
  follow a valid packet does follow. They may change state; they must stay sane.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from veg_bfd.core.engine import Engine
from veg_bfd.core.model import Arrival, Role, SessionConfig, State, Timers, View, checked
from veg_bfd.core.packet import Discard
from veg_bfd.core.session import Session

from tests.unit.bfd_conformance.rig import MAX, MS, SECOND, parse, wire

LOCAL = "198.51.100.1"
EDGES = (0, 1, 2, 999, 1000, 50_000, SECOND, 2**31 - 1, 2**31, MAX - 1, MAX)


@dataclass
class Outcome:
    """What a run saw: packets by outcome, and states that targets were in."""

    outcomes: Counter[Discard | None] = field(default_factory=Counter)
    states: Counter[State] = field(default_factory=Counter)
    answers: int = 0


class Attack:
    """The engine with its sessions, and the attacker."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - repeatable
        self.now = SECOND
        self.engine = Engine(random.Random(seed + 1))  # noqa: S311 - repeatable
        self.targets = [self._make(f"203.0.113.{n}", n) for n in range(1, 9)]
        self.bystanders = [self._make(f"203.0.113.{n}", n) for n in range(101, 109)]
        self.seen = Outcome()
        for session in self.bystanders[:4]:
            self._bring_up(session)
        self.engine.outbox.clear()
        self.engine.events.clear()

    def _make(self, peer: str, number: int) -> Session:
        role = (Role.ACTIVE, Role.PASSIVE)[number % 2]
        timers = Timers(50 * MS, 50 * MS, 1 + number % 3)
        config = SessionConfig(LOCAL, peer, timers, "e0" if number % 3 == 0 else "", 254, role)
        return self.engine.put(self.now, "fuzz", checked(config))

    def _bring_up(self, session: Session) -> None:
        arrival = Arrival(session.config.peer, LOCAL, 255, "e0")
        for state in (State.DOWN, State.INIT, State.UP):
            yours = session.local_discriminator if state is not State.DOWN else 0
            assert self.engine.receive(self.now, wire(state, mine=9, yours=yours, tx=MAX), arrival) is None
        assert session.state is State.UP

    def run(self, count: int) -> Outcome:
        """Send `count` packets. Time stands still for bystanders; AssertionError when one changes."""
        before = [self._image(session.view()) for session in self.bystanders]
        for number in range(count):
            data, arrival = self._packet()
            outcome = self.engine.receive(self.now, data, arrival)
            self.seen.outcomes[outcome] += 1
            if number % 64 == 0:
                self._look()
            if number % 4096 == 0:
                assert [self._image(session.view()) for session in self.bystanders] == before
        self._look()
        assert [self._image(session.view()) for session in self.bystanders] == before
        assert len(self.engine.views()) == len(self.targets) + len(self.bystanders), (
            "a session was made or lost"
        )
        return self.seen

    @staticmethod
    def _image(view: View) -> View:
        # Packets that name a session and break a rule are counted; nothing else may change. What it sends by itself
        # while time passes is no change either.
        return view._replace(rx_discarded=0, tx_packets=0)

    def _look(self) -> None:
        """Every packet that leaves is a valid one to the right peer, and every target is sane."""
        self.now += self.random.choice((0, 1, 100, MS, 20 * MS))
        self.engine.advance(self.now)
        for session, data in self.engine.outbox:
            sent = parse(data)
            assert sent[:1] + sent[9:12] == (
                1,
                session.config.timers.multiplier,
                24,
                session.local_discriminator,
            )
            assert not (sent.poll and sent.final)
            assert not any((sent.authentication, sent.demand, sent.multipoint, sent.min_echo_rx))
            assert sent.min_rx == session.config.timers.min_rx_us
        self.seen.answers += len(self.engine.outbox)
        self.engine.outbox.clear()
        self.engine.events.clear()
        for session in self.targets:
            self.seen.states[session.state] += 1
            assert session.state is not State.ADMIN_DOWN, "an attacker cannot disable a session"
            assert 0 <= session.detection_time_us <= 255 * MAX
            assert 0 < session.tx_interval_us <= MAX
            assert session.state is not State.UP or session.remote_discriminator
        due = self.engine.next_deadline()
        assert due is None or due > self.now - SECOND, "the engine is behind"

    def _packet(self) -> tuple[bytes, Arrival]:
        rnd = self.random
        kind = rnd.random()
        arrival = self._arrival()
        if kind < 0.1:
            return rnd.randbytes(rnd.choice((0, 1, 3, 23, 24, 25, 26, 52, 255))), arrival
        data = bytearray(self._plausible())
        if kind < 0.45:  # a good packet with some bytes changed
            for _ in range(rnd.randint(1, 4)):
                data[rnd.randrange(24)] = rnd.choice(
                    (0, 1, 0x20, 0x40, 0x7F, 0x80, 0xC0, 0xFF, rnd.randrange(256))
                )
        elif kind < 0.5:
            del data[rnd.randrange(24) :]
        elif kind < 0.55:
            data += rnd.randbytes(rnd.randint(1, 80))
        return bytes(data), arrival

    def _plausible(self) -> bytes:
        rnd = self.random
        target = rnd.choice(self.targets)
        near = target.local_discriminator ^ (1 << rnd.randrange(32))
        yours = rnd.choice(
            (0, 0, target.local_discriminator, target.local_discriminator, near, rnd.choice(EDGES))
        )
        if rnd.random() < 0.05:
            yours = rnd.choice(self.bystanders).local_discriminator
        flags = "".join(flag for flag in "PFCAD" if rnd.random() < 0.15)
        secret = rnd.randbytes(2) if "A" in flags else b""
        return wire(
            rnd.randrange(4),
            mine=rnd.choice((1, MAX, target.local_discriminator, rnd.randrange(MAX))),
            yours=yours,
            tx=rnd.choice(EDGES),
            rx=rnd.choice(EDGES),
            echo=rnd.choice(EDGES),
            mult=rnd.choice((0, 1, 3, 255)) if rnd.random() < 0.1 else 3,
            diagnostic=rnd.randrange(32),
            flags=flags,
            length=rnd.choice((0, 23, 25, 26, 255)) if rnd.random() < 0.05 else 24 + len(secret),
            tail=secret,
        )

    def _arrival(self) -> Arrival:
        rnd = self.random
        interface = rnd.choice(("e0", "e0", "e0", "e1", ""))
        if rnd.random() < 0.7:
            ttl = 255 if rnd.random() < 0.9 else rnd.randrange(256)
            return Arrival(rnd.choice(self.targets).config.peer, LOCAL, ttl, interface)
        if rnd.random() < 0.3:  # a bystander's addresses, from too far away
            return Arrival(rnd.choice(self.bystanders).config.peer, LOCAL, rnd.randrange(254), interface)
        source = rnd.choice(("0.0.0.0", LOCAL, "255.255.255.255", "203.0.113.200", "::", "fe80::1", ""))
        destination = rnd.choice((LOCAL, "198.51.100.2", "203.0.113.101", "224.0.0.1", ""))
        return Arrival(source, destination, 255, interface)
