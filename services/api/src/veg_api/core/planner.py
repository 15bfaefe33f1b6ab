"""The plan of one gateway: a snapshot of all inputs in, everything that must be done out. Pure.

The same inputs give the same plan, and a plan that has been carried out leaves an empty one. Nothing is torn down for
a fault in the resource: with a last good state at hand the gateway goes on with it, and its pods, addresses and
nexthops are still looked after.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from veg_common.objects import Object, Ref

from veg_api.core import (
    kube_ovn,
    workload,
)
from veg_api.core import (
    ledger as ledger_module,
)
from veg_api.core import (
    replicas as replicas_module,
)
from veg_api.core import (
    status as status_module,
)
from veg_api.core.addresses import numeric_key
from veg_api.core.change import Change, Delete, EventRecord, Patch, put, put_status
from veg_api.core.gateway import Gateway, GatewayKey, GatewaySpec
from veg_api.core.intents import GatewayIntent, IntentKey, gateway_key
from veg_api.core.ledger import Ledger
from veg_api.core.names import (
    APPLIED_ANNOTATION,
    CONFIG_ANNOTATION,
    FINALIZER,
    GATEWAY_KIND,
    GATEWAY_LABEL,
)
from veg_api.core.objects import Pod
from veg_api.core.pools import Pools
from veg_api.core.problems import Problem
from veg_api.core.resolved import Resolved, from_json
from veg_api.core.snapshot import Snapshot, Table
from veg_api.core.status import Running
from veg_api.core.validate import check
from veg_api.core.workload import DEFAULTS, Defaults


@dataclass(frozen=True)
class GatewayPlan:
    """What is to be done for one gateway.

    `changes` are in the order of execution, the status last. `intent` is what the programmer should hold; None
    together with `withdraw` means that it should hold nothing, without it that it is not asked for anything.
    `unsettled`: the gateway waits for something that other gateways or pods may free. `suspects` are
    replicas, by their addresses, that OVN has a session with and whose own speaker has none.
    """

    key: GatewayKey
    problems: tuple[Problem, ...] = ()
    changes: tuple[Change, ...] = ()
    intent: GatewayIntent | None = None
    withdraw: bool = False
    events: tuple[EventRecord, ...] = ()
    unsettled: bool = False
    suspects: tuple[tuple[str, ...], ...] = ()

    @property
    def intent_key(self) -> IntentKey:
        """The key of its intent."""
        return gateway_key(*self.key)


def plan_gateway(
    snapshot: Snapshot, key: GatewayKey, pools: Pools | None = None, defaults: Defaults = DEFAULTS
) -> GatewayPlan:
    """The plan of one gateway, or of what is left of one. Several plans of one pass share `pools`."""
    pools = pools or Pools(snapshot)
    gateway = snapshot.gateways.get(key[1], key[0])
    if gateway is None:
        if Ref(GATEWAY_KIND, *key) in snapshot.hidden:
            return _hidden_plan(snapshot, key, pools, defaults)
        return _leftovers(snapshot, key)
    if gateway.deleting:
        return _deletion(snapshot, gateway)
    last = last_good(snapshot, gateway)
    checked = check(snapshot, gateway, pools, last)
    resolved = checked.resolved or last
    if resolved is None:
        wanted = status_module.pending(gateway, checked.problems, snapshot.now)
        status = put_status(_ref(gateway), wanted, gateway.status)
        events = status_module.transitions(gateway, wanted)
        return GatewayPlan(key, checked.problems, (status,) if status else (), events=events, unsettled=True)
    state = _run(snapshot, gateway, resolved, pools, defaults)
    wanted = status_module.running(gateway, checked.problems, state, snapshot.programmer, snapshot.now)
    changes = [*_materialise(snapshot, gateway, state, defaults)]
    if status := put_status(_ref(gateway), wanted, gateway.status):
        changes.append(status)
    return GatewayPlan(
        key,
        checked.problems,
        tuple(changes),
        state.intent,
        events=status_module.transitions(gateway, wanted),
        unsettled=bool(state.ledger.shortage) or checked.resolved is None,
        suspects=replicas_module.suspects(snapshot, gateway.key, resolved, state.replicas),
    )


def gateway_keys(snapshot: Snapshot) -> set[GatewayKey]:
    """Every gateway that exists or has left something behind."""
    keys = set(snapshot.gateways.items)
    for table in _owned_tables(snapshot):
        keys |= table.derived(_owned).keys()
    return keys | snapshot.ips.derived(ledger_module.ips_by_gateway).keys()


def _owned_tables(snapshot: Snapshot) -> tuple[Table[Object], ...]:
    """What bears an owner reference to a gateway."""
    return snapshot.deployments, snapshot.config_maps, snapshot.budgets


def last_good(snapshot: Snapshot, gateway: Gateway) -> Resolved | None:
    """The state that the gateway last ran with, from its ConfigMap; None before the first."""
    return _applied(snapshot, gateway.key)[0]


def _applied(snapshot: Snapshot, key: GatewayKey) -> tuple[Resolved | None, str]:
    """(last good state, uid of the gateway that had it); by name, for a manifest that is copied over by hand has no uid."""
    for _, config_map in snapshot.config_maps.derived(_owned).get(key, ()):
        text = (config_map["metadata"].get("annotations") or {}).get(APPLIED_ANNOTATION)
        resolved = from_json(text) if text else None
        if resolved is not None:
            return resolved, str(_controller(config_map).get("uid", ""))
    return None, ""


def _run(
    snapshot: Snapshot, gateway: Gateway, resolved: Resolved, pools: Pools, defaults: Defaults
) -> Running:
    pods = ledger_module.gateway_pods(snapshot, gateway.key, resolved.deployment)
    chooser = kube_ovn.plan if defaults.kube_ovn else ledger_module.plan
    ledger = chooser(snapshot, gateway.key, resolved, pods, pools)
    replicas = replicas_module.observe(snapshot, gateway, resolved, pods, ledger.given)
    hops = replicas_module.nexthops(resolved, replicas, gateway.status)
    return Running(
        resolved,
        ledger,
        replicas,
        hops,
        replicas_module.intent(gateway.key, resolved, hops, replicas),
        snapshot.deployments.get(resolved.deployment, gateway.namespace),
    )


def _materialise(
    snapshot: Snapshot, gateway: Gateway, state: Running, defaults: Defaults
) -> Iterator[Change]:
    """Finalizer, addresses, configuration, workload, pods: each stands on those before it."""
    resolved, ledger = state.resolved, state.ledger
    if FINALIZER not in gateway.finalizers:
        yield _finalizers(gateway, (*gateway.finalizers, FINALIZER))
    for ip in ledger.surplus:
        yield Delete(Ref("IP", "", ip.name))
    wanted: list[Object] = []
    users = {entry.index: name for name, entry in ledger.given.items()}
    if defaults.kube_ovn:
        places = list(ledger.given.values())
    else:
        pods = {replica.pod.name: replica.pod for replica in state.replicas}
        for entry in ledger.entries:
            wanted += workload.ip_objects(gateway, resolved, entry, pods.get(users.get(entry.index, "")))
        places = [e for n, e in enumerate(ledger.entries) if n < resolved.replicas or e.index in users]
    config = workload.config_map(gateway, resolved, places, defaults, ledger.entries)
    wanted += [config, workload.deployment(gateway, resolved, ledger.entries, defaults)]
    if workload.needs_budget(resolved):
        wanted.append(workload.disruption_budget(gateway, resolved))
    elif snapshot.budgets.get(resolved.deployment, gateway.namespace) is not None:
        yield from _surplus_budget(snapshot, gateway, resolved)
    for obj in wanted:
        change = put(obj, _current(snapshot, obj))
        if change is not None:
            yield change
    yield from _annotations(state, workload.config_mark(config))
    if (old := _to_replace(ledger, state)) is not None:
        yield Delete(Ref("Pod", old.namespace, old.name))


def _annotations(state: Running, mark: str) -> Iterator[Patch]:
    """Addresses of pods that are given theirs, and what makes kubelet bring a new configuration into all."""
    fresh = {pod.name for pod in state.ledger.fresh}
    for pod in (replica.pod for replica in state.replicas):
        annotations: Object = {}
        if pod.name in fresh:
            annotations |= workload.pod_annotations(state.resolved, state.ledger.given[pod.name])
        if pod.config_mark != mark and not pod.deleting:
            annotations[CONFIG_ANNOTATION] = mark
        if annotations:
            yield Patch(Ref("Pod", pod.namespace, pod.name), {"metadata": {"annotations": annotations}})


def _surplus_budget(snapshot: Snapshot, gateway: Gateway, resolved: Resolved) -> Iterator[Delete]:
    """Our own PodDisruptionBudget of a gateway that has one replica by now."""
    for ref, budget in snapshot.budgets.derived(_owned).get(gateway.key, ()):
        if ref.name == resolved.deployment and "deletionTimestamp" not in budget["metadata"]:
            yield Delete(ref)


def _to_replace(ledger: Ledger, state: Running) -> Pod | None:
    """The next pod whose addresses are no entry's any more: one at a time, and only while all others are well."""
    misplaced = {pod.name for pod in ledger.misplaced}
    others = [r for r in state.replicas if r.pod.name not in misplaced]
    if any(r.pod.deleting for r in state.replicas) or any(not r.pod.ready or r.is_dark for r in others):
        return None
    return min(ledger.misplaced, key=lambda pod: pod.name, default=None)


def _deletion(snapshot: Snapshot, gateway: Gateway) -> GatewayPlan:
    """Rows, Deployment and ConfigMap go at once; addresses when no pod has them; the finalizer when nothing is left."""
    changes, waiting = _teardown(snapshot, gateway.key)
    view = snapshot.programmer
    outcome = view.outcomes.get(gateway_key(*gateway.key))
    mine = FINALIZER in gateway.finalizers
    withdrawn = outcome is not None and outcome.intent is None and outcome.state == "COMMITTED"
    if mine and not withdrawn:
        waiting.insert(0, "ovn-programmer to remove its rows")
    if mine and not waiting:
        rest = tuple(name for name in gateway.finalizers if name != FINALIZER)
        return GatewayPlan(gateway.key, changes=(*changes, _finalizers(gateway, rest)), withdraw=True)
    unreachable = view.link == "unreachable"
    wanted = status_module.deleting(gateway, waiting, snapshot.now, unreachable=unreachable)
    if mine and (status := put_status(_ref(gateway), wanted, gateway.status)):
        changes.append(status)
    return GatewayPlan(gateway.key, changes=tuple(changes), withdraw=True)


def _leftovers(snapshot: Snapshot, key: GatewayKey) -> GatewayPlan:
    """What a gateway that vanished without its finalizer (a file removed by hand) left behind goes too."""
    changes, _ = _teardown(snapshot, key)
    return GatewayPlan(key, changes=tuple(changes), withdraw=True)


def _teardown(snapshot: Snapshot, key: GatewayKey) -> tuple[list[Change], list[str]]:
    """(deletions to ask for now, what is still there, for people)."""
    changes: list[Change] = []
    waiting: list[str] = []
    for table in _owned_tables(snapshot):
        for ref, obj in table.derived(_owned).get(key, ()):
            waiting.append(str(ref))
            if "deletionTimestamp" not in obj["metadata"]:
                changes.append(Delete(ref))
    pods = [
        pod
        for pod in snapshot.pods.derived(ledger_module.pods_by_gateway).get(key, ())
        if ledger_module.is_gateway_pod(pod) and not pod.finished
    ]
    waiting += [f"Pod {pod.namespace}/{pod.name}" for pod in pods]
    if not pods:
        changes += [Delete(Ref("IP", "", ip.name)) for ip in ledger_module.own_ips(snapshot, key)]
    return changes, waiting


def _hidden_plan(snapshot: Snapshot, key: GatewayKey, pools: Pools, defaults: Defaults) -> GatewayPlan:
    """A gateway whose manifest can not be read since before api started: it goes on as it last was."""
    resolved, uid = _applied(snapshot, key)
    if resolved is None:
        return GatewayPlan(key)
    ghost = Gateway(
        *key, uid, 0, "", deleting=False, finalizers=(FINALIZER,), resource_version="", spec=GatewaySpec()
    )
    state = _run(snapshot, ghost, resolved, pools, defaults)
    # Its status can not be read either, so who served before is unknown: pods count as serving once they were given
    # addresses, because a withdrawn nexthop hurts more than a dead one.
    hops = {text for r in state.replicas if not r.pod.deleting for text in r.internal}
    intent = replicas_module.intent(key, resolved, sorted(hops, key=numeric_key), state.replicas)
    return GatewayPlan(key, changes=tuple(_materialise(snapshot, ghost, state, defaults)), intent=intent)


def _finalizers(gateway: Gateway, names: Iterable[str]) -> Patch:
    metadata: Object = {"finalizers": list(names), "resourceVersion": gateway.resource_version}
    return Patch(_ref(gateway), {"metadata": metadata})


def _current(snapshot: Snapshot, wanted: Object) -> Object | None:
    metadata = wanted["metadata"]
    if wanted["kind"] == "IP":
        ip = snapshot.ips.get(metadata["name"])
        return ip.raw if ip else None
    return snapshot.tables[wanted["kind"]].get(metadata["name"], metadata["namespace"])


def _ref(gateway: Gateway) -> Ref:
    return Ref(GATEWAY_KIND, gateway.namespace, gateway.name)


def _controller(obj: Object) -> Object:
    references = obj["metadata"].get("ownerReferences") or ()
    found: Object = next((r for r in references if r.get("controller")), {})
    return found


def _owned(items: Mapping[tuple[str, str], Object]) -> dict[GatewayKey, tuple[tuple[Ref, Object], ...]]:
    """Deployments or ConfigMaps whose controller is a VpcEgressGateway, by gateway."""
    found: dict[GatewayKey, list[tuple[Ref, Object]]] = {}
    for (namespace, name), obj in sorted(items.items(), key=lambda item: item[0]):
        owner = _controller(obj)
        labels = obj["metadata"].get("labels") or {}
        if owner.get("kind") == GATEWAY_KIND and labels.get(GATEWAY_LABEL) == owner.get("name"):
            ref = Ref(obj["kind"], namespace, name)
            found.setdefault((namespace, str(owner["name"])), []).append((ref, obj))
    return {key: tuple(refs) for key, refs in found.items()}
