"""The table of sessions: owners, demultiplexing, timers. Still pure: time and bytes in, bytes and events out.

How a caller uses it (the packet loop does, and so do the tests):

    engine = Engine(random.Random(1))
    session = engine.put(now, "owner", checked(SessionConfig(local, peer)))
    reason = engine.receive(now, data, Arrival(source, destination, ttl, interface))   # None: taken
    engine.advance(now)                    # sends what is due, expires what is overdue
    for session, data in engine.outbox: …  # to send from session.config.local to session.config.peer
    for event in engine.events: …          # Changed and Ended, in order
    for session in engine.gone: …          # its resources can be freed
    engine.outbox.clear(); engine.events.clear(); engine.gone.clear()
    wait until engine.next_deadline()

- `now` is in microseconds and should not go back; when it does, the latest time seen is used instead.
- The three lists are the caller's to drain; the engine only appends.
- Before `advance` may expire sessions (`expire=True`), the caller must have handed over every packet that had arrived
  when it took `now`: a session is never declared down with an unread packet in the socket.
- A time that jumps ahead, however far, sends one packet a session, not a burst.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Collection, Iterable
from dataclasses import replace

from veg_bfd.core.model import (
    Arrival,
    Changed,
    Diagnostic,
    Ended,
    Event,
    SessionConfig,
    State,
    View,
)
from veg_bfd.core.packet import MAX_U32, Discard, Packet, decode
from veg_bfd.core.session import Session
from veg_bfd.errors import OwnerError

_Heap = list[tuple[int, int, Session]]


class Engine:
    """Sessions of any number of owners; see the module's docstring for the protocol with the caller.

    `jitter` gives the transmission jitter, `discriminators` (when given) the random local discriminators.
    Public: `outbox`, `events`, `gone` (drained by the caller), `discards` (packets discarded by reason, all of them)
    and `unknown` (those of them that belong to no session).
    """

    def __init__(self, jitter: random.Random, discriminators: random.Random | None = None) -> None:
        self.outbox: list[tuple[Session, bytes]] = []
        self.events: list[Event] = []
        self.gone: list[Session] = []
        self.discards: dict[Discard, int] = dict.fromkeys(Discard, 0)
        self.unknown = 0
        self.allowed: dict[str, tuple[str, SessionConfig]] = {}
        self._jitter = jitter
        self._discriminators = discriminators or jitter
        self._by_id: dict[int, Session] = {}
        self._by_key: dict[tuple[str, str], Session] = {}
        self._by_discriminator: dict[int, Session] = {}
        self._leaving: dict[int, Session] = {}
        self._steady: dict[bytes, tuple[Session, Arrival]] = {}
        self._numbers = itertools.count(1)
        self._tickets = itertools.count()
        self._tx: _Heap = []
        self._detect: _Heap = []
        self._hold: tuple[int, str] | None = None
        self._now = 0

    # Sessions -----------------------------------------------------------------------------------------------

    def sessions(self) -> Collection[Session]:
        """Every session, in the order of ids."""
        return self._by_id.values()

    def views(self) -> list[View]:
        """Every session as it is, in the order of ids."""
        return [session.view() for session in self._by_id.values()]

    def get(self, number: int) -> Session | None:
        """The session with this id."""
        return self._by_id.get(number)

    def find(self, local: str, peer: str) -> Session | None:
        """The session between these addresses."""
        return self._by_key.get((local, peer))

    def set_sessions(self, now: int, owner: str, configs: Iterable[SessionConfig]) -> list[Session]:
        """Make `configs` (checked, of different names) the only sessions of `owner`. All or nothing: OwnerError."""
        wanted = {config.key: config for config in configs}
        for key in wanted:
            self._require_owner(key, owner)
        self.keep(now, owner, wanted)
        return sorted((self.put(now, owner, config) for config in wanted.values()), key=lambda s: s.id)

    def put(self, now: int, owner: str, config: SessionConfig, discriminator: int = 0) -> Session:
        """Make a session, or retune the one of this name. Raises OwnerError when another owner has it.

        `discriminator`: the local discriminator of a new session, when it is not zero and free.
        """
        now = self._tick(now)
        self._require_owner(config.key, owner)
        session = self._by_key.get(config.key)
        if session is not None:
            if session.config != config:
                self._after(session, session.state, session.retune(now, config))
            return session
        if not 0 < discriminator <= MAX_U32 or self._in_use(discriminator):
            discriminator = self._new_discriminator()
        for predecessor in [s for s in self._leaving.values() if s.config.key == config.key]:
            self._release(predecessor)
        session = Session(now, config, discriminator, self._jitter)
        session.id, session.owner = next(self._numbers), owner
        self._by_id[session.id] = self._by_key[config.key] = session
        self._by_discriminator[discriminator] = session
        if self._hold is not None:
            self._send(session, session.set_admin_down(now, *self._hold))
        self.events.append(Changed(session.view(), None, 0))
        self._arm(session)
        return session

    def keep(self, now: int, owner: str, keys: Collection[tuple[str, str]]) -> None:
        """End the sessions of `owner` whose names are not in `keys`."""
        for session in [s for s in self._by_id.values() if s.owner == owner and s.config.key not in keys]:
            self.end(now, session.id)

    def end(self, now: int, number: int) -> None:
        """End a session; unknown ids are ignored. The peer hears AdminDown for a detection time."""
        now = self._tick(now)
        session = self._by_id.pop(number, None)
        if session is None:
            return
        del self._by_key[session.config.key]
        del self._by_discriminator[session.local_discriminator]
        self._steady.pop(session.steady_key, None)
        self.events.append(Ended(session.id))
        if not session.remote_discriminator or session.next_tx is None:
            self._release(session)  # nobody is there to be told
            return
        diagnostic = session.diagnostic if session.admin_down else Diagnostic.ADMINISTRATIVELY_DOWN
        self._send(session, session.set_admin_down(now, diagnostic, "ended"))
        # Section 6.8.16: "BFD Control packets SHOULD be transmitted for at least a Detection Time after transitioning
        # to AdminDown state". One interval of AdminDown may be very long: the peer's own choice is not waited for.
        session.leaves_at = now + min(session.config.timers.multiplier * session.tx_interval_us, 10_000_000)
        self._leaving[session.local_discriminator] = session
        self._arm(session)

    def set_admin_down(  # noqa: PLR0913 (what the peer is told)
        self,
        now: int,
        peers: Collection[str],
        *,
        down: bool,
        reason: str = "",
        diagnostic: int = Diagnostic.ADMINISTRATIVELY_DOWN,
        silent_first: bool = False,
    ) -> list[Session]:
        """Take the sessions with these peers administratively down, or let them come up again.

        No peers: every session, and, while it is down, those made later too. Returns the sessions concerned.
        `silent_first`: see `Session.set_admin_down`.
        """
        now = self._tick(now)
        if not peers:
            self._hold = (diagnostic, reason) if down else None
        concerned = [s for s in self._by_id.values() if not peers or s.config.peer in peers]
        for session in concerned:
            self.set_session_admin(
                now, session, down=down, reason=reason, diagnostic=diagnostic, silent_first=silent_first
            )
        return concerned

    def set_session_admin(  # noqa: PLR0913 (what the peer is told)
        self,
        now: int,
        session: Session,
        *,
        down: bool,
        reason: str = "",
        diagnostic: int = Diagnostic.ADMINISTRATIVELY_DOWN,
        silent_first: bool = False,
    ) -> None:
        """The same for one session."""
        now = self._tick(now)
        before = session.state
        if down:
            packet = session.set_admin_down(now, diagnostic, reason, silent_first=silent_first)
        else:
            packet = session.set_admin_up(now)
        self._after(session, before, packet)

    def allow(self, peer: str, owner: str, template: SessionConfig) -> None:
        """From now on the first packet of `peer` to any local address makes a session like `template`."""
        self.allowed[peer] = (owner, template)

    def block(self, peer: str) -> None:
        """The opposite of `allow`; sessions that are there stay."""
        self.allowed.pop(peer, None)

    # Packets and time ---------------------------------------------------------------------------------------

    def receive(self, now: int, data: bytes, arrival: Arrival) -> Discard | None:
        """Take a packet of UDP port 3784. Returns why it was discarded, None when it was taken."""
        if now > self._now:  # as _tick does; this is the path of nearly every packet
            self._now = now
        else:
            now = self._now
        hit = self._steady.get(data)
        if hit is not None:
            session, path = hit
            if session.steady and (path is arrival or path == arrival):
                # The same bytes as last time from an Up session: nothing can change.
                session.last_rx = now
                session.rx_packets += 1
                return None
        return self._receive(now, data, arrival)

    def _receive(self, now: int, data: bytes, arrival: Arrival) -> Discard | None:
        packet = decode(data)
        if isinstance(packet, Discard):
            return self._discard(packet)
        session = self._select(now, packet, arrival)
        if isinstance(session, Discard):
            return self._discard(session)
        refusal = _refusal(session, packet, arrival)
        if refusal is not None:
            return self._discard(refusal, session)
        before = session.state
        session.rx_packets += 1
        self._after(session, before, session.receive(now, packet))
        if packet.state is State.UP and session.state is State.UP and not (packet.poll or packet.final):
            if session.steady_key != data:
                self._steady.pop(session.steady_key, None)
                session.steady_key = data
            self._steady[data] = (session, arrival)
            session.steady = True
        return None

    def _select(self, now: int, packet: Packet, arrival: Arrival) -> Session | Discard:
        """The session that a packet names (section 6.8.6)."""
        if packet.your_discriminator:
            # "If the Your Discriminator field is nonzero, it MUST be used to select the session"
            return self._by_discriminator.get(packet.your_discriminator) or Discard.YOUR_DISCRIMINATOR
        # "If the Your Discriminator field is zero and the State field is not Down or AdminDown, the packet MUST be
        # discarded."
        if packet.state not in (State.DOWN, State.ADMIN_DOWN):
            return Discard.YOUR_DISCRIMINATOR_ZERO
        session = self._by_key.get((arrival.destination, arrival.source))
        if session is None and packet.authentication:
            return Discard.AUTHENTICATION
        return session or self._welcome(now, arrival) or Discard.NO_SESSION

    def advance(self, now: int, *, expire: bool = True) -> None:
        """Do what is due at `now`: periodic packets, and (with `expire`) ended detection times."""
        now = self._tick(now)
        if expire:
            self._expire(now)
        heap, outbox = self._tx, self.outbox
        while heap and heap[0][0] <= now:
            deadline, _, session = heap[0]
            if deadline != session.armed_tx:
                heapq.heappop(heap)  # armed anew, for an earlier time
                continue
            due = session.next_tx
            if due is not None and due <= now:
                if session.leaves_at is not None and now >= session.leaves_at:
                    self._release(session)
                else:
                    outbox.append((session, session.transmit(now)))
                due = session.next_tx
            session.armed_tx = due
            if due is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (due, next(self._tickets), session))

    def next_deadline(self, not_before: int = 0) -> int | None:
        """When `advance` should be called next, if no packet comes before; None: no need.

        `not_before`: the caller will not let detection times end earlier.
        """
        transmit = self._tx[0][0] if self._tx else None
        if not self._detect:
            return transmit
        expiry = max(self._detect[0][0], not_before)
        return expiry if transmit is None else min(transmit, expiry)

    # Inside -------------------------------------------------------------------------------------------------

    def _tick(self, now: int) -> int:
        self._now = max(self._now, now)
        return self._now

    def overdue(self, now: int) -> bool:
        """Whether a detection time has ended. Cheap: most alarms only find that the peer has been heard since.

        A caller that gets True must hand over what has arrived, then call `advance`.
        """
        heap = self._detect
        while heap and heap[0][0] <= now:
            deadline, _, session = heap[0]
            due = session.detect_deadline
            if deadline != session.armed_detect:
                heapq.heappop(heap)  # armed anew, for an earlier time
            elif due is None or session.leaves_at is not None:
                heapq.heappop(heap)
                session.armed_detect = None
            elif due > now:
                heapq.heapreplace(heap, (due, next(self._tickets), session))
                session.armed_detect = due
            else:
                return True
        return False

    def _expire(self, now: int) -> None:
        while self.overdue(now):
            _, _, session = heapq.heappop(self._detect)
            session.armed_detect = None
            late_us = now - (session.detect_deadline or now)
            before = session.state
            self._after(session, before, session.expire(now), late_us)

    def _after(self, session: Session, before: State, packet: bytes | None, late_us: int = 0) -> None:
        """What every call into a session ends with: send, tell, arm."""
        self._send(session, packet)
        if session.state is not before:
            self.events.append(Changed(session.view(), int(before), late_us))
        self._arm(session)

    def _send(self, session: Session, packet: bytes | None) -> None:
        if packet is not None:
            self.outbox.append((session, packet))

    def _arm(self, session: Session) -> None:
        """Put a session's deadlines into the heaps, where they are earlier than what is there already."""
        due = session.next_tx
        if due is not None and (session.armed_tx is None or due < session.armed_tx):
            session.armed_tx = due
            self._push(self._tx, due, session)
        due = session.detect_deadline
        if due is not None and (session.armed_detect is None or due < session.armed_detect):
            session.armed_detect = due
            self._push(self._detect, due, session)

    def _push(self, heap: _Heap, due: int, session: Session) -> None:
        if len(heap) > 4 * (len(self._by_id) + len(self._leaving)) + 64:
            # A peer that changes its intervals with every packet leaves outdated entries behind.
            attribute = "armed_tx" if heap is self._tx else "armed_detect"
            heap[:] = [entry for entry in heap if entry[0] == getattr(entry[2], attribute)]
            heapq.heapify(heap)
        heapq.heappush(heap, (due, next(self._tickets), session))

    def _release(self, session: Session) -> None:
        session.next_tx = None
        session.leaves_at = self._now
        self._leaving.pop(session.local_discriminator, None)
        self.gone.append(session)

    def _discard(self, reason: Discard, session: Session | None = None) -> Discard:
        self.discards[reason] += 1
        if session is None:
            self.unknown += 1
        else:
            session.rx_discarded += 1
        return reason

    def _welcome(self, now: int, arrival: Arrival) -> Session | None:
        entry = self.allowed.get(arrival.source)
        if entry is None or arrival.ttl < entry[1].min_ttl:
            return None
        owner, template = entry
        return self.put(now, owner, replace(template, local=arrival.destination, peer=arrival.source))

    def _require_owner(self, key: tuple[str, str], owner: str) -> None:
        session = self._by_key.get(key)
        if session is not None and session.owner != owner:
            raise OwnerError(f"session {key[0]} {key[1]} belongs to {session.owner}")

    def _in_use(self, discriminator: int) -> bool:
        return discriminator in self._by_discriminator or discriminator in self._leaving

    def _new_discriminator(self) -> int:
        while True:
            number = self._discriminators.getrandbits(32)
            if number and not self._in_use(number):
                return number


def _refusal(session: Session, packet: Packet, arrival: Arrival) -> Discard | None:
    """Why a session does not take a packet that names it."""
    config = session.config
    if packet.authentication:
        return Discard.AUTHENTICATION
    if (arrival.destination, arrival.source) != config.key:
        return Discard.ADDRESS
    if config.interface and arrival.interface != config.interface:
        return Discard.INTERFACE
    # RFC 5881 section 5: "If BFD authentication is not in use on a session, all BFD Control packets for the session
    # … MUST be discarded if the received TTL or Hop Limit is not equal to 255"; here: less than a setting.
    return Discard.TTL if arrival.ttl < config.min_ttl else None
