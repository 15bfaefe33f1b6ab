"""What desired() must know beside the intent: the picture around it, the schema, and what OVN says of its sessions."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from veg_ovn_programmer.core.intents import Key, Vpc


class Variant(enum.IntEnum):
    """How BFD ports are built; the numbers are those of veg.programmer.v1.BfdVariant."""

    K = 1
    """A port of the VPC's own router with options:bfd-only (Kube-OVN's OVN)."""
    S3 = 2
    """A second router that carries the port, joined by a switch (stock OVN)."""


@dataclass(frozen=True)
class Scene:
    """The worker's share of a View: the picture as it is held now."""

    vpcs: Mapping[str, Vpc] = field(default_factory=dict)
    """The VPCs; beside Kube-OVN those of its VPCs that shall have a BFD port of ours."""
    prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The prefixes of each VPC's subnets."""
    held: frozenset[tuple[Key, str]] = frozenset()
    """Sessions (gateway, peer) that nothing may refer to for now, so that OVN starts them afresh."""
    away: frozenset[tuple[Key, str]] = frozenset()
    """Those of them whose row shall not be there at all."""
    wakes: int = 0
    """How often every ovn-controller was woken so far."""
    carriers: Mapping[str, str] = field(default_factory=dict)
    """The chassis of each BFD port, once it had stayed there for a while."""


def _no_foreign_default(_router: str, _family: int) -> bool:
    return False


def _no_status(_logical_port: str, _peer: str) -> str:
    return ""


def _nowhere(_port: str) -> str:
    return ""


def _nobody(_name: str) -> bool:
    return False


def _no_port(_router: str, _address: str) -> str:
    return ""


@dataclass(frozen=True)
class View:
    """See the fields."""

    scene: Scene = field(default_factory=Scene)
    selection_fields: bool = True
    """The schema has Logical_Router_Static_Route.selection_fields."""
    bfd_sessions: bool = True
    """The schema has Logical_Router_Policy.bfd_sessions."""
    variant: Variant = Variant.S3
    foreign_default: Callable[[str, int], bool] = _no_foreign_default
    """Whether a router has a default route of a family that is not ours."""
    port_towards: Callable[[str, str], str] = _no_port
    """The router port whose networks hold an address, by router and address; "" when there is none."""
    status: Callable[[str, str], str] = _no_status
    """Status of the BFD row of a logical port and peer; "" when there is no row, or OVN has said nothing yet."""

    managed: bool = True
    """Routers and switches are ours; else they are Kube-OVN's."""
    foreign_port: Callable[[str], bool] = _nobody
    """Whether somebody else has made a router port of that name."""
    has_port: Callable[[str], bool] = _nobody
    """Whether there is a router port of that name, or one is being made."""
    carrier: Callable[[str], str] = _nowhere
    """The chassis that OVN has a router port on now; "" when it has not said."""

    @property
    def native_policies(self) -> bool:
        """Whether OVN takes a dead nexthop out of a policy by itself."""
        return self.variant is Variant.K and self.bfd_sessions
