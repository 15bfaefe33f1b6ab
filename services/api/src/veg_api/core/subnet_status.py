"""Which Subnets and Vpcs can be built, and what their status says. Pure; part of the topology plan."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field

from veg_common.objects import Object, Ref

from veg_api.core import addresses, bfd_port, usage
from veg_api.core.change import Change, EventRecord, put_status
from veg_api.core.conditions import Condition, dated
from veg_api.core.intents import VpcIntent
from veg_api.core.names import FINALIZER
from veg_api.core.network import Subnet, SubnetObject, Vpc
from veg_api.core.pools import Pools
from veg_api.core.problems import Problem, summary
from veg_api.core.snapshot import Snapshot

# What a Subnet's network is made of: kept in status.applied, so that a bad edit does not take it away.
_APPLIED = ("protocol", "cidrBlock", "gateway", "excludeIps", "provider", "vpc", "default")
# JSON numbers beyond this lose precision in most readers.
_EXACT = 2**53


@dataclass
class NetworkChanges:
    """What is to be written on Subnets and Vpcs, and told of them. Those in use are kept by a finalizer."""

    snapshot: Snapshot
    changes: list[Change] = field(default_factory=list)
    events: list[EventRecord] = field(default_factory=list)

    def add(self, ref: Ref, resource: SubnetObject | Vpc, users: tuple[str, ...], wanted: Object) -> None:
        """Finalizer and status of one resource; `wanted` is its status without what is said of its deletion."""
        patch = usage.finalizer(ref, resource, used=bool(users))
        if patch is not None:
            self.changes.append(patch)
        if resource.deleting:
            if not users or FINALIZER not in resource.finalizers:
                return  # it is as good as gone
            told = Condition("Deletable", "False", "InUse", usage.waiting_text(users))
            wanted["conditions"] += dated([told], resource.status, resource.generation, self.snapshot.now)
            if (event := usage.waiting_event(ref, resource, users)) is not None:
                self.events.append(event)
        change = put_status(ref, wanted, resource.status)
        if change is not None:
            self.changes.append(change)


def plan_subnets(pools: Pools, work: NetworkChanges) -> list[Subnet]:
    """The OVN Subnets to build; what is to be written on all Subnets goes to `work`."""
    snapshot = work.snapshot
    placed = _Placed()
    takers = pools.takers()
    # The older one of two that overlap stays: it has pods.
    for resource in sorted(snapshot.subnets.items.values(), key=lambda s: (s.created, s.name)):
        misplaced = _place_faults(snapshot, resource.value, placed)
        if resource.value is not None and resource.value.in_vpc and not misplaced:
            placed.add(resource.value)
        wanted = _status(snapshot, pools, resource, [*resource.problems, *misplaced])
        users = usage.subnet_users(snapshot, resource.name, takers.get(resource.name, ()))
        work.add(Ref("Subnet", "", resource.name), resource, users, wanted)
    return sorted(placed.subnets, key=lambda s: s.name)


class _Placed:
    """Subnets that do not overlap within their VPC, with a search by address."""

    def __init__(self) -> None:
        self.subnets: list[Subnet] = []
        self._ranges: dict[tuple[str, int], list[tuple[int, int, str]]] = {}

    def add(self, subnet: Subnet) -> None:
        """Place a Subnet that `overlapping` has cleared."""
        self.subnets.append(subnet)
        for cidr in subnet.cidrs:
            family, first, last = _span(cidr)
            bisect.insort(self._ranges.setdefault((subnet.vpc, family), []), (first, last, subnet.name))

    def overlapping(self, vpc: str, cidr: str) -> str | None:
        """Name of a Subnet of the VPC that shares an address with a prefix."""
        family, first, last = _span(cidr)
        ranges = self._ranges.get((vpc, family), [])
        position = bisect.bisect_right(ranges, (last, math.inf, ""))
        if position and ranges[position - 1][1] >= first:
            return ranges[position - 1][2]
        return None


def _span(cidr: str) -> tuple[int, int, int]:
    prefix = addresses.network(cidr)
    return prefix.version, int(prefix.network_address), int(prefix.broadcast_address)


def plan_vpcs(work: NetworkChanges) -> list[VpcIntent]:
    """The routers to build; what is to be written on all Vpcs goes to `work`."""
    intents = []
    for (_, name), vpc in sorted(work.snapshot.vpcs.items.items()):
        port = bfd_port.plan(work.snapshot, vpc)
        intent = VpcIntent(name, vpc.is_default, port.intent)
        users = usage.vpc_users(work.snapshot, name)
        work.add(Ref("Vpc", "", name), vpc, users, _vpc_status(work.snapshot, vpc, port, intent))
        intents.append(intent)
    return intents


def _place_faults(snapshot: Snapshot, subnet: Subnet | None, placed: _Placed) -> list[Problem]:
    """What is wrong with a readable Subnet among the others."""
    if subnet is None or not subnet.in_vpc:
        return []
    faults = []
    if snapshot.vpcs.get(subnet.vpc) is None:
        faults.append(Problem("spec.vpc", "UnknownVpc", f"VPC {subnet.vpc!r} does not exist"))
    for cidr in subnet.cidrs:
        other = placed.overlapping(subnet.vpc, cidr)
        if other is not None:
            message = f"{cidr} overlaps Subnet {other!r} of the same VPC"
            faults.append(Problem("spec.cidrBlock", "Overlap", message))
        if (ip := bfd_port.blocks(snapshot, subnet.vpc, cidr)) is not None:
            message = f"{cidr} holds {ip}, the address of the VPC's BFD port"
            faults.append(Problem("spec.cidrBlock", "Overlap", message))
    return faults


def _status(snapshot: Snapshot, pools: Pools, resource: SubnetObject, faults: list[Problem]) -> Object:
    counts: Object = dict.fromkeys(("v4availableIPs", "v4usingIPs", "v6availableIPs", "v6usingIPs"), 0)
    if resource.value is not None:
        for family in resource.value.families:
            usage = pools.usage(resource.value, family)
            counts[f"v{family}availableIPs"] = usage.free if usage.free < _EXACT else float(usage.free)
            counts[f"v{family}usingIPs"] = usage.used
    told = dated(_verdicts(faults, faults), resource.status, resource.generation, snapshot.now)
    status = {**counts, "conditions": told}
    if not resource.problems:
        status["applied"] = {key: resource.spec[key] for key in _APPLIED if key in resource.spec}
    elif "applied" in resource.status:
        status["applied"] = resource.status["applied"]
    return status


def _vpc_status(snapshot: Snapshot, vpc: Vpc, port: bfd_port.PortPlan, intent: VpcIntent) -> Object:
    # The router does without its BFD port: a bad one makes the resource invalid, but not unready.
    faults = [*vpc.problems, *port.problems]
    names = [subnet.name for subnet in snapshot.subnets_of(vpc.name)]
    told = _verdicts(faults, list(vpc.problems))
    if (on_port := bfd_port.condition(snapshot, vpc, port, intent)) is not None:
        told.append(on_port)
    status: Object = {
        "default": vpc.is_default,
        "standby": True,
        "router": vpc.name,
        "subnets": names,
        "conditions": dated(told, vpc.status, vpc.generation, snapshot.now),
    }
    if port.intent is not None:
        status["bfdPort"] = bfd_port.status(vpc, port.intent)
    return status


def _verdicts(faults: list[Problem], obstacles: list[Problem]) -> list[Condition]:
    """Validated of all faults, Ready of those that keep the resource from being used."""
    return [_verdict("Validated", faults), _verdict("Ready", obstacles)]


def _verdict(kind: str, faults: list[Problem]) -> Condition:
    if faults:
        return Condition(kind, "False", faults[0].reason, summary(faults))
    return Condition(kind, "True", "Valid", "the resource is valid")
