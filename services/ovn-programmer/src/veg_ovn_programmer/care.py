"""The care of BFD sessions: tells the listeners what OVN says of them, and helps those that do not come up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from veg_common import logs

from veg_ovn_programmer import metrics
from veg_ovn_programmer.core.bfd import ADMIN_DOWN, Session, port_name, sharing_fate, spare
from veg_ovn_programmer.core.book import Book
from veg_ovn_programmer.core.heal import Healer
from veg_ovn_programmer.core.intents import WAKER, Gateway, Key
from veg_ovn_programmer.core.view import Scene
from veg_ovn_programmer.ticket import Event

# Seconds between two rounds of help, at least, however many sessions there are.
ROUND_S = 0.05
# A BFD port has moved when it has been elsewhere for so many seconds: a chassis that returns claims it too, for a moment.
SETTLED_S = 1.0


class Care:
    """Belongs to a worker: `ask` has it look at gateways, `publish` tells its listeners."""

    def __init__(self, ask: Callable[[Iterable[Key]], None], publish: Callable[[Event], None]) -> None:
        self._ask = ask
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._healer = Healer()
        self._timer: asyncio.TimerHandle | None = None
        self._sessions: dict[Key, dict[str, Session]] = {}
        self._carriers: dict[str, str] = {}
        self._moving: dict[str, asyncio.TimerHandle] = {}
        self._log = logs.get("care")

    def scene(self, book: Book) -> Scene:
        """What rows depend on beside the intents themselves."""
        healer = self._healer
        return Scene(
            vpcs=book.vpcs,
            prefixes=book.prefixes,
            held=frozenset(healer.held),
            away=frozenset(healer.away),
            wakes=healer.wakes,
            carriers=dict(self._carriers),
        )

    def sessions(self) -> list[Session]:
        """OVN's view of every session."""
        return [one for key in sorted(self._sessions) for one in self._sessions[key].values()]

    def observe(self, key: Key, sessions: Sequence[Session]) -> None:
        """Note a gateway's sessions, just after its rows were brought in line with them."""
        before = self._sessions.pop(key, {})
        if not sessions and not before:
            return
        if sessions:
            self._sessions[key] = {one.peer: one for one in sessions}
        for one in sessions:
            if before.pop(one.peer, None) != one:
                self._log.info(
                    "session", owner=str(key), peer=one.peer, status=one.status, serving=one.serving
                )
                self._publish(one)
        for gone in before.values():
            self._publish(Session(key, gone.peer, ADMIN_DOWN, serving=False))
        if self._healer.observe(key, {one.peer: one.status for one in sessions}, self._loop.time()):
            self._ask([key])
        self._later()

    def reset(self, gateway: Gateway, peers: Sequence[str], why: str = "asked") -> list[str]:
        """Have sessions start afresh, all when `peers` is empty; returns which, see core.bfd.spare."""
        known = self._sessions.get(gateway.key, {}).values()
        chosen = spare(gateway, peers, [one for one in known if not self._held(one)])
        reset = self._healer.reset(gateway.key, chosen, self._loop.time())
        self._log.info(
            "sessions start afresh", owner=str(gateway.key), asked=list(peers), peers=reset, why=why
        )
        metrics.RESETS.labels(why).inc(len(reset))
        self._later()
        return reset

    def carried(self, owner: Key, chassis: str, book: Book) -> None:
        """Note the chassis that a VPC's BFD port is on. When the port has moved and stays there, the sessions of replicas on
        the chassis that it left start afresh: if they died together, OVN's next speaker never had the session and leaves it
        `up` for ever.
        """
        port = port_name(owner.name)
        if (moving := self._moving.pop(port, None)) is not None:
            moving.cancel()
        if self._carriers.setdefault(port, chassis) != chassis:
            self._moving[port] = self._loop.call_later(SETTLED_S, self._moved, owner, chassis, book)

    def _moved(self, owner: Key, chassis: str, book: Book) -> None:
        port = port_name(owner.name)
        del self._moving[port]
        left, self._carriers[port] = self._carriers[port], chassis
        self._log.info("BFD port moved", owner=str(owner), left=left, now=chassis)
        look = [owner]
        for gateway in book.speaking_by(port):
            peers = sharing_fate(gateway, left, self._sessions.get(gateway.key, {}).values())
            if peers and self.reset(gateway, peers, why="port_moved"):
                look.append(gateway.key)
        self._ask(look)

    def forget(self, keys: Iterable[Key]) -> None:
        """Have OVN forget the sessions of gateways whose BFD port has another address now: it would keep the old one."""
        look = list(keys)
        for key in look:
            self._healer.forget(key, self._loop.time())
        self._ask(look)
        self._later()

    def stop(self) -> None:
        """No more help."""
        for timer in (self._timer, *self._moving.values()):
            if timer is not None:
                timer.cancel()

    def _round(self) -> None:
        held, wakes = set(self._healer.held), self._healer.wakes
        look = self._healer.due(self._loop.time(), self._is_spare)
        for key, peer in set(self._healer.held) - held:
            metrics.RESETS.labels("not_up").inc()
            self._log.warning("session is not up, starting it afresh", owner=str(key), peer=peer)
        if self._healer.wakes != wakes:
            look.add(WAKER)
        self._ask(look)
        self._later()

    def _is_spare(self, session: tuple[Key, str]) -> bool:
        """Whether a session does not serve, or is not the last of its family that does."""
        key, peer = session
        known = self._sessions.get(key, {})
        if peer not in known or not known[peer].serving:
            return True
        return any(
            one.serving and not self._held(one) and (":" in one.peer) == (":" in peer)
            for one in known.values()
            if one.peer != peer
        )

    def _held(self, session: Session) -> bool:
        return (session.gateway, session.peer) in self._healer.held

    def _later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        when = self._healer.next()
        if when is not None:
            self._timer = self._loop.call_at(max(when, self._loop.time() + ROUND_S), self._round)
