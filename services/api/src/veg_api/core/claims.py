"""Which gateways of a VPC name the same source. Pure; part of validation, and of what a change affects.

Of two gateways that name the very same prefix OVN can serve only one well, so both are told of each other. A prefix
inside another one is no conflict: the longer one decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import islice

from veg_api.core import addresses
from veg_api.core.addresses import AddressError
from veg_api.core.gateway import Gateway, GatewayKey, Policy
from veg_api.core.network import SubnetObject
from veg_api.core.snapshot import Snapshot

# What a policy names: (vpc, "prefix", canonical prefix) or (vpc, "subnet", name).
Claim = tuple[str, str, str]
# More of them are not worth a condition's space.
_LIMIT = 3


def claims(gateway: Gateway | None) -> frozenset[Claim]:
    """What the policies of a gateway name, as written; nothing of one that is going."""
    if gateway is None or gateway.deleting:
        return frozenset()
    return _claims(gateway.spec.vpc, gateway.spec.policies)


@lru_cache(maxsize=65536)
def _claims(vpc: str, policies: tuple[Policy, ...]) -> frozenset[Claim]:
    found: set[Claim] = set()
    for policy in policies:
        found.update((vpc, "subnet", name) for name in policy.subnets)
        for block in policy.ip_blocks:
            try:
                found.add((vpc, "prefix", str(addresses.network(block))))
            except AddressError:
                continue  # reported by validation
    return frozenset(found)


def rivals(snapshot: Snapshot, key: GatewayKey, vpc: str, prefix: str) -> tuple[GatewayKey, ...]:
    """The first few other gateways that name exactly this prefix of a VPC, and run its family."""
    index = snapshot.gateways.derived(_by_claim)
    names = snapshot.subnets.derived(_by_cidr).get((vpc, prefix), ())
    found: dict[GatewayKey, None] = dict.fromkeys(index.get((vpc, "prefix", prefix), ()))
    for name in names:
        found |= dict.fromkeys(index.get((vpc, "subnet", name), ()))
    family = addresses.family(prefix)
    others = (other for other in sorted(found) if other != key and _runs(snapshot, other, family))
    return tuple(islice(others, _LIMIT))


def neighbours(snapshot: Snapshot, of: frozenset[Claim]) -> set[GatewayKey]:
    """The gateways that share one of some claims, directly or through a Subnet's prefix."""
    index = snapshot.gateways.derived(_by_claim)
    subnets = snapshot.subnets.derived(_by_cidr)
    found: set[GatewayKey] = set()
    for claim in of:
        vpc, kind, name = claim
        found.update(index.get(claim, ()))
        value = snapshot.subnet(name) if kind == "subnet" else None
        for prefix in (name,) if kind == "prefix" else value.cidrs if value is not None else ():
            found.update(index.get((vpc, "prefix", prefix), ()))
            for other in subnets.get((vpc, prefix), ()):
                found.update(index.get((vpc, "subnet", other), ()))
    return found


def _runs(snapshot: Snapshot, key: GatewayKey, family: int) -> bool:
    """Whether both sides of a gateway have a family; a side that is not known does not speak against it."""
    gateway = snapshot.gateways.get(key[1], key[0])
    if gateway is None:
        return False
    sides = (snapshot.subnet(gateway.spec.internal_subnet), snapshot.subnet(gateway.spec.external_subnet))
    return all(side is None or family in side.families for side in sides)


def _by_claim(items: Mapping[tuple[str, str], Gateway]) -> dict[Claim, list[GatewayKey]]:
    found: dict[Claim, list[GatewayKey]] = {}
    for key, gateway in items.items():
        for claim in claims(gateway):
            found.setdefault(claim, []).append(key)
    return found


def _by_cidr(items: Mapping[tuple[str, str], SubnetObject]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for subnet in items.values():
        if subnet.value is not None and subnet.value.in_vpc:
            for cidr in subnet.value.cidrs:
                found.setdefault((subnet.value.vpc, cidr), []).append(subnet.value.name)
    return found
