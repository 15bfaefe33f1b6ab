"""The objects of a fresh Kube-OVN cluster: namespaces, nodes, the default VPC and its subnet. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from veg_common.objects import Object

from veg_sandbox.cli.objects import namespace_object

IP_FAMILIES = ("ipv4", "ipv6", "dual")
_PROTOCOLS = {"ipv4": "IPv4", "ipv6": "IPv6", "dual": "Dual"}
_V4, _V6 = ("10.16.0.0/16", "10.16.0.1"), ("fd00:10:16::/112", "fd00:10:16::1")
_SUBNETS = {"ipv4": (_V4,), "ipv6": (_V6,), "dual": (_V4, _V6)}
_VERSION = "v1.36.0-sandbox"
# Streams of exec come as WebSockets to kubelets that say this (Kubernetes 1.36).
_DECLARED = ["ExtendWebSocketsToKubelet"]
_NODE_INFO = dict.fromkeys(
    ("machineID", "systemUUID", "bootID", "kernelVersion", "containerRuntimeVersion", "kubeProxyVersion"), ""
) | {"osImage": "sandbox", "operatingSystem": "linux", "architecture": "amd64"}


@dataclass(frozen=True)
class NodeFacts:
    """A chassis: its name and the address of the node."""

    name: str
    address: str
    kubelet: str = ""
    """Where its kubelet answers an API server, at kubelet's usual port; empty without one."""


def objects(
    nodes: Sequence[NodeFacts], ip_family: str, namespaces: Iterable[str], now: dt.datetime
) -> list[Object]:
    """Everything that is there before a user applies anything; `ip_family` is one of IP_FAMILIES."""
    names = dict.fromkeys(("default", "kube-system", *namespaces))
    return [
        *(namespace_object(name) for name in names),
        *(node_object(node, now) for node in nodes),
        {"apiVersion": "kubeovn.io/v1", "kind": "Vpc", "metadata": {"name": "ovn-cluster"}, "spec": {}},
        default_subnet(ip_family),
    ]


def node_object(node: NodeFacts, now: dt.datetime) -> Object:
    """A Ready node as its kubelet would report it."""
    since = now.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "the sandbox's runtime posts ready status",
        "lastTransitionTime": since,
    }
    labels = {"kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux"}
    room = {"cpu": "16", "memory": "64Gi", "ephemeral-storage": "100Gi", "pods": "1100"}
    addresses = [{"type": "InternalIP", "address": node.address}, {"type": "Hostname", "address": node.name}]
    kubelet: Object = {}
    if node.kubelet:
        addresses.append({"type": "ExternalIP", "address": node.kubelet})
        kubelet = {"daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}, "declaredFeatures": _DECLARED}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "spec": {},
        "status": {
            "capacity": room,
            "allocatable": room,
            "conditions": [ready],
            "addresses": addresses,
            **kubelet,
            "nodeInfo": {**_NODE_INFO, "kubeletVersion": _VERSION},
        },
    }


def default_subnet(ip_family: str) -> Object:
    """Subnet ovn-default of the default VPC."""
    cidrs, gateways = zip(*_SUBNETS[ip_family], strict=True)
    return {
        "apiVersion": "kubeovn.io/v1",
        "kind": "Subnet",
        "metadata": {"name": "ovn-default"},
        "spec": {
            "vpc": "ovn-cluster",
            "default": True,
            "provider": "ovn",
            "protocol": _PROTOCOLS[ip_family],
            "cidrBlock": ",".join(cidrs),
            "gateway": ",".join(gateways),
            "excludeIps": list(gateways),
        },
    }
