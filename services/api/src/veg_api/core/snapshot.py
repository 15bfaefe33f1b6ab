"""Everything a plan reads, as one immutable value that is cheap to derive from its predecessor. Pure.

Each kind is a `Table`. A change replaces the tables it touches and shares all others, together with the indexes that
have been computed on them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from veg_common.objects import Object, Ref

from veg_api.core import gateway as gateway_module
from veg_api.core.gateway import Gateway
from veg_api.core.intents import ProgrammerView
from veg_api.core.names import GATEWAY_KIND
from veg_api.core.network import (
    Nad,
    Subnet,
    SubnetObject,
    Vpc,
    parse_nad,
    parse_subnet,
    parse_vpc,
)
from veg_api.core.objects import (
    Ip,
    Namespace,
    Node,
    Pod,
    parse_ip,
    parse_namespace,
    parse_node,
    parse_pod,
)
from veg_api.core.pod_events import PodEvent, parse_event

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class Table(Generic[T]):
    """Objects of one kind by (namespace, name), with indexes that are computed once."""

    items: Mapping[tuple[str, str], T] = field(default_factory=dict)
    _indexes: dict[Any, Any] = field(default_factory=dict)

    def get(self, name: str, namespace: str = "") -> T | None:
        """One object, None when there is none."""
        return self.items.get((namespace, name))

    def derived(self, compute: Callable[[Mapping[tuple[str, str], T]], V]) -> V:
        """`compute(items)`, remembered for the life of the table; `compute` must be a module-level function."""
        if compute not in self._indexes:
            self._indexes[compute] = compute(self.items)
        result: V = self._indexes[compute]
        return result

    def with_changes(self, changes: Mapping[tuple[str, str], T | None]) -> Table[T]:
        """A table with some objects put or (None) removed."""
        items = dict(self.items)
        for key, value in changes.items():
            if value is None:
                items.pop(key, None)
            else:
                items[key] = value
        return Table(items)


# What may be anything in an object by hand, and must be a mapping for whoever reads it.
_MAPPINGS = ("spec", "status", "data")


def _own(obj: Object) -> Object:
    """An object of ours without what somebody made of it that is no mapping: it is written anew."""
    odd = [key for key in _MAPPINGS if not isinstance(obj.get(key, {}), dict)]
    return {key: value for key, value in obj.items() if key not in odd} if odd else obj


_PARSERS: dict[str, Callable[[Object], Any]] = {
    GATEWAY_KIND: gateway_module.parse,
    "Vpc": parse_vpc,
    "Subnet": parse_subnet,
    "NetworkAttachmentDefinition": parse_nad,
    "IP": parse_ip,
    "Pod": parse_pod,
    "Node": parse_node,
    "Namespace": parse_namespace,
    # Our own output: compared field by field with what is wanted, so they stay as they are.
    "Deployment": _own,
    "ConfigMap": _own,
    "PodDisruptionBudget": _own,
}
KINDS = tuple(_PARSERS)
# Only for what people are told: nothing waits for these, and nothing is decided by them.
COURTESY_KINDS = ("Event",)
_PARSERS |= {"Event": parse_event}
_WITH_OWN_STATUS = ("Subnet", "Vpc")


def _empty() -> dict[str, Table[Any]]:
    return {kind: Table() for kind in _PARSERS}


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The state of all inputs at one moment.

    `hidden` names objects whose source can not be read and of which no good version is known: they may exist, so
    nothing is concluded from their absence. `refused` names objects in a form that no value can be made of, with the
    reason: what they were before, if anything, is still in the tables. `now` is RFC 3339, UTC, seconds.
    """

    tables: Mapping[str, Table[Any]] = field(default_factory=_empty)
    hidden: frozenset[Ref] = frozenset()
    refused: Mapping[Ref, str] = field(default_factory=dict)
    programmer: ProgrammerView = field(default_factory=ProgrammerView)
    now: str = ""

    @property
    def gateways(self) -> Table[Gateway]:
        """VpcEgressGateways."""
        return self.tables[GATEWAY_KIND]

    @property
    def vpcs(self) -> Table[Vpc]:
        """Vpcs."""
        return self.tables["Vpc"]

    @property
    def subnets(self) -> Table[SubnetObject]:
        """Subnets, usable or not."""
        return self.tables["Subnet"]

    @property
    def nads(self) -> Table[Nad]:
        """NetworkAttachmentDefinitions."""
        return self.tables["NetworkAttachmentDefinition"]

    @property
    def ips(self) -> Table[Ip]:
        """IP objects."""
        return self.tables["IP"]

    @property
    def pods(self) -> Table[Pod]:
        """Pods."""
        return self.tables["Pod"]

    @property
    def nodes(self) -> Table[Node]:
        """Nodes."""
        return self.tables["Node"]

    @property
    def namespaces(self) -> Table[Namespace]:
        """Namespaces."""
        return self.tables["Namespace"]

    @property
    def deployments(self) -> Table[Object]:
        """Deployments, as they are."""
        return self.tables["Deployment"]

    @property
    def config_maps(self) -> Table[Object]:
        """ConfigMaps, as they are."""
        return self.tables["ConfigMap"]

    @property
    def budgets(self) -> Table[Object]:
        """PodDisruptionBudgets, as they are."""
        return self.tables["PodDisruptionBudget"]

    @property
    def pod_events(self) -> Table[PodEvent]:
        """What kubelet says of pods in Events."""
        return self.tables["Event"]

    def subnet(self, name: str) -> Subnet | None:
        """The Subnet in force under a name; None when there is none or it never was usable."""
        found = self.subnets.get(name)
        return found.value if found else None

    def subnets_of(self, vpc: str) -> tuple[Subnet, ...]:
        """The OVN subnets of a VPC, by name."""
        return self.subnets.derived(_by_vpc).get(vpc, ())

    def node_ready(self, name: str) -> bool:
        """Whether a node can be expected to run its pods: a node that is gone or not Ready can not."""
        node = self.nodes.get(name)
        if node is None:
            return Ref("Node", "", name) in self.hidden
        return node.ready

    def with_objects(self, changes: Iterable[tuple[Ref, Object | None]]) -> tuple[Snapshot, frozenset[Ref]]:
        """The snapshot after some objects came, changed or went (None), and the refs whose value differs now."""
        by_kind: dict[str, dict[tuple[str, str], Any]] = {}
        refused = dict(self.refused)
        for ref, obj in changes:
            if ref.kind not in _PARSERS:
                continue
            refused.pop(ref, None)
            try:
                value = None if obj is None else _PARSERS[ref.kind](obj)
            except Exception as error:  # noqa: BLE001
                # Parsers take whatever comes; should one not, its object must not stop all others.
                refused[ref] = f"can not be understood: {type(error).__name__}: {error}"
                continue
            by_kind.setdefault(ref.kind, {})[ref.namespace, ref.name] = value
        tables = dict(self.tables)
        touched: set[Ref] = set()
        for kind, values in by_kind.items():
            before = tables[kind].items
            differing = {k: v for k, v in values.items() if before.get(k) != v}
            touched.update(Ref(kind, *key) for key in differing)
            # Our own status of a Subnet or Vpc is no input, but it is compared with the next one. All else that differs
            # in nothing of interest (a pod's heartbeat) leaves its table, and the table's indexes, alone.
            stored = values if kind in _WITH_OWN_STATUS else differing
            if stored:
                tables[kind] = tables[kind].with_changes(stored)
        return replace(self, tables=tables, refused=refused), frozenset(touched)


def _by_vpc(items: Mapping[tuple[str, str], SubnetObject]) -> dict[str, tuple[Subnet, ...]]:
    found: dict[str, list[Subnet]] = {}
    for _, subnet in sorted(items.items()):
        if subnet.value is not None and subnet.value.in_vpc:
            found.setdefault(subnet.value.vpc, []).append(subnet.value)
    return {vpc: tuple(subnets) for vpc, subnets in found.items()}
