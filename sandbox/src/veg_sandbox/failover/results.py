"""From the flows of each run to the figures. Pure.

The gap of a run is the largest gap of its flows minus the sending period: how long the traffic was away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Share:
    """One group of flows in one run."""

    flows: int
    gap_ms: float
    """Largest gap of any of them minus the sending period, never below 0."""
    lost: int
    """Packets, all flows together."""


@dataclass(frozen=True)
class Run:
    """One run: the flows that went through the replica that was to fail, and the others."""

    victim: str
    dying: Share
    surviving: Share
    recovery_s: float = 0.0
    """From healing until both replicas served again."""
    paused_ms: float = 0.0
    """The longest time for which a core of the machine stood still meanwhile."""


def share(flows: Iterable[dict[str, Any]], period_ms: float) -> Share:
    """A group's share from the prober's reports of its flows."""
    listed = list(flows)
    gap = max((flow["gap_ms"] for flow in listed), default=0.0) - period_ms
    return Share(len(listed), round(max(0.0, gap), 1) if listed else 0.0, sum(f["lost"] for f in listed))


def split(flows: Sequence[dict[str, Any]], victims: Iterable[str], period_ms: float) -> tuple[Share, Share]:
    """(dying, surviving) by the source address that the echo server saw before the fault."""
    gone = set(victims)
    dying = [flow for flow in flows if flow["source"] in gone]
    surviving = [flow for flow in flows if flow["source"] not in gone]
    return share(dying, period_ms), share(surviving, period_ms)


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest value that so many per cent of all do not exceed. ValueError without values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return ordered[max(1, math.ceil(percent / 100 * len(ordered))) - 1]


def figures(shares: Sequence[Share]) -> dict[str, float | int]:
    """`p50_ms`, `p99_ms`, `max_ms` of the runs' gaps, and all that was `lost`."""
    gaps = [s.gap_ms for s in shares if s.flows] or [0.0]
    return {
        "p50_ms": percentile(gaps, 50),
        "p99_ms": percentile(gaps, 99),
        "max_ms": max(gaps),
        "lost": sum(s.lost for s in shares),
    }


def summary(interval_ms: int, runs: Sequence[Run], repeated: int) -> dict[str, Any]:
    """The object that `--json` prints. `repeated`: runs that were measured again."""
    return {
        "interval_ms": interval_ms,
        "runs": len(runs),
        "dying": figures([run.dying for run in runs]),
        "surviving": figures([run.surviving for run in runs]),
        "repeated": repeated,
    }
