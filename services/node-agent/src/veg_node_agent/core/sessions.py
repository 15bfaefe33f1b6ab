"""The BFD sessions that the pod should have, and what the speaker must be told so that it has them.

Called by `availability` (what is wished) and `bfd_rpc` (what is to be said). Pure: the speaker's answers come in as
`Told`, what is to be said goes out as steps.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from veg_node_agent.core.model import Config, Family, Interface, Timers


@dataclass(frozen=True)
class Session:
    """A session as the speaker is asked for it; see veg.bfd.v1.SessionConfig."""

    peer: str
    local: str
    interface: str
    timers: Timers
    min_ttl: int


@dataclass(frozen=True)
class Hold:
    """Why sessions are administratively down. `path_down`: say diagnostic 5 (path down) instead of 7."""

    reason: str
    path_down: bool = False


@dataclass(frozen=True)
class Wish:
    """What the speaker should do.

    `holds`: peers whose sessions should be down. `drain`: all should be, for good. `settled`: it is known which peers
    are to be held; before that, what a predecessor may have held stays held.
    """

    sessions: tuple[Session, ...] = ()
    holds: Mapping[str, Hold] = field(default_factory=dict)
    drain: Hold | None = None
    settled: bool = True

    @property
    def present_holds(self) -> dict[str, Hold]:
        """The holds of peers that have a session."""
        present = {session.peer for session in self.sessions}
        return {peer: hold for peer, hold in self.holds.items() if peer in present}


@dataclass(frozen=True)
class Told:
    """What the speaker was told and has confirmed.

    `sessions`: None when it has to be told again. `all_held`: whether everything is held; None when only a
    predecessor could know. `maybe_held`: peers that were held before the speaker was lost. `released`: peers that were
    let up by name.
    """

    sessions: tuple[Session, ...] | None = None
    all_held: bool | None = None
    holds: Mapping[str, Hold] = field(default_factory=dict)
    maybe_held: frozenset[str] = frozenset()
    released: frozenset[str] = frozenset()

    def lost(self) -> Told:
        """What is known of a speaker that was away: it may be the same one, or a new one that knows nothing."""
        return Told(
            sessions=None,
            all_held=None if self.all_held is None else False,
            holds={},
            maybe_held=self.maybe_held | frozenset(self.holds),
        )


@dataclass(frozen=True)
class SetSessions:
    """Make these our only sessions."""

    sessions: tuple[Session, ...]

    def __str__(self) -> str:
        return f"sessions: {', '.join(f'{s.local} -> {s.peer}' for s in self.sessions) or 'none'}"


@dataclass(frozen=True)
class SetHold:
    """Hold the sessions of these peers (none named: all, and those to come), or let them come up again."""

    peers: tuple[str, ...]
    hold: Hold | None

    def __str__(self) -> str:
        who = ", ".join(self.peers) or "everything"
        return f"admin up: {who}" if self.hold is None else f"admin down: {who}: {self.hold.reason}"


Step = SetSessions | SetHold


def next_step(wish: Wish, told: Told) -> Step | None:
    """The next thing to say; None when all is said.

    Draining comes before everything, because each millisecond of it is traffic on its way to nowhere. What a
    predecessor held for good is let go as a whole only when nothing is to be held: no session that is to stay down may
    come up in between.
    """
    if wish.drain is not None:
        return None if told.all_held else SetHold((), wish.drain)
    if wish.settled and told.all_held is not False and not wish.present_holds:
        return SetHold((), None)
    if told.sessions != wish.sessions:
        return SetSessions(wish.sessions)
    return next(_hold_steps(wish, told), None)


def _hold_steps(wish: Wish, told: Told) -> Iterator[SetHold]:
    holds = wish.present_holds
    yield from (
        SetHold((peer,), hold) for peer, hold in sorted(holds.items()) if told.holds.get(peer) != hold
    )
    if wish.settled:
        held = told.maybe_held | set(told.holds)
        if told.all_held is not False:
            held |= {session.peer for session in wish.sessions} - told.released
        yield from (SetHold((peer,), None) for peer in sorted(held) if peer not in holds)


def before(told: Told, step: Step) -> Told:
    """What is to be remembered while a step is said: it may be carried out and its confirmation lost."""
    if isinstance(step, SetHold) and step.hold is not None:
        return replace(told, maybe_held=told.maybe_held | {*step.peers})
    return told


def after(told: Told, step: Step) -> Told:
    """What is told once a step is confirmed."""
    if isinstance(step, SetSessions):
        # A session that was made anew is not held, whatever its peer was before.
        before = {(s.peer, s.local) for s in told.sessions or ()}
        kept = {s.peer for s in step.sessions if (s.peer, s.local) in before}
        holds = {peer: hold for peer, hold in told.holds.items() if peer in kept}
        return replace(told, sessions=step.sessions, holds=holds, released=told.released & kept)
    if not step.peers:
        return Told(told.sessions, all_held=step.hold is not None)
    holds = {peer: hold for peer, hold in told.holds.items() if peer not in step.peers}
    released = told.released | {*step.peers}
    if step.hold is not None:
        holds |= dict.fromkeys(step.peers, step.hold)
        released -= {*step.peers}
    return replace(told, holds=holds, maybe_held=told.maybe_held - {*step.peers}, released=released)


def sessions(
    config: Config, interfaces: Mapping[str, Interface]
) -> tuple[tuple[Session, ...], tuple[str, ...]]:
    """The sessions of a configuration on a pod with these interfaces, and what is missing for others, for people."""
    bfd = config.bfd
    if bfd is None:
        return (), ()
    wanted: list[Session] = []
    missing: list[str] = []
    for peer in bfd.peers:
        family = Family(ipaddress.ip_address(peer).version)
        local = own_address(config, family, interfaces)
        if local:
            wanted.append(Session(peer, local, config.internal, bfd.timers, bfd.min_ttl))
        else:
            missing.append(f"no session with {peer}: {config.internal} has no {family.label} address")
    return tuple(wanted), tuple(missing)


def own_address(config: Config, family: Family, interfaces: Mapping[str, Interface]) -> str:
    """The pod's address in the VPC: the one beside the VPC's gateway, else the first; "" when there is none."""
    interface = interfaces.get(config.internal)
    own = [ipaddress.ip_interface(text) for text in interface.addresses] if interface else []
    own = [address for address in own if address.version == family]
    gateways = [
        ipaddress.ip_address(entry.internal_gateway) for entry in config.families if entry.family is family
    ]
    beside = [a for a in own if any(gateway in a.network for gateway in gateways)]
    found = beside or own
    return str(found[0].ip) if found else ""
