"""Columns of `get`, one printer a kind: what kubectl and Kube-OVN's custom resources print. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from veg_common.objects import Kind, Object, kind_of

from veg_sandbox.cli.table import age, crd_cell, dig, render

Cell = Callable[[Object, dt.datetime], str]
NONE = "<none>"


@dataclass(frozen=True)
class Column:
    """One column: its heading, how its cell is made, and whether only `-o wide` shows it."""

    title: str
    cell: Cell
    wide: bool = False


@dataclass(frozen=True)
class View:
    """How a table is shown: more columns, the NAMESPACE column in front, and the kind before each name (as
    kubectl does where several kinds are listed).
    """

    wide: bool = False
    namespaces: bool = False
    named: bool = False


def table(kind: Kind, objects: Sequence[Object], now: dt.datetime, view: View) -> str:
    """The table of objects of one kind."""
    columns = [column for column in columns_of(kind) if view.wide or not column.wide]
    if view.named:
        columns = [Column("NAME", _qualified_name(kind)) if c is _NAME else c for c in columns]
    if view.namespaces and kind.namespaced:
        columns.insert(0, Column("NAMESPACE", _path("metadata", "namespace")))
    rows = [[_single_line(column.cell(obj, now)) for column in columns] for obj in objects]
    return render([column.title for column in columns], rows)


def columns_of(kind: Kind) -> list[Column]:
    """All columns of a kind, in print order."""
    return [*_COLUMNS.get(kind.kind, (_NAME, _AGE))]


# Cells ---------------------------------------------------------------------------------------------------------


def _path(*path: str, default: object = None) -> Cell:
    """A custom resource's printer column; `default` stands for what its schema would have filled in."""

    def cell(obj: Object, _now: dt.datetime) -> str:
        value = dig(obj, *path)
        return crd_cell(default if value is None else value)

    return cell


def _qualified_name(kind: Kind) -> Cell:
    return lambda obj, _now: f"{kind.qualified}/{obj['metadata']['name']}"


def _or_none(*path: str) -> Cell:
    def cell(obj: Object, _now: dt.datetime) -> str:
        return crd_cell(dig(obj, *path)) or NONE

    return cell


def _age(obj: Object, now: dt.datetime) -> str:
    return age(dig(obj, "metadata", "creationTimestamp"), now)


def _status_count(field: str) -> Cell:
    return _path("status", field, default=0)


def _deployment_ready(obj: Object, now: dt.datetime) -> str:
    wanted = crd_cell(1 if dig(obj, "spec", "replicas") is None else dig(obj, "spec", "replicas"))
    return f"{_status_count('readyReplicas')(obj, now)}/{wanted}"


def _containers(obj: Object) -> list[Object]:
    template = dig(obj, "spec", "template", "spec") or dig(obj, "spec")
    containers = dig(template, "containers")
    return [c for c in containers if isinstance(c, dict)] if isinstance(containers, list) else []


def _container_field(field: str) -> Cell:
    def cell(obj: Object, _now: dt.datetime) -> str:
        return ",".join(str(container.get(field, "")) for container in _containers(obj)) or NONE

    return cell


def _selector(obj: Object, _now: dt.datetime) -> str:
    labels = dig(obj, "spec", "selector", "matchLabels") or {}
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or NONE


def _statuses(obj: Object) -> list[Object]:
    found = dig(obj, "status", "containerStatuses")
    return [s for s in found if isinstance(s, dict)] if isinstance(found, list) else []


def _pod_ready(obj: Object, _now: dt.datetime) -> str:
    total = max(len(_containers(obj)), len(_statuses(obj)))
    return f"{sum(bool(status.get('ready')) for status in _statuses(obj))}/{total}"


def pod_phase(obj: Object, _now: dt.datetime | None = None) -> str:
    """The STATUS column of a pod: `Terminating`, a container's reason, or the phase (kubectl's printPod)."""
    if dig(obj, "metadata", "deletionTimestamp"):
        return "Terminating"
    phase = crd_cell(dig(obj, "status", "reason") or dig(obj, "status", "phase")) or "Pending"
    for status in _statuses(obj):
        waiting, ended = (
            dig(status, "state", "waiting", "reason"),
            dig(status, "state", "terminated", "reason"),
        )
        if waiting or ended:
            return str(waiting or ended)
    return phase


def _restarts(obj: Object, now: dt.datetime) -> str:
    count = sum(int(status.get("restartCount") or 0) for status in _statuses(obj))
    ends = [end for status in _statuses(obj) if (end := dig(status, "lastState", "terminated", "finishedAt"))]
    return f"{count} ({age(max(ends), now)} ago)" if count and ends else str(count)


def _node_status(obj: Object, _now: dt.datetime) -> str:
    conditions = dig(obj, "status", "conditions") or []
    ready = next((c.get("status") for c in conditions if c.get("type") == "Ready"), None)
    text = "Unknown" if ready is None else "Ready" if ready == "True" else "NotReady"
    return f"{text},SchedulingDisabled" if dig(obj, "spec", "unschedulable") else text


def _node_roles(obj: Object, _now: dt.datetime) -> str:
    prefix = "node-role.kubernetes.io/"
    labels = dig(obj, "metadata", "labels") or {}
    return ",".join(sorted(key.removeprefix(prefix) for key in labels if key.startswith(prefix))) or NONE


def _node_address(obj: Object, _now: dt.datetime) -> str:
    addresses = dig(obj, "status", "addresses") or []
    return next((a["address"] for a in addresses if a.get("type") == "InternalIP"), NONE)


def _data_count(obj: Object, _now: dt.datetime) -> str:
    return str(len(obj.get("data") or {}) + len(obj.get("binaryData") or {}))


def _event_seen(obj: Object, now: dt.datetime) -> str:
    return age(
        obj.get("lastTimestamp") or obj.get("eventTime") or dig(obj, "metadata", "creationTimestamp"), now
    )


def _event_object(obj: Object, _now: dt.datetime) -> str:
    return f"{str(dig(obj, 'involvedObject', 'kind')).lower()}/{dig(obj, 'involvedObject', 'name')}"


def _single_line(text: str) -> str:
    return " ".join(text.splitlines()) if "\n" in text else text


# Columns -------------------------------------------------------------------------------------------------------

_NAME = Column("NAME", _path("metadata", "name"))
_AGE = Column("AGE", _age)

_VEG = (
    _NAME,
    Column("VPC", _path("spec", "vpc", default="ovn-cluster")),
    Column("REPLICAS", _path("spec", "replicas", default=1)),
    Column("BFD ENABLED", _path("spec", "bfd", "enabled", default=False)),
    Column("EXTERNAL SUBNET", _path("spec", "externalSubnet")),
    Column("PHASE", _path("status", "phase", default="Pending")),
    Column("READY", _path("status", "ready", default=False)),
    Column("INTERNAL IPS", _path("status", "internalIPs"), wide=True),
    Column("EXTERNAL IPS", _path("status", "externalIPs"), wide=True),
    Column("WORKING NODES", _path("status", "workload", "nodes"), wide=True),
    _AGE,
)
_DEPLOYMENT = (
    _NAME,
    Column("READY", _deployment_ready),
    Column("UP-TO-DATE", _status_count("updatedReplicas")),
    Column("AVAILABLE", _status_count("availableReplicas")),
    _AGE,
    Column("CONTAINERS", _container_field("name"), wide=True),
    Column("IMAGES", _container_field("image"), wide=True),
    Column("SELECTOR", _selector, wide=True),
)
_POD = (
    _NAME,
    Column("READY", _pod_ready),
    Column("STATUS", pod_phase),
    Column("RESTARTS", _restarts),
    _AGE,
    Column("IP", _or_none("status", "podIP"), wide=True),
    Column("NODE", _or_none("spec", "nodeName"), wide=True),
    Column("NOMINATED NODE", _or_none("status", "nominatedNodeName"), wide=True),
    Column("READINESS GATES", lambda _obj, _now: NONE, wide=True),
)
_NODE = (
    _NAME,
    Column("STATUS", _node_status),
    Column("ROLES", _node_roles),
    _AGE,
    Column("VERSION", _path("status", "nodeInfo", "kubeletVersion")),
    Column("INTERNAL-IP", _node_address, wide=True),
)
_VPC = (
    _NAME,
    Column("ENABLEEXTERNAL", _path("status", "enableExternal", default=False)),
    Column("STANDBY", _path("status", "standby", default=False)),
    Column("SUBNETS", _path("status", "subnets")),
    Column("NAMESPACES", _path("spec", "namespaces")),
    Column("BFD PORT", _path("status", "bfdPort", "name"), wide=True),
    Column("BFD IP", _path("spec", "bfdPort", "ip"), wide=True),
    Column("BFD NODES", _path("status", "bfdPort", "nodes"), wide=True),
)
_SUBNET = (
    _NAME,
    Column("PROVIDER", _path("spec", "provider", default="ovn")),
    Column("VPC", _path("spec", "vpc")),
    Column("PROTOCOL", _path("spec", "protocol")),
    Column("CIDR", _path("spec", "cidrBlock")),
    Column("PRIVATE", _path("spec", "private", default=False)),
    Column("NAT", _path("spec", "natOutgoing", default=False)),
    Column("DEFAULT", _path("spec", "default", default=False)),
    Column("GATEWAYTYPE", _path("spec", "gatewayType")),
    Column("V4USED", _path("status", "v4usingIPs", default=0)),
    Column("V4AVAILABLE", _path("status", "v4availableIPs", default=0)),
    Column("V6USED", _path("status", "v6usingIPs", default=0)),
    Column("V6AVAILABLE", _path("status", "v6availableIPs", default=0)),
    Column("EXCLUDEIPS", _path("spec", "excludeIps")),
    Column("GATEWAY", _path("spec", "gateway"), wide=True),
)
_IP = (
    _NAME,
    Column("V4IP", _path("spec", "v4IpAddress")),
    Column("V6IP", _path("spec", "v6IpAddress")),
    Column("MAC", _path("spec", "macAddress")),
    Column("NODE", _path("spec", "nodeName")),
    Column("SUBNET", _path("spec", "subnet")),
)
_EVENT = (
    Column("LAST SEEN", _event_seen),
    Column("TYPE", _path("type")),
    Column("REASON", _path("reason")),
    Column("OBJECT", _event_object),
    Column("SUBOBJECT", _path("involvedObject", "fieldPath"), wide=True),
    Column("COUNT", _path("count"), wide=True),
    Column("MESSAGE", _path("message")),
)
_COLUMNS: dict[str, tuple[Column, ...]] = {
    kind_of(name).kind: columns
    for name, columns in {
        "VpcEgressGateway": _VEG,
        "Deployment": _DEPLOYMENT,
        "Pod": _POD,
        "Node": _NODE,
        "Namespace": (_NAME, Column("STATUS", _path("status", "phase", default="Active")), _AGE),
        "Vpc": _VPC,
        "Subnet": _SUBNET,
        "IP": _IP,
        "NetworkAttachmentDefinition": (_NAME, _AGE),
        "ConfigMap": (_NAME, Column("DATA", _data_count), _AGE),
        "Event": _EVENT,
    }.items()
}
