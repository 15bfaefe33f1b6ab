"""When a gateway that is leaving may go: nobody sends through it any more, or it has waited long enough.

Traffic is measured by what the kernel counts for the whole namespace. A packet that leaves for the outside counts as
forwarded and as sent on the external link; answers from outside count as forwarded only, the kernel's own ARP and
neighbour discovery as sent only. So it takes both to be traffic of the VPC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

QUIET = 1.0  # s without traffic of the VPC
_OWN_PACKETS = 3  # a second, sent by the kernel itself on the external link

Verdict = Literal["wait", "quiet", "late"]


@dataclass(frozen=True)
class Counters:
    """Packets since the namespace exists: forwarded (both families, both ways), sent on the external link."""

    forwarded: int
    sent: int


class Drain:
    """Watches the counters from the moment on that OVN was told to send traffic elsewhere."""

    def __init__(self, now: float, limit: float, settle: float = 0.0) -> None:
        """`limit` (s): the longest wait. `settle` (s): OVN may need this long to notice, so quiet does not count."""
        self._deadline = now + limit
        self._windows: list[tuple[float, Counters]] = []
        self._earliest = now + settle

    def observe(self, now: float, counters: Counters) -> Verdict:
        """What to do, given the counters of this moment."""
        self._windows.append((now, counters))
        # The youngest observation that is a whole window old is the one to compare with.
        while len(self._windows) > 1 and self._windows[1][0] <= now - QUIET:
            del self._windows[0]
        since, before = self._windows[0]
        if since <= now - QUIET and since >= self._earliest:
            forwarded = counters.forwarded - before.forwarded
            sent = counters.sent - before.sent
            if forwarded <= 0 or sent <= _OWN_PACKETS * (now - since):
                return "quiet"
        return self.blind(now)

    def blind(self, now: float) -> Verdict:
        """What to do when there are no counters."""
        return "late" if now >= self._deadline else "wait"
