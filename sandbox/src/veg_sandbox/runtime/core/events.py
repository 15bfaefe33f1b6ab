"""Kubernetes events about pods: the object of a first one, the patch of a repeated one, and which are too old. Pure."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from veg_common.objects import Object, Ref, ref_of

from veg_sandbox.runtime.core.pods import timestamp

# As long as an API server keeps events; the number bounds what many short-lived pods leave.
KEPT_SECONDS = 3600
KEPT_EVENTS = 500
# The API server refuses longer ones.
_MAX_MESSAGE = 1024
_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class PodEvent:
    """Something that happened to a pod, in the words of kubelet or scheduler."""

    component: str
    reason: str
    message: str
    warning: bool = False
    container: str = ""
    """The one it is about, if it is about one."""


def ref_for(pod: Object, event: PodEvent) -> Ref:
    """The name under which the same event about the same pod is counted."""
    metadata = pod["metadata"]
    told = (metadata.get("uid"), event.component, event.reason, event.message, event.container)
    digest = hashlib.sha256(repr(told).encode()).hexdigest()[:16]
    return Ref("Event", str(metadata.get("namespace") or "default"), f"{metadata['name'][:200]}.{digest}")


def first(pod: Object, event: PodEvent, now: dt.datetime) -> Object:
    """The event's object."""
    ref, at = ref_for(pod, event), timestamp(now)
    about = {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "namespace": ref.namespace}
    about["uid"] = str(pod["metadata"].get("uid", ""))
    if event.container:
        about["fieldPath"] = f"spec.containers{{{event.container}}}"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": ref.name, "namespace": ref.namespace},
        "involvedObject": about,
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason,
        "message": event.message[:_MAX_MESSAGE],
        "count": 1,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "source": {"component": event.component},
        "reportingComponent": event.component,
    }


def again(before: Object, now: dt.datetime) -> Object:
    """The patch of an event that was recorded before."""
    count = before.get("count")
    return {"count": (count if isinstance(count, int) else 1) + 1, "lastTimestamp": timestamp(now)}


def outdated(events: Iterable[Object], components: Iterable[str], now: dt.datetime) -> list[Ref]:
    """Events of these components that are to be removed: the old ones, and the oldest of too many."""
    mine = [e for e in events if e.get("reportingComponent") in set(components)]
    mine.sort(key=_last_seen, reverse=True)
    oldest = (now.astimezone(dt.UTC) - dt.timedelta(seconds=KEPT_SECONDS)).strftime(_FORMAT)
    return [ref_of(e) for number, e in enumerate(mine) if number >= KEPT_EVENTS or _last_seen(e) < oldest]


def _last_seen(event: Object) -> str:
    return str(event.get("lastTimestamp") or event["metadata"].get("creationTimestamp") or "")
