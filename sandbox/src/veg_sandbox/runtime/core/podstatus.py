"""A pod's status from what the kubelet knows of it. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from veg_common.objects import Object

from veg_sandbox.runtime.core.pods import condition, make_condition, status_of, timestamp

# First restart at once, then a growing pause; a container that ran this long has recovered (the kubelet's rules,
# with shorter times: a sandbox is watched by people).
BACKOFF_MS = (0, 500, 1_000, 2_000, 5_000, 10_000)
RECOVERED_AFTER_S = 10.0


@dataclass(frozen=True)
class ContainerFacts:
    """One container now. `waiting` is a reason and set while it does not run."""

    name: str
    image: str
    ready: bool
    restarts: int
    started_at: str = ""
    waiting: str = ""
    waiting_message: str = ""
    last_exit_code: int | None = None
    last_finished_at: str = ""
    probe_output: str = ""
    """What the readiness probe that failed last printed."""


@dataclass(frozen=True)
class PodFacts:
    """A pod on its node. `ips` are empty until it is plugged."""

    host_ip: str
    ips: Sequence[str]
    started_at: str
    containers: Sequence[ContainerFacts]


def backoff_ms(failures: int) -> int:
    """Pause before the restart that follows the given number of quick deaths (1 is the first)."""
    return BACKOFF_MS[min(max(failures, 1), len(BACKOFF_MS)) - 1]


def running_status(pod: Object, facts: PodFacts, now: dt.datetime) -> Object:
    """Status of a bound pod, for a merge patch: podIP and podIPs are null until there are some."""
    all_ready = bool(facts.ips) and all(c.ready for c in facts.containers)
    unready = [c for c in facts.containers if not c.ready]
    why = ("", "") if all_ready else ("ContainersNotReady", _unready(unready))
    running = bool(facts.ips) and all(c.started_at for c in facts.containers)
    return {
        "phase": "Running" if running else "Pending",
        "hostIP": facts.host_ip,
        "hostIPs": [{"ip": facts.host_ip}],
        "podIP": facts.ips[0] if facts.ips else None,
        "podIPs": [{"ip": ip} for ip in facts.ips] or None,
        "startTime": facts.started_at,
        "conditions": [
            make_condition("Initialized", ok=True, now=now, before=pod),
            make_condition("Ready", ok=all_ready, now=now, before=pod, because=why),
            make_condition("ContainersReady", ok=all_ready, now=now, before=pod, because=why),
            make_condition("PodScheduled", ok=True, now=now, before=pod),
        ],
        "containerStatuses": [_container(c) for c in facts.containers],
    }


def unschedulable_status(pod: Object, message: str, now: dt.datetime) -> Object:
    """Status of a pod that no node takes."""
    refused = make_condition(
        "PodScheduled", ok=False, now=now, before=pod, because=("Unschedulable", message)
    )
    return {"phase": "Pending", "conditions": [refused]}


def scheduled_status(pod: Object, now: dt.datetime) -> Object:
    """Status at the moment of binding."""
    return {"phase": "Pending", "conditions": [make_condition("PodScheduled", ok=True, now=now, before=pod)]}


def changed(pod: Object, patch: Object) -> bool:
    """Whether merging `patch` into the pod's status would change it."""
    status = status_of(pod)
    return any(status.get(key) != value for key, value in patch.items())


def started_at(pod: Object, now: dt.datetime) -> str:
    """status.startTime, set once."""
    return str(status_of(pod).get("startTime") or timestamp(now))


def ready_since(pod: Object) -> str:
    """When it last became ready, RFC 3339; "" while it is not."""
    ready = condition(pod, "Ready")
    return str(ready.get("lastTransitionTime", "")) if ready.get("status") == "True" else ""


def _unready(containers: Sequence[ContainerFacts]) -> str:
    """The kubelet's words, and what the probes said: a controller may repeat them."""
    told = [f"containers with unready status: [{' '.join(c.name for c in containers)}]"]
    return "; ".join(told + [f"{c.name}: {c.probe_output}" for c in containers if c.probe_output])


def _container(facts: ContainerFacts) -> Object:
    if facts.waiting:
        waiting = {"reason": facts.waiting}
        if facts.waiting_message:
            waiting["message"] = facts.waiting_message
        state: Object = {"waiting": waiting}
    else:
        state = {"running": {"startedAt": facts.started_at}}
    last: Object = {}
    if facts.last_finished_at:
        code = facts.last_exit_code
        last["terminated"] = {
            "exitCode": 137 if code is None else code,
            "reason": "Completed" if code == 0 else "Error",
            "finishedAt": facts.last_finished_at,
        }
    found: Object = {
        "name": facts.name,
        "image": facts.image,
        "imageID": "",
        "ready": facts.ready,
        "started": not facts.waiting,
        "restartCount": facts.restarts,
        "state": state,
        "lastState": last,
    }
    # Not a field of Kubernetes, where only the event and the condition tell it.
    return found | ({"message": facts.probe_output} if facts.probe_output else {})
