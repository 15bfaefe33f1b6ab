"""Those who watch: each has a queue of its own, and none may hold up the others."""

from __future__ import annotations

import asyncio

from veg_ovn_programmer.ticket import Event

# Events that a listener may lag behind before it is told to start again.
LISTENER_EVENTS = 50_000


class Listeners:
    """Hands every event to every queue."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[Event | None]] = set()

    def listen(self) -> asyncio.Queue[Event | None]:
        """A queue of every later event; None ends it, when the listener was too slow. End it with `unlisten`."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(LISTENER_EVENTS)
        self._queues.add(queue)
        return queue

    def unlisten(self, queue: asyncio.Queue[Event | None]) -> None:
        """Stop listening."""
        self._queues.discard(queue)

    def publish(self, event: Event) -> None:
        """Tell everybody."""
        for queue in list(self._queues):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._queues.discard(queue)
                queue.get_nowait()
                queue.put_nowait(None)
