"""Packets that mean nothing, so that OVN looks at its watch.

OVN compares the detection times of its BFD sessions with the clock only when its thread wakes: for a packet of its own,
every 75 to 100 % of an interval, or for one that comes in (controller/pinctrl.c). With the few sessions of a gateway
that may be a whole interval late. Whoever is alive keeps it awake for those who are not.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable

from veg_node_agent.core.model import BFD_PORT
from veg_node_agent.core.packets import NUDGE
from veg_node_agent.core.sessions import Session
from veg_node_agent.io.udp import bound


class Nudger:
    """Sends to the peers of sessions, from their own addresses. Needs a running event loop."""

    def __init__(self) -> None:
        self._wanted: tuple[tuple[Session, ...], float] = (), 0.0
        self._sockets: list[tuple[socket.socket, str]] = []
        self._timer: asyncio.TimerHandle | None = None

    def follow(self, sessions: Iterable[Session], interval: float) -> None:
        """From now on to these, every `interval` seconds; 0: never. Raises OSError when there is no such link."""
        wanted = (tuple(sessions) if interval else (), interval)
        if wanted == self._wanted:
            return
        self.close()
        for session in wanted[0]:
            self._sockets.append((bound(session.interface, session.local), session.peer))
        self._wanted = wanted
        if self._sockets:
            self._tick()

    def close(self) -> None:
        """Send no more."""
        self._wanted = (), 0.0
        if self._timer is not None:
            self._timer.cancel()
        for one, _ in self._sockets:
            one.close()
        self._sockets.clear()

    def _tick(self) -> None:
        for one, peer in self._sockets:
            with contextlib.suppress(OSError):  # nobody there, or no way to it: as good as said
                one.sendto(NUDGE, (peer, BFD_PORT))
        self._timer = asyncio.get_running_loop().call_later(self._wanted[1], self._tick)
