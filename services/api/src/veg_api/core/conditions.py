"""Conditions of a resource's status, with their times. Pure.

Kubernetes' convention (metav1.Condition), and `lastUpdateTime` beside it, which Kube-OVN's CRDs demand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from veg_common.objects import Object

State = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Condition:
    """What is said of one aspect."""

    type: str
    status: State
    reason: str
    message: str


def conditions_of(status: Object) -> list[Object]:
    """The conditions of a status that somebody may have written by hand: those that have a type."""
    found = status.get("conditions")
    listed = [c for c in found if isinstance(c, dict)] if isinstance(found, list) else []
    return [c for c in listed if isinstance(c.get("type"), str)]


def condition_of(status: Object, kind: str) -> Object:
    """One of them, {} without it."""
    return next((c for c in conditions_of(status) if c["type"] == kind), {})


def dated(told: Iterable[Condition], status: Object, generation: int, now: str) -> list[Object]:
    """status.conditions: `lastTransitionTime` moves with the status only, `lastUpdateTime` with anything that is said.

    `status` is the one of before; `now` is RFC 3339.
    """
    return [_dated(one, condition_of(status, one.type), generation, now) for one in told]


def _dated(told: Condition, before: Object, generation: int, now: str) -> Object:
    said = {
        "type": told.type,
        "status": told.status,
        "reason": told.reason,
        "message": told.message,
        "observedGeneration": generation,
    }
    since = before.get("lastTransitionTime") if before.get("status") == told.status else None
    same = all(before.get(key) == value for key, value in said.items())
    updated = before.get("lastUpdateTime") if same else None
    return {**said, "lastTransitionTime": since or now, "lastUpdateTime": updated or now}
