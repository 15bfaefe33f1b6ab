"""One BFD session: the state machine of RFC 5880 section 6.8, asynchronous mode, no echo, no authentication.

Pure: every method that happens at a time takes `now` (µs). A method that returns `bytes | None` returns the packet
that has to leave at once. Periodic packets are fetched with `transmit` when `next_tx` is reached; `expire` is called
when `detect_deadline` is. `Engine` does both, knows which packet belongs to which session, and is what callers use.

Departures from the RFC, each on purpose (README.md says why): a passive session waits for its peer's first packet
for one interval only, and is never silent after it; a peer that fell silent is forgotten wholly, not only its
discriminator; a change of intervals starts a Poll Sequence only while Up; before both ends are Up the peer is expected
no faster than once a second; a session that is to end soonest falls silent, after one AdminDown if it is not Up.
"""

from __future__ import annotations

import random

from veg_bfd.core.model import SLOW_TX_US, Diagnostic, Role, SessionConfig, State, View
from veg_bfd.core.packet import FINAL, POLL, Packet, encode

# How much longer than the peer's detection time a session is silent before it says AdminDown.
_MARGIN_US = 1_000_000


class Session:
    """The state variables of section 6.8.1 and the procedures on them.

    `id`, `owner`, `rx_packets`, `rx_discarded` and the attributes with a leading "armed" or "steady" are the
    engine's; `channel` is free for whoever sends the packets.
    """

    __slots__ = (
        "_advertised_rx",
        "_advertised_tx",
        "_packet",
        "_plain",
        "_poll_sent",
        "_random",
        "_rx_in_use",
        "_spread",
        "_tx_in_use",
        "admin_down",
        "admin_reason",
        "armed_detect",
        "armed_tx",
        "channel",
        "config",
        "detection_time_us",
        "diagnostic",
        "downs",
        "heard",
        "id",
        "last_rx",
        "last_tx",
        "leaves_at",
        "local_discriminator",
        "next_tx",
        "owner",
        "polling",
        "remote_demand",
        "remote_diagnostic",
        "remote_discriminator",
        "remote_min_rx_us",
        "remote_min_tx_us",
        "remote_multiplier",
        "remote_state",
        "rx_discarded",
        "rx_packets",
        "silent_until",
        "since",
        "state",
        "steady",
        "steady_key",
        "tx_interval_us",
        "tx_packets",
    )

    def __init__(
        self,
        now: int,
        config: SessionConfig,
        discriminator: int,
        rng: random.Random,
    ) -> None:
        self.id = 0
        self.owner = ""
        self.config = config
        self.local_discriminator = discriminator
        self._random = rng.random
        self.state = State.DOWN
        self.diagnostic: int = Diagnostic.NONE
        self.since = now
        self.admin_down = False
        self.admin_reason = ""
        self.polling = False
        self._poll_sent = False
        self.heard = False
        self.remote_diagnostic: int = Diagnostic.NONE
        self._forget_peer()
        self.last_rx = self.last_tx = now
        self.next_tx: int | None = None
        self.tx_interval_us = self.detection_time_us = 0
        self.downs = self.tx_packets = self.rx_packets = self.rx_discarded = 0
        self.channel: object = None
        self.leaves_at: int | None = None
        self.silent_until = now
        self.armed_tx: int | None = None
        self.armed_detect: int | None = None
        self.steady = False
        self.steady_key = b""
        self._tx_in_use = self._advertised_tx = 0
        self._rx_in_use = self._advertised_rx = 0
        self._plain = self._packet = b""
        self._advertise()
        self._rebuild()
        self._schedule(now)
        if config.role is Role.ACTIVE:
            self.next_tx = now  # the first packet waits for nothing

    # What others may ask and do -----------------------------------------------------------------------------

    @property
    def detect_deadline(self) -> int | None:
        """When the detection time ends unless another packet comes; None while no peer is known."""
        return self.last_rx + self.detection_time_us if self.detection_time_us else None

    def receive(self, now: int, packet: Packet) -> bytes | None:
        """Take a packet that passed every discard rule (section 6.8.6, from "Set bfd.RemoteDiscr" on)."""
        self.steady = False
        self.last_rx = now
        self.heard = True
        self.remote_discriminator = packet.my_discriminator
        self.remote_state = packet.state
        self.remote_diagnostic = packet.diagnostic
        self.remote_demand = packet.demand
        self.remote_min_rx_us = packet.min_rx_us
        self.remote_min_tx_us = packet.min_tx_us
        self.remote_multiplier = packet.multiplier
        # "If a Poll Sequence is being transmitted by the local system and the Final (F) bit in the received packet is
        # set, the Poll Sequence MUST be terminated." A Final that comes before the first Poll answers an older one.
        if self.polling and packet.final and self._poll_sent:
            self._end_poll()
        if self.state is State.ADMIN_DOWN:
            return self._flush(now)  # "If bfd.SessionState is AdminDown, discard the packet"
        self._transition(now, packet.state)
        return self._flush(now, final=packet.poll)

    def expire(self, now: int) -> bytes | None:
        """The detection time has ended (section 6.8.4). Nothing happens before `detect_deadline`."""
        deadline = self.detect_deadline
        if deadline is None or now < deadline:
            return None
        self.steady = False
        # Section 6.8.1: "If a period of a Detection Time passes without the receipt of a valid, authenticated BFD
        # packet from the remote system, [bfd.RemoteDiscr] MUST be set to zero."
        self._forget_peer()
        if self.state in (State.INIT, State.UP):
            self._go(now, State.DOWN, Diagnostic.CONTROL_DETECTION_TIME_EXPIRED)
        return self._flush(now)

    def transmit(self, now: int) -> bytes:
        """The packet to send now; the next periodic one is due one jittered interval later."""
        self.last_tx = now
        self.tx_packets += 1
        self._poll_sent = self.polling
        if self.next_tx is not None:
            self.next_tx = now + int(self.tx_interval_us * (0.75 + self._spread * self._random()))
        return self._packet

    def retune(self, now: int, config: SessionConfig) -> bytes | None:
        """Take another configuration of the same two addresses; the session does not go down for it."""
        self.steady = False
        self.config = config
        self._advertise()
        return self._flush(now)

    def set_admin_down(
        self, now: int, diagnostic: int, reason: str, *, silent_first: bool = False
    ) -> bytes | None:
        """Section 6.8.16, disabling. Idempotent; a second call may change the diagnostic.

        `silent_first`: nothing is said until the peer's detection time has surely ended, and AdminDown from then on. A
        session that is not Up says it once before, with the interval of one that is.
        """
        self.steady = False
        self.admin_down, self.admin_reason = True, reason
        last_word = None
        if self.state is not State.ADMIN_DOWN:
            up = self.state is State.UP
            self._go(now, State.ADMIN_DOWN, diagnostic)
            if silent_first:
                last_word = None if up else self._last_word(now)
                # The margin is for a peer, or a machine, that stands still meanwhile and would find our word before it
                # looks at its watch.
                interval = max(self.config.timers.min_tx_us, self.remote_min_rx_us)
                self.silent_until = now + self.config.timers.multiplier * interval + _MARGIN_US
        self.diagnostic = diagnostic
        return self._flush(now) or last_word

    def set_admin_up(self, now: int) -> bytes | None:
        """Section 6.8.16, enabling. Idempotent."""
        self.steady = False
        self.admin_down, self.admin_reason = False, ""
        self.silent_until = now
        if self.state is State.ADMIN_DOWN:
            self._go(now, State.DOWN, Diagnostic.NONE)
        return self._flush(now)

    def view(self) -> View:
        """The session as it is now."""
        config = self.config
        return View(
            id=self.id,
            owner=self.owner,
            local=config.local,
            peer=config.peer,
            interface=config.interface,
            min_rx_us=config.timers.min_rx_us,
            min_tx_us=config.timers.min_tx_us,
            multiplier=config.timers.multiplier,
            min_ttl=config.min_ttl,
            role=config.role.value,
            state=int(self.state),
            remote_state=int(self.remote_state),
            diagnostic=int(self.diagnostic),
            remote_diagnostic=self.remote_diagnostic,
            local_discriminator=self.local_discriminator,
            remote_discriminator=self.remote_discriminator,
            tx_interval_us=self.tx_interval_us,
            detection_time_us=self.detection_time_us,
            since_us=self.since,
            downs=self.downs,
            tx_packets=self.tx_packets,
            rx_packets=self.rx_packets,
            rx_discarded=self.rx_discarded,
            admin_down=self.admin_down,
            admin_reason=self.admin_reason,
        )

    # The state machine --------------------------------------------------------------------------------------

    def _transition(self, now: int, received: State) -> None:
        """Section 6.8.6, the table of states; the local state is not AdminDown."""
        if received is State.ADMIN_DOWN:
            if self.state is not State.DOWN:
                self._go(now, State.DOWN, Diagnostic.NEIGHBOR_SIGNALED_SESSION_DOWN)
        elif self.state is State.DOWN:
            if received is State.DOWN:
                self._go(now, State.INIT, self.diagnostic)
            elif received is State.INIT:
                self._go(now, State.UP, Diagnostic.NONE)
        elif self.state is State.INIT:
            if received in (State.INIT, State.UP):
                self._go(now, State.UP, Diagnostic.NONE)
        elif received is State.DOWN:
            self._go(now, State.DOWN, Diagnostic.NEIGHBOR_SIGNALED_SESSION_DOWN)

    def _go(self, now: int, state: State, diagnostic: int) -> None:
        if self.state is State.UP:
            self.downs += 1
        self.state = state
        self.diagnostic = diagnostic
        self.since = now
        self._advertise()

    def _forget_peer(self) -> None:
        """Back to what section 6.8.1 starts with, so that nothing of a dead peer (an interval of zero, demand mode)
        can keep this side silent.
        """
        self.remote_discriminator = 0
        self.remote_state = State.DOWN
        self.remote_demand = False
        self.remote_min_rx_us = 1
        self.remote_min_tx_us = 0
        self.remote_multiplier = 0

    # Timers -------------------------------------------------------------------------------------------------

    def _advertise(self) -> None:
        """Decide what the packets ask for, and what of it may be used already (section 6.8.3)."""
        timers = self.config.timers
        self._spread = 0.25 if timers.multiplier > 1 else 0.15
        tx, rx = timers.min_tx_us, timers.min_rx_us
        if self.state is not State.UP:
            self._tx_in_use = self._advertised_tx = max(tx, SLOW_TX_US)
            self._rx_in_use = self._advertised_rx = rx
            self.polling = False
            return
        if self.polling or (tx, rx) == (self._advertised_tx, self._advertised_rx):
            return  # one Poll Sequence at a time: a change during one waits for its end
        self.polling, self._poll_sent = True, False
        self._advertised_tx, self._advertised_rx = tx, rx
        # "If bfd.DesiredMinTxInterval is increased and bfd.SessionState is Up, the actual transmission interval used
        # MUST NOT change until the Poll Sequence … has terminated", and the same for a reduced
        # bfd.RequiredMinRxInterval and the detection time.
        self._tx_in_use = min(self._tx_in_use, tx)
        self._rx_in_use = max(self._rx_in_use, rx)

    def _end_poll(self) -> None:
        self.polling = False
        self._tx_in_use, self._rx_in_use = self._advertised_tx, self._advertised_rx
        self._advertise()

    def _is_silent(self) -> bool:
        """Whether section 6.8.7 forbids periodic packets."""
        if self.remote_min_rx_us == 0:
            return True
        return (
            self.remote_demand
            and self.state is State.UP
            and self.remote_state is State.UP
            and not self.polling
        )

    def _schedule(self, now: int) -> None:
        """Negotiate the intervals (sections 6.8.2 and 6.8.4); move the next packet when its interval changed."""
        peers_interval = max(self._rx_in_use, self.remote_min_tx_us)
        if self.state is not State.UP or self.remote_state is not State.UP:
            # Section 6.8.3 has a system that is not Up send no faster than once a second. OVN does that, but tells its
            # final interval from the start: taken at its word it would be dead three times a second.
            peers_interval = max(peers_interval, SLOW_TX_US)
        self.detection_time_us = self.remote_multiplier * peers_interval
        interval = max(self._tx_in_use, self.remote_min_rx_us)
        if self._is_silent():
            self.next_tx = None
        elif now < self.silent_until:
            self.next_tx = self.silent_until
        elif self.next_tx is None or interval != self.tx_interval_us:
            self.tx_interval_us = interval
            self.next_tx = max(now, self.last_tx + self._jittered())
        self.tx_interval_us = interval

    def _jittered(self) -> int:
        """Section 6.8.7: 75 to 100 % of the interval, 75 to 90 % when the detect multiplier is 1."""
        return int(self.tx_interval_us * (0.75 + self._spread * self._random()))

    # Packets ------------------------------------------------------------------------------------------------

    def _rebuild(self) -> bool:
        """Make the cached packet; True when it tells something new that is no interval."""
        plain = encode(
            Packet(
                state=self.state,
                diagnostic=self.diagnostic,
                multiplier=self.config.timers.multiplier,
                my_discriminator=self.local_discriminator,
                your_discriminator=self.remote_discriminator,
                min_tx_us=self._advertised_tx,
                min_rx_us=self._advertised_rx,
            )
        )
        news = plain[:12] != self._plain[:12]
        self._plain = plain
        self._packet = _with_flag(plain, POLL) if self.polling else plain
        return news

    def _last_word(self, now: int) -> bytes | None:
        """AdminDown for a peer that may believe that the session is up, or on its way: its detection time goes by what it
        heard last, which is a second an interval while the session is not Up here.
        """
        if not self.heard and self.config.role is not Role.ACTIVE:
            return None
        self._rebuild()
        self.last_tx = now
        self.tx_packets += 1
        return _with_min_tx(self._plain, self.config.timers.min_tx_us)

    def _flush(self, now: int, *, final: bool = False) -> bytes | None:
        """Bring cached packet and schedule up to date, and return what must leave now.

        Section 6.8.7: a packet leaves between periodic ones "when the contents of that packet would differ from that
        in the previously transmitted packet (other than the Poll and Final bits)". New intervals wait for the
        periodic packet, because the Poll bit that goes with them must (section 6.5).
        """
        news = self._rebuild()
        self._schedule(now)
        if now < self.silent_until:
            return None
        if final:
            # "… without respect to the transmission timer or any other transmission limitations"
            self.tx_packets += 1
            return _with_flag(self._plain, FINAL)
        if news and (self.heard or self.config.role is Role.ACTIVE):
            return self.transmit(now)
        return None


def _with_min_tx(plain: bytes, microseconds: int) -> bytes:
    return plain[:12] + microseconds.to_bytes(4, "big") + plain[16:]


def _with_flag(plain: bytes, flag: int) -> bytes:
    return plain[:1] + bytes((plain[1] | flag,)) + plain[2:]
