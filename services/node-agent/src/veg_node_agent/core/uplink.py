"""Whether the way out works, and whether to leave the traffic to other replicas because it does not.

Called by `io.uplink` with events and times; no clock and no socket in here. Two questions, kept apart:

- Is my uplink dead? Without carrier at once; otherwise when the external gateway left `multiplier` probes in a row
  unanswered. A gateway that never answered is unknown, not dead. A dead uplink is alive again after it answered every
  probe for a while, longer each time when it flaps.
- Do I withdraw? Only while another replica vouches for its own uplink *in answer to a question that was asked after
  mine died*. Each withdrawal so rests on somebody who was alive after this one was dead: replicas that die one after
  the other, or together, never all withdraw, without anybody who decides for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from veg_node_agent.core.model import Family
from veg_node_agent.core.packets import Note, Sight

_LEAST_HOLD, _MOST_HOLD = 1.0, 30.0  # s of good answers before a dead uplink is alive again
_FLAP_WINDOW = 60.0  # s: dying again within this time doubles the hold
# S without a word after which a voucher counts for nothing. It may be long: a replica whose uplink dies says so, and
# where one vanishes altogether nobody gains by a dead uplink that comes back sooner.
_VOUCHER_SILENCE = 3.0
_ASK_FASTEST, _ASK_SLOWEST = 0.05, 1.0  # s between two questions


@dataclass
class Probe:
    """One family's gateway. Call `tick` each time before a probe is sent, after all answers were taken."""

    family: Family
    gateway: str
    interval: float
    multiplier: int
    known: bool = False  # it has answered once, in this process or before
    sight: Sight = Sight.UNKNOWN
    since: float = 0.0  # of the last change of sight
    ticks: int = 0
    _missed: int = 0
    _answered: bool = True
    _streak: float | None = None  # since when every probe was answered
    _hold: float = 0.0
    _recovered: float = float("-inf")

    def __post_init__(self) -> None:
        self._hold = self._base_hold

    @property
    def _base_hold(self) -> float:
        return max(_LEAST_HOLD, self.multiplier * self.interval)

    @property
    def settled(self) -> bool:
        """Whether there was time to see the gateway."""
        return self.sight is not Sight.UNKNOWN or self.ticks > self.multiplier

    @property
    def steady(self) -> bool:
        """Whether the last probe was answered, so that the next may go to where that answer came from."""
        return self.known and self._missed == 0 and self.sight is not Sight.DEAD

    def answered(self, now: float) -> None:
        """The gateway answered."""
        self.known = True
        self._missed = 0
        self._answered = True
        if self._streak is None:
            self._streak = now
        if self.sight is Sight.UNKNOWN:
            self._turn(Sight.ALIVE, now)

    def tick(self, now: float) -> None:
        """Judge what came since the last tick; a probe is about to be sent."""
        self.ticks += 1
        if not self._answered:
            self._missed += 1
            self._streak = None if self.known else self._streak
        if self.sight is Sight.DEAD:
            self._recover(now)
        elif self.known and self._missed >= self.multiplier:
            self.die(now)
        self._answered = False

    def not_sent(self) -> None:
        """The probe after the last tick could not be sent: no answer will be missed."""
        self._answered = True

    def die(self, now: float) -> None:
        """The way is gone, for whatever reason."""
        self._streak = None
        self._missed = 0
        self._answered = True
        if self.sight is Sight.DEAD:
            return
        flapping = now - self._recovered < _FLAP_WINDOW
        self._hold = min(2 * self._hold, _MOST_HOLD) if flapping else self._base_hold
        self._turn(Sight.DEAD, now)

    def _recover(self, now: float) -> None:
        start = self._streak
        if not self.known:
            # Carrier is all that is known of it; the clock runs from the first tick with carrier.
            start = self._streak = now if self._streak is None else self._streak
        if start is not None and now - start >= self._hold:
            self._recovered = now
            self._turn(Sight.ALIVE if self.known else Sight.UNKNOWN, now)

    def _turn(self, sight: Sight, now: float) -> None:
        self.sight = sight
        self.since = now


@dataclass
class _Sibling:
    note: Note
    heard: float


@dataclass
class Uplink:
    """The uplink of one replica: its probes by family, its carrier, and what the others say."""

    probes: Mapping[Family, Probe]
    interface: str
    carrier: bool = True
    problem_since: float = 0.0
    _number: int = 0
    _died_at: dict[Family, int] = field(default_factory=dict)  # the first question after a death
    _without_carrier: set[Family] = field(default_factory=set)
    _siblings: dict[str, _Sibling] = field(default_factory=dict)

    @property
    def ask_every(self) -> float:
        """S between two questions while something is dead."""
        return min(max(self._interval, _ASK_FASTEST), _ASK_SLOWEST)

    @property
    def _interval(self) -> float:
        return min((probe.interval for probe in self.probes.values()), default=_ASK_SLOWEST)

    @property
    def dead(self) -> tuple[Family, ...]:
        """The families whose way out is dead."""
        return tuple(family for family, probe in self.probes.items() if probe.sight is Sight.DEAD)

    @property
    def alive(self) -> bool:
        """Whether anything works: there is carrier, and not every gateway that ever answered is dead."""
        known = [probe for probe in self.probes.values() if probe.known or probe.sight is Sight.DEAD]
        return self.carrier and not (known and all(probe.sight is Sight.DEAD for probe in known))

    @property
    def problem(self) -> str:
        """What is wrong, for people; empty when nothing is."""
        if not self.carrier:
            return f"{self.interface} has no carrier"
        return "; ".join(
            f"{family.label} gateway {self.probes[family].gateway} does not answer on {self.interface}"
            for family in self.dead
        )

    def tick(self, now: float, carrier: bool) -> None:  # noqa: FBT001
        """Judge; probes are about to be sent. Call it too when carrier changes."""
        self.see_carrier(now, carrier)
        if self.carrier:
            for probe in self.probes.values():
                probe.tick(now)
        self._note_deaths()

    def see_carrier(self, now: float, carrier: bool) -> None:  # noqa: FBT001
        """Carrier as it is now."""
        self.carrier = carrier
        if not carrier:
            for probe in self.probes.values():
                probe.die(now)
            self._without_carrier |= set(self.probes)
        self._note_deaths()

    def _note_deaths(self) -> None:
        for family in self.probes:
            if family not in self.dead:
                self._died_at.pop(family, None)
                self._without_carrier.discard(family)
            elif family not in self._died_at:
                self._died_at[family] = self._number + 1

    def question(self, sights: tuple[Sight, Sight]) -> Note:
        """What to ask the others now, with what they may know of this replica."""
        self._number += 1
        return Note(question=True, sights=sights, number=self._number)

    def start_numbers_at(self, number: int) -> None:
        """Ask with numbers that no predecessor of this process used."""
        self._number = number

    def hear(self, address: str, note: Note, now: float) -> None:
        """An answer came; an older one than the last of its sender is none."""
        last = self._siblings.get(address)
        if note.number <= self._number and (last is None or note.number >= last.note.number):
            self._siblings[address] = _Sibling(note, now)

    def forget_others(self, replicas: Iterable[str]) -> None:
        """Only these are replicas now."""
        wanted = set(replicas)
        self._siblings = {address: heard for address, heard in self._siblings.items() if address in wanted}

    def withdrawn(self, now: float) -> tuple[Family, ...]:
        """The families whose traffic should go to the others: dead here, and somebody vouches for them."""
        return tuple(family for family in self.dead if self._vouched(family, now))

    def settled(self, now: float) -> bool:
        """Whether there was time to judge, and for the others to answer."""
        return all(
            probe.settled
            and (
                probe.sight is not Sight.DEAD
                or self._vouched(family, now)
                or now - probe.since >= 3 * self.ask_every
            )
            for family, probe in self.probes.items()
        )

    def _vouched(self, family: Family, now: float) -> bool:
        # A gateway that never answers anybody is as good there as here, unless the carrier is gone here.
        unknown_will_do = family in self._without_carrier and not self.probes[family].known
        good = {Sight.ALIVE, Sight.UNKNOWN} if unknown_will_do else {Sight.ALIVE}
        return any(
            sibling.note.number >= self._died_at.get(family, self._number + 1)
            and now - sibling.heard <= _VOUCHER_SILENCE
            and sibling.note.sight(family) in good
            for sibling in self._siblings.values()
        )
