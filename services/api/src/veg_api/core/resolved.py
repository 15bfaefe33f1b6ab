"""A valid gateway with every name looked up: all that its workload, configuration and intent are made of. Pure.

It is also the memory of the last good state. Written as JSON beside the agents' configuration (one object, so the two
can not disagree), it lets a gateway go on, and its pods be replaced, while its resource is broken or something it
names is gone, also over a restart of api.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from pydantic import TypeAdapter, ValidationError
from veg_common.objects import Object


@dataclass(frozen=True)
class Side:
    """One interface of the gateway's pods. `cidrs` and `gateways` are of the gateway's families, IPv4 first."""

    subnet: str
    provider: str
    cidrs: tuple[str, ...]
    gateways: tuple[str, ...]
    ips: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Whose traffic is taken out, and how."""

    cidr: str
    snat: bool


@dataclass(frozen=True)
class Family:
    """One IP family: what agents and OVN need to know of it. Prefixes are canonical and sorted."""

    family: int
    internal_gateway: str
    external_gateway: str
    sources: tuple[Source, ...]
    vpc_cidrs: tuple[str, ...]
    local_cidrs: tuple[str, ...]


@dataclass(frozen=True)
class Bfd:
    """BFD as the gateway runs it: spec.bfd (ms), the addresses of the VPC's port, whether the uplink is probed,
    whether replicas keep OVN's watch awake.
    """

    min_rx: int
    min_tx: int
    multiplier: int
    peers: tuple[str, ...]
    uplink: bool = True
    nudge: bool = True


@dataclass(frozen=True)
class Resolved:
    """See the module. `nad` is (namespace, name); `node_terms` are nodeSelectorTerms as JSON text."""

    vpc: str
    default_vpc: bool
    deployment: str
    replicas: int
    image: str
    nad: tuple[str, str]
    internal: Side
    external: Side
    families: tuple[Family, ...]
    node_terms: str = ""
    bfd: Bfd | None = None


_ADAPTER = TypeAdapter(Resolved)


@lru_cache(maxsize=4096)
def to_json(resolved: Resolved) -> str:
    """Compact JSON with keys in a stable order: equal values are equal texts."""
    return json.dumps(_plain(resolved), separators=(",", ":"), ensure_ascii=False)


@lru_cache(maxsize=4096)
def from_json(text: str) -> Resolved | None:
    """What `to_json` wrote; None when it is damaged."""
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError:
        return None


def _plain(resolved: Resolved) -> Object:
    return {
        "vpc": resolved.vpc,
        "default_vpc": resolved.default_vpc,
        "deployment": resolved.deployment,
        "replicas": resolved.replicas,
        "image": resolved.image,
        "nad": resolved.nad,
        "internal": vars(resolved.internal),
        "external": vars(resolved.external),
        "families": [
            {**vars(family), "sources": [vars(source) for source in family.sources]}
            for family in resolved.families
        ],
        "node_terms": resolved.node_terms,
        "bfd": vars(resolved.bfd) if resolved.bfd is not None else None,
    }
