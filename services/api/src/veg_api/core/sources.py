"""Whose traffic a gateway takes: spec.policies against the VPC's subnets. Pure; part of validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from veg_api.core import addresses
from veg_api.core.addresses import AddressError
from veg_api.core.claims import rivals
from veg_api.core.gateway import GatewayKey, GatewaySpec, Policy
from veg_api.core.network import Subnet
from veg_api.core.problems import Problem
from veg_api.core.resolved import Family, Side, Source
from veg_api.core.snapshot import Snapshot


@dataclass
class Sources:
    """What the policies come to; `where` tells in which field each prefix was named first."""

    vpc: str
    families: Sequence[int]
    snat: dict[str, bool] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    blocks: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add(self, prefix: str, where: str, *, snat: bool) -> None:
        """One prefix; the same with the other snat is a fault, a repetition is not."""
        if self.snat.setdefault(prefix, snat) == snat:
            self.where.setdefault(prefix, where)
            return
        other = self.where[prefix]
        message = (
            f"{prefix} is named with snat: {_yaml(not snat)} at {other} and with snat: {_yaml(snat)} here"
        )
        self.problems.append(Problem(where, "ConflictingSNAT", message))


def collect(snapshot: Snapshot, key: GatewayKey, spec: GatewaySpec, families: Sequence[int]) -> Sources:
    """The policies' sources of the gateway's families, and every fault in them."""
    sources = Sources(spec.vpc, families)
    if not spec.policies:
        message = "there must be at least one policy"
        sources.problems.append(Problem("spec.policies", "NoPolicies", message))
    for index, policy in enumerate(spec.policies):
        where = f"spec.policies[{index}]"
        if not policy.ip_blocks and not policy.subnets:
            message = "names neither ipBlocks nor subnets"
            sources.problems.append(Problem(where, "EmptyPolicy", message))
        _add_blocks(sources, policy, where)
        _add_subnets(snapshot, sources, policy, where)
    _warn_outside(snapshot, sources)
    _warn_shared(snapshot, key, sources)
    return sources


def families_of(
    sources: Sources, vpc_subnets: Sequence[Subnet], internal: Side, external: Side, bfd_peers: Sequence[str]
) -> tuple[Family, ...]:
    """What agents and OVN need, by family of the two sides (which have the same families)."""
    # The answer to OVN's BFD packets goes back into the VPC.
    peers = {str(addresses.network(peer)) for peer in bfd_peers}
    return tuple(
        _family(sources, vpc_subnets, (internal, external), peers, i) for i in range(len(internal.cidrs))
    )


def _family(
    sources: Sources, vpc_subnets: Sequence[Subnet], sides: tuple[Side, Side], peers: set[str], position: int
) -> Family:
    internal, external = sides
    family = addresses.family(internal.cidrs[position])
    local = {cidr for subnet in vpc_subnets for cidr in subnet.cidrs if addresses.family(cidr) == family}
    own = [prefix for prefix in sources.snat if addresses.family(prefix) == family]
    # Traffic back to a source behind a router of the VPC must go in, not out by the default route. 0.0.0.0/0 is
    # left out: it would be that default route.
    behind = {
        prefix
        for prefix in own
        if addresses.network(prefix).prefixlen and not any(addresses.contains(cidr, prefix) for cidr in local)
    }
    speakers = {peer for peer in peers if addresses.family(peer) == family}
    return Family(
        family=family,
        internal_gateway=internal.gateways[position],
        external_gateway=external.gateways[position],
        sources=tuple(Source(p, sources.snat[p]) for p in sorted(own, key=addresses.network_key)),
        vpc_cidrs=tuple(
            sorted((local | behind | speakers) - {internal.cidrs[position]}, key=addresses.network_key)
        ),
        local_cidrs=tuple(sorted(local, key=addresses.network_key)),
    )


def _add_blocks(sources: Sources, policy: Policy, where: str) -> None:
    for index, block in enumerate(policy.ip_blocks):
        field_name = f"{where}.ipBlocks[{index}]"
        try:
            prefix = str(addresses.network(block))
        except AddressError as error:
            sources.problems.append(Problem(field_name, "InvalidCIDR", str(error)))
            continue
        if trouble := addresses.unicast_problem(prefix):
            sources.problems.append(Problem(field_name, "InvalidCIDR", f"{prefix} {trouble}"))
        elif sources.families and addresses.family(prefix) not in sources.families:
            message = (
                f"{prefix} is IPv{addresses.family(prefix)}, the gateway has only {_named(sources.families)}"
            )
            sources.problems.append(Problem(field_name, "FamilyMismatch", message))
        else:
            sources.add(prefix, field_name, snat=policy.snat)
            sources.blocks.append((prefix, field_name))


def _add_subnets(snapshot: Snapshot, sources: Sources, policy: Policy, where: str) -> None:
    for index, name in enumerate(policy.subnets):
        field_name = f"{where}.subnets[{index}]"
        found = snapshot.subnet(name)
        if found is None:
            state = "does not exist" if snapshot.subnets.get(name) is None else "is not valid"
            sources.problems.append(Problem(field_name, "UnknownSubnet", f"Subnet {name!r} {state}"))
        elif not found.in_vpc:
            message = f"Subnet {name!r} (provider {found.provider}) belongs to no VPC"
            sources.problems.append(Problem(field_name, "SubnetOfOtherVpc", message))
        elif found.vpc != sources.vpc:
            message = f"Subnet {name!r} belongs to VPC {found.vpc!r}, the gateway to {sources.vpc!r}"
            sources.problems.append(Problem(field_name, "SubnetOfOtherVpc", message))
        else:
            for problem in _add_subnet(sources, found, policy, field_name):
                sources.problems.append(problem)


def _add_subnet(sources: Sources, subnet: Subnet, policy: Policy, where: str) -> Iterator[Problem]:
    """The Subnet's prefixes of the gateway's families; the others are left out with a word."""
    present = [cidr for cidr in subnet.cidrs if addresses.family(cidr) in sources.families]
    for cidr in present:
        sources.add(cidr, where, snat=policy.snat)
    missing = [cidr for cidr in subnet.cidrs if cidr not in present]
    if not missing or not sources.families:
        return
    message = f"{', '.join(missing)} of Subnet {subnet.name!r} left out: the gateway has only {_named(sources.families)}"
    yield Problem(where, "FamilyMismatch", message, warning=bool(present))


def _warn_outside(snapshot: Snapshot, sources: Sources) -> None:
    inside = [cidr for subnet in snapshot.subnets_of(sources.vpc) for cidr in subnet.cidrs]
    for prefix, field_name in sources.blocks:
        if not any(addresses.overlap(cidr, prefix) for cidr in inside):
            message = f"{prefix} lies outside every subnet of VPC {sources.vpc!r}: it must be reached through a router of it"
            sources.problems.append(Problem(field_name, "SourceOutsideVpc", message, warning=True))


def _warn_shared(snapshot: Snapshot, key: GatewayKey, sources: Sources) -> None:
    for prefix, field_name in sources.where.items():
        others = rivals(snapshot, key, sources.vpc, prefix)
        if others:
            named = ", ".join("/".join(other) for other in others)
            message = f"{prefix} is a source of gateway {named} too: only one of them takes its traffic"
            sources.problems.append(Problem(field_name, "SourceShared", message, warning=True))


def _named(families: Sequence[int]) -> str:
    return " and ".join(f"IPv{family}" for family in families)


def _yaml(value: bool) -> str:  # noqa: FBT001
    return "true" if value else "false"
