"""What clients may ask: the operations behind gRPC and `bfdd-control`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from veg_bfd import wire
from veg_bfd.control.loop import Loop
from veg_bfd.control.mirror import Mirror
from veg_bfd.core.model import Diagnostic, Role, SessionConfig, Timers, View, canonical, checked
from veg_bfd.errors import ConfigError, OwnerError

# Owner of the sessions that `bfdd-control allow` makes.
MANUAL = "bfdd-control"


class Sessions:
    """Checks requests, hands them to the loop, answers from the mirror. Raises the errors of veg_bfd.errors."""

    def __init__(self, mirror: Mirror, loop: Loop) -> None:
        self.mirror = mirror
        self.loop = loop
        self.on_hold: Callable[[tuple[int, str] | None], None] = lambda _hold: None
        self._lock = asyncio.Lock()
        self._template = SessionConfig("", "", role=Role.PASSIVE)

    async def set(self, owner: str, configs: Iterable[SessionConfig]) -> list[View]:
        """Make these the only sessions of the owner; all or nothing. Returns them by id."""
        if not owner:
            raise ConfigError("owner: must not be empty")
        wanted: dict[tuple[str, str], SessionConfig] = {}
        for number, config in enumerate(configs):
            try:
                good = checked(config)
            except ConfigError as error:
                raise ConfigError(f"sessions[{number}]: {error}") from None
            if good.key in wanted:
                raise ConfigError(f"sessions[{number}]: local {good.local} and peer {good.peer} given twice")
            wanted[good.key] = good
        async with self._lock:
            for view in self.mirror.sessions.values():
                if view.owner != owner and (view.local, view.peer) in wanted:
                    raise OwnerError(f"session {view.local} {view.peer} belongs to {view.owner}")
            await self.loop.request(
                wire.pack("keep", owner, list(wanted)),
                *(wire.pack("put", owner, wire.pack_config(config), 0) for config in wanted.values()),
            )
        return self.mirror.of_owner(owner)

    async def fresh(self) -> list[View]:
        """Every session by id, counters not older than a fraction of a second. Raises UnavailableError."""
        await self.loop.refresh()
        return list(self.mirror.sessions.values())

    async def admin(
        self,
        peers: Collection[str],
        *,
        down: bool,
        reason: str = "",
        diagnostic: int = Diagnostic.ADMINISTRATIVELY_DOWN,
        silent_first: bool = False,
    ) -> list[View]:
        """Take sessions administratively down or let them come up; no peers: all, and those to come."""
        peers = [canonical(peer, "peers") for peer in peers]
        async with self._lock:
            await self.loop.request(wire.pack("admin", peers, down, reason, diagnostic, silent_first))
            if not peers:
                self.on_hold((diagnostic, reason) if down else None)
        return [view for view in self.mirror.sessions.values() if not peers or view.peer in peers]

    # For bfdd-control ---------------------------------------------------------------------------------------

    async def allow(self, peers: Iterable[str]) -> None:
        """Let the first packet of these peers, to any local address, make a passive session."""
        async with self._lock:
            await self.loop.request(
                *(wire.pack("allow", peer, MANUAL, wire.pack_config(self._template)) for peer in peers)
            )

    async def block(self, peers: Iterable[str]) -> None:
        """The opposite; sessions that are there stay."""
        async with self._lock:
            await self.loop.request(*(wire.pack("block", peer) for peer in peers))

    async def admin_one(self, number: int, *, down: bool) -> None:
        """Take one session administratively down, or let it come up."""
        view = self._view(number)
        async with self._lock:
            await self.loop.request(
                wire.pack("session", view.id, down, "bfdd-control", int(Diagnostic.ADMINISTRATIVELY_DOWN))
            )

    async def kill(self, number: int) -> None:
        """End one session; its owner may make it again."""
        view = self._view(number)
        async with self._lock:
            await self.loop.request(wire.pack("end", view.id))

    async def retune(self, number: int | None, **timers: int) -> None:
        """Change timers of a session, or (None) of those that `allow` will make."""
        if number is None:
            self._template = replace(self._template, timers=replace(self._template.timers, **timers))
            return
        view = self._view(number)
        now = Timers(view.min_rx_us, view.min_tx_us, view.multiplier)
        config = checked(
            SessionConfig(
                view.local,
                view.peer,
                replace(now, **timers),
                view.interface,
                view.min_ttl,
                Role(view.role),
            )
        )
        async with self._lock:
            await self.loop.request(wire.pack("put", view.owner, wire.pack_config(config), 0))

    def _view(self, number: int) -> View:
        view = self.mirror.sessions.get(number)
        if view is None:
            raise ConfigError(f"there is no session {number}")
        return view
