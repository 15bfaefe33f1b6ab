"""A pod's status from what the kubelet knows of it. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from veg_common.objects import Object

from veg_sandbox.runtime.core.pods import condition, make_condition, status_of, timestamp

# First restart at once, then a growing pause; a container that ran this long has recovered (the kubelet's rules,
# with shorter times: a sandbox is watched by people).
_NOT_KEPT = "message"
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
    ended: bool = False
    """For good, in the way that the two above tell."""
    probe_output: str = ""
    """What the readiness probe that failed last printed."""


@dataclass(frozen=True)
class PodFacts:
    """A pod on its node. `ips` are empty until it is plugged."""

    host_ip: str
    ips: Sequence[str]
    started_at: str
    containers: Sequence[ContainerFacts]
    initialized: bool = True
    """Whether the init containers are through."""
    init_containers: Sequence[Object] = ()
    """Their specs."""


def backoff_ms(failures: int) -> int:
    """Pause before the restart that follows the given number of quick deaths (1 is the first)."""
    return BACKOFF_MS[min(max(failures, 1), len(BACKOFF_MS)) - 1]


def running_status(pod: Object, facts: PodFacts, now: dt.datetime) -> Object:
    """Status of a bound pod, for a merge patch: podIP and podIPs are null until there are some."""
    all_ready = bool(facts.ips) and all(c.ready for c in facts.containers)
    unready = [c for c in facts.containers if not c.ready]
    why = ("", "") if all_ready else ("ContainersNotReady", _unready(unready))
    own = [
        make_condition("Initialized", ok=facts.initialized, now=now, before=pod),
        make_condition("Ready", ok=all_ready, now=now, before=pod, because=why),
        make_condition("ContainersReady", ok=all_ready, now=now, before=pod, because=why),
        make_condition("PodScheduled", ok=True, now=now, before=pod),
    ]
    kinds = {condition["type"] for condition in own}
    others = [c for c in status_of(pod).get("conditions") or [] if c.get("type") not in kinds]
    return {
        "phase": _phase(facts),
        "hostIP": facts.host_ip,
        "hostIPs": [{"ip": facts.host_ip}],
        "podIP": facts.ips[0] if facts.ips else None,
        "podIPs": [{"ip": ip} for ip in facts.ips] or None,
        "startTime": facts.started_at,
        # What others wrote (an eviction, a condition of an operator) stays.
        "conditions": [*own, *others],
        **_init_statuses(facts),
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
    """Whether merging `patch` into the pod's status would change it.

    What an API server adds to it (`lastProbeTime: null`) is no difference, nor is what it does not keep.
    """
    status = status_of(pod)
    return not all(_covers(status.get(key), value) for key, value in patch.items())


def _covers(have: Any, want: Any) -> bool:
    if isinstance(want, dict):
        kept = {key: value for key, value in want.items() if key != _NOT_KEPT or "state" not in want}
        return isinstance(have, dict) and all(_covers(have.get(key), value) for key, value in kept.items())
    if isinstance(want, list):
        return (
            isinstance(have, list)
            and len(have) == len(want)
            and all(_covers(one, other) for one, other in zip(have, want, strict=True))
        )
    return bool(have == want)


def _phase(facts: PodFacts) -> str:
    if facts.containers and all(c.ended for c in facts.containers):
        return "Succeeded" if all(c.last_exit_code == 0 for c in facts.containers) else "Failed"
    running = bool(facts.ips) and all(c.started_at for c in facts.containers)
    return "Running" if running else "Pending"


def _init_statuses(facts: PodFacts) -> Object:
    """Of init containers, as far as is told of them: all through, or none."""
    if not facts.init_containers:
        return {}
    done = {"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": facts.started_at}}
    waiting = {"waiting": {"reason": "PodInitializing"}}
    return {
        "initContainerStatuses": [
            {
                "name": spec["name"],
                "image": spec.get("image", ""),
                "imageID": "",
                "ready": facts.initialized,
                "restartCount": 0,
                "state": done if facts.initialized else waiting,
                "lastState": {},
            }
            for spec in facts.init_containers
        ]
    }


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
    if facts.ended:
        state: Object = {"terminated": _terminated(facts)}
    elif facts.waiting:
        waiting = {"reason": facts.waiting}
        if facts.waiting_message:
            waiting["message"] = facts.waiting_message
        state = {"waiting": waiting}
    else:
        state = {"running": {"startedAt": facts.started_at}}
    last: Object = {}
    if facts.last_finished_at and not facts.ended:
        last["terminated"] = _terminated(facts)
    found: Object = {
        "name": facts.name,
        "image": facts.image,
        "imageID": "",
        "ready": facts.ready,
        "started": not facts.waiting and not facts.ended,
        "restartCount": facts.restarts,
        "state": state,
        "lastState": last,
    }
    # Not a field of Kubernetes, where only the event and the condition tell it: a folder keeps it.
    return found | ({_NOT_KEPT: facts.probe_output} if facts.probe_output else {})


def _terminated(facts: ContainerFacts) -> Object:
    """How it ended; a signal as 128 and its number, an end that nobody saw as SIGKILL."""
    code = 137 if facts.last_exit_code is None else facts.last_exit_code
    return {
        "exitCode": 128 - code if code < 0 else code,
        "reason": "Completed" if code == 0 else "Error",
        "finishedAt": facts.last_finished_at,
    }
