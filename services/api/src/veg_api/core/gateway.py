"""VpcEgressGateway as a value: every field and default of the specification's tables. Pure.

`parse` never raises: what can not be read becomes a problem and its default stands in, so that the rest of the
resource is still checked and all faults are reported at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from veg_common.objects import Object

from veg_api.core.labels import Requirement
from veg_api.core.names import DEFAULT_VPC, NUDGE_ANNOTATION, UPLINK_ANNOTATION
from veg_api.core.problems import Problem, type_problems, unknown_fields, without_nulls

GatewayKey = tuple[str, str]  # (namespace, name)


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, populate_by_name=False)


class _Requirement(_Model):
    key: str
    operator: str
    values: list[str] = []


class _SelectorTerm(_Model):
    match_labels: dict[str, str] = Field(default={}, alias="matchLabels")
    match_expressions: list[_Requirement] = Field(default=[], alias="matchExpressions")
    match_fields: list[_Requirement] = Field(default=[], alias="matchFields")


class _Bfd(_Model):
    enabled: bool = False
    min_rx: int = Field(default=1000, alias="minRX")
    min_tx: int = Field(default=1000, alias="minTX")
    multiplier: int = 3


class _Policy(_Model):
    snat: bool = False
    ip_blocks: list[str] = Field(default=[], alias="ipBlocks")
    subnets: list[str] = []


class _Spec(_Model):
    vpc: str = DEFAULT_VPC
    replicas: int = 1
    prefix: str = ""
    image: str = ""
    internal_subnet: str = Field(default="", alias="internalSubnet")
    external_subnet: str = Field(alias="externalSubnet")
    internal_ips: list[str] = Field(default=[], alias="internalIPs")
    external_ips: list[str] = Field(default=[], alias="externalIPs")
    bfd: _Bfd = _Bfd()
    policies: list[_Policy] = []
    node_selector: list[_SelectorTerm] = Field(default=[], alias="nodeSelector")


@dataclass(frozen=True)
class SelectorTerm:
    """An entry of spec.nodeSelector: all of it must match."""

    labels: tuple[tuple[str, str], ...] = ()
    expressions: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()


@dataclass(frozen=True)
class Bfd:
    """spec.bfd; ms."""

    enabled: bool = False
    min_rx: int = 1000
    min_tx: int = 1000
    multiplier: int = 3


@dataclass(frozen=True)
class Policy:
    """An entry of spec.policies, as written."""

    snat: bool = False
    ip_blocks: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()


@dataclass(frozen=True)
class GatewaySpec:
    """spec with its defaults. `internal_subnet` "" means the VPC's default subnet."""

    vpc: str = DEFAULT_VPC
    replicas: int = 1
    prefix: str = ""
    image: str = ""
    internal_subnet: str = ""
    external_subnet: str = ""
    internal_ips: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = ()
    bfd: Bfd = Bfd()
    policies: tuple[Policy, ...] = ()
    node_selector: tuple[SelectorTerm, ...] = ()


@dataclass(frozen=True)
class Gateway:
    """A VpcEgressGateway. `problems` are faults of type and unknown fields; `status` is what was last written.

    `uplink_probe` and `bfd_nudge` are False where an annotation says so.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    created: str
    deleting: bool
    finalizers: tuple[str, ...]
    resource_version: str
    spec: GatewaySpec
    problems: tuple[Problem, ...] = ()
    uplink_probe: bool = True
    bfd_nudge: bool = True
    status: Object = field(default_factory=dict, hash=False)

    @property
    def key(self) -> GatewayKey:
        """(namespace, name)."""
        return self.namespace, self.name


def parse(obj: Object) -> Gateway:
    """A VpcEgressGateway object as a value; see the module about faults."""
    metadata = obj["metadata"]
    annotations = metadata.get("annotations") or {}
    spec, problems = parse_spec(obj.get("spec"))
    status = obj.get("status")
    return Gateway(
        namespace=metadata.get("namespace", "default"),
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 0),
        created=metadata.get("creationTimestamp", ""),
        deleting="deletionTimestamp" in metadata,
        finalizers=tuple(metadata.get("finalizers") or ()),
        resource_version=metadata.get("resourceVersion", ""),
        spec=spec,
        problems=problems,
        uplink_probe=annotations.get(UPLINK_ANNOTATION, "").lower() != "false",
        bfd_nudge=annotations.get(NUDGE_ANNOTATION, "").lower() != "false",
        status=status if isinstance(status, dict) else {},
    )


def parse_spec(raw: Any) -> tuple[GatewaySpec, tuple[Problem, ...]]:
    """Spec as a value, and what was wrong with it: fields of a wrong type stand at their defaults."""
    data = without_nulls(raw) if raw is not None else {}
    if not isinstance(data, dict):
        fault = Problem("spec", "InvalidType", f"must be a mapping, not {type(raw).__name__}")
        return GatewaySpec(), (fault,)
    warnings = tuple(unknown_fields(_Spec, data, "spec"))
    try:
        return _value(_Spec.model_validate(data)), warnings
    except ValidationError as error:
        problems = type_problems(error)
        broken = {entry["loc"][0] for entry in error.errors(include_url=False)}
    kept = {k: v for k, v in data.items() if k not in broken}
    kept.setdefault("externalSubnet", "")
    return _value(_Spec.model_validate(kept)), (*problems, *warnings)


def _value(spec: _Spec) -> GatewaySpec:
    return GatewaySpec(
        vpc=spec.vpc or DEFAULT_VPC,
        replicas=spec.replicas,
        prefix=spec.prefix,
        image=spec.image,
        internal_subnet=spec.internal_subnet,
        external_subnet=spec.external_subnet,
        internal_ips=tuple(spec.internal_ips),
        external_ips=tuple(spec.external_ips),
        bfd=Bfd(spec.bfd.enabled, spec.bfd.min_rx, spec.bfd.min_tx, spec.bfd.multiplier),
        policies=tuple(Policy(p.snat, tuple(p.ip_blocks), tuple(p.subnets)) for p in spec.policies),
        node_selector=tuple(_term(term) for term in spec.node_selector),
    )


def _term(term: _SelectorTerm) -> SelectorTerm:
    return SelectorTerm(
        tuple(sorted(term.match_labels.items())),
        tuple(Requirement(r.key, r.operator, tuple(r.values)) for r in term.match_expressions),
        tuple(Requirement(r.key, r.operator, tuple(r.values)) for r in term.match_fields),
    )
