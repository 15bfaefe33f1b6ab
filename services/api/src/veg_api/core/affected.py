"""Which plans a change of inputs can alter. Pure.

Too many is only slow; too few would be wrong. What a plan reads is listed in `planner` and `topology`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from veg_common.objects import Ref

from veg_api.core.bfd_port import applied_vpc, is_asked_for
from veg_api.core.claims import claims, neighbours
from veg_api.core.gateway import Gateway, GatewayKey
from veg_api.core.names import DEFAULT_VPC, GATEWAY_KIND, GATEWAY_LABEL
from veg_api.core.objects import Ip, Pod
from veg_api.core.snapshot import Snapshot
from veg_api.core.usage import named_networks


@dataclass(frozen=True)
class Affected:
    """`frees`: an address may have become free, so that whoever waits for one is worth a look."""

    gateways: frozenset[GatewayKey]
    topology: bool
    frees: bool


_TOPOLOGY = ("Vpc", "Subnet", "Pod", "IP", "Namespace")


def affected(before: Snapshot, after: Snapshot, touched: Iterable[Ref]) -> Affected:
    """What must be planned again when the values of `touched` differ between two snapshots."""
    keys: set[GatewayKey] = set()
    topology = frees = False
    everything = False
    for ref in touched:
        topology |= ref.kind in _TOPOLOGY or _moves_networks(before, after, ref)
        if ref.kind == GATEWAY_KIND:
            keys.add((ref.namespace, ref.name))
            keys |= _rivals(before, after, ref)
            frees = True
        elif ref.kind in ("Deployment", "ConfigMap", "PodDisruptionBudget"):
            keys |= _labelled(before, after, ref)
        elif ref.kind in ("Pod", "IP", "Event"):
            keys |= _told_of(after, ref) if ref.kind == "Event" else _users(before, after, ref)
            frees |= ref.kind != "Event" and after.tables[ref.kind].get(ref.name, ref.namespace) is None
        elif ref.kind == "Subnet":
            keys |= _of_subnet(before, after, ref.name)
        elif ref.kind == "Vpc":
            keys |= {g.key for g in after.gateways.items.values() if g.spec.vpc == ref.name}
        elif ref.kind == "Node":
            keys |= {
                (p.namespace, p.gateway)
                for p in after.pods.items.values()
                if p.gateway and p.node == ref.name
            }
        elif ref.kind == "NetworkAttachmentDefinition":
            everything = True
    if everything:
        keys |= after.gateways.items.keys()
    return Affected(frozenset(keys), topology, frees)


def _moves_networks(before: Snapshot, after: Snapshot, ref: Ref) -> bool:
    """Whether a change matters to networks though its object is none: what they are used by, who carries their ports."""
    if ref.kind == GATEWAY_KIND:
        old, new = (s.gateways.get(ref.name, ref.namespace) for s in (before, after))
        return named_networks(old) != named_networks(new)
    if ref.kind == "ConfigMap":
        was, now = (s.config_maps.get(ref.name, ref.namespace) for s in (before, after))
        return applied_vpc(was) != applied_vpc(now)
    return ref.kind == "Node" and any(is_asked_for(vpc) for vpc in after.vpcs.items.values())


def _rivals(before: Snapshot, after: Snapshot, ref: Ref) -> set[GatewayKey]:
    """The gateways that are told of this one because it began or ceased to name a source of theirs."""
    old, new = before.gateways.get(ref.name, ref.namespace), after.gateways.get(ref.name, ref.namespace)
    if old is not None and new is not None and (old.spec, old.deleting) == (new.spec, new.deleting):
        return set()
    was, named = claims(old), claims(new)
    sides = [(g.spec.internal_subnet, g.spec.external_subnet) for g in (old, new) if g is not None]
    differing = was ^ named if len(set(sides)) == 1 and len(sides) == 2 else was | named
    return neighbours(before, differing) | neighbours(after, differing)


def _labelled(before: Snapshot, after: Snapshot, ref: Ref) -> set[GatewayKey]:
    found = set()
    for snapshot in (before, after):
        obj = snapshot.tables[ref.kind].get(ref.name, ref.namespace)
        if obj is not None and (name := (obj["metadata"].get("labels") or {}).get(GATEWAY_LABEL)):
            found.add((ref.namespace, str(name)))
    return found


def _users(before: Snapshot, after: Snapshot, ref: Ref) -> set[GatewayKey]:
    """The gateways that a pod or an IP object belongs to, or belonged to."""
    found = set()
    for snapshot in (before, after):
        value: Pod | Ip | None = snapshot.tables[ref.kind].get(ref.name, ref.namespace)
        if value is not None and value.gateway:
            found.add((value.namespace, value.gateway))
    return found


def _told_of(after: Snapshot, ref: Ref) -> set[GatewayKey]:
    """The gateway whose pod an Event is about."""
    event = after.pod_events.get(ref.name, ref.namespace)
    pod = after.pods.get(event.pod, event.namespace) if event is not None else None
    return {(pod.namespace, pod.gateway)} if pod is not None and pod.gateway and not pod.ready else set()


def _of_subnet(before: Snapshot, after: Snapshot, name: str) -> set[GatewayKey]:
    vpcs = {s.vpc for s in (before.subnet(name), after.subnet(name)) if s is not None} or {DEFAULT_VPC}
    found = {g.key for g in after.gateways.items.values() if g.spec.vpc in vpcs or _names(g, name)}
    # The families of a gateway, and with them what it shares with its neighbours, may follow.
    shared = frozenset(claim for key in found for claim in claims(after.gateways.get(key[1], key[0])))
    return found | neighbours(after, shared)


def _names(gateway: Gateway, subnet: str) -> bool:
    spec = gateway.spec
    return subnet in (spec.internal_subnet, spec.external_subnet) or any(
        subnet in p.subnets for p in spec.policies
    )
