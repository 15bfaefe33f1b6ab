"""What happened in the database since somebody last asked: filled by the IDL's thread, emptied by the worker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from veg_ovn_programmer.core.intents import Key


@dataclass
class News:
    """One handful of changes."""

    reloaded: bool = False
    """The copy was read anew: anything may differ."""
    owners: set[Key] = field(default_factory=set)
    """Owners with a row that was made, changed or removed."""
    sessions: set[Key] = field(default_factory=set)
    """Owners with a BFD row whose status OVN changed."""
    holders: set[tuple[str, str]] = field(default_factory=set)
    """(table, name) of routers and switches that came, went or changed their name or routes."""

    def __bool__(self) -> bool:
        return self.reloaded or bool(self.owners) or bool(self.sessions) or bool(self.holders)


class Changes:
    """Collects News; calls `wake` (from any thread) when there is some and nobody was woken for it yet."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._news = News()
        self._held = False

    def owner(self, key: Key) -> None:
        """A row of that owner was made, changed or removed."""
        with self._lock:
            self._news.owners.add(key)
        self._tell()

    def session(self, key: Key) -> None:
        """OVN changed the status of a BFD row of that owner."""
        with self._lock:
            self._news.sessions.add(key)
        self._tell()

    def holder(self, table: str, name: str) -> None:
        """A router or switch came, went or changed."""
        with self._lock:
            self._news.holders.add((table, name))
        self._tell()

    def reloaded(self) -> None:
        """The whole copy was read anew."""
        with self._lock:
            self._news.reloaded = True
        self._tell()

    def connection(self) -> None:
        """The connection came or went."""
        self._wake()

    def hold(self) -> None:
        """Wake nobody for now: a transaction of ours is under way and will cause changes itself."""
        self._held = True

    def release(self) -> None:
        """End of `hold`: wake for what is left."""
        self._held = False
        with self._lock:
            some = bool(self._news)
        if some:
            self._wake()

    def among(self, keys: Iterable[Key]) -> set[Key]:
        """Which of the keys have changed."""
        with self._lock:
            return self._news.owners.intersection(keys)

    def settle(self, keys: Iterable[Key]) -> None:
        """The keys were looked at: what has changed up to now needs no second look."""
        with self._lock:
            self._news.owners.difference_update(keys)

    def take(self) -> News:
        """What has happened since the last call."""
        with self._lock:
            news, self._news = self._news, News()
        return news

    def _tell(self) -> None:
        if not self._held:
            self._wake()
