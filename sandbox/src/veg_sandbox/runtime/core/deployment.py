"""The Deployment controller's decision: which pods to create, which to delete, what status to show. Pure.

Follows Kubernetes' rolling update (maxSurge, maxUnavailable) and the ReplicaSet's order of who goes first, without
a ReplicaSet in between: pods belong to the Deployment and carry the hash of their template.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from veg_common.objects import Object, Ref, ref_of

from veg_sandbox.runtime.core.pods import (
    condition,
    is_finished,
    is_ready,
    is_terminating,
    labels_of,
    make_condition,
    node_of,
    restarts,
    spec_of,
    status_of,
)
from veg_sandbox.runtime.core.template import HASH_LABEL, template_hash


@dataclass(frozen=True)
class Decision:
    """What to do now for one Deployment; empty when its pods are as they should be."""

    create: int = 0
    delete: tuple[Ref, ...] = ()


def owned_by(deployment: Object, pods: Sequence[Object]) -> list[Object]:
    """The pods whose controller it is, in the order given."""
    uid = deployment["metadata"].get("uid")
    namespace = deployment["metadata"]["namespace"]
    return [p for p in pods if p["metadata"].get("namespace") == namespace and _controller_uid(p) == uid]


def orphans(pods: Sequence[Object], deployments: Sequence[Object]) -> list[Ref]:
    """Pods whose Deployment is gone: the garbage collector's share."""
    alive = {d["metadata"].get("uid") for d in deployments}
    return [
        ref_of(pod)
        for pod in pods
        if not is_terminating(pod)
        and _controller(pod).get("kind") == "Deployment"
        and _controller_uid(pod) not in alive
    ]


def decide(deployment: Object, pods: Sequence[Object], now: dt.datetime) -> Decision:
    """The next step for a Deployment given its own pods (`owned_by`); called again after every change of a pod, and
    when `next_look` says so.
    """
    active = [p for p in pods if not is_terminating(p) and not is_finished(p)]
    finished = tuple(ref_of(p) for p in pods if is_finished(p) and not is_terminating(p))
    if is_terminating(deployment):
        return Decision(0, (*finished, *(ref_of(p) for p in active)))
    digest = template_hash(deployment["spec"]["template"])
    new = [p for p in active if labels_of(p).get(HASH_LABEL) == digest]
    old = [p for p in active if labels_of(p).get(HASH_LABEL) != digest]
    wanted = replicas_of(deployment)
    strategy = spec_of(deployment).get("strategy") or {}
    if strategy.get("type") == "Recreate":
        step = _recreate(wanted, new, old, terminating=[p for p in pods if is_terminating(p)])
    else:
        available = _availability(deployment, now)
        step = _rolling(wanted, new, old, limits(strategy.get("rollingUpdate") or {}, wanted), available)
    return Decision(step.create, (*finished, *step.delete))


def next_look(deployment: Object, pods: Sequence[Object], now: dt.datetime) -> float | None:
    """Seconds until a ready pod becomes available (spec.minReadySeconds); None when none is about to."""
    available = _availability(deployment, now)
    waits = [
        _min_ready(deployment) - _ready_for(pod, now)
        for pod in pods
        if is_ready(pod) and not is_terminating(pod) and not available(pod)
    ]
    return min(waits, default=None)


def replicas_of(deployment: Object) -> int:
    """spec.replicas, 1 when absent, never below 0."""
    value = spec_of(deployment).get("replicas")
    return 1 if value is None else max(0, int(value))


def limits(rolling: Object, wanted: int) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) in pods: defaults 25 %, surge rounded up, unavailable down, never both 0."""
    surge = _scaled(rolling.get("maxSurge", "25%"), wanted, math.ceil)
    unavailable = _scaled(rolling.get("maxUnavailable", "25%"), wanted, math.floor)
    return (surge, unavailable) if surge or unavailable else (0, 1)


def deletion_order(pod: Object, crowd: Callable[[str], int] = lambda _node: 0) -> tuple[Any, ...]:
    """Sort key, first to go first: unbound, not ready, on a crowded node, more restarts, newest."""
    return (
        bool(node_of(pod)),
        is_ready(pod),
        -crowd(node_of(pod)),
        _newest_first(str(condition(pod, "Ready").get("lastTransitionTime", "")) if is_ready(pod) else ""),
        -restarts(pod),
        _newest_first(str(pod["metadata"].get("creationTimestamp", ""))),
        _newest_first(pod["metadata"]["name"]),
    )


def status(deployment: Object, pods: Sequence[Object], now: dt.datetime) -> Object:
    """The Deployment's status as Kubernetes counts: terminating pods do not count."""
    digest = template_hash(deployment["spec"]["template"])
    active = [p for p in pods if not is_terminating(p) and not is_finished(p)]
    updated = sum(labels_of(p).get(HASH_LABEL) == digest for p in active)
    ready = sum(is_ready(p) for p in active)
    available = sum(map(_availability(deployment, now), active))
    wanted = replicas_of(deployment)
    _, unavailable = limits((spec_of(deployment).get("strategy") or {}).get("rollingUpdate") or {}, wanted)
    enough = available >= wanted - (unavailable if wanted else 0)
    complete = updated == wanted and len(active) == wanted and available >= wanted
    progress = ("NewReplicaSetAvailable", "all pods are updated and available")
    waiting = ("ReplicaSetUpdated", f"{updated} of {wanted} pods are updated, {available} available")
    conditions = [
        make_condition(
            "Available",
            ok=enough,
            now=now,
            before=deployment,
            because=(
                "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
                f"Deployment {'has' if enough else 'does not have'} minimum availability.",
            ),
        ),
        make_condition(
            "Progressing",
            ok=True,
            now=now,
            before=deployment,
            because=progress if complete else waiting,
        ),
    ]
    return {
        "observedGeneration": deployment["metadata"].get("generation", 0),
        "replicas": len(active),
        "updatedReplicas": updated,
        "readyReplicas": ready,
        "availableReplicas": available,
        "unavailableReplicas": max(0, wanted - available),
        "conditions": conditions,
    }


def status_differs(deployment: Object, wanted: Object) -> bool:
    """Whether writing `wanted` would change anything."""
    return status_of(deployment) != wanted


def _recreate(wanted: int, new: list[Object], old: list[Object], terminating: list[Object]) -> Decision:
    if old:
        return Decision(0, tuple(ref_of(p) for p in old))
    if terminating and len(new) < wanted:
        return Decision()
    return _scale(wanted, new)


def _rolling(
    wanted: int,
    new: list[Object],
    old: list[Object],
    limit: tuple[int, int],
    available: Callable[[Object], bool],
) -> Decision:
    if not old:
        return _scale(wanted, new)
    surge, unavailable = limit
    room = wanted + surge - len(new) - len(old)
    create = max(0, min(wanted - len(new), room))
    excess = _scale(wanted, new).delete
    minimum = max(0, wanted - unavailable)
    new_unavailable = sum(not available(p) for p in new)
    # Old pods that do not serve go first, then as many serving ones as availability allows.
    spare = max(0, len(new) + len(old) - minimum - new_unavailable)
    idle = _ordered([p for p in old if not available(p)])[:spare]
    serving = sum(available(p) for p in (*new, *old))
    going = _ordered([p for p in old if available(p)])[: max(0, serving - minimum)]
    return Decision(create, (*(ref_of(p) for p in (*idle, *going)), *excess))


def _availability(deployment: Object, now: dt.datetime) -> Callable[[Object], bool]:
    """Whether a pod counts: ready, and for as long as spec.minReadySeconds asks."""
    seconds = _min_ready(deployment)
    return lambda pod: is_ready(pod) and (not seconds or _ready_for(pod, now) >= seconds)


def _min_ready(deployment: Object) -> float:
    return float(spec_of(deployment).get("minReadySeconds") or 0)


def _ready_for(pod: Object, now: dt.datetime) -> float:
    since = str(condition(pod, "Ready").get("lastTransitionTime", ""))
    try:
        return (now - dt.datetime.fromisoformat(since)).total_seconds()
    except ValueError:
        return 0.0


def _scale(wanted: int, pods: list[Object]) -> Decision:
    if len(pods) <= wanted:
        return Decision(create=wanted - len(pods))
    return Decision(0, tuple(ref_of(p) for p in _ordered(pods)[: len(pods) - wanted]))


def _ordered(pods: list[Object]) -> list[Object]:
    nodes = [node_of(p) for p in pods]
    return sorted(pods, key=lambda pod: deletion_order(pod, nodes.count))


def _controller(pod: Object) -> Object:
    references = pod["metadata"].get("ownerReferences") or []
    return next((r for r in references if r.get("controller")), {})


def _controller_uid(pod: Object) -> Any:
    return _controller(pod).get("uid")


def _scaled(value: Any, wanted: int, rounding: Callable[[float], int]) -> int:
    if isinstance(value, str) and value.endswith("%"):
        return rounding(wanted * int(value[:-1]) / 100)
    return int(value)


def _newest_first(text: str) -> tuple[int, ...]:
    """Sorts texts in reverse within an ascending sort (RFC 3339 times in UTC sort as text)."""
    return tuple(-byte for byte in text.encode())
