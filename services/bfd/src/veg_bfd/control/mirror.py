"""What the packet loop has told, for everyone who asks: no question of a client reaches the loop.

Only counters of packets age; `Loop.refresh` has them told anew, seldom enough not to disturb.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from veg_bfd.core.model import State, View

_QUEUE = 20_000


@dataclass(frozen=True)
class Ended:
    """A session has ended."""

    id: int


@dataclass(frozen=True)
class Behind:
    """The watcher has not kept up and gets no more."""


Update = View | Ended | Behind


@dataclass
class Stats:
    """Counters of the loop that belong to no session."""

    discards: dict[str, int] = field(default_factory=dict)
    unknown: int = 0
    send_errors: int = 0
    stalls: int = 0


class Mirror:
    """Sessions by id, in the order of ids, and those who watch them."""

    def __init__(self) -> None:
        self.sessions: dict[int, View] = {}
        self.policy = ""
        self.problem = ""
        self.stats = Stats()
        self._up = 0  # asked for with every line of the loop: counted, not looked for
        self._since: dict[int, tuple[int, str]] = {}
        self._watchers: list[asyncio.Queue[Update]] = []

    def change(self, view: View) -> None:
        """A session was made or changed its state."""
        self.show(view)
        self._publish(view)

    def show(self, view: View) -> None:
        """A session is like this now."""
        before = self.sessions.get(view.id)
        self._up += (view.state == State.UP) - (before is not None and before.state == State.UP)
        self.sessions[view.id] = view
        if self._since.get(view.id, (None,))[0] != view.since_us:
            ago = time.monotonic() - view.since_us / 1_000_000
            moment = datetime.fromtimestamp(time.time() - ago, UTC)
            text = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            self._since[view.id] = (view.since_us, text)

    def end(self, number: int) -> None:
        """A session is no more."""
        before = self.sessions.pop(number, None)
        self._up -= before is not None and before.state == State.UP
        self._since.pop(number, None)
        self._publish(Ended(number))

    def since(self, number: int) -> str:
        """RFC 3339 time of the last change of state; it stays the same when the wall clock is set."""
        return self._since[number][1]

    def of_owner(self, owner: str) -> list[View]:
        """The sessions of an owner, by id."""
        return [view for view in self.sessions.values() if view.owner == owner]

    @property
    def all_up(self) -> bool:
        """Whether there is a session and every one is Up."""
        return 0 < self._up == len(self.sessions)

    @contextmanager
    def watching(self) -> Iterator[tuple[list[View], asyncio.Queue[Update]]]:
        """The sessions now, and a queue of what happens from now on."""
        queue: asyncio.Queue[Update] = asyncio.Queue()
        self._watchers.append(queue)
        try:
            yield list(self.sessions.values()), queue
        finally:
            if queue in self._watchers:
                self._watchers.remove(queue)

    def _publish(self, update: Update) -> None:
        for queue in list(self._watchers):
            queue.put_nowait(update)
            if queue.qsize() > _QUEUE:
                self._watchers.remove(queue)
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(Behind())


def describe(view: View, since: str) -> dict[str, Any]:
    """A session as JSON for machines: microseconds, state names in lower case."""
    fields = view._asdict()
    del fields["since_us"]
    fields["state"] = State(view.state).name.lower()
    fields["remote_state"] = State(view.remote_state).name.lower()
    return {**fields, "since": since}
