"""Questions about a pod object that several decisions ask. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from veg_common.objects import Object

READY, SCHEDULED = "Ready", "PodScheduled"
DEFAULT_GRACE_SECONDS = 30.0
# A sandbox does not wait longer, whatever a manifest says.
MAX_GRACE_SECONDS = 60.0


def labels_of(obj: Object) -> dict[str, str]:
    """metadata.labels, {} when absent or not a mapping."""
    labels = obj.get("metadata", {}).get("labels")
    return labels if isinstance(labels, dict) else {}


def annotations_of(obj: Object) -> dict[str, str]:
    """metadata.annotations, {} when absent or not a mapping."""
    annotations = obj.get("metadata", {}).get("annotations")
    return annotations if isinstance(annotations, dict) else {}


def spec_of(obj: Object) -> Object:
    """The spec, {} when absent or not a mapping."""
    spec = obj.get("spec")
    return spec if isinstance(spec, dict) else {}


def status_of(obj: Object) -> Object:
    """The status, {} when absent or not a mapping."""
    status = obj.get("status")
    return status if isinstance(status, dict) else {}


def is_terminating(obj: Object) -> bool:
    """Whether its deletion has been asked for."""
    return bool(obj.get("metadata", {}).get("deletionTimestamp"))


def is_finished(pod: Object) -> bool:
    """Whether it will never run again."""
    return status_of(pod).get("phase") in ("Succeeded", "Failed")


def node_of(pod: Object) -> str:
    """Name of the node that it is bound to, "" when unbound."""
    return str(spec_of(pod).get("nodeName") or "")


def condition(obj: Object, kind: str) -> Object:
    """The condition of a type, {} without one."""
    found = status_of(obj).get("conditions")
    conditions = found if isinstance(found, list) else []
    return next((c for c in conditions if isinstance(c, dict) and c.get("type") == kind), {})


def is_ready(pod: Object) -> bool:
    """Whether condition Ready is True."""
    return bool(condition(pod, READY).get("status") == "True")


def restarts(pod: Object) -> int:
    """Restarts of all its containers."""
    return sum(int(s.get("restartCount", 0)) for s in status_of(pod).get("containerStatuses", []))


def timestamp(moment: dt.datetime) -> str:
    """RFC 3339 to the second, as Kubernetes writes times."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def make_condition(
    kind: str, *, ok: bool, now: dt.datetime, before: Object, because: tuple[str, str] = ("", "")
) -> Object:
    """A condition whose lastTransitionTime stays `before`'s (the object that held it) while its status does.

    `because` is (reason, message); empty ones are left out.
    """
    status = "True" if ok else "False"
    old = condition(before, kind)
    since = old.get("lastTransitionTime") if old.get("status") == status else None
    result = {"type": kind, "status": status, "lastTransitionTime": since or timestamp(now)}
    return result | {key: text for key, text in zip(("reason", "message"), because, strict=True) if text}


def container_status(pod: Object, name: str) -> Object:
    """The entry of status.containerStatuses, {} when there is none."""
    found = status_of(pod).get("containerStatuses")
    statuses = found if isinstance(found, list) else []
    return next((s for s in statuses if isinstance(s, dict) and s.get("name") == name), {})


def grace_of(pod: Object) -> float:
    """Seconds between TERM and KILL: of its deletion, else of its spec, else Kubernetes' 30; never a surprise."""
    asked = pod.get("metadata", {}).get("deletionGracePeriodSeconds")
    value = spec_of(pod).get("terminationGracePeriodSeconds") if asked is None else asked
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(min(value, MAX_GRACE_SECONDS))
    return DEFAULT_GRACE_SECONDS


def container_specs(pod: Object) -> list[Object]:
    """spec.containers that are mappings with a name."""
    found: Any = spec_of(pod).get("containers")
    containers: Sequence[Any] = found if isinstance(found, list) else []
    return [c for c in containers if isinstance(c, dict) and c.get("name")]
