"""Who of several api processes leads, by a Lease (coordination.k8s.io/v1). Pure; time is an argument.

A follower does not trust the clock of whoever wrote a Lease: it counts a leader as gone when the Lease has stayed as it
was for its whole duration, by the follower's own clock. A leader stops to write `renew_s` after it *asked* for its last
renewal, which is well before that: the difference is for requests that are still on their way.
"""

from __future__ import annotations

from dataclasses import dataclass

from veg_common.objects import Object


@dataclass(frozen=True)
class Timing:
    """Seconds: how long a Lease is good, for how long its holder writes without a renewal, how often it renews."""

    lease_s: int = 15
    renew_s: float = 10.0
    retry_s: float = 2.0


@dataclass(frozen=True)
class Sight:
    """A Lease as it was last seen to change, and when: seconds of our own clock."""

    version: str
    since: float


def seen(lease: Object, before: Sight | None, now: float) -> Sight:
    """The sight after looking at a Lease again."""
    version = f"{lease['metadata'].get('uid', '')}/{lease['metadata'].get('resourceVersion', '')}"
    return before if before is not None and before.version == version else Sight(version, now)


def holder(lease: Object) -> str:
    """Identity of whoever holds a Lease; "" for nobody."""
    return str(_spec(lease).get("holderIdentity") or "")


def may_take(lease: Object, identity: str, sight: Sight, now: float) -> bool:
    """Whether a Lease is ours, nobody's, or of somebody who has not renewed it for its whole duration."""
    duration = _spec(lease).get("leaseDurationSeconds")
    good_for = duration if isinstance(duration, int) and duration > 0 else Timing.lease_s
    return holder(lease) in ("", identity) or now - sight.since > good_for


def new(namespace: str, name: str, identity: str, timing: Timing, stamp: str) -> Object:
    """A Lease of ours where there is none; `stamp` is RFC 3339 with microseconds."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "holderIdentity": identity,
            "leaseDurationSeconds": timing.lease_s,
            "acquireTime": stamp,
            "renewTime": stamp,
            "leaseTransitions": 0,
        },
    }


def taken(lease: Object, identity: str, timing: Timing, stamp: str) -> Object:
    """The patch that makes a Lease ours for another while, unless somebody was faster."""
    spec: Object = {
        "holderIdentity": identity,
        "leaseDurationSeconds": timing.lease_s,
        "renewTime": stamp,
    }
    if holder(lease) != identity:
        transitions = _spec(lease).get("leaseTransitions")
        spec["acquireTime"] = stamp
        spec["leaseTransitions"] = (transitions if isinstance(transitions, int) else 0) + 1
    return _versioned(lease, spec)


def released(lease: Object, stamp: str) -> Object:
    """The patch that leaves a Lease to whoever comes first."""
    return _versioned(lease, {"holderIdentity": None, "leaseDurationSeconds": 1, "renewTime": stamp})


def _versioned(lease: Object, spec: Object) -> Object:
    return {"metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]}, "spec": spec}


def _spec(lease: Object) -> Object:
    spec = lease.get("spec")
    return spec if isinstance(spec, dict) else {}
