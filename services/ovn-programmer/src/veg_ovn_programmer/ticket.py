"""What passes between the worker and those who call and watch it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from veg_ovn_programmer.core.bfd import Session
from veg_ovn_programmer.core.book import Outcome
from veg_ovn_programmer.core.diff import Op
from veg_ovn_programmer.core.intents import Key


@dataclass(frozen=True)
class Repair:
    """Rows that others broke and that were put right."""

    key: Key
    ops: tuple[Op, ...]


Event = Outcome | Repair | Session


@dataclass(eq=False)
class Ticket:
    """A caller that waits for the outcomes of some keys."""

    missing: set[Key]
    outcomes: dict[Key, Outcome] = field(default_factory=dict)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, key: Key, outcome: Outcome) -> None:
        """Tell what became of a key."""
        if key not in self.missing:
            return  # the caller was told already that it takes too long
        self.outcomes[key] = outcome
        self.missing.discard(key)
        if not self.missing:
            self.done.set()
