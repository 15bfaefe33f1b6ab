"""Which plans a change of inputs can alter. Pure.

Too many is only slow; too few would be wrong. What a plan reads is listed in `planner` and `topology`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from veg_common.objects import Ref

from veg_api.core.gateway import Gateway, GatewayKey
from veg_api.core.names import DEFAULT_VPC, GATEWAY_KIND, GATEWAY_LABEL
from veg_api.core.objects import Ip, Pod
from veg_api.core.snapshot import Snapshot


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
        topology |= ref.kind in _TOPOLOGY
        if ref.kind == GATEWAY_KIND:
            keys.add((ref.namespace, ref.name))
            frees = True
        elif ref.kind in ("Deployment", "ConfigMap"):
            keys |= _labelled(before, after, ref)
        elif ref.kind in ("Pod", "IP"):
            keys |= _users(before, after, ref)
            frees |= after.tables[ref.kind].get(ref.name, ref.namespace) is None
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


def _of_subnet(before: Snapshot, after: Snapshot, name: str) -> set[GatewayKey]:
    vpcs = {s.vpc for s in (before.subnet(name), after.subnet(name)) if s is not None} or {DEFAULT_VPC}
    return {g.key for g in after.gateways.items.values() if g.spec.vpc in vpcs or _names(g, name)}


def _names(gateway: Gateway, subnet: str) -> bool:
    spec = gateway.spec
    return subnet in (spec.internal_subnet, spec.external_subnet) or any(
        subnet in p.subnets for p in spec.policies
    )
