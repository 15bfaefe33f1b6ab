"""How soon a broken owner is repaired: at once, and ever later while someone keeps breaking it."""

from __future__ import annotations

from dataclasses import dataclass, field

from veg_ovn_programmer.core.intents import Key

FIRST_S = 0.25
LONGEST_S = 30.0
CALM_S = 60.0


@dataclass
class Pace:
    """Delays of repairs, in seconds. Two controllers that disagree about a row must not melt the database."""

    _last: dict[Key, tuple[float, int]] = field(default_factory=dict)

    def delay(self, key: Key, now: float) -> float:
        """Seconds until the next repair of the key may start, at monotonic time `now`."""
        last, repeats = self._last.get(key, (float("-inf"), 0))
        if now - last > CALM_S or repeats < 3:
            return 0.0
        return max(0.0, last + min(LONGEST_S, FIRST_S * 2.0 ** (repeats - 3)) - now)

    def repaired(self, key: Key, now: float) -> None:
        """Note a repair at monotonic time `now`."""
        last, repeats = self._last.get(key, (float("-inf"), 0))
        self._last[key] = (now, 1 if now - last > CALM_S else repeats + 1)

    def forget(self, key: Key) -> None:
        """The owner is gone, or its intent is another one."""
        self._last.pop(key, None)
