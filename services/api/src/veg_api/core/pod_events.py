"""What kubelet says of a pod only in Events: why a probe fails, a volume is not there, the network is not. Pure.

A pod's conditions say that it is not ready, not why: "containers with unready status: [gateway]".
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from veg_common.objects import Object

from veg_api.core.objects import Pod, said

# Reasons that tell more than conditions do.
_TELLING = (
    "Unhealthy",
    "FailedMount",
    "FailedAttachVolume",
    "FailedCreatePodSandBox",
    "FailedCreatePodContainer",
    "NetworkNotReady",
    "SysctlForbidden",
    "BackOff",
    "Failed",
)
# The event of the probe that made a pod unready is a little older than its condition.
_BEFORE = datetime.timedelta(seconds=30)


@dataclass(frozen=True)
class PodEvent:
    """A warning about a pod. `last` is when it was last seen, RFC 3339."""

    namespace: str
    pod: str
    uid: str
    reason: str
    message: str
    last: str


def parse_event(obj: Object) -> PodEvent | None:
    """An Event, if it is one that tells something. Never raises."""
    about = obj.get("involvedObject")
    if not isinstance(about, dict) or about.get("kind") != "Pod" or obj.get("type") != "Warning":
        return None
    reason, message = str(obj.get("reason") or ""), str(obj.get("message") or "")
    if reason not in _TELLING:
        return None
    times = (obj.get("lastTimestamp"), obj.get("eventTime"), obj["metadata"].get("creationTimestamp"))
    last = next((str(time) for time in times if time), "")
    namespace, pod, uid = (str(about.get(key) or "") for key in ("namespace", "name", "uid"))
    return PodEvent(namespace, pod, uid, reason, message, last)


def by_pod(items: Mapping[tuple[str, str], PodEvent]) -> dict[str, PodEvent]:
    """An index: the latest event of each pod, by its uid."""
    found: dict[str, PodEvent] = {}
    for event in sorted(items.values(), key=lambda e: (e.last, e.reason, e.message)):
        found[event.uid] = event
    return found


def trouble(pod: Pod, event: PodEvent | None) -> str:
    """Why a pod does not run or is not ready: its own words, and the latest of kubelet's that belong to them."""
    if pod.ready:
        return ""
    if event is None or _older(event.last, pod.unready_since) or _known(event.message, pod.trouble):
        return pod.trouble
    text = said({"reason": event.reason, "message": event.message})
    return f"{pod.trouble}; {text}" if pod.trouble else text


def _older(last: str, since: str) -> bool:
    """Whether an event was over before a pod became unready: it was ready in between."""
    try:
        return datetime.datetime.fromisoformat(last) < datetime.datetime.fromisoformat(since) - _BEFORE
    except (ValueError, TypeError):
        return False


def _known(message: str, told: str) -> bool:
    """Whether the end of a message ("Readiness probe failed: …") is told already."""
    return message.rpartition("failed: ")[2].strip()[:80] in told
