"""status of a VpcEgressGateway: phase, conditions, and the events that their changes are worth. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from veg_common.objects import Object, Ref

from veg_api.core import addresses
from veg_api.core.change import EventRecord
from veg_api.core.conditions import Condition, condition_of, conditions_of, dated
from veg_api.core.gateway import Gateway
from veg_api.core.intents import GatewayIntent, ProgrammerView
from veg_api.core.ledger import Ledger
from veg_api.core.names import GATEWAY_KIND, GATEWAY_LABEL
from veg_api.core.problems import Problem, errors, summary
from veg_api.core.replicas import Replica
from veg_api.core.resolved import Resolved


@dataclass(frozen=True)
class Running:
    """A gateway with a workload: all that its status tells."""

    resolved: Resolved
    ledger: Ledger
    replicas: tuple[Replica, ...]
    nexthops: tuple[str, ...]
    intent: GatewayIntent
    deployment: Object | None


def pending(gateway: Gateway, problems: Sequence[Problem], now: str) -> Object:
    """Status of a gateway that never was valid: nothing runs."""
    conditions = [
        *_validity(problems),
        Condition("Ready", "False", "Invalid", "nothing runs: the resource is not valid"),
    ]
    return _status(gateway, {"ready": False, "phase": "Pending"}, conditions, now)


def deleting(gateway: Gateway, waiting: Sequence[str], now: str, *, unreachable: bool) -> Object:
    """Status of a gateway on its way out; `waiting` names what is not gone yet."""
    message = f"waiting for {', '.join(waiting)}" if waiting else "nothing is left"
    conditions = [Condition("Ready", "False", "Deleting", message)]
    if unreachable:
        text = "ovn-programmer can not be reached: deletion waits for it"
        conditions.append(Condition("RoutesProgrammed", "Unknown", "ProgrammerUnreachable", text))
    kept = {k: v for k, v in gateway.status.items() if k not in ("ready", "phase", "conditions")}
    status = _status(gateway, {"ready": False, "phase": "Processing"}, conditions, now)
    return {**kept, **status}


def running(
    gateway: Gateway, problems: Sequence[Problem], state: Running, view: ProgrammerView, now: str
) -> Object:
    """Status of a gateway with a workload; with errors in `problems`, of its last good state."""
    resolved, replicas = state.resolved, state.replicas
    routes = _routes(gateway, state, view)
    programmed = _is_programmed(gateway, state, view)
    serving = sum(replica.serving for replica in replicas)
    # With BFD all pods of before are to be replaced first: BFD is what was asked for.
    ready = programmed and serving >= resolved.replicas > 0 and not any(r.silent for r in replicas)
    workload = _workload(state)
    conditions = [
        *_validity(problems),
        _allocation(state),
        workload,
        routes,
        *_sessions(state),
        _readiness(state, serving, ready=ready, programmed=programmed),
    ]
    placed = [r for r in replicas if r.internal and not r.pod.deleting]
    if errors(problems):
        phase = "Pending"
    else:
        settled = workload.status == "True" or (resolved.replicas == 0 and not placed)
        phase = "Completed" if programmed and settled and (ready or not resolved.replicas) else "Processing"
    nodes = sorted({r.pod.node for r in placed if r.pod.node})
    content: Object = {
        "ready": ready,
        "phase": phase,
        "replicas": len(placed),
        "labelSelector": f"{GATEWAY_LABEL}={gateway.name}",
        "internalIPs": _sorted_entries(r.internal for r in placed),
        "externalIPs": _sorted_entries(r.external for r in placed),
        "workload": {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": resolved.deployment,
            "nodes": nodes,
        },
        "nexthops": list(state.nexthops),
        "pods": [replica.to_status() for replica in replicas],
    }
    return _status(gateway, content, conditions, now)


def transitions(gateway: Gateway, after: Object) -> tuple[EventRecord, ...]:
    """Events for the conditions whose status or reason changed to something that people should hear of."""
    before = {c.get("type"): (c.get("status"), c.get("reason")) for c in conditions_of(gateway.status)}
    about = Ref(GATEWAY_KIND, gateway.namespace, gateway.name)
    found = []
    for condition in conditions_of(after):
        kind, status, reason = condition["type"], condition["status"], condition["reason"]
        old = before.get(kind)
        if old == (status, reason):
            continue
        was = old[0] if old else None
        if kind == "Ready":
            worth = status == "True" or was == "True"
        elif kind == "RoutesProgrammed":
            worth = status != "True" and reason not in _TRANSIENT
        elif kind == "WorkloadReady":
            worth = False
        elif kind == "BfdSessionsUp":
            worth = status == "True" or was == "True"
        else:
            worth = status == "False"
        if worth:
            level: Literal["Normal", "Warning"] = "Normal" if status == "True" else "Warning"
            # The same again is told by a count: what is in a message must not be new every time.
            text = _TIME.sub("", condition["message"])
            found.append(EventRecord(about, gateway.uid, level, reason, text))
    return tuple(found)


# Warnings that have a condition of their own: (reason, condition, what it says when all is well).
_WARNINGS = (
    ("SourceOutsideVpc", "SourcesInsideVpc", "all sources lie in subnets of the VPC"),
    ("SourceShared", "SourcesExclusive", "no other gateway of the VPC names one of the sources"),
)
_TIME = re.compile(r" since \d{4}-\d\d-\d\dT[\d:]+Z")
# Reasons that every gateway goes through.
_TRANSIENT = ("Programming", "ProgrammerConnecting")


def _validity(problems: Sequence[Problem]) -> list[Condition]:
    """Validated, and one condition for each kind of warning."""
    faults = errors(problems)
    if faults:
        reason = faults[0].reason
        conditions = [Condition("Validated", "False", reason, summary(faults))]
    else:
        conditions = [Condition("Validated", "True", "Valid", "the resource is valid")]
    warnings = [p for p in problems if p.warning]
    for reason, kind, text in _WARNINGS:
        told = [p for p in warnings if p.reason == reason]
        if told:
            conditions.append(Condition(kind, "False", reason, summary(told)))
        elif not faults:
            conditions.append(Condition(kind, "True", kind, text))
    known = {reason for reason, _, _ in _WARNINGS}
    other = [p for p in warnings if p.reason not in known]
    if other:
        conditions.append(Condition("NoWarnings", "False", other[0].reason, summary(other)))
    return conditions


def _allocation(state: Running) -> Condition:
    if state.ledger.shortage:
        return Condition("AddressesAllocated", "False", "PoolExhausted", state.ledger.shortage)
    if state.ledger.misplaced:
        names = ", ".join(pod.name for pod in state.ledger.misplaced)
        return Condition("AddressesAllocated", "False", "PodsToReplace", f"addresses changed: {names}")
    message = f"{len(state.ledger.entries)} reserved for {state.resolved.replicas} replicas"
    return Condition("AddressesAllocated", "True", "Allocated", message)


def _workload(state: Running) -> Condition:
    wanted, deployment = state.resolved.replicas, state.deployment
    ready = sum(r.pod.ready and not r.pod.deleting for r in state.replicas)
    counts = f"{ready} of {wanted} pods ready"
    status = (deployment or {}).get("status") or {}
    observed = _number(status.get("observedGeneration"))
    generation = _number(deployment["metadata"].get("generation")) if deployment is not None else None
    updated = _number(status.get("updatedReplicas"))
    surplus = sum(not r.pod.deleting for r in state.replicas) - wanted
    behind = observed is not None and generation is not None and observed < generation
    if behind or (updated is not None and updated < wanted) or surplus > 0:
        stuck = "; ".join(r.told for r in state.replicas if r.message)
        text = f"{counts}, the Deployment is rolling out{': ' if stuck else ''}{stuck}"
        return Condition("WorkloadReady", "False", "RollingOut", text)
    if ready < wanted:
        waiting = "; ".join(r.told for r in state.replicas if not (r.pod.ready and r.reason == "Ready"))
        return Condition(
            "WorkloadReady", "False", "PodsNotReady", f"{counts}{': ' if waiting else ''}{waiting}"
        )
    return Condition("WorkloadReady", "True", "AllPodsReady", counts)


def _sessions(state: Running) -> list[Condition]:
    """BfdSessionsUp, with BFD: which pod, which session, since when, why."""
    if state.resolved.bfd is None:
        return []
    kind, wanted = "BfdSessionsUp", state.resolved.replicas
    if not wanted:
        return [Condition(kind, "False", "ScaledToZero", "there are no replicas")]
    up = sum(r.serving and not r.silent for r in state.replicas)
    counts = f"{up} of {wanted} replicas have their sessions up"
    down = [
        f"{r.pod.name}: {r.bfd.state} since {r.bfd.since}{f': {r.bfd.message}' if r.bfd.message else ''}"
        for r in state.replicas
        if r.bfd is not None and (not r.serving or r.silent) and not r.pod.deleting
    ]
    if up >= wanted:
        return [Condition(kind, "True", "SessionsUp", counts)]
    return [Condition(kind, "False", "SessionsDown", "; ".join([counts, *down]))]


def _routes(gateway: Gateway, state: Running, view: ProgrammerView) -> Condition:
    kind = "RoutesProgrammed"
    if view.link == "connecting":
        before = condition_of(gateway.status, kind)
        if before.get("status") == "True" and _is_programmed(gateway, state, view):
            return Condition(kind, "True", "Committed", str(before.get("message")))
        return Condition(kind, "Unknown", "ProgrammerConnecting", "ovn-programmer has not answered yet")
    if view.link == "unreachable":
        reason = f": {view.error}" if view.error else ""
        text = f"ovn-programmer can not be reached{reason}; it is tried again and again"
        return Condition(kind, "Unknown", "ProgrammerUnreachable", text)
    outcome = view.outcomes.get(state.intent.key)
    if outcome is None or outcome.intent != state.intent:
        return Condition(kind, "False", "Programming", "the change is on its way to OVN")
    if outcome.state == "COMMITTED":
        return Condition(kind, "True", "Committed", _hops_text(state))
    reason = outcome.reason or {"WAITING": "Waiting", "REFUSED": "Refused"}[outcome.state]
    return Condition(kind, "False", reason, outcome.message or outcome.state.lower())


def _is_programmed(gateway: Gateway, state: Running, view: ProgrammerView) -> bool:
    """Whether the rows of the present intent are known to be committed.

    While the programmer is away that stays so for what it had committed. A freshly started api knows that from the
    status, provided nothing has changed since it was written.
    """
    outcome = view.outcomes.get(state.intent.key)
    if outcome is not None:
        return outcome.intent == state.intent and outcome.state == "COMMITTED"
    before = gateway.status
    return (
        view.link != "connected"
        and bool(before.get("ready"))
        and before.get("observedGeneration") == gateway.generation
        and before.get("nexthops") == list(state.nexthops)
    )


def _hops_text(state: Running) -> str:
    if not state.nexthops:
        return f"no replica has served yet: traffic of the sources is dropped in {state.resolved.vpc}"
    return f"traffic goes to {', '.join(state.nexthops)}"


def _readiness(state: Running, serving: int, *, ready: bool, programmed: bool) -> Condition:
    wanted = state.resolved.replicas
    if wanted == 0:
        return Condition(
            "Ready", "False", "ScaledToZero", "there are no replicas: the sources' traffic is dropped"
        )
    if ready:
        return Condition("Ready", "True", "Ready", f"{serving} of {wanted} replicas serve")
    if not programmed:
        return Condition("Ready", "False", "RoutesNotProgrammed", "OVN does not hold the present state yet")
    if serving >= wanted:
        return Condition(
            "Ready", "False", "PodsToReplace", "pods from before BFD was switched on are replaced"
        )
    return Condition("Ready", "False", "ReplicasNotServing", f"{serving} of {wanted} replicas serve")


def _status(gateway: Gateway, content: Object, told: Sequence[Condition], now: str) -> Object:
    listed = dated(told, gateway.status, gateway.generation, now)
    return {**content, "observedGeneration": gateway.generation, "conditions": listed}


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _sorted_entries(entries: Iterable[Sequence[str]]) -> list[str]:
    texts = [addresses.joined(entry) for entry in entries]
    return sorted((text for text in texts if text), key=addresses.numeric_key)
