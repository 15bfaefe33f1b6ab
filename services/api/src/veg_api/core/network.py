"""Vpc, Subnet and NetworkAttachmentDefinition as values. Pure.

A Subnet or Vpc that can not be used keeps what it last was when it could (`status.applied`): a bad edit must not take
the network from those who run on it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from veg_common.objects import Object

from veg_api.core import addresses
from veg_api.core.addresses import AddressError
from veg_api.core.labels import LabelSelector, Requirement, label_problems
from veg_api.core.names import DEFAULT_VPC, OVN_PROVIDER
from veg_api.core.problems import Problem, type_problems, without_nulls


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _SubnetSpec(_Model):
    protocol: str = ""
    cidr_block: str = Field(alias="cidrBlock")
    gateway: str = ""
    exclude_ips: list[str] = Field(default=[], alias="excludeIps")
    provider: str = ""
    vpc: str = ""
    default: bool = False


class _Requirement(_Model):
    key: str
    operator: str
    values: list[str] = []


class _LabelSelector(_Model):
    match_labels: dict[str, str] = Field(default={}, alias="matchLabels")
    match_expressions: list[_Requirement] = Field(default=[], alias="matchExpressions")


class _BfdPort(_Model):
    enabled: bool = False
    ip: str = ""
    node_selector: _LabelSelector | None = Field(default=None, alias="nodeSelector")


class _VpcSpec(_Model):
    default_subnet: str = Field(default="", alias="defaultSubnet")
    bfd_port: _BfdPort = Field(default=_BfdPort(), alias="bfdPort")


@dataclass(frozen=True)
class Subnet:
    """A usable Subnet: at most one prefix a family, IPv4 first; `gateways` in the same order.

    `excluded` are inclusive integer ranges by family, merged: what is never handed out, which includes gateway,
    network and broadcast addresses.
    """

    name: str
    vpc: str
    provider: str
    cidrs: tuple[str, ...]
    gateways: tuple[str, ...]
    default: bool = False
    excluded: tuple[tuple[int, tuple[tuple[int, int], ...]], ...] = ()

    @property
    def in_vpc(self) -> bool:
        """Whether it is a network of OVN; others are networks outside that Kube-OVN only numbers."""
        return self.provider == OVN_PROVIDER or self.provider.endswith(".ovn")

    @property
    def families(self) -> tuple[int, ...]:
        """4, 6 or both."""
        return tuple(addresses.family(cidr) for cidr in self.cidrs)

    def cidr(self, family: int) -> str:
        """The prefix of a family it has. Raises KeyError."""
        return dict(zip(self.families, self.cidrs, strict=True))[family]

    def gateway(self, family: int) -> str:
        """The gateway of a family it has. Raises KeyError."""
        return dict(zip(self.families, self.gateways, strict=True))[family]


@dataclass(frozen=True)
class SubnetObject:
    """A Subnet resource: `value` is what is in force (None: it never was usable), `problems` what is wrong now."""

    name: str
    value: Subnet | None
    problems: tuple[Problem, ...] = ()
    created: str = ""
    deleting: bool = False
    generation: int = 0
    uid: str = ""
    # Our own doing, and no input: two versions that differ in these are equal.
    finalizers: tuple[str, ...] = field(default=(), compare=False)
    resource_version: str = field(default="", compare=False)
    spec: Object = field(default_factory=dict, hash=False)
    status: Object = field(default_factory=dict, hash=False, compare=False)


@dataclass(frozen=True)
class BfdPort:
    """An enabled spec.bfdPort: one address a family, IPv4 first; `selector` is None when nodes are left to us."""

    addresses: tuple[str, ...]
    selector: LabelSelector | None = None


@dataclass(frozen=True)
class Vpc:
    """A Vpc. `bfd_port` is None unless it is enabled and makes sense; `bfd_problems` tell why it does not."""

    name: str
    default_subnet: str = ""
    bfd_port: BfdPort | None = None
    problems: tuple[Problem, ...] = ()
    bfd_problems: tuple[Problem, ...] = ()
    deleting: bool = False
    generation: int = 0
    uid: str = ""
    finalizers: tuple[str, ...] = field(default=(), compare=False)
    resource_version: str = field(default="", compare=False)
    status: Object = field(default_factory=dict, hash=False, compare=False)

    @property
    def is_default(self) -> bool:
        """Whether it is the cluster's own VPC."""
        return self.name == DEFAULT_VPC


@dataclass(frozen=True)
class Nad:
    """A NetworkAttachmentDefinition; `problem` tells why its config can not be used, "" if it can."""

    namespace: str
    name: str
    type: str = ""
    master: str = ""
    provider: str = ""
    problem: str = ""


def parse_subnet(obj: Object) -> SubnetObject:
    """A Subnet resource. Never raises; see SubnetObject."""
    metadata, status = obj["metadata"], _mapping(obj.get("status"))
    spec = _mapping(without_nulls(obj.get("spec")))
    value, problems = subnet_value(metadata["name"], spec)
    if value is None and (applied := _mapping(status.get("applied"))):
        value, _ = subnet_value(metadata["name"], applied)
    return SubnetObject(
        name=metadata["name"],
        value=value,
        problems=problems,
        created=metadata.get("creationTimestamp", ""),
        deleting="deletionTimestamp" in metadata,
        generation=metadata.get("generation", 0),
        uid=metadata.get("uid", ""),
        finalizers=tuple(metadata.get("finalizers") or ()),
        resource_version=metadata.get("resourceVersion", ""),
        spec=spec,
        status=status,
    )


def subnet_value(name: str, spec: Object) -> tuple[Subnet | None, tuple[Problem, ...]]:
    """The spec as a value, or None with what is wrong with it."""
    try:
        parsed = _SubnetSpec.model_validate(spec)
    except ValidationError as error:
        return None, type_problems(error)
    problems: list[Problem] = []
    cidrs = _cidrs(parsed, problems)
    gateways = tuple(_gateway(parsed, cidr, problems) for cidr in cidrs)
    _check_gateways(parsed, cidrs, problems)
    excluded = _excluded(parsed, cidrs, gateways, problems)
    if problems:
        return None, tuple(problems)
    provider = parsed.provider or OVN_PROVIDER
    value = Subnet(name, "", provider, cidrs, gateways, parsed.default, excluded)
    if value.in_vpc:
        value = Subnet(name, parsed.vpc or DEFAULT_VPC, provider, cidrs, gateways, parsed.default, excluded)
    return value, ()


def parse_vpc(obj: Object) -> Vpc:
    """A Vpc resource. Never raises."""
    metadata = obj["metadata"]
    spec = without_nulls(obj.get("spec")) or {}
    problems: tuple[Problem, ...] = ()
    bfd_problems: list[Problem] = []
    parsed = _VpcSpec()
    try:
        parsed = _VpcSpec.model_validate(spec)
    except ValidationError as error:
        faults = type_problems(error)
        bfd_problems += [p for p in faults if p.field.startswith("spec.bfdPort")]
        problems = tuple(p for p in faults if p not in bfd_problems)
        if not problems:
            parsed = _VpcSpec.model_validate({k: v for k, v in spec.items() if k != "bfdPort"})
    port = _bfd_port(parsed.bfd_port, bfd_problems) if parsed.bfd_port.enabled else None
    return Vpc(
        name=metadata["name"],
        default_subnet=parsed.default_subnet,
        bfd_port=port,
        problems=problems,
        bfd_problems=tuple(bfd_problems),
        deleting="deletionTimestamp" in metadata,
        generation=metadata.get("generation", 0),
        uid=metadata.get("uid", ""),
        finalizers=tuple(metadata.get("finalizers") or ()),
        resource_version=metadata.get("resourceVersion", ""),
        status=_mapping(obj.get("status")),
    )


def parse_nad(obj: Object) -> Nad:
    """A NetworkAttachmentDefinition. Never raises."""
    metadata = obj["metadata"]
    namespace, name = metadata.get("namespace", "default"), metadata["name"]
    text = _mapping(obj.get("spec")).get("config") or ""
    try:
        config = json.loads(text)
        if "plugins" in config:
            config = config["plugins"][0]
        ipam = config.get("ipam") or {}
        return Nad(
            namespace, name, str(config["type"]), str(config.get("master", "")), str(ipam.get("provider", ""))
        )
    except KeyError:
        return Nad(namespace, name, problem="spec.config names no CNI plugin type")
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        reason = str(error) if isinstance(error, ValueError) else "not a CNI configuration"
        return Nad(namespace, name, problem=f"spec.config is not valid JSON of a CNI configuration: {reason}")


def _mapping(value: Any) -> Object:
    return value if isinstance(value, dict) else {}


def _bfd_port(spec: _BfdPort, problems: list[Problem]) -> BfdPort | None:
    """An enabled port, or None and what is wrong with it."""
    found = _bfd_addresses(spec.ip, problems)
    selector = None
    if spec.node_selector is not None:
        wanted = spec.node_selector
        selector = LabelSelector(
            tuple(sorted(wanted.match_labels.items())),
            tuple(Requirement(r.key, r.operator, tuple(r.values)) for r in wanted.match_expressions),
        )
        problems += label_problems("spec.bfdPort.nodeSelector", selector.labels, selector.expressions)
    return None if problems else BfdPort(found, selector)


def _bfd_addresses(text: str, problems: list[Problem]) -> tuple[str, ...]:
    field_name = "spec.bfdPort.ip"
    try:
        found = addresses.by_family(addresses.parts(text))
    except AddressError as error:
        problems.append(Problem(field_name, "InvalidAddress", str(error)))
        return ()
    if not found:
        problems.append(Problem(field_name, "FieldRequired", "is required when the BFD port is enabled"))
    problems.extend(
        Problem(field_name, "InvalidAddress", f"{ip} {trouble}")
        for ip in found
        if (trouble := addresses.unicast_problem(str(addresses.network(ip))))
    )
    if len({addresses.family(a) for a in found}) != len(found):
        problems.append(Problem(field_name, "InvalidAddress", f"{text!r}: at most one address a family"))
    return found


def _cidrs(spec: _SubnetSpec, problems: list[Problem]) -> tuple[str, ...]:
    field_name = "spec.cidrBlock"
    found = []
    for part in addresses.parts(spec.cidr_block):
        try:
            found.append(addresses.network(part))
        except AddressError as error:
            problems.append(Problem(field_name, "InvalidCIDR", str(error)))
    if not found and not problems:
        problems.append(Problem(field_name, "FieldRequired", "is required"))
    versions = [n.version for n in found]
    if len(set(versions)) != len(versions):
        problems.append(Problem(field_name, "InvalidCIDR", "at most one prefix a family"))
    problems.extend(
        Problem(field_name, "InvalidCIDR", f"{prefix} leaves no address for pods")
        for prefix in found
        if prefix.num_addresses < 4
    )
    wanted = {"": set(versions), "IPv4": {4}, "IPv6": {6}, "Dual": {4, 6}}.get(spec.protocol)
    if wanted is None:
        problems.append(
            Problem("spec.protocol", "InvalidValue", f"{spec.protocol!r} is not IPv4, IPv6 or Dual")
        )
    elif found and wanted != set(versions):
        message = f"{spec.protocol} does not fit cidrBlock {spec.cidr_block!r}"
        problems.append(Problem("spec.protocol", "InvalidValue", message))
    return tuple(str(n) for n in sorted(found, key=lambda n: n.version))


def _gateway(spec: _SubnetSpec, cidr: str, problems: list[Problem]) -> str:
    """The gateway given for a prefix's family, else its first address (Kube-OVN's default)."""
    prefix = addresses.network(cidr)
    for part in addresses.parts(spec.gateway):
        try:
            given = addresses.address(part)
        except AddressError:
            continue  # reported by _check_gateways
        if given.version != prefix.version:
            continue
        if given not in prefix:
            problems.append(Problem("spec.gateway", "InvalidAddress", f"{given} is outside {cidr}"))
        return str(given)
    return addresses.text_of(prefix.version, int(prefix.network_address) + 1)


def _check_gateways(spec: _SubnetSpec, cidrs: tuple[str, ...], problems: list[Problem]) -> None:
    families = {addresses.family(cidr) for cidr in cidrs}
    for part in addresses.parts(spec.gateway):
        try:
            version = addresses.address(part).version
        except AddressError as error:
            problems.append(Problem("spec.gateway", "InvalidAddress", str(error)))
            continue
        if families and version not in families:
            problems.append(
                Problem("spec.gateway", "InvalidAddress", f"{part}: the Subnet has no IPv{version}")
            )


def _excluded(
    spec: _SubnetSpec, cidrs: tuple[str, ...], gateways: tuple[str, ...], problems: list[Problem]
) -> tuple[tuple[int, tuple[tuple[int, int], ...]], ...]:
    """What is never handed out, by family."""
    ranges: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    for index, text in enumerate(spec.exclude_ips):
        try:
            version, first, last = addresses.address_range(text)
        except AddressError as error:
            problems.append(Problem(f"spec.excludeIps[{index}]", "InvalidRange", str(error)))
            continue
        ranges[version].append((first, last))
    result = []
    for cidr, gateway in zip(cidrs, gateways, strict=True):
        prefix = addresses.network(cidr)
        own = [int(prefix.network_address), int(prefix.broadcast_address), int(addresses.address(gateway))]
        result.append(
            (prefix.version, addresses.merged([*ranges[prefix.version], *((value, value) for value in own)]))
        )
    return tuple(result)
