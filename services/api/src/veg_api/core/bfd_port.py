"""The BFD port of a VPC: which addresses and nodes it has, and what its condition says. Pure; part of the topology plan.

Nodes are sticky: OVN keeps every session on the first of them that lives, so that an order which changes without need
would cost a session. What is in force is in `Vpc.status.bfdPort`: a bad edit, a selector that matches nobody, or
switching the port off under gateways that use it leave it there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from veg_common.objects import Object

from veg_api.core import addresses
from veg_api.core.addresses import AddressError
from veg_api.core.conditions import Condition, State, condition_of
from veg_api.core.gateway import GatewayKey
from veg_api.core.intents import BfdPortIntent, IntentKey, VpcIntent
from veg_api.core.names import (
    APPLIED_ANNOTATION,
    GATEWAY_LABEL,
    bfd_port_name,
)
from veg_api.core.network import BfdPort, Vpc
from veg_api.core.pools import Pools
from veg_api.core.problems import Problem, named, summary
from veg_api.core.resolved import from_json
from veg_api.core.snapshot import Snapshot

# The specification: without a selector at most three nodes are chosen.
_UNASKED_NODES = 3


@dataclass(frozen=True)
class PortPlan:
    """What a VPC's port comes to. `told` is (status, reason, message) of the condition; None: no port is asked for."""

    intent: BfdPortIntent | None = None
    problems: tuple[Problem, ...] = ()
    told: tuple[State, str, str] | None = None


def plan(snapshot: Snapshot, vpc: Vpc) -> PortPlan:
    """The port as it should be now."""
    last = _last(vpc.status)
    if vpc.bfd_port is None and not vpc.bfd_problems:
        return _switched_off(snapshot, vpc, last)
    problems = faults(snapshot, vpc)
    if problems or vpc.bfd_port is None:
        reason = problems[0].reason if problems else "Invalid"
        kept = "; the port stays as it was" if last else ""
        return PortPlan(last, problems, ("False", reason, summary(problems) + kept))
    nodes = choose(snapshot, vpc.bfd_port, last.nodes if last else ())
    if nodes:
        return PortPlan(BfdPortIntent(vpc.bfd_port.addresses, nodes))
    which = "no node is ready" if vpc.bfd_port.selector is None else "nodeSelector matches no ready node"
    if last is None:
        return PortPlan(
            None, (), ("False", "NoNode", f"spec.bfdPort.nodeSelector: {which}: there is no BFD port")
        )
    message = f"spec.bfdPort.nodeSelector: {which}: the port stays on {', '.join(last.nodes)}"
    return PortPlan(BfdPortIntent(vpc.bfd_port.addresses, last.nodes), (), ("False", "NoNode", message))


def condition(snapshot: Snapshot, vpc: Vpc, found: PortPlan, wanted: VpcIntent) -> Condition | None:
    """BFDPortReady of a VPC; None when no port is asked for."""
    kind = "BFDPortReady"
    if found.told is not None:
        return Condition(kind, *found.told)
    if found.intent is None:
        return None
    view = snapshot.programmer
    outcome = view.outcomes.get(IntentKey("VPC", vpc.name))
    ready = (
        f"{bfd_port_name(vpc.name)} may run on {', '.join(found.intent.nodes)}, the first that lives has it"
    )
    if outcome is not None and outcome.intent == wanted:
        if outcome.state == "COMMITTED":
            return Condition(kind, "True", "Ready", ready)
        return Condition(kind, "False", outcome.reason or outcome.state.capitalize(), outcome.message)
    before = condition_of(vpc.status, kind)
    if view.link != "connected" and before.get("status") == "True":
        return Condition(kind, "True", "Ready", str(before.get("message")))
    return Condition(kind, "False", "Programming", "the port is on its way to OVN")


def in_force(snapshot: Snapshot, vpc: Vpc) -> tuple[str, ...]:
    """Addresses of the port that gateways may use, () while none is enabled."""
    if vpc.bfd_port is not None and not faults(snapshot, vpc):
        return vpc.bfd_port.addresses
    last = _last(vpc.status)
    return last.addresses if last and (vpc.bfd_port is not None or vpc.bfd_problems) else ()


def status(vpc: Vpc, intent: BfdPortIntent) -> Object:
    """status.bfdPort."""
    return {
        "ip": addresses.joined(intent.addresses),
        "name": bfd_port_name(vpc.name),
        "nodes": list(intent.nodes),
    }


def faults(snapshot: Snapshot, vpc: Vpc) -> tuple[Problem, ...]:
    """What is wrong with an enabled port, alone and among the VPC's Subnets."""
    if vpc.bfd_port is None:
        return vpc.bfd_problems
    last = _last(vpc.status)
    # Whoever takes a settled address later is the one to give way.
    fresh = [ip for ip in vpc.bfd_port.addresses if last is None or ip not in last.addresses]
    found = [text for ip in fresh if (text := _conflict(snapshot, vpc.name, ip))]
    return tuple(Problem("spec.bfdPort.ip", "AddressConflict", text) for text in found)


def blocks(snapshot: Snapshot, vpc: str, cidr: str) -> str | None:
    """The address of a VPC's settled port that lies in a prefix."""
    resource = snapshot.vpcs.get(vpc)
    last = _last(resource.status) if resource is not None else None
    return next((ip for ip in last.addresses if addresses.contains(cidr, ip)), None) if last else None


def choose(snapshot: Snapshot, port: BfdPort, before: Sequence[str]) -> tuple[str, ...]:
    """Names of the ready nodes that may carry a port: those of before in their order, then new ones by name."""
    fit = {
        node.name
        for node in snapshot.nodes.items.values()
        if node.ready and (port.selector is None or port.selector.matches(dict(node.labels)))
    }
    kept = [name for name in before if name in fit]
    found = [*kept, *sorted(fit - set(kept))]
    return tuple(found if port.selector is not None else found[:_UNASKED_NODES])


def is_asked_for(vpc: Vpc) -> bool:
    """Whether nodes and gateways can matter to a VPC."""
    return vpc.bfd_port is not None or bool(vpc.bfd_problems) or "bfdPort" in vpc.status


def users(snapshot: Snapshot, vpc: str) -> tuple[GatewayKey, ...]:
    """The gateways that run with a VPC's port now."""
    return snapshot.config_maps.derived(_users_by_vpc).get(vpc, ())


def applied_vpc(config_map: Object | None) -> str:
    """The VPC whose BFD port a gateway's configuration uses, "" for none."""
    annotations = (config_map or {}).get("metadata", {}).get("annotations") or {}
    text = annotations.get(APPLIED_ANNOTATION)
    resolved = from_json(text) if text else None
    return resolved.vpc if resolved is not None and resolved.bfd is not None else ""


def _conflict(snapshot: Snapshot, vpc: str, ip: str) -> str:
    """What an address collides with: the VPC's own Subnets, or what is in use of a network outside; "" with nothing."""
    for subnet in snapshot.subnets_of(vpc):
        for cidr in subnet.cidrs:
            if addresses.contains(cidr, ip):
                return f"{ip} lies in {cidr} of Subnet {subnet.name!r} of the VPC"
    pools = Pools(snapshot)
    for resource in snapshot.subnets.items.values():
        outside = resource.value
        if outside is None or outside.in_vpc:
            continue
        if ip in outside.gateways:
            return f"{ip} is the gateway of Subnet {outside.name!r}"
        if any(addresses.contains(cidr, ip) for cidr in outside.cidrs) and (
            owner := pools.owner(outside.name, ip)
        ):
            return f"{ip} of Subnet {outside.name!r} is taken by {owner}"
    return ""


def _switched_off(snapshot: Snapshot, vpc: Vpc, last: BfdPortIntent | None) -> PortPlan:
    if last is None or not (present := users(snapshot, vpc.name)):
        return PortPlan()
    who = named(["/".join(key) for key in present])
    message = f"spec.bfdPort.enabled: off, but gateway {who} runs with the port: it stays until none does"
    return PortPlan(last, (), ("False", "InUse", message))


def _last(found: Object) -> BfdPortIntent | None:
    """What status.bfdPort says is in force."""
    port = found.get("bfdPort")
    if not isinstance(port, dict):
        return None
    nodes = port.get("nodes")
    named = tuple(n for n in nodes if isinstance(n, str)) if isinstance(nodes, list) else ()
    try:
        ips = addresses.by_family(addresses.parts(str(port.get("ip") or "")))
    except AddressError:
        return None
    return BfdPortIntent(ips, named) if ips and named else None


def _users_by_vpc(items: Mapping[tuple[str, str], Object]) -> dict[str, tuple[GatewayKey, ...]]:
    found: dict[str, list[GatewayKey]] = {}
    for (namespace, _), config_map in sorted(items.items(), key=lambda item: item[0]):
        vpc = applied_vpc(config_map)
        if vpc:
            gateway = (config_map["metadata"].get("labels") or {}).get(GATEWAY_LABEL, "")
            found.setdefault(vpc, []).append((namespace, gateway))
    return {vpc: tuple(keys) for vpc, keys in found.items()}
