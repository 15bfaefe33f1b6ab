"""What the worker is to look at next, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from veg_ovn_programmer.core.book import RANKS
from veg_ovn_programmer.core.intents import Key

# Owners in one transaction: enough to make the round trip cheap, few enough that it is answered soon (a gateway with BFD and
# both families has a dozen rows), and that the next change waits not long.
BATCH = 50


class Agenda:
    """Keys by rank, first come first served within one; `rank` gives a key's, `wake` is called when there is work."""

    def __init__(self, rank: Callable[[Key], int], wake: Callable[[], None]) -> None:
        self._rank = rank
        self._wake = wake
        self._pending: list[dict[Key, None]] = [{} for _ in range(RANKS)]
        self._asked: set[Key] = set()

    def __len__(self) -> int:
        return sum(map(len, self._pending))

    def __contains__(self, key: Key) -> bool:
        return any(key in some for some in self._pending)

    def look(self, keys: Iterable[Key]) -> None:
        """Look at keys: what differs was broken by somebody."""
        for key in keys:
            self._pending[self._rank(key)][key] = None
        self._wake()

    def ask(self, keys: Iterable[Key]) -> None:
        """Look at keys for a reason of our own: what it changes is no repair."""
        look = list(keys)
        self._asked.update(look)
        self.look(look)

    def take(self) -> tuple[list[Key], set[Key]]:
        """The next keys, and those of them that were asked for."""
        batch: list[Key] = []
        for some in self._pending:
            while some and len(batch) < BATCH:
                key = next(iter(some))
                del some[key]
                batch.append(key)
        asked = self._asked.intersection(batch)
        self._asked -= asked
        return batch, asked

    def put_back(self, batch: Iterable[Key], asked: Iterable[Key]) -> None:
        """They could not be looked at."""
        self._asked.update(asked)
        self.look(batch)
