"""Two engines over a network that loses, delays, reorders and repeats packets, in simulated time.

What must hold: on a network that delivers within bounds they are up and stay up; whatever happened before, they come up
when the network is good again; a session whose peer fell silent is down when its detection time has ended, not a
microsecond later.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from veg_bfd.core.engine import Engine
from veg_bfd.core.model import Arrival, Changed, Diagnostic, Role, SessionConfig, State, Timers, checked
from veg_bfd.core.packet import Packet, decode
from veg_bfd.core.session import Session

from tests.unit.bfd_conformance.rig import LOCAL, MS, PEER, SECOND

intervals = st.sampled_from([10 * MS, 50 * MS, 300 * MS, SECOND, 2 * SECOND])
multipliers = st.sampled_from([2, 3, 5, 50])
timers = st.builds(Timers, intervals, intervals, multipliers)
ends = st.integers(0, 1)


@dataclass
class Weather:
    """What the network does to a packet, one way; `loss` and `repeat` are chances, delays in µs."""

    loss: float = 0.0
    repeat: float = 0.0
    delay: tuple[int, int] = (100, 100)


class Network:
    """Two ends, packets under way, one clock. The order of what happens is that of time."""

    def __init__(self, seed: int, first: SessionConfig, second: SessionConfig) -> None:
        self.random = random.Random(seed)  # noqa: S311 - repeatable
        self.now = 0
        self.configs = [first, second]
        self.engines = [self._engine(), self._engine()]
        self.weather = [Weather(), Weather()]
        self.under_way: list[tuple[int, int, int, bytes]] = []
        self.tickets = itertools.count()
        self.changes: list[tuple[int, int, Changed]] = []
        self.make(0)
        self.make(1)

    def _engine(self) -> Engine:
        return Engine(random.Random(self.random.random()))  # noqa: S311 - repeatable

    def make(self, end: int) -> None:
        """Configure this end as `configs` says."""
        self.engines[end].put(self.now, "test", self.configs[end])
        self.carry(end)

    def restart(self, end: int) -> None:
        """kill -9 of this end, and a new one at once."""
        self.engines[end] = self._engine()
        self.make(end)

    def session(self, end: int) -> Session:
        """The session at this end."""
        config = self.configs[end]
        session = self.engines[end].find(config.local, config.peer)
        assert session is not None
        return session

    @property
    def up(self) -> bool:
        return all(self.session(end).state is State.UP for end in (0, 1))

    @property
    def longest(self) -> int:
        """The longest time between two packets of either end, when all is negotiated."""
        all_timers = [config.timers for config in self.configs]
        return max(SECOND, *(max(t.min_rx_us, t.min_tx_us) for t in all_timers))

    def carry(self, end: int) -> None:
        """Take what this end sends, and what it tells."""
        engine, weather = self.engines[end], self.weather[end]
        for _, data in engine.outbox:
            for _ in range(2 if self.random.random() < weather.repeat else 1):
                if self.random.random() >= weather.loss:
                    at = self.now + self.random.randint(*weather.delay)
                    heapq.heappush(self.under_way, (at, next(self.tickets), 1 - end, data))
        engine.outbox.clear()
        self.changes += [(self.now, end, event) for event in engine.events if isinstance(event, Changed)]
        engine.events.clear()

    def run(self, duration: int) -> None:
        """Time passes. Packets that arrive at the moment of a deadline are handed over before it."""
        end_of_run = self.now + duration
        while True:
            dues = [due for due in (engine.next_deadline() for engine in self.engines) if due is not None]
            if self.under_way:
                dues.append(self.under_way[0][0])
            if not dues or min(dues) > end_of_run:
                break
            self.now = max(self.now, min(dues))
            while self.under_way and self.under_way[0][0] <= self.now:
                _, _, end, data = heapq.heappop(self.under_way)
                config = self.configs[end]
                self.engines[end].receive(self.now, data, Arrival(config.peer, config.local, 255, "e0"))
                self.carry(end)
            for end in (0, 1):
                self.engines[end].advance(self.now)
                self.carry(end)
        self.now = end_of_run

    def settle(self) -> None:
        """Long enough for two ends to find each other on a good network, whatever they remembered."""
        oldest = max((s.detection_time_us for s in map(self.session, (0, 1))), default=0)
        self.run(oldest + 8 * self.longest)


def network(seed: int, a: Timers, b: Timers, roles: tuple[Role, Role]) -> Network:
    """Two configured ends."""
    return Network(
        seed,
        checked(SessionConfig(LOCAL, PEER, a, role=roles[0])),
        checked(SessionConfig(PEER, LOCAL, b, role=roles[1])),
    )


class TwoEnds(RuleBasedStateMachine):
    """Any order of storms, cuts, restarts, retunings and administration."""

    @initialize(
        seed=st.integers(0, 2**32),
        a=timers,
        b=timers,
        roles=st.sampled_from(list(itertools.product(Role, Role))),
    )
    def start(self, seed: int, a: Timers, b: Timers, roles: tuple[Role, Role]) -> None:
        """Both ends begin on a good network."""
        self.net = network(seed, a, b, roles)

    @rule(
        end=ends,
        loss=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
        repeat=st.sampled_from([0.0, 0.3]),
        spread=st.sampled_from([0, MS, 100 * MS, 3 * SECOND]),
        duration=st.sampled_from([10 * MS, SECOND, 5 * SECOND]),
    )
    def storm(self, end: int, loss: float, repeat: float, spread: int, duration: int) -> None:
        """One way of the network is bad for a while: packets are lost, come twice, late and out of order."""
        self.net.weather[end] = Weather(loss, repeat, (100, 100 + spread))
        self.net.run(duration)
        self.net.weather[end] = Weather()

    @rule(duration=st.sampled_from([MS, 100 * MS, 2 * SECOND, 20 * SECOND]))
    def cut(self, duration: int) -> None:
        """Nothing passes for a while, either way."""
        self.net.weather = [Weather(loss=1.0), Weather(loss=1.0)]
        self.net.run(duration)
        self.net.weather = [Weather(), Weather()]

    @rule(end=ends)
    def restart(self, end: int) -> None:
        """An end is killed and comes back without a memory."""
        self.net.restart(end)

    @rule(end=ends, new=timers)
    def retune(self, end: int, new: Timers) -> None:
        """New timers at one end."""
        config = self.net.configs[end]
        self.net.configs[end] = checked(
            SessionConfig(config.local, config.peer, new, config.interface, config.min_ttl, config.role)
        )
        self.net.make(end)

    @rule(end=ends, duration=st.sampled_from([0, MS, 2 * SECOND]))
    def admin(self, end: int, duration: int) -> None:
        """One end is administratively down for a while; the other is not up when it has heard of it."""
        engine = self.net.engines[end]
        engine.set_admin_down(self.net.now, (), down=True)
        self.net.carry(end)
        self.net.run(duration)
        if duration > SECOND:
            assert self.net.session(1 - end).state is not State.UP
        engine.set_admin_down(self.net.now, (), down=False)
        self.net.carry(end)

    @rule(duration=st.sampled_from([MS, 100 * MS, 5 * SECOND]))
    def good(self, duration: int) -> None:
        """A good while."""
        self.net.run(duration)

    @rule()
    def converge(self) -> None:
        """On a good network both are up in bounded time, know each other, and run on what was negotiated."""
        net = self.net
        net.under_way.clear()
        net.settle()
        assert net.up, [net.session(end).view() for end in (0, 1)]
        net.run(4 * net.longest)  # polls of both ends
        for end in (0, 1):
            one, other = net.session(end), net.session(1 - end)
            mine, theirs = net.configs[end].timers, net.configs[1 - end].timers
            assert one.remote_discriminator == other.local_discriminator
            assert one.tx_interval_us == max(mine.min_tx_us, theirs.min_rx_us)
            assert one.detection_time_us == theirs.multiplier * max(mine.min_rx_us, theirs.min_tx_us)
            assert not one.polling

    @rule(spread=st.sampled_from([0, MS // 2]), repeat=st.sampled_from([0.0, 0.5]))
    def no_false_down(self, spread: int, repeat: float) -> None:
        """A network that delivers within bounds, even twice and out of order, never takes a session down."""
        self.converge()
        net = self.net
        # Multiplier x interval less the longest gap of a sender is what a packet may be late.
        slack = min(
            net.session(end).detection_time_us - net.session(1 - end).tx_interval_us for end in (0, 1)
        )
        spread = min(spread, slack - 200)
        if spread < 0:
            return
        net.changes.clear()
        net.weather = [Weather(0.0, repeat, (100, 100 + spread))] * 2
        net.run(min(30 * net.longest, 2000 * min(net.session(end).tx_interval_us for end in (0, 1))))
        net.weather = [Weather(), Weather()]
        assert net.changes == []

    @rule(end=ends, new=timers)
    def retune_live(self, end: int, new: Timers) -> None:
        """New timers of a session that is up, on a good network, take neither end down."""
        self.converge()
        self.net.changes.clear()
        self.retune(end, new)
        self.net.run(2 * SECOND)
        self.converge()
        assert self.net.changes == []

    @precondition(lambda self: self.net.up)
    @rule(end=ends)
    def detection(self, end: int) -> None:
        """An Up session whose peer falls silent is Down after its detection time, to the microsecond."""
        net, session = self.net, self.net.session(end)
        net.weather[1 - end] = Weather(loss=1.0)
        net.under_way.clear()
        deadline = session.detect_deadline
        assert deadline is not None
        net.changes.clear()
        net.run(max(0, deadline - net.now))
        net.weather[1 - end] = Weather()
        assert session.state is State.DOWN
        assert session.diagnostic == Diagnostic.CONTROL_DETECTION_TIME_EXPIRED
        (change,) = [change for change in net.changes if change[1] == end]
        assert (change[0], change[2].late_us) == (deadline, 0)

    @invariant()
    def sane(self) -> None:
        """What is sent is what RFC 5880 lets a session in this state send, and intervals fit their fields."""
        for end in (0, 1):
            for _, _, to, data in self.net.under_way:
                packet = decode(data)
                assert isinstance(packet, Packet), packet
                assert not (packet.poll and packet.final)
                assert packet.your_discriminator or packet.state in (State.DOWN, State.ADMIN_DOWN), (
                    to,
                    packet,
                )
            session = self.net.session(end)
            assert session.state is not State.UP or session.remote_discriminator
            assert session.next_tx is None or session.next_tx <= self.net.now + session.tx_interval_us


TwoEnds.TestCase.settings = settings(
    max_examples=10,
    stateful_step_count=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestTwoEnds = TwoEnds.TestCase
