"""What a Subnet or a Vpc is used by, and the finalizer that keeps it while it is used. Pure; part of the topology plan.

Networks are deleted by people; without the finalizer the rows of a running gateway would lose what they stand on in
the middle of its life. Where another controller owns the networks (Kube-OVN), it keeps them itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from veg_common.objects import Ref

from veg_api.core.change import EventRecord, Patch
from veg_api.core.conditions import condition_of
from veg_api.core.gateway import Gateway, GatewayKey
from veg_api.core.names import FINALIZER
from veg_api.core.network import SubnetObject, Vpc
from veg_api.core.objects import Ip
from veg_api.core.problems import named
from veg_api.core.snapshot import Snapshot
from veg_api.core.validate import default_subnet


def subnet_users(snapshot: Snapshot, name: str, takers: Iterable[str] = ()) -> tuple[str, ...]:
    """Who uses a Subnet, for people: gateways that name it, then whoever has an address of it or (takers) is given one."""
    index = snapshot.gateways.derived(_by_network)
    keys = dict.fromkeys(index.get(("Subnet", name), ()))
    subnet = snapshot.subnet(name)
    unnamed = index.get(("DefaultSubnet", subnet.vpc), ()) if subnet is not None else ()
    if subnet is not None and unnamed and default_subnet(snapshot, subnet.vpc) == name:
        keys |= dict.fromkeys(unnamed)
    users = dict.fromkeys(_named(keys))
    users |= dict.fromkeys(snapshot.ips.derived(_users_by_subnet).get(name, ()))
    users |= dict.fromkeys(takers)
    return tuple(users)


def vpc_users(snapshot: Snapshot, name: str) -> tuple[str, ...]:
    """Who uses a Vpc, for people: gateways that name it, and its Subnets."""
    gateways = _named(snapshot.gateways.derived(_by_network).get(("Vpc", name), ()))
    return (*gateways, *(f"Subnet {subnet.name}" for subnet in snapshot.subnets_of(name)))


def finalizer(ref: Ref, resource: SubnetObject | Vpc, *, used: bool) -> Patch | None:
    """The change that makes a resource bear our finalizer if and only if it is used; None when that is so."""
    mine = FINALIZER in resource.finalizers
    if mine == used or (resource.deleting and not mine):
        return None  # the API server takes no new finalizer on an object that is on its way out
    others = [name for name in resource.finalizers if name != FINALIZER]
    names = [*others, FINALIZER] if used else others
    return Patch(ref, {"metadata": {"finalizers": names, "resourceVersion": resource.resource_version}})


def waiting_text(users: tuple[str, ...]) -> str:
    """Why a deletion waits."""
    return f"deleted, but used by {named(users)}: it goes when they are gone"


def waiting_event(ref: Ref, resource: SubnetObject | Vpc, users: tuple[str, ...]) -> EventRecord | None:
    """What people hear when a deletion begins to wait."""
    if condition_of(resource.status, "Deletable"):
        return None
    return EventRecord(ref, resource.uid, "Warning", "InUse", waiting_text(users))


def named_networks(gateway: Gateway | None) -> frozenset[tuple[str, str]]:
    """What a gateway names: ("Vpc" | "Subnet" | "DefaultSubnet" (of a Vpc), name)."""
    if gateway is None:
        return frozenset()
    spec = gateway.spec
    internal = ("Subnet", spec.internal_subnet) if spec.internal_subnet else ("DefaultSubnet", spec.vpc)
    named = {("Subnet", name) for policy in spec.policies for name in policy.subnets}
    return frozenset({("Vpc", spec.vpc), internal, ("Subnet", spec.external_subnet), *named})


def _named(keys: Iterable[GatewayKey]) -> list[str]:
    return [f"gateway {namespace}/{name}" for namespace, name in sorted(keys)]


def _by_network(items: Mapping[tuple[str, str], Gateway]) -> dict[tuple[str, str], list[GatewayKey]]:
    found: dict[tuple[str, str], list[GatewayKey]] = {}
    for key, gateway in items.items():
        for network in named_networks(gateway):
            found.setdefault(network, []).append(key)
    return found


def _users_by_subnet(items: Mapping[tuple[str, str], Ip]) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for _, ip in sorted(items.items()):
        found.setdefault(ip.subnet, {})[ip.user] = None
    return {subnet: tuple(users) for subnet, users in found.items()}
