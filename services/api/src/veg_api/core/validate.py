"""Whether a gateway can run, and everything that is wrong with it. Pure.

`check` looks every name up and reports all faults it finds, not only the first. A gateway without errors comes out as
a `Resolved`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from veg_api.core import addresses, bfd_port, selectors, sources
from veg_api.core.addresses import AddressError
from veg_api.core.gateway import Gateway, GatewayKey, GatewaySpec
from veg_api.core.names import (
    DEFAULT_SUBNET,
    DEFAULT_VPC,
    MAX_LABEL,
    MAX_REPLICAS,
    OVN_PROVIDER,
    deployment_name,
)
from veg_api.core.network import Nad, Subnet
from veg_api.core.pools import Pools, is_excluded
from veg_api.core.problems import Problem, errors
from veg_api.core.resolved import Bfd, Resolved, Side
from veg_api.core.snapshot import Snapshot

# RFC 1123 subdomain, the rule for names of Deployments.
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_INTERVAL_MS = (1, 3_600_000)


@dataclass(frozen=True)
class Check:
    """The result: `resolved` is None if and only if `problems` holds an error."""

    problems: tuple[Problem, ...]
    resolved: Resolved | None


@dataclass(frozen=True)
class _Networks:
    """The names of a gateway, looked up; None where that failed (and a problem says so)."""

    internal: Subnet | None
    external: Subnet | None
    nad: Nad | None
    families: tuple[int, ...]


def check(snapshot: Snapshot, gateway: Gateway, pools: Pools, last: Resolved | None) -> Check:
    """Every fault of a gateway, and the gateway resolved if it has none that matters. `last` is its last good state."""
    spec, problems = gateway.spec, list(gateway.problems)
    broken = {p.field.split(".")[1].split("[")[0] for p in errors(gateway.problems) if "." in p.field}
    networks = _networks(snapshot, spec, problems, last)
    found = sources.collect(snapshot, gateway.key, spec, networks.families)
    problems += found.problems
    problems += _name_problems(gateway, last)
    problems += _number_problems(spec)
    problems += selectors.problems(spec.node_selector)
    if networks.internal is not None and networks.families:
        entries = ("spec.internalIPs", spec.internal_ips, networks.internal)
        problems += _ip_problems(gateway.key, entries, networks.families, spec.replicas, pools)
    if networks.external is not None and networks.families:
        entries = ("spec.externalIPs", spec.external_ips, networks.external)
        problems += _ip_problems(gateway.key, entries, networks.families, spec.replicas, pools)
    bfd = _bfd(snapshot, gateway, networks.families, problems) if spec.bfd.enabled else None
    kept = [p for p in problems if p in gateway.problems or _top(p.field) not in broken]
    if errors(kept) or networks.internal is None or networks.external is None or networks.nad is None:
        return Check(tuple(kept), None)
    internal = _side(networks.internal, networks.families, spec.internal_ips)
    external = _side(networks.external, networks.families, spec.external_ips)
    resolved = Resolved(
        vpc=spec.vpc,
        default_vpc=spec.vpc == DEFAULT_VPC,
        deployment=deployment_name(spec.prefix, gateway.name),
        replicas=spec.replicas,
        image=spec.image,
        nad=(networks.nad.namespace, networks.nad.name),
        internal=internal,
        external=external,
        families=sources.families_of(
            found, snapshot.subnets_of(spec.vpc), internal, external, bfd.peers if bfd else ()
        ),
        node_terms=selectors.terms_json(spec.node_selector),
        bfd=bfd,
    )
    return Check(tuple(kept), resolved)


def _networks(
    snapshot: Snapshot, spec: GatewaySpec, problems: list[Problem], last: Resolved | None
) -> _Networks:
    internal = _internal_subnet(snapshot, spec, problems)
    external = _external_subnet(snapshot, spec, problems)
    before = (last.internal.subnet, last.external.subnet) if last is not None else ()
    for field, found in (("spec.internalSubnet", internal), ("spec.externalSubnet", external)):
        # Who is on it already stays: its deletion waits for him.
        if found is not None and found.name not in before and snapshot.subnets.items["", found.name].deleting:
            problems.append(Problem(field, "SubnetDeleting", f"Subnet {found.name!r} is being deleted"))
    nad = _nad(snapshot, external, problems) if external else None
    families: tuple[int, ...] = ()
    if internal and external:
        families = tuple(f for f in internal.families if f in external.families)
        if not families:
            message = (
                f"Subnet {external.name!r} has no IP family in common with internal Subnet {internal.name!r}"
            )
            problems.append(Problem("spec.externalSubnet", "FamilyMismatch", message))
    return _Networks(internal, external, nad, families)


def _internal_subnet(snapshot: Snapshot, spec: GatewaySpec, problems: list[Problem]) -> Subnet | None:
    vpc = snapshot.vpcs.get(spec.vpc)
    if vpc is None:
        problems.append(Problem("spec.vpc", "UnknownVpc", f"VPC {spec.vpc!r} does not exist"))
        return None
    field = "spec.internalSubnet"
    name = spec.internal_subnet or default_subnet(snapshot, spec.vpc)
    if not name:
        message = f"VPC {spec.vpc!r} has no default subnet: name one of its subnets"
        problems.append(Problem(field, "UnknownSubnet", message))
        return None
    found = _lookup(snapshot, name, field, problems)
    if found is None:
        return None
    if not found.in_vpc or found.vpc != spec.vpc:
        whose = f"belongs to VPC {found.vpc!r}" if found.in_vpc else "belongs to no VPC"
        message = f"Subnet {name!r} {whose}, the gateway to {spec.vpc!r}"
        problems.append(Problem(field, "SubnetOfOtherVpc", message))
        return None
    return found


def default_subnet(snapshot: Snapshot, vpc: str) -> str:
    """Name of a VPC's default subnet: the one it names, the one that says so, `ovn-default`, or its only one."""
    resource = snapshot.vpcs.get(vpc)
    if resource is not None and resource.default_subnet:
        return resource.default_subnet
    subnets = snapshot.subnets_of(vpc)
    names = [s.name for s in subnets if s.default] or [s.name for s in subnets if s.name == DEFAULT_SUBNET]
    if names:
        return names[0]
    return subnets[0].name if len(subnets) == 1 else ""


def _external_subnet(snapshot: Snapshot, spec: GatewaySpec, problems: list[Problem]) -> Subnet | None:
    field = "spec.externalSubnet"
    if not spec.external_subnet:
        if not any(p.field == field for p in problems):
            problems.append(Problem(field, "FieldRequired", "is required"))
        return None
    found = _lookup(snapshot, spec.external_subnet, field, problems)
    if found is not None and found.provider == OVN_PROVIDER:
        message = (
            f"Subnet {found.name!r} has no provider: an external subnet's provider names a"
            " NetworkAttachmentDefinition as <name>.<namespace>"
        )
        problems.append(Problem(field, "ProviderWithoutNad", message))
        return None
    return found


def _lookup(snapshot: Snapshot, name: str, field: str, problems: list[Problem]) -> Subnet | None:
    resource = snapshot.subnets.get(name)
    if resource is None:
        problems.append(Problem(field, "UnknownSubnet", f"Subnet {name!r} does not exist"))
        return None
    if resource.value is None:
        why = "; ".join(str(p) for p in resource.problems)
        problems.append(Problem(field, "InvalidSubnet", f"Subnet {name!r} is not valid: {why}"))
    return resource.value


def _nad(snapshot: Snapshot, external: Subnet, problems: list[Problem]) -> Nad | None:
    """The attachment that the provider names: `<nad>.<namespace>`, with `.ovn` where OVN carries it."""
    field = "spec.externalSubnet"
    pieces = external.provider.removesuffix(".ovn").split(".")
    if len(pieces) != 2 or not all(pieces):
        message = (
            f"provider {external.provider!r} of Subnet {external.name!r} names no NetworkAttachmentDefinition:"
            " it must be <name>.<namespace> or <name>.<namespace>.ovn"
        )
        problems.append(Problem(field, "ProviderWithoutNad", message))
        return None
    name, namespace = pieces
    nad = snapshot.nads.get(name, namespace)
    if nad is None:
        message = (
            f"NetworkAttachmentDefinition {namespace}/{name}, which Subnet {external.name!r} names as its provider,"
            " does not exist"
        )
        problems.append(Problem(field, "UnknownNad", message))
        return None
    if nad.problem:
        message = f"NetworkAttachmentDefinition {namespace}/{name}: {nad.problem}"
        problems.append(Problem(field, "InvalidNad", message))
        return None
    return nad


def _name_problems(gateway: Gateway, last: Resolved | None) -> Iterator[Problem]:
    deployment = deployment_name(gateway.spec.prefix, gateway.name)
    culprit = "spec.prefix" if gateway.spec.prefix else "metadata.name"
    if last is not None and last.deployment != deployment:
        before = last.deployment.removesuffix(gateway.name)
        yield Problem("spec.prefix", "PrefixChanged", f"can not be changed after creation: it was {before!r}")
    elif not _SUBDOMAIN.match(deployment):
        message = f"{deployment!r} is no valid name of a Deployment (lower case letters, digits, '-' and '.')"
        yield Problem(culprit, "InvalidName", message)
    if len(gateway.name) > MAX_LABEL:
        message = f"{len(gateway.name)} characters; as a label of the workload it may have {MAX_LABEL}"
        yield Problem("metadata.name", "NameTooLong", message)
    elif len(deployment) > MAX_LABEL:
        message = (
            f"{deployment!r} has {len(deployment)} characters; the Deployment's name may have {MAX_LABEL}"
        )
        yield Problem(culprit, "NameTooLong", message)


def _number_problems(spec: GatewaySpec) -> Iterator[Problem]:
    if not 0 <= spec.replicas <= MAX_REPLICAS:
        message = f"must be 0 to {MAX_REPLICAS}, not {spec.replicas}"
        yield Problem("spec.replicas", "OutOfRange", message)
    if not 1 <= spec.bfd.multiplier <= 255:
        message = f"must be 1 to 255, not {spec.bfd.multiplier}"
        yield Problem("spec.bfd.multiplier", "OutOfRange", message)
    low, high = _INTERVAL_MS
    for field, value in (("spec.bfd.minRX", spec.bfd.min_rx), ("spec.bfd.minTX", spec.bfd.min_tx)):
        if not low <= value <= high:
            yield Problem(field, "OutOfRange", f"must be {low} to {high} ms, not {value}")


def _bfd(
    snapshot: Snapshot, gateway: Gateway, families: tuple[int, ...], problems: list[Problem]
) -> Bfd | None:
    """BFD with the VPC's port; None, and a problem, where the port can not serve the gateway's families."""
    spec, field = gateway.spec, "spec.bfd.enabled"
    vpc = snapshot.vpcs.get(spec.vpc)
    if vpc is None:
        return None  # reported by _internal_subnet
    present = bfd_port.in_force(snapshot, vpc)
    if not present:
        faults = bfd_port.faults(snapshot, vpc)
        why = f": {faults[0]}" if faults else " (spec.bfdPort.enabled)"
        message = f"Vpc {vpc.name!r} has no enabled BFD port{why}"
        problems.append(Problem(field, "NoBFDPort", message))
        return None
    peers = tuple(ip for ip in present if addresses.family(ip) in families)
    missing = [family for family in families if family not in {addresses.family(ip) for ip in peers}]
    if missing:
        message = f"the gateway has IPv{missing[0]}, but the BFD port of Vpc {vpc.name!r} ({', '.join(present)}) has not"
        problems.append(Problem(field, "FamilyMismatch", message))
        return None
    timers = spec.bfd
    return Bfd(
        timers.min_rx, timers.min_tx, timers.multiplier, peers, gateway.uplink_probe, gateway.bfd_nudge
    )


def _ip_problems(
    key: GatewayKey,
    given: tuple[str, tuple[str, ...], Subnet],
    families: tuple[int, ...],
    replicas: int,
    pools: Pools,
) -> Iterator[Problem]:
    """Faults of internalIPs or externalIPs: (field, entries, the Subnet they must lie in)."""
    field, entries, subnet = given
    if entries and len(entries) < replicas:
        message = f"{len(entries)} given for {replicas} replicas: there must be at least as many"
        yield Problem(field, "TooFewIPs", message)
    seen: dict[str, int] = {}
    for index, entry in enumerate(entries):
        where = f"{field}[{index}]"
        try:
            texts = addresses.by_family(addresses.parts(entry))
        except AddressError as error:
            yield Problem(where, "InvalidAddress", str(error))
            continue
        if tuple(addresses.family(text) for text in texts) != families:
            wanted = " and one ".join(f"IPv{family}" for family in families)
            yield Problem(where, "FamilyMismatch", f"{entry!r} must be one {wanted} address")
            continue
        for text in texts:
            trouble = _address_trouble(key, subnet, text, pools)
            if trouble:
                yield Problem(where, *trouble)
            elif text in seen:
                message = f"{text} is given twice, first at {field}[{seen[text]}]"
                yield Problem(where, "DuplicateAddress", message)
            seen.setdefault(text, index)


def _address_trouble(key: GatewayKey, subnet: Subnet, text: str, pools: Pools) -> tuple[str, str] | None:
    """(reason, message) of why the gateway can not have an address; None if it can."""
    family = addresses.family(text)
    prefix = addresses.network(subnet.cidr(family))
    value = int(addresses.address(text))
    if addresses.address(text) not in prefix:
        return "AddressOutsideSubnet", f"{text} is outside {prefix} of Subnet {subnet.name!r}"
    if text == subnet.gateway(family):
        return "AddressNotAvailable", f"{text} is the gateway of Subnet {subnet.name!r}"
    if value == int(prefix.network_address):
        return "AddressNotAvailable", f"{text} is the network address of {prefix}"
    if value == int(prefix.broadcast_address):
        return "AddressNotAvailable", f"{text} is the broadcast address of {prefix}"
    if is_excluded(subnet, text):
        return "AddressNotAvailable", f"{text} is excluded by excludeIps of Subnet {subnet.name!r}"
    owner = pools.foreign_owner(subnet.name, text, key)
    return ("AddressTaken", f"{text} is taken by {owner}") if owner else None


def _side(subnet: Subnet, families: tuple[int, ...], entries: tuple[str, ...]) -> Side:
    return Side(
        subnet=subnet.name,
        provider=subnet.provider,
        cidrs=tuple(subnet.cidr(family) for family in families),
        gateways=tuple(subnet.gateway(family) for family in families),
        ips=tuple(addresses.joined(addresses.by_family(addresses.parts(entry))) for entry in entries),
    )


def _top(field: str) -> str:
    return field.split(".")[1].split("[", maxsplit=1)[0] if "." in field else ""
