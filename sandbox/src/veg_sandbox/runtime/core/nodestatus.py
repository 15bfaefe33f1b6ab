"""Conditions of nodes that are lost and come back, and of the pods on them, as the node lifecycle controller
writes them. Pure: each returns the status patch, None when there is nothing to change.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from veg_common.objects import Object

from veg_sandbox.runtime.core.pods import READY, condition, status_of, timestamp

_LOST = ("NodeStatusUnknown", "Kubelet stopped posting node status.")
_PRESENT = ("KubeletReady", "the sandbox's runtime posts ready status")


def lost(node: Object, now: dt.datetime) -> Object | None:
    """Condition Ready becomes Unknown."""
    return _with(node, "Unknown", _LOST, now)


def returned(node: Object, now: dt.datetime) -> Object | None:
    """Condition Ready becomes True again after `lost`; what somebody else wrote stays."""
    if condition(node, READY).get("reason") != _LOST[0]:
        return None
    return _with(node, "True", _PRESENT, now)


def pod_of_lost_node(pod: Object, now: dt.datetime) -> Object | None:
    """A pod that was ready is so no more; everything else stays as its kubelet last said."""
    if condition(pod, READY).get("status") != "True":
        return None
    return _with(pod, "False", ("NodeNotReady", "Node is not ready"), now)


def _with(obj: Object, value: str, because: tuple[str, str], now: dt.datetime) -> Object | None:
    before = condition(obj, READY)
    if (before.get("status"), before.get("reason")) == (value, because[0]):
        return None
    fresh: Any = {"type": READY, "status": value, "reason": because[0], "message": because[1]}
    since = before.get("lastTransitionTime") if before.get("status") == value else None
    fresh["lastTransitionTime"] = since or timestamp(now)
    others = [c for c in status_of(obj).get("conditions") or [] if c.get("type") != READY]
    return {"conditions": [*others, fresh]}
