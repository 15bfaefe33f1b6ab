"""The objects that a gateway is made of: Deployment, ConfigMap, IP objects, annotations of its pods. Pure.

The pod template depends on the image, the node selector and the two networks, and on nothing that changes while a
gateway lives: replicas, addresses and policies reach running pods without a restart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from veg_common.objects import Object

from veg_api.core import addresses, pool_record
from veg_api.core import resolved as resolved_module
from veg_api.core.gateway import Gateway, GatewayKey
from veg_api.core.ledger import Entry, interfaces
from veg_api.core.names import (
    APPLIED_ANNOTATION,
    BFD_CONTAINER,
    CONFIG_KEY,
    CONFIG_MOUNT,
    EXTERNAL_INTERFACE,
    GATEWAY_API_VERSION,
    GATEWAY_CONTAINER,
    GATEWAY_KIND,
    GATEWAY_LABEL,
    INDEX_LABEL,
    INTERFACE_LABEL,
    INTERNAL_INTERFACE,
    NETWORKS_ANNOTATION,
    OVN_PREFIX,
    POOLS_ANNOTATION,
    RUN_MOUNT,
    SUBNET_LABEL,
    annotation_prefix,
    config_map_name,
)
from veg_api.core.objects import Pod
from veg_api.core.resolved import Bfd, Family, Resolved, Side

DEFAULT_IMAGE = "vpc-egress-gateway/node-agent:0.1.0"
_GRACE_S = 10
# Draining takes its time: AdminDown, the wait for traffic to leave, and what bfd lingers after it.
_BFD_GRACE_S = 30
# OVN tells the database of a session that came up only every 5 s. A rollout that went on earlier would take out the
# next replica while OVN still knows of none.
_SETTLE_S = 6
# Where people look inside with `kubectl port-forward`: loopback of the pod, and nothing can be changed there.
_INSPECT_AGENT, _INSPECT_BFD = "127.0.0.1:50053", "127.0.0.1:50054"
_FRESH = "-newermt '-5 seconds' 2>/dev/null | grep -q ."
# The agent touches the file every second while the kernel matches its configuration.
_HEALTHY = f"find {RUN_MOUNT}/healthy {_FRESH}"
# Why it does not is in a file too; what a probe prints is what people see of it.
_READY = f"{_HEALTHY} || {{ cat {RUN_MOUNT}/problem; exit 1; }}"
# An agent that says why is not one that hangs: a new one would find the same.
_ALIVE = f"{_HEALTHY} || test -s {RUN_MOUNT}/problem"
# The speaker touches the file every second while it has sessions and all are Up.
_SESSIONS_UP = f"find {RUN_MOUNT}/sessions-up {_FRESH} || {{ echo 'not every BFD session is Up'; exit 1; }}"
# What makes a pod of two links a router. A container can not write to /proc/sys unless it is privileged, so that the
# first one does it for the agent, which corrects what it can and says what it can not. IPv6 may be off on a node.
_SYSCTLS = (
    "ipv4/ip_forward=1",
    *(f"ipv4/conf/{link}/rp_filter=0" for link in ("all", INTERNAL_INTERFACE, EXTERNAL_INTERFACE)),
    "ipv4/conf/all/send_redirects=0",
    *(
        f"ipv4/conf/{link}/{setting}"
        for link in (INTERNAL_INTERFACE, EXTERNAL_INTERFACE)
        for setting in (
            "forwarding=1",
            "accept_redirects=0",
            "accept_source_route=0",
            "send_redirects=0",
            "arp_ignore=1",
            "arp_announce=2",
        )
    ),
    "ipv6/conf/all/forwarding=1",
    *(
        f"ipv6/conf/{link}/{setting}"
        for link in (INTERNAL_INTERFACE, EXTERNAL_INTERFACE)
        for setting in (
            "forwarding=1",
            "accept_ra=0",
            "accept_redirects=0",
            "accept_source_route=0",
            "keep_addr_on_down=1",
        )
    ),
)
_SET = 'cd /proc/sys/net && for s in "$@"; do f="${s%%=*}"; [ ! -e "$f" ] || echo "${s#*=}" > "$f" || exit 1; done'
# OVN needs some 40 ms to act on a detection time that has ended: noticing it much faster than that is not worth the packets.
_NUDGE_MS = 25
# What the uplink is probed with, ms: fast enough to matter beside BFD, slow enough for the gateway outside.
_UPLINK_MS = (100, 1000)


@dataclass(frozen=True)
class Defaults:
    """Settings of api that gateways do not have: the image of those that name none, the least TTL of BFD packets.

    `kube_ovn`: the network is Kube-OVN's, and addresses are its to give.
    """

    image: str = ""
    bfd_min_ttl: int = 253
    kube_ovn: bool = False


DEFAULTS = Defaults()


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


def deployment(
    gateway: Gateway, resolved: Resolved, entries: Sequence[Entry], defaults: Defaults = DEFAULTS
) -> Object:
    """The Deployment."""
    labels = {GATEWAY_LABEL: gateway.name}
    external = annotation_prefix(resolved.external.provider)
    pools = {
        f"{OVN_PREFIX}/ip_pool": _pool(entry.internal for entry in entries if entry.internal),
        f"{external}/ip_pool": _pool(entry.external for entry in entries if entry.external),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": resolved.deployment,
            "namespace": gateway.namespace,
            "labels": labels,
            "annotations": dict.fromkeys(pools) if defaults.kube_ovn else pools,
            "ownerReferences": [owner_reference(gateway)],
        },
        "spec": {
            "replicas": resolved.replicas,
            "selector": {"matchLabels": labels},
            **_rollout(resolved),
            "template": {
                "metadata": {
                    "labels": labels,
                    "annotations": {
                        NETWORKS_ANNOTATION: "/".join(resolved.nad),
                        f"{OVN_PREFIX}/logical_switch": resolved.internal.subnet,
                        f"{external}/logical_switch": resolved.external.subnet,
                        # Only Kube-OVN needs to be told there: it gives a pod its addresses by its template.
                        **(pools if defaults.kube_ovn else dict.fromkeys(pools)),
                    },
                },
                "spec": _pod_spec(resolved, labels, defaults.image),
            },
        },
    }


def disruption_budget(gateway: Gateway, resolved: Resolved) -> Object:
    """The PodDisruptionBudget: draining nodes takes one replica at a time. A single one must be free to go."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": resolved.deployment,
            "namespace": gateway.namespace,
            "labels": {GATEWAY_LABEL: gateway.name},
            "ownerReferences": [owner_reference(gateway)],
        },
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {GATEWAY_LABEL: gateway.name}}},
    }


def needs_budget(resolved: Resolved) -> bool:
    """Whether there is more than one replica to look after."""
    return resolved.replicas > 1


def config_mark(config: Object) -> str:
    """What a pod's annotation says of the configuration that it should have by now."""
    text = str((config.get("data") or {}).get(CONFIG_KEY, ""))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def config_map(
    gateway: Gateway,
    resolved: Resolved,
    entries: Sequence[Entry] = (),
    defaults: Defaults = DEFAULTS,
    pools: Sequence[Entry] = (),
) -> Object:
    """The agents' configuration, and beside it the state it was made of: the last good one, should a bad one follow.

    `entries` are the places of the replicas, which look after each other; `pools` what Kube-OVN is asked to choose from.
    """
    family = resolved.families[0].family if resolved.families else 4
    bfd = resolved.bfd
    shown = entries if bfd is not None and bfd.uplink else ()
    replicas = tuple(text for e in shown for text in e.internal if addresses.family(text) == family)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": config_map_name(resolved.deployment),
            "namespace": gateway.namespace,
            "labels": {GATEWAY_LABEL: gateway.name},
            "annotations": {
                APPLIED_ANNOTATION: resolved_module.to_json(resolved),
                POOLS_ANNOTATION: _remembered(resolved, pools) if defaults.kube_ovn else None,
            },
            "ownerReferences": [owner_reference(gateway)],
        },
        "data": {
            CONFIG_KEY: _config_text(
                gateway.key, resolved.families, bfd, replicas, len(entries), defaults.bfd_min_ttl
            )
        },
    }


@lru_cache(maxsize=4096)
def _config_text(  # noqa: PLR0913, PLR0917 (what the text depends on, for the cache)
    key: GatewayKey,
    families: tuple[Family, ...],
    bfd: Bfd | None,
    replicas: tuple[str, ...],
    count: int,
    min_ttl: int,
) -> str:
    """veg.agent.v1.AgentConfig as protobuf JSON."""
    config: Object = {
        "gateway": "/".join(key),
        "internalInterface": INTERNAL_INTERFACE,
        "externalInterface": EXTERNAL_INTERFACE,
        "families": [_agent_family(family) for family in families],
    }
    if bfd is not None:
        # The same at both ends, as Kube-OVN has it: the larger of the two intervals is what counts either way.
        timers = {"minRxMs": bfd.min_rx, "minTxMs": bfd.min_tx, "multiplier": bfd.multiplier}
        config["bfd"] = {"peers": list(bfd.peers), "timers": timers, "minTtl": min_ttl}
        if bfd.nudge and count > 1:
            config["bfd"]["nudgeMs"] = _nudge_ms(max(bfd.min_rx, bfd.min_tx), count)
    if bfd is not None and bfd.uplink:
        interval = max(_UPLINK_MS[0], min(_UPLINK_MS[1], bfd.min_tx))
        config["uplink"] = {
            "intervalMs": interval,
            "multiplier": bfd.multiplier,
            "replicas": list(replicas),
        }
    return json.dumps(config, indent=2) + "\n"


def _nudge_ms(interval: int, replicas: int) -> int:
    """How often a replica wakes OVN: all that are left when one dies, together four times an interval, no oftener than
    every 25 ms.
    """
    return max(_NUDGE_MS, interval // 4) * (replicas - 1)


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


def _remembered(resolved: Resolved, entries: Sequence[Entry]) -> str:
    return pool_record.write(
        {
            resolved.internal.subnet: [e.internal for e in entries if e.internal],
            resolved.external.subnet: [e.external for e in entries if e.external],
        }
    )


def _pod_spec(resolved: Resolved, labels: Object, image: str) -> Object:
    node_affinity = None
    if resolved.node_terms:
        terms = json.loads(resolved.node_terms)
        node_affinity = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_S if resolved.bfd is None else _BFD_GRACE_S,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "affinity": {
            "nodeAffinity": node_affinity,
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
                ]
            },
        },
        "initContainers": [_router(resolved.image or image or DEFAULT_IMAGE)],
        "containers": _containers(resolved, resolved.image or image or DEFAULT_IMAGE),
        "volumes": [
            {"name": "config", "configMap": {"name": config_map_name(resolved.deployment)}},
            {"name": "run", "emptyDir": {"medium": "Memory"}},
        ],
    }


def _rollout(resolved: Resolved) -> Object:
    """How pods are replaced. With BFD one by one, each only after the sessions of the one before have settled."""
    if resolved.bfd is None:
        rolling = {"maxSurge": 1, "maxUnavailable": 1}
        return {"minReadySeconds": None, "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}
    rolling = {"maxSurge": 0, "maxUnavailable": 1}
    return {"minReadySeconds": _SETTLE_S, "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}


def _containers(resolved: Resolved, image: str) -> list[Object]:
    agent = _agent(image)
    return [agent] if resolved.bfd is None else [agent, _speaker(image)]


def _exec_probe(command: str, period_s: int, failures: int) -> Object:
    return {
        "exec": {"command": ["sh", "-c", command]},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _least(*capabilities: str) -> Object:
    """root, because capabilities of others are lost on exec, without anything else that root has."""
    return {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsUser": 0,
        "capabilities": {"add": list(capabilities), "drop": ["ALL"]},
    }


def _router(image: str) -> Object:
    """Sets the kernel's parameters of the pod's network namespace, and ends."""
    return {
        "name": "sysctl",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", _SET, "sysctl", *_SYSCTLS],
        "securityContext": {"privileged": True, "readOnlyRootFilesystem": True, "runAsUser": 0},
    }


def _speaker(image: str) -> Object:
    """The BFD speaker. It must not be slower than its timers: SYS_NICE lets it ask the kernel for precedence."""
    return {
        "name": BFD_CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["veg-bfd", "run", "--run-dir", RUN_MOUNT, "--inspect", _INSPECT_BFD],
        # NET_ADMIN: a receive buffer above the node's limit.
        "securityContext": _least("NET_ADMIN", "NET_RAW", "SYS_NICE"),
        "readinessProbe": _exec_probe(_SESSIONS_UP, 1, 2),
        "volumeMounts": [{"name": "run", "mountPath": RUN_MOUNT}],
    }


def _agent(image: str) -> Object:
    return {
        "name": GATEWAY_CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": [
            "veg-node-agent",
            "run",
            "--config",
            f"{CONFIG_MOUNT}/{CONFIG_KEY}",
            "--run-dir",
            RUN_MOUNT,
            "--inspect",
            _INSPECT_AGENT,
        ],
        # The root file system is read-only: the lock of the iptables commands needs a place too.
        "env": [{"name": "XTABLES_LOCKFILE", "value": f"{RUN_MOUNT}/xtables.lock"}],
        # SETUID, SETGID: tcpdump, which people run in this container, changes to a user of its own.
        "securityContext": _least("NET_ADMIN", "NET_RAW", "SETGID", "SETUID"),
        "readinessProbe": _exec_probe(_READY, 1, 2),
        # A restart helps only an agent that hangs: give it time to repair what it can.
        "livenessProbe": {**_exec_probe(_ALIVE, 2, 15), "initialDelaySeconds": 30},
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_MOUNT, "readOnly": True},
            {"name": "run", "mountPath": RUN_MOUNT},
        ],
    }
