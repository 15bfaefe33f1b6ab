"""Pod, Node, Namespace and IP as values: what the planner asks of them and nothing else. Pure.

Two versions of an object that are equal here are equal to the planner: a heartbeat or a container status changes no
plan and costs no planning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from veg_common.objects import Object

from veg_api.core import addresses
from veg_api.core.addresses import AddressError
from veg_api.core.conditions import condition_of
from veg_api.core.names import (
    ALLOCATION_ERROR_ANNOTATION,
    CONFIG_ANNOTATION,
    GATEWAY_LABEL,
    INDEX_LABEL,
    INTERFACE_LABEL,
    OVN_PREFIX,
)

_SUFFIX = ".kubernetes.io/ip_address"
# What every container waits for at first.
_USUAL = ("ContainerCreating", "PodInitializing")
_LONGEST = 400


@dataclass(frozen=True)
class Holding:
    """Addresses that a pod has been given on one network; `prefix` is that of its annotations."""

    prefix: str
    subnet: str
    addresses: tuple[str, ...]
    mac: str = ""


@dataclass(frozen=True)
class Wish:
    """What a pod's author asks for eth0 before anything is allocated; "" where nothing is asked."""

    subnet: str = ""
    ip_address: str = ""
    mac: str = ""


@dataclass(frozen=True)
class Pod:
    """A pod. `gateway` is the label's value; `owner` is (kind, name, uid) of the controller.

    `trouble` is what scheduler and kubelet say of why it does not run or is not ready; "" when they say nothing.
    `containers` are (name, ready) as far as the kubelet has told, `wanted` the names of those in its spec.
    `config_mark` tells of which configuration kubelet was last reminded. `unready_since` is RFC 3339, "" while it is
    ready or nobody has told.
    """

    namespace: str
    name: str
    uid: str
    created: str
    deleting: bool
    finished: bool
    ready: bool
    node: str
    host_network: bool
    gateway: str
    owner: tuple[str, str, str]
    holdings: tuple[Holding, ...]
    wish: Wish
    allocation_error: str
    trouble: str = ""
    containers: tuple[tuple[str, bool], ...] = ()
    wanted: tuple[str, ...] = ()
    config_mark: str = ""
    unready_since: str = ""

    def holding(self, prefix: str) -> Holding | None:
        """What it has on one network."""
        return next((h for h in self.holdings if h.prefix == prefix), None)

    def container_ready(self, name: str) -> bool | None:
        """Whether a container is ready; None while the kubelet has not told."""
        return next((ready for known, ready in self.containers if known == name), None)


@dataclass(frozen=True)
class Node:
    """A node."""

    name: str
    ready: bool
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Namespace:
    """A namespace; `subnet` is where its pods go unless they say otherwise, "" for the default."""

    name: str
    subnet: str = ""


@dataclass(frozen=True)
class Ip:
    """An IP object: one interface's addresses of one subnet and whose they are.

    `gateway` is "" for a pod's own; otherwise `index` and `interface` name the entry of that gateway's ledger.
    `pod` is who uses it now, "" for nobody.
    """

    name: str
    subnet: str
    namespace: str
    pod: str
    addresses: tuple[str, ...]
    mac: str = ""
    gateway: str = ""
    index: int = -1
    interface: str = ""
    raw: Object = field(default_factory=dict, hash=False)

    @property
    def user(self) -> str:
        """Whose it is, for people."""
        if self.gateway:
            return f"gateway {self.namespace}/{self.gateway}"
        return f"pod {self.namespace}/{self.pod}" if self.pod else f"IP {self.name}"


def parse_pod(obj: Object) -> Pod:
    """A pod. Never raises: annotations that make no sense count as absent."""
    metadata, spec, status = obj["metadata"], _mapping(obj.get("spec")), _mapping(obj.get("status"))
    annotations = _mapping(metadata.get("annotations"))
    owner: Object = next((r for r in metadata.get("ownerReferences") or () if r.get("controller")), {})
    allocated = annotations.get(f"{OVN_PREFIX}/allocated") == "true"
    wanted = (str(c.get("name")) for c in _list(spec.get("containers")))
    return Pod(
        namespace=metadata.get("namespace", "default"),
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        created=metadata.get("creationTimestamp", ""),
        deleting="deletionTimestamp" in metadata,
        finished=status.get("phase") in ("Succeeded", "Failed"),
        ready=condition_of(status, "Ready").get("status") == "True",
        node=str(spec.get("nodeName") or ""),
        host_network=bool(spec.get("hostNetwork")),
        gateway=str(_mapping(metadata.get("labels")).get(GATEWAY_LABEL, "")),
        owner=(str(owner.get("kind", "")), str(owner.get("name", "")), str(owner.get("uid", ""))),
        holdings=_holdings(annotations),
        wish=Wish(
            subnet=str(annotations.get(f"{OVN_PREFIX}/logical_switch", "")),
            ip_address="" if allocated else str(annotations.get(f"{OVN_PREFIX}/ip_address", "")),
            mac="" if allocated else str(annotations.get(f"{OVN_PREFIX}/mac_address", "")),
        ),
        allocation_error=str(annotations.get(ALLOCATION_ERROR_ANNOTATION, "")),
        trouble=_trouble(status),
        wanted=tuple(sorted(wanted)),
        config_mark=str(annotations.get(CONFIG_ANNOTATION, "")),
        unready_since=_unready_since(status),
        containers=tuple(
            sorted(
                (str(c.get("name")), c.get("ready") is True) for c in _list(status.get("containerStatuses"))
            )
        ),
    )


def parse_node(obj: Object) -> Node:
    """A node; one whose status does not speak of Ready counts as ready."""
    metadata = obj["metadata"]
    ready = condition_of(_mapping(obj.get("status")), "Ready").get("status")
    labels = tuple(sorted(_mapping(metadata.get("labels")).items()))
    return Node(metadata["name"], ready in ("True", None), labels)


def parse_namespace(obj: Object) -> Namespace:
    """A namespace."""
    annotations = _mapping(obj["metadata"].get("annotations"))
    subnet = str(annotations.get(f"{OVN_PREFIX}/logical_switch", ""))
    return Namespace(obj["metadata"]["name"], subnet.partition(",")[0].strip())


def parse_ip(obj: Object) -> Ip:
    """An IP object. Never raises: without a readable address it reserves none."""
    metadata, spec = obj["metadata"], _mapping(obj.get("spec"))
    labels = _mapping(metadata.get("labels"))
    texts = [str(spec.get("v4IpAddress") or ""), str(spec.get("v6IpAddress") or "")]
    if not any(texts):
        texts = addresses.parts(str(spec.get("ipAddress") or ""))
    index = str(labels.get(INDEX_LABEL, ""))
    return Ip(
        name=metadata["name"],
        subnet=str(spec.get("subnet") or ""),
        namespace=str(spec.get("namespace") or ""),
        pod=str(spec.get("podName") or ""),
        addresses=_canonical(texts),
        mac=str(spec.get("macAddress") or ""),
        gateway=str(labels.get(GATEWAY_LABEL, "")) if index.isdigit() else "",
        index=int(index) if index.isdigit() else -1,
        interface=str(labels.get(INTERFACE_LABEL, "")),
        raw=obj,
    )


def _holdings(annotations: Object) -> tuple[Holding, ...]:
    found = []
    for key in sorted(annotations):
        if not key.endswith(_SUFFIX):
            continue
        prefix = key[: -len("/ip_address")]
        if annotations.get(f"{prefix}/allocated") != "true":
            continue
        subnet = str(annotations.get(f"{prefix}/logical_switch", ""))
        mac = str(annotations.get(f"{prefix}/mac_address", ""))
        found.append(Holding(prefix, subnet, _canonical(addresses.parts(str(annotations[key]))), mac))
    return tuple(found)


def _canonical(texts: list[str]) -> tuple[str, ...]:
    try:
        return addresses.by_family([text for text in texts if text])
    except AddressError:
        return ()


def _trouble(status: Object) -> str:
    """Why a pod does not run or is not ready: the scheduler's message, those of containers, the kubelet's own."""
    scheduled = condition_of(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return said(scheduled)
    found = []
    for container in _list(status.get("initContainerStatuses")) + _list(status.get("containerStatuses")):
        state = _mapping(container.get("state"))
        waiting, ended = _mapping(state.get("waiting")), _mapping(state.get("terminated"))
        if ended.get("exitCode"):
            text = f"exit code {ended['exitCode']}: {said(ended)}"
            found.append(f"container {container.get('name')}: {text}")
        elif waiting and (waiting.get("reason") not in _USUAL or waiting.get("message")):
            found.append(f"container {container.get('name')}: {said(waiting)}")
    if found:
        return "; ".join(found)
    unready = condition_of(status, "Ready")
    return said(unready) if unready.get("status") == "False" else ""


def _unready_since(status: Object) -> str:
    ready = condition_of(status, "Ready")
    return str(ready.get("lastTransitionTime") or "") if ready.get("status") == "False" else ""


def said(state: Object) -> str:
    """Reason and message of a condition or a container's state; messages may be long."""
    text = ": ".join(str(state[key]) for key in ("reason", "message") if state.get(key))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _list(value: Any) -> list[Object]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _mapping(value: Any) -> Object:
    return value if isinstance(value, dict) else {}
