"""The objects that a gateway is made of: Deployment, ConfigMap, IP objects, annotations of its pods. Pure.

The pod template depends on the image, the node selector and the two networks, and on nothing that changes while a
gateway lives: replicas, addresses and policies reach running pods without a restart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache

from veg_common.objects import Object

from veg_api.core import addresses
from veg_api.core import resolved as resolved_module
from veg_api.core.gateway import Gateway
from veg_api.core.ledger import Entry, interfaces
from veg_api.core.names import (
    APPLIED_ANNOTATION,
    CONFIG_KEY,
    CONFIG_MOUNT,
    EXTERNAL_INTERFACE,
    GATEWAY_API_VERSION,
    GATEWAY_KIND,
    GATEWAY_LABEL,
    INDEX_LABEL,
    INTERFACE_LABEL,
    INTERNAL_INTERFACE,
    NETWORKS_ANNOTATION,
    OVN_PREFIX,
    RUN_MOUNT,
    SUBNET_LABEL,
    annotation_prefix,
    config_map_name,
)
from veg_api.core.objects import Pod
from veg_api.core.resolved import Family, Resolved, Side

DEFAULT_IMAGE = "vpc-egress-gateway/node-agent:0.1.0"
_GRACE_S = 10
# The agent touches the file every second while the kernel matches its configuration.
_HEALTHY = f"find {RUN_MOUNT}/healthy -newermt '-5 seconds' | grep -q ."


def owner_reference(gateway: Gateway) -> Object:
    """Who the Deployment and the ConfigMap belong to."""
    return {
        "apiVersion": GATEWAY_API_VERSION,
        "kind": GATEWAY_KIND,
        "name": gateway.name,
        "uid": gateway.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def deployment(gateway: Gateway, resolved: Resolved, entries: Sequence[Entry], image: str = "") -> Object:
    """The Deployment; `image` is the default for gateways that name none."""
    labels = {GATEWAY_LABEL: gateway.name}
    external = annotation_prefix(resolved.external.provider)
    pools = {
        f"{OVN_PREFIX}/ip_pool": _pool(entry.internal for entry in entries),
        f"{external}/ip_pool": _pool(entry.external for entry in entries),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": resolved.deployment,
            "namespace": gateway.namespace,
            "labels": labels,
            "annotations": pools,
            "ownerReferences": [owner_reference(gateway)],
        },
        "spec": {
            "replicas": resolved.replicas,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}},
            "template": {
                "metadata": {
                    "labels": labels,
                    "annotations": {
                        NETWORKS_ANNOTATION: "/".join(resolved.nad),
                        f"{OVN_PREFIX}/logical_switch": resolved.internal.subnet,
                        f"{external}/logical_switch": resolved.external.subnet,
                    },
                },
                "spec": _pod_spec(resolved, labels, image),
            },
        },
    }


def config_map(gateway: Gateway, resolved: Resolved) -> Object:
    """The agents' configuration, and beside it the state it was made of: the last good one, should a bad one follow."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": config_map_name(resolved.deployment),
            "namespace": gateway.namespace,
            "labels": {GATEWAY_LABEL: gateway.name},
            "annotations": {APPLIED_ANNOTATION: resolved_module.to_json(resolved)},
            "ownerReferences": [owner_reference(gateway)],
        },
        "data": {CONFIG_KEY: _config_text(gateway.namespace, gateway.name, resolved.families)},
    }


def agent_config(namespace: str, name: str, families: Sequence[Family]) -> Object:
    """veg.agent.v1.AgentConfig as protobuf JSON."""
    return {
        "gateway": f"{namespace}/{name}",
        "internalInterface": INTERNAL_INTERFACE,
        "externalInterface": EXTERNAL_INTERFACE,
        "families": [_agent_family(family) for family in families],
    }


@lru_cache(maxsize=4096)
def _config_text(namespace: str, name: str, families: tuple[Family, ...]) -> str:
    return json.dumps(agent_config(namespace, name, families), indent=2) + "\n"


def ip_objects(gateway: Gateway, resolved: Resolved, entry: Entry, pod: Pod | None) -> list[Object]:
    """The two IP objects of a ledger entry; `pod` is who uses it now."""
    sides = {INTERNAL_INTERFACE: resolved.internal, EXTERNAL_INTERFACE: resolved.external}
    return [
        {
            "apiVersion": "kubeovn.io/v1",
            "kind": "IP",
            "metadata": {
                "name": name,
                "labels": {
                    GATEWAY_LABEL: gateway.name,
                    INDEX_LABEL: str(entry.index),
                    INTERFACE_LABEL: interface,
                    SUBNET_LABEL: sides[interface].subnet,
                },
            },
            "spec": {
                "namespace": gateway.namespace,
                "subnet": sides[interface].subnet,
                **ip_spec(texts, mac_of(texts) if interface == INTERNAL_INTERFACE else ""),
                "podName": pod.name if pod else "",
                "nodeName": pod.node if pod else "",
                "podType": "Deployment",
            },
        }
        for name, interface, texts in interfaces(gateway.key, resolved, entry)
    ]


def pod_annotations(resolved: Resolved, entry: Entry) -> Object:
    """What Kube-OVN would write on a pod that has been given an entry."""
    internal = address_annotations(OVN_PREFIX, resolved.internal, entry.internal)
    internal[f"{OVN_PREFIX}/mac_address"] = mac_of(entry.internal)
    external = annotation_prefix(resolved.external.provider)
    return {**internal, **address_annotations(external, resolved.external, entry.external)}


def address_annotations(prefix: str, side: Side, texts: Sequence[str]) -> Object:
    """The address annotations of one network of a pod."""
    return {
        f"{prefix}/allocated": "true",
        f"{prefix}/ip_address": addresses.joined(texts),
        f"{prefix}/cidr": ",".join(side.cidrs),
        f"{prefix}/gateway": ",".join(side.gateways),
        f"{prefix}/logical_switch": side.subnet,
    }


def ip_spec(texts: Sequence[str], mac: str) -> Object:
    """The address fields of an IP object's spec, as Kube-OVN fills them."""
    by_family = {addresses.family(text): text for text in texts}
    return {
        "ipAddress": addresses.joined(texts),
        "v4IpAddress": by_family.get(4, ""),
        "v6IpAddress": by_family.get(6, ""),
        "macAddress": mac,
        "containerID": "",
        "attachIps": [],
        "attachMacs": [],
        "attachSubnets": [],
    }


def mac_of(texts: Sequence[str]) -> str:
    """A locally administered MAC that belongs to the address: whoever gets the address next is found without ARP.

    0a:58 and the IPv4 address (as OVN-Kubernetes does), or 0a:59 and four bytes of the IPv6 address' hash.
    """
    text = texts[0]
    if addresses.family(text) == 4:
        octets = ["0a", "58", *(f"{byte:02x}" for byte in addresses.address(text).packed)]
    else:
        octets = ["0a", "59", *(f"{byte:02x}" for byte in hashlib.sha256(text.encode()).digest()[:4])]
    return ":".join(octets)


def _agent_family(family: Family) -> Object:
    return {
        "family": f"IP_FAMILY_IPV{family.family}",
        "internalGateway": family.internal_gateway,
        "externalGateway": family.external_gateway,
        "vpcCidrs": list(family.vpc_cidrs),
        "sources": [{"cidr": source.cidr, "snat": source.snat} for source in family.sources],
    }


def _pool(entries: Iterable[Sequence[str]]) -> str:
    """Kube-OVN's ip_pool: single-family entries separated by commas, dual-stack ones by semicolons."""
    texts = [addresses.joined(entry) for entry in entries]
    return (";" if any("," in text for text in texts) else ",").join(texts)


def _pod_spec(resolved: Resolved, labels: Object, image: str) -> Object:
    node_affinity = None
    if resolved.node_terms:
        terms = json.loads(resolved.node_terms)
        node_affinity = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_S,
        "affinity": {
            "nodeAffinity": node_affinity,
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
                ]
            },
        },
        "containers": [_container(resolved.image or image or DEFAULT_IMAGE)],
        "volumes": [
            {"name": "config", "configMap": {"name": config_map_name(resolved.deployment)}},
            {"name": "run", "emptyDir": {"medium": "Memory"}},
        ],
    }


def _container(image: str) -> Object:
    probe = {"exec": {"command": ["sh", "-c", _HEALTHY]}}
    return {
        "name": "gateway",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": [
            "veg-node-agent",
            "run",
            "--config",
            f"{CONFIG_MOUNT}/{CONFIG_KEY}",
            "--run-dir",
            RUN_MOUNT,
        ],
        "securityContext": {
            "privileged": False,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
        },
        "readinessProbe": {**probe, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 2},
        # A restart helps only an agent that hangs: give it time to repair what it can.
        "livenessProbe": {
            **probe,
            "initialDelaySeconds": 30,
            "periodSeconds": 2,
            "timeoutSeconds": 5,
            "failureThreshold": 15,
        },
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_MOUNT, "readOnly": True},
            {"name": "run", "mountPath": RUN_MOUNT},
        ],
    }
