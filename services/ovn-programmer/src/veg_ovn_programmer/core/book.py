"""The book of intents: what is held, in which session, and what became of it.

Pure bookkeeping for the worker. It decides what must be looked at again when an intent changes (a VPC's subnets, its
default route) and what is an orphan once a session's picture is complete.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from veg_ovn_programmer.core.bfd import port_name
from veg_ovn_programmer.core.desired import needs_default_route
from veg_ovn_programmer.core.intents import (
    DERIVED,
    WAKER,
    DefaultRoute,
    Gateway,
    Intent,
    Key,
    Kind,
    Subnet,
    Vpc,
    Waker,
)

# A holder's intent is looked at before those that stand on it, so that one transaction can hold all of them. A default
# route is there before the policies that need it, and goes after them.
_RANK = {Kind.VPC: 0, Kind.SUBNET: 1, Kind.PORT: 2, Kind.DEFAULT_ROUTE: 3, Kind.GATEWAY: 4, Kind.WAKER: 4}
_LAST = 5
RANKS = _LAST + 1


class State(enum.IntEnum):
    """Where an intent stands; the numbers are those of veg.programmer.v1.OutcomeState."""

    COMMITTED = 1
    WAITING = 2
    REFUSED = 3


@dataclass(frozen=True)
class Outcome:
    """What became of one intent."""

    key: Key
    generation: int
    state: State
    reason: str = ""
    message: str = ""
    operations: int = 0
    """Rows changed by the last commit."""


@dataclass(frozen=True)
class Job:
    """One owner to bring in line: its intent, or None when it shall have no row."""

    key: Key
    intent: Intent | None
    orphan: bool = False
    """Nobody has ever asked for the key: its rows go if they are ours."""


@dataclass
class Entry:
    """What the book knows of one key of the contract."""

    generation: int
    session: str
    intent: Intent | None = None
    """The last good intent; None when the only one so far was refused."""
    removed: bool = False
    """Deleted, but the rows may still be there."""
    refused: bool = False
    """The last intent was refused; its outcome stands whatever becomes of the last good one."""
    outcome: Outcome | None = None


@dataclass
class Book:
    """All intents of all sessions; the newest session's picture is complete once `in_sync`."""

    session: str = ""
    in_sync: bool = False
    entries: dict[Key, Entry] = field(default_factory=dict)
    vpcs: dict[str, Vpc] = field(default_factory=dict)
    prefixes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The prefixes of each VPC's subnets."""
    _subnets: dict[str, set[Key]] = field(default_factory=dict)
    _needs_route: dict[str, set[Key]] = field(default_factory=dict)
    _speaking: set[Key] = field(default_factory=set)
    """Gateways with BFD."""

    def fork(self) -> Book:
        """A copy to try changes on."""
        return Book(
            session=self.session,
            in_sync=self.in_sync,
            entries={key: replace(entry) for key, entry in self.entries.items()},
            vpcs=dict(self.vpcs),
            prefixes=dict(self.prefixes),
            _subnets={vpc: set(keys) for vpc, keys in self._subnets.items()},
            _needs_route={vpc: set(keys) for vpc, keys in self._needs_route.items()},
            _speaking=set(self._speaking),
        )

    def begin(self, session: str) -> None:
        """Notice the sender's session: another one starts a new picture, the old one stays in force until Resync."""
        if session != self.session:
            self.session = session
            self.in_sync = False

    def is_stale(self, key: Key, generation: int) -> bool:
        """Whether a later generation of this session was seen already."""
        entry = self.entries.get(key)
        return (
            entry is not None
            and not entry.removed
            and entry.session == self.session
            and generation < entry.generation
        )

    def outcome(self, key: Key) -> Outcome | None:
        """The last outcome; None when there was none yet, or the key is derived or unknown."""
        entry = self.entries.get(key)
        return entry.outcome if entry is not None else None

    def put(self, intent: Intent, generation: int) -> set[Key]:
        """Hold a checked intent; returns the keys to look at."""
        entry = self._entry(intent.key, generation)
        old, entry.intent = entry.intent, intent
        entry.removed = entry.refused = False
        return {intent.key} | self._relate(old, intent)

    def speaking_by(self, port: str) -> list[Gateway]:
        """The gateways whose sessions are those of a BFD port."""
        held = (entry.intent for entry in self.entries.values())
        return [one for one in held if isinstance(one, Gateway) and one.bfd and one.bfd.logical_port == port]

    def readdressed(self, vpc: Vpc) -> list[Key]:
        """The gateways with sessions of a VPC's BFD port, if the port has other addresses in this intent than now."""
        now = self.vpcs.get(vpc.name)
        if now is None or now.bfd_port is None or vpc.bfd_port is None:
            return []
        if now.bfd_port.addresses == vpc.bfd_port.addresses:
            return []
        return [one.key for one in self.speaking_by(port_name(vpc.name))]

    def refuse(self, outcome: Outcome) -> bool:
        """Keep a refusal: the last good intent stays in force, and the key belongs to the picture.

        True when listeners must hear of it.
        """
        entry = self._entry(outcome.key, outcome.generation)
        before, entry.outcome = entry.outcome, outcome
        entry.removed, entry.refused = False, True
        return before != outcome

    def remove(self, key: Key) -> set[Key]:
        """Forget an intent, whose rows must go; returns the keys to look at. `settle` ends it."""
        entry = self.entries.setdefault(key, Entry(0, self.session))
        old, entry.intent, entry.removed = entry.intent, None, True
        return {key} | self._relate(old, None)

    def settle(self, outcome: Outcome, *, removal: bool) -> bool:
        """Record what became of a job; True when listeners must hear of it.

        `removal`: the job was to have no row. What became of a job that is out of date by now is not recorded: the
        key is looked at again.
        """
        entry = self.entries.get(outcome.key)
        if entry is None or entry.removed != removal:
            return False
        if removal and outcome.state is State.COMMITTED:
            del self.entries[outcome.key]
            return True
        if entry.refused:
            return False
        before = entry.outcome
        entry.outcome = outcome
        return before is None or replace(before, operations=0) != replace(outcome, operations=0)

    def resync(self, session: str, owners: Iterable[Key]) -> tuple[list[Key], set[Key]]:
        """The session's picture is complete: what is not in it goes.

        `owners` are all owners of rows in the database. Returns (keys removed, keys to look at).
        """
        self.begin(session)
        self.in_sync = True
        gone = [key for key, entry in self.entries.items() if entry.session != session or entry.removed]
        look: set[Key] = set()
        for key in gone:
            look |= self.remove(key)
        orphans = [key for key in owners if not self.knows(key)]
        for key in orphans:
            look |= self.remove(key) if key.kind not in DERIVED else {key}
        removed = {*gone, *orphans}
        return sorted(key for key in removed if key.kind not in DERIVED), look

    def knows(self, key: Key) -> bool:
        """Whether the key is in the picture, derived or not."""
        if key.kind in DERIVED:
            return self._derived(key) is not None
        return key in self.entries

    def job(self, key: Key) -> Job | None:
        """What to do about a key now; None: nothing (unknown before the picture is complete, or only ever refused)."""
        if key.kind in DERIVED:
            intent = self._derived(key)
            return Job(key, intent) if intent is not None or self.in_sync else None
        entry = self.entries.get(key)
        if entry is None:
            return Job(key, None, orphan=True) if self.in_sync else None
        if entry.removed:
            return Job(key, None)
        return Job(key, entry.intent) if entry.intent is not None else None

    def jobs(self, keys: Iterable[Key]) -> list[Job]:
        """The jobs of the keys, holders first."""
        ordered = sorted(keys, key=lambda key: (self.rank(key), key.name))
        return [job for job in map(self.job, ordered) if job is not None]

    def rank(self, key: Key) -> int:
        """When a key's turn is, 0 to RANKS - 1: smaller ones are committed before or together with larger ones."""
        if key.kind in DERIVED and not self.knows(key):
            return _LAST
        return _RANK[key.kind]

    def everything(self) -> set[Key]:
        """Every key that has a job of its own."""
        derived = {Key(Kind.DEFAULT_ROUTE, vpc) for vpc, keys in self._needs_route.items() if keys}
        return set(self.entries) | derived | ({WAKER} if self._speaking else set())

    def generation(self, key: Key) -> int:
        """The generation held, 0 for an unknown or derived key."""
        entry = self.entries.get(key)
        return entry.generation if entry is not None else 0

    def _derived(self, key: Key) -> Intent | None:
        if key.kind is Kind.WAKER:
            return Waker() if self._speaking else None
        return DefaultRoute(key.name) if self._needs_route.get(key.name) else None

    def _entry(self, key: Key, generation: int) -> Entry:
        entry = self.entries.setdefault(key, Entry(generation, self.session))
        entry.generation = generation
        entry.session = self.session
        return entry

    def _relate(self, old: Intent | None, new: Intent | None) -> set[Key]:
        look = self._relate_route(old, new) | self._relate_waker(old, new)
        if isinstance(old, Subnet):
            self._subnets[old.vpc].discard(old.key)
            look |= self._count_prefixes(old.vpc, without=old)
        if isinstance(new, Subnet):
            self._subnets.setdefault(new.vpc, set()).add(new.key)
            look |= self._count_prefixes(new.vpc, plus=new)
        if isinstance(old, Vpc) or isinstance(new, Vpc):
            if old != new:
                name = old.name if isinstance(old, Vpc) else new.name if isinstance(new, Vpc) else ""
                look |= self._subnets.get(name, set())
            if isinstance(old, Vpc):
                self.vpcs.pop(old.name, None)
            if isinstance(new, Vpc):
                self.vpcs[new.name] = new
        return look

    def _count_prefixes(
        self, vpc: str, *, without: Subnet | None = None, plus: Subnet | None = None
    ) -> set[Key]:
        """Note a VPC's prefixes; its BFD port keeps clear of them, so it is to be looked at."""
        now = list(self.prefixes.get(vpc, ()))
        for cidr in without.cidrs if without is not None else ():
            now.remove(cidr)
        now += plus.cidrs if plus is not None else ()
        self.prefixes[vpc] = tuple(sorted(now))
        holder = self.vpcs.get(vpc)
        return {holder.key} if holder is not None and holder.bfd_port is not None else set()

    def _relate_route(self, old: Intent | None, new: Intent | None) -> set[Key]:
        look: set[Key] = set()
        before, after = _router_in_need(old), _router_in_need(new)
        if before == after:
            return look
        key = (new or old).key  # type: ignore[union-attr]  # one of them differs from None, or both are alike
        if before is not None:
            self._needs_route[before].discard(key)
            look.add(Key(Kind.DEFAULT_ROUTE, before))
        if after is not None:
            self._needs_route.setdefault(after, set()).add(key)
            look.add(Key(Kind.DEFAULT_ROUTE, after))
        return look

    def _relate_waker(self, old: Intent | None, new: Intent | None) -> set[Key]:
        before = bool(self._speaking)
        if isinstance(old, Gateway):
            self._speaking.discard(old.key)
        if isinstance(new, Gateway) and new.bfd is not None:
            self._speaking.add(new.key)
        return {WAKER} if bool(self._speaking) != before else set()


def _router_in_need(intent: Intent | None) -> str | None:
    if isinstance(intent, Gateway | Vpc) and needs_default_route(intent):
        return intent.vpc if isinstance(intent, Gateway) else intent.name
    return None
