"""The judge of the uplink: dead or alive, and who may withdraw."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

import pytest
from veg_node_agent.core.model import Family
from veg_node_agent.core.packets import Note, Sight
from veg_node_agent.core.uplink import Probe, Uplink

V4, V6 = Family.V4, Family.V6


def uplink(*families: Family, interval: float = 0.1, known: bool = False) -> Uplink:
    """An uplink with multiplier 3."""
    return Uplink({f: Probe(f, f"gw{int(f)}", interval, 3, known=known) for f in families or (V4,)}, "net1")


@dataclass
class Script:
    """Ticks one uplink through time, with answers from the families in `answering`."""

    uplink: Uplink
    now: float = 100.0
    carrier: bool = True
    answering: set[Family] = field(default_factory=lambda: {V4, V6})

    def run(self, seconds: float) -> list[str]:
        """Tick this long; the changes of what is told, as "+ms problem"."""
        start, told, changes = self.now, self.uplink.problem, []
        while self.now < start + seconds - 1e-9:
            self.now += self.uplink.probes[V4].interval
            for family in self.answering & set(self.uplink.probes):
                if self.carrier:
                    self.uplink.probes[family].answered(self.now)
            self.uplink.tick(self.now, self.carrier)
            if self.uplink.problem != told:
                told = self.uplink.problem
                changes.append(f"+{(self.now - start) * 1000:.0f} {told}".strip())
        return changes


def test_a_gateway_that_stops_answering_is_dead_after_the_multiplier() -> None:
    """Three probes without an answer, each with its whole interval: 300 ms after the first of them."""
    script = Script(uplink())
    assert script.run(1) == []
    script.answering.clear()
    assert script.run(1) == ["+300 IPv4 gateway gw4 does not answer on net1"]
    assert script.uplink.dead == (V4,)
    assert not script.uplink.alive


def test_two_missed_probes_are_nothing() -> None:
    """Short of the multiplier nothing is told, however often."""
    script = Script(uplink())
    script.run(1)
    for _ in range(20):
        script.answering.clear()
        assert script.run(0.2) == []
        script.answering = {V4}
        assert script.run(0.1) == []


def test_a_gateway_that_never_answered_is_unknown() -> None:
    """Silence from the start is no death, and no opinion is held back for it longer than the multiplier."""
    script = Script(uplink(V4, V6), answering={V4})
    assert not script.uplink.settled(script.now)
    script.run(0.5)
    assert script.uplink.settled(script.now)
    assert script.run(60) == []
    assert script.uplink.probes[V6].sight is Sight.UNKNOWN
    assert script.uplink.alive


def test_one_that_answered_a_predecessor_is_known() -> None:
    """After a restart of the agent a dead gateway is found dead."""
    script = Script(uplink(known=True), answering=set())
    assert script.run(1) == ["+400 IPv4 gateway gw4 does not answer on net1"]


def test_a_dead_one_is_settled_when_the_others_had_their_say() -> None:
    """A restarted agent holds back what it would let up until somebody vouched, or nobody did in three questions."""
    script = dead_one()
    died = script.uplink.probes[V4].since
    assert not script.uplink.settled(died)
    assert script.uplink.settled(died + 0.31)
    script.uplink.hear("10.16.0.13", answer(script, Sight.ALIVE), died)
    assert script.uplink.settled(died)


def test_carrier_is_believed_at_once_and_recovery_takes_proof() -> None:
    """No carrier is dead in the same moment; back are those who answered everything for a second."""
    script = Script(uplink(V4, V6), answering={V4})
    script.run(1)
    script.carrier = False
    script.uplink.see_carrier(script.now, script.carrier)
    assert script.uplink.problem == "net1 has no carrier"
    assert script.uplink.dead == (V4, V6)
    script.run(5)
    script.carrier = True
    changes = script.run(5)
    assert changes[0].startswith("+100 IPv4 gateway gw4 does not answer")
    assert 1000 <= int(changes[-1].split()[0][1:]) <= 1200
    assert script.uplink.probes[V6].sight is Sight.UNKNOWN


def test_a_flapping_uplink_waits_longer_each_time() -> None:
    """Dying again within a minute doubles the time of proof, up to 30 s; a quiet minute forgives."""
    script = Script(uplink())
    script.run(1)
    holds = []
    for _ in range(7):
        script.answering.clear()
        script.run(1)
        script.answering = {V4}
        holds.append(round(int(script.run(40)[-1].split()[0][1:]) / 1000))
    assert holds == [1, 2, 4, 8, 16, 30, 30]
    script.run(61)
    script.answering.clear()
    script.run(1)
    script.answering = {V4}
    assert round(int(script.run(40)[-1].split()[0][1:]) / 1000) == 1


def test_one_lossy_second_does_not_recover() -> None:
    """A dead uplink that answers most probes stays dead."""
    script = Script(uplink())
    script.run(1)
    script.answering.clear()
    script.run(1)
    for _ in range(30):
        script.answering = {V4}
        script.run(0.9)
        script.answering.clear()
        script.run(0.1)
    assert script.uplink.dead == (V4,)


def test_probes_that_can_not_be_sent_are_not_missed() -> None:
    """No route or no address is the reconcile's business."""
    script = Script(uplink(), answering=set())
    script.uplink.probes[V4].answered(script.now)
    for _ in range(50):
        script.now += 0.1
        script.uplink.tick(script.now, True)
        script.uplink.probes[V4].not_sent()
    assert script.uplink.dead == ()


def test_one_dead_family_is_a_problem_and_no_dead_uplink() -> None:
    """The other family goes on; only when all that ever answered are dead is the uplink."""
    script = Script(uplink(V4, V6))
    script.run(1)
    script.answering = {V4}
    assert script.run(1) == ["+300 IPv6 gateway gw6 does not answer on net1"]
    assert script.uplink.alive
    assert script.uplink.dead == (V6,)
    script.answering = set()
    script.run(1)
    assert not script.uplink.alive


def dead_one(*, known: bool = True, carrier: bool = True) -> Script:
    """A script whose IPv4 is dead and has just asked the others."""
    script = Script(uplink())
    if known:
        script.run(1)
    script.answering.clear()
    script.carrier = carrier
    script.run(1)
    assert script.uplink.dead == (V4,)
    script.uplink.question((Sight.DEAD, Sight.ABSENT))
    return script


def answer(script: Script, v4: Sight, number: int | None = None) -> Note:
    """What a sibling says to the last question, or to another one."""
    asked = script.uplink._number
    return Note(False, (v4, Sight.ABSENT), asked if number is None else number)


@pytest.mark.parametrize(
    ("known", "carrier", "says", "withdraws"),
    [
        (True, True, Sight.ALIVE, True),
        (True, True, Sight.UNKNOWN, False),
        (True, True, Sight.DEAD, False),
        (True, True, Sight.ABSENT, False),
        (True, False, Sight.ALIVE, True),
        (True, False, Sight.UNKNOWN, False),
        (False, False, Sight.UNKNOWN, True),
        (False, False, Sight.DEAD, False),
    ],
)
def test_it_withdraws_while_somebody_vouches(
    known: bool, carrier: bool, says: Sight, withdraws: bool
) -> None:
    """A replica whose gateway answers vouches; one that never saw the gateway only where nobody ever did."""
    script = dead_one(known=known, carrier=carrier)
    assert script.uplink.withdrawn(script.now) == ()
    script.uplink.hear("10.16.0.13", answer(script, says), script.now)
    assert (script.uplink.withdrawn(script.now) == (V4,)) == withdraws
    assert script.uplink.withdrawn(script.now + 3.1) == (), "a voucher that fell silent"
    script.uplink.forget_others(["10.16.0.14"])
    assert script.uplink.withdrawn(script.now) == ()


def test_old_and_invented_answers_are_none() -> None:
    """Neither what was said before the death, nor numbers that were never asked, vouch."""
    script = dead_one()
    for number in (0, script.uplink._number - 1, script.uplink._number + 1, 2**63):
        script.uplink.hear("10.16.0.13", answer(script, Sight.ALIVE, number), script.now)
        assert script.uplink.withdrawn(script.now) == ()


@dataclass(order=True)
class Post:
    """A note on its way."""

    at: float
    source: int = field(compare=False)
    target: int = field(compare=False)
    note: Note = field(compare=False)


@dataclass
class World:
    """Replicas with the real judges, and a network that delays, loses and reorders what they say."""

    chance: random.Random
    size: int
    latency: float
    loss: float
    now: float = 0.0
    post: list[Post] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.replicas = [uplink(known=True, interval=0.1) for _ in range(self.size)]
        self.works = [True] * self.size
        self.next_tick = [self.chance.random() * 0.1 for _ in self.replicas]

    def step(self) -> None:
        """The next thing that happens."""
        number = min(range(self.size), key=lambda n: self.next_tick[n])
        if self.post and self.post[0].at <= self.next_tick[number]:
            mail = heapq.heappop(self.post)
            self.now = max(self.now, mail.at)
            self._deliver(mail)
            return
        self.now = self.next_tick[number]
        replica = self.replicas[number]
        if self.works[number]:
            replica.probes[V4].answered(self.now)
        replica.tick(self.now, True)
        if replica.dead:
            note = replica.question((replica.probes[V4].sight, Sight.ABSENT))
            for other in range(self.size):
                if other != number:
                    self._send(number, other, note)
        self.next_tick[number] = self.now + 0.1

    def _send(self, source: int, target: int, note: Note) -> None:
        if self.chance.random() >= self.loss:
            heapq.heappush(
                self.post, Post(self.now + self.chance.random() * self.latency, source, target, note)
            )

    def _deliver(self, mail: Post) -> None:
        replica = self.replicas[mail.target]
        if mail.note.question:
            sights = (replica.probes[V4].sight, Sight.ABSENT)
            self._send(mail.target, mail.source, Note(False, sights, mail.note.number))
        else:
            replica.hear(str(mail.source), mail.note, self.now)

    @property
    def withdrawn(self) -> int:
        """How many are withdrawn now."""
        return sum(bool(replica.withdrawn(self.now)) for replica in self.replicas)


@pytest.mark.parametrize("seed", range(12))
def test_they_never_all_withdraw(seed: int) -> None:
    """Whatever dies and comes back in whatever order, over a network that delays, reorders and loses: at no moment
    are all replicas withdrawn; and when some have been dead and others alive for a while, the dead ones are withdrawn.
    """
    chance = random.Random(seed)  # noqa: S311
    world = World(
        chance, chance.choice([2, 2, 3, 5]), chance.choice([0.001, 0.05, 2.0]), chance.choice([0, 0.3])
    )
    for _ in range(3000):
        if chance.random() < 0.01:
            together = chance.random() < 0.5
            for number in range(world.size) if together else [chance.randrange(world.size)]:
                world.works[number] = chance.random() < 0.4
        world.step()
        assert world.withdrawn < world.size
    world.latency, world.loss = 0.001, 0
    calm = world.now
    while world.now < calm + 40:
        world.step()
        assert world.withdrawn < world.size
    dead = world.works.count(False)
    assert world.withdrawn == (dead if dead < world.size else 0)


def test_a_shared_failure_takes_nobody_out_for_long() -> None:
    """When the gateway itself dies, all replicas are in service again within a few questions."""
    chance = random.Random(5)  # noqa: S311
    world = World(chance, 3, 0.001, 0)
    for _ in range(100):
        world.step()
    world.works = [False] * 3
    died = world.now
    while world.now < died + 2:
        world.step()
        assert world.withdrawn < 3
        if world.now > died + 0.8:
            assert world.withdrawn == 0
