"""One engine with one session, a peer made of bare packets, and a clock that the test turns.

The peer's bytes are written here by hand and what we send is read here by hand, so that a mistake in the codec can not
hide itself.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import NamedTuple

from veg_bfd.core.engine import Engine
from veg_bfd.core.model import Arrival, Role, SessionConfig, State, Timers, checked
from veg_bfd.core.packet import Discard
from veg_bfd.core.session import Session

ADMIN_DOWN, DOWN, INIT, UP = State.ADMIN_DOWN, State.DOWN, State.INIT, State.UP
STATES = (ADMIN_DOWN, DOWN, INIT, UP)
MS = 1_000
SECOND = 1_000_000
MAX = 2**32 - 1
LOCAL, PEER = "192.0.2.1", "192.0.2.2"
PEER_DISCRIMINATOR = 0xCAFE0001


class Sent(NamedTuple):
    """A control packet as RFC 5880 section 4.1 draws it; times in µs."""

    version: int
    diagnostic: int
    state: int
    poll: bool
    final: bool
    control_plane_independent: bool
    authentication: bool
    demand: bool
    multipoint: bool
    multiplier: int
    length: int
    mine: int
    yours: int
    min_tx: int
    min_rx: int
    min_echo_rx: int


def parse(data: bytes) -> Sent:
    """Read 24 bytes."""
    first, second, multiplier, length, *numbers = struct.unpack("!BBBBIIIII", data)
    flags = (bool(second >> bit & 1) for bit in range(5, -1, -1))
    return Sent._make((first >> 5, first & 31, second >> 6, *flags, multiplier, length, *numbers))


def wire(
    state: int = DOWN,
    *,
    mine: int = PEER_DISCRIMINATOR,
    yours: int = 0,
    tx: int = SECOND,
    rx: int = SECOND,
    echo: int = 0,
    mult: int = 3,
    diagnostic: int = 0,
    flags: str = "",
    version: int = 1,
    length: int = 24,
    tail: bytes = b"",
) -> bytes:
    """Bytes of a control packet; `flags` are letters of "PFCADM"."""
    bits = sum(1 << 5 - "PFCADM".index(flag) for flag in flags)
    first, second = version << 5 | diagnostic, state << 6 | bits
    return struct.pack("!BBBBIIIII", first, second, mult, length, mine, yours, tx, rx, echo) + tail


class Rig:
    """The engine under test, its session `s` between LOCAL and PEER, and time."""

    def __init__(
        self,
        *,
        tx: int = 100 * MS,
        rx: int = 100 * MS,
        mult: int = 3,
        role: Role = Role.ACTIVE,
        min_ttl: int = 255,
        interface: str = "",
        seed: int = 1,
    ) -> None:
        self.now = 5 * SECOND
        self.engine = Engine(random.Random(seed))  # noqa: S311 - repeatable
        self.config = checked(SessionConfig(LOCAL, PEER, Timers(rx, tx, mult), interface, min_ttl, role))
        self.s: Session = self.engine.put(self.now, "test", self.config)
        self.sent: list[Sent] = []
        self.peer: dict[str, int] = {"tx": SECOND, "rx": SECOND, "mult": 3}

    def retune(self, *, tx: int = 100 * MS, rx: int = 100 * MS, mult: int = 3) -> None:
        """Give the session other timers."""
        config = self.config
        timers = Timers(rx, tx, mult)
        self.config = SessionConfig(
            config.local, config.peer, timers, config.interface, config.min_ttl, config.role
        )
        self.engine.put(self.now, "test", self.config)
        self.drain()

    def raw(
        self,
        data: bytes,
        *,
        source: str = PEER,
        destination: str = LOCAL,
        ttl: int = 255,
        interface: str = "e0",
    ) -> Discard | None:
        """Bytes arrive; why they were discarded, or None."""
        outcome = self.engine.receive(self.now, data, Arrival(source, destination, ttl, interface))
        self.drain()
        return outcome

    def hear(self, state: int, *, flags: str = "", yours: int | None = None, **fields: int) -> list[Sent]:
        """A good packet of the peer arrives, with its present timers; what we send at once."""
        for name in ("tx", "rx", "mult"):
            self.peer[name] = fields.get(name, self.peer[name])
        before = len(self.sent)
        named = self.s.local_discriminator if yours is None else yours
        outcome = self.raw(wire(state, yours=named, flags=flags, **{**self.peer, **fields}))  # type: ignore[arg-type]
        assert outcome is None, f"discarded: {outcome}"
        return self.sent[before:]

    def advance(self, by: int) -> list[Sent]:
        """Time passes, step by step through every deadline; what we send meanwhile."""
        before = len(self.sent)
        for _ in self.steps(by):
            pass
        return self.sent[before:]

    def steps(self, by: int) -> Iterator[int]:
        """The same; yields the time after each step at which something was due."""
        end = self.now + by
        while True:
            due = self.engine.next_deadline()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.engine.advance(self.now)
            self.drain()
            yield self.now
        self.now = end
        self.engine.advance(self.now)
        self.drain()

    def drain(self) -> None:
        """Take what the engine has for the socket."""
        self.sent.extend(parse(data) for _, data in self.engine.outbox)
        self.engine.outbox.clear()

    def reach(self, state: State) -> Rig:
        """Bring the session into a state, from its first packet on."""
        if state is ADMIN_DOWN:
            self.engine.set_admin_down(self.now, (), down=True)
        if state in (INIT, UP):
            self.hear(DOWN, yours=0)
        if state is UP:
            self.hear(INIT)
        self.drain()
        assert self.s.state is state
        return self

    def up(self, **peer: int) -> Rig:
        """Up, with every Poll Sequence of the way there finished; the peer's timers as given (µs)."""
        self.peer.update(peer)
        self.reach(UP)
        self.keep_up(SECOND // 2)
        for _ in range(4):
            if not self.s.polling:
                break
            self.hear(UP, flags="F")
            self.keep_up(int(self.s.tx_interval_us * 1.5))
        self.hear(UP)
        assert self.s.state is UP
        assert not self.s.polling
        return self

    def keep_up(self, by: int) -> list[Sent]:
        """Time passes while the peer speaks often enough; what we send meanwhile."""
        before = len(self.sent)
        while by > 0:
            self.hear(UP)  # which may shorten the detection time
            step = max(1, self.s.detection_time_us // 4)
            self.advance(min(step, by))
            by -= step
        return self.sent[before:]

    def image(self) -> tuple[object, ...]:
        """Everything that a packet which is not the session's must not change."""
        s = self.s
        return (
            *(s.state, s.diagnostic, s.since, s.remote_state, s.remote_diagnostic, s.remote_discriminator),
            *(s.remote_min_rx_us, s.remote_min_tx_us, s.remote_multiplier, s.remote_demand),
            *(s.tx_interval_us, s.detection_time_us, s.detect_deadline, s.next_tx, s.polling, s.heard),
            *(s.rx_packets, s.tx_packets, s.downs, s.local_discriminator, len(self.sent)),
        )
