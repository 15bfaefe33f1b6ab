"""The gateway that `failover` builds for itself: a VPC, a subnet, two replicas with BFD, a client pod. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from veg_common.objects import Object

NAME = "veg-failover"
SUBNET = f"{NAME}-inside"
GATEWAY = "gateway"
CLIENT = "client"
_HOSTNAME = "kubernetes.io/hostname"
_PROTOCOL = {"ipv4": "IPv4", "ipv6": "IPv6", "dual": "Dual"}


@dataclass(frozen=True)
class _Family:
    """Addresses of one family. The outside network is the sandbox's; its addresses here are far from others'."""

    bfd: str
    cidr: str
    outside: str
    gateway: str
    exclude: tuple[str, ...]


_V4 = _Family(
    "10.255.253.253",
    "10.253.0.0/24",
    "172.17.0.0/16",
    "172.17.0.1",
    ("172.17.0.0..172.17.253.255",),
)
_V6 = _Family("fd00:10:255::fd", "fd00:10:253::/112", "fd17::/64", "fd17::1", ("fd17::1..fd17::fd:ffff",))
_FAMILIES = {"ipv4": (_V4,), "ipv6": (_V6,), "dual": (_V4, _V6)}


def targets(ip_family: str) -> list[str]:
    """Addresses of the outside host."""
    return [family.gateway for family in _FAMILIES[ip_family]]


def topology(ip_family: str) -> list[Object]:
    """VPC, subnets and attachment definition, in the order of creation."""
    families = _FAMILIES[ip_family]
    config = {
        "cniVersion": "0.3.0",
        "type": "macvlan",
        "master": "eth1",
        "mode": "bridge",
        "ipam": {"type": "kube-ovn", "provider": f"eth1.{NAME}"},
    }
    return [
        {
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": "eth1", "namespace": NAME},
            "spec": {"config": json.dumps(config)},
        },
        _cluster("Vpc", NAME, {"bfdPort": {"enabled": True, "ip": ",".join(f.bfd for f in families)}}),
        _cluster(
            "Subnet",
            SUBNET,
            {
                "vpc": NAME,
                "protocol": _PROTOCOL[ip_family],
                "cidrBlock": ",".join(f.cidr for f in families),
            },
        ),
        _cluster(
            "Subnet",
            f"{NAME}-outside",
            {
                "protocol": _PROTOCOL[ip_family],
                "provider": f"eth1.{NAME}",
                "cidrBlock": ",".join(f.outside for f in families),
                "gateway": ",".join(f.gateway for f in families),
                "excludeIps": [entry for f in families for entry in f.exclude],
            },
        ),
    ]


def gateway(interval_ms: int, multiplier: int, nodes: Sequence[str], *, bfd: bool = True) -> Object:
    """Two replicas for everything in the subnet, on some of the nodes."""
    timers = {"enabled": bfd, "minRX": interval_ms, "minTX": interval_ms, "multiplier": multiplier}
    return {
        "apiVersion": "kubeovn.io/v1",
        "kind": "VpcEgressGateway",
        "metadata": {"name": GATEWAY, "namespace": NAME},
        "spec": {
            "vpc": NAME,
            "replicas": 2,
            "internalSubnet": SUBNET,
            "externalSubnet": f"{NAME}-outside",
            "bfd": timers,
            "nodeSelector": [
                {"matchExpressions": [{"key": _HOSTNAME, "operator": "In", "values": list(nodes)}]}
            ],
            "policies": [{"snat": True, "subnets": [SUBNET]}],
        },
    }


def client(node: str) -> Object:
    """The pod that the flows come from."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": CLIENT,
            "namespace": NAME,
            "annotations": {"ovn.kubernetes.io/logical_switch": SUBNET},
        },
        "spec": {
            "nodeSelector": {_HOSTNAME: node},
            "containers": [{"name": "client", "image": "none"}],
        },
    }


def _cluster(kind: str, name: str, spec: Object) -> Object:
    return {"apiVersion": "kubeovn.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
