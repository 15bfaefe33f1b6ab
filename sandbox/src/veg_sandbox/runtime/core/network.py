"""How a pod is to be plugged, read from its annotations and NetworkAttachmentDefinitions. Pure.

The annotations are Kube-OVN's: `ovn.kubernetes.io/…` for eth0, `<nad>.<namespace>.kubernetes.io/…` for net1.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from veg_common.objects import Object, Ref

from veg_sandbox.runtime.core.pods import annotations_of, spec_of

NETWORKS = "k8s.v1.cni.cncf.io/networks"
NETWORK_STATUS = "k8s.v1.cni.cncf.io/network-status"
PRIMARY_PROVIDER = "ovn"


class NetworkError(ValueError):
    """Annotations or an attachment definition that no interface can be made of."""


@dataclass(frozen=True)
class Interface:
    """One interface of a pod. `addresses` are "address/prefix length", `gateways` plain; at most one a family."""

    name: str
    network: str
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    mac: str = ""
    master: str = ""
    """The node's interface behind it, of a secondary one."""

    @property
    def ips(self) -> tuple[str, ...]:
        """The addresses without prefix lengths."""
        return tuple(address.partition("/")[0] for address in self.addresses)


@dataclass(frozen=True)
class Plug:
    """What a pod waits for (`waiting`, for people), or its interfaces: eth0 first, then net1, net2, …"""

    waiting: str = ""
    interfaces: tuple[Interface, ...] = ()


def plug_of(pod: Object, attachments: Mapping[Ref, Object]) -> Plug:
    """The interfaces of a pod once every one has its addresses. Raises NetworkError."""
    interfaces, master = [], ""
    for number, network in enumerate([None, *secondary_networks(pod)]):
        provider = PRIMARY_PROVIDER if network is None else f"{network.name}.{network.namespace}"
        if network is not None:
            if network not in attachments:
                return Plug(
                    waiting=f"NetworkAttachmentDefinition {network.namespace}/{network.name} not found"
                )
            master = _master(attachments[network])
        found = _interface(pod, provider, "eth0" if network is None else f"net{number}", network)
        if found is None:
            return Plug(waiting=f"addresses of provider {provider} are not allocated yet")
        interfaces.append(found if network is None else replace(found, master=master))
    return Plug(interfaces=tuple(interfaces))


def secondary_networks(pod: Object) -> list[Ref]:
    """Multus' networks annotation: `[namespace/]name[@interface]` separated by commas, or a JSON list."""
    text = annotations_of(pod).get(NETWORKS, "").strip()
    if not text:
        return []
    home = pod["metadata"].get("namespace", "default")
    if not text.startswith("["):
        parts = [part.strip().partition("@")[0] for part in text.split(",")]
        return [_attachment_ref(part, home) for part in parts if part]
    try:
        items: Any = json.loads(text)
        return [Ref(_NAD, str(item.get("namespace") or home), str(item["name"])) for item in items]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise NetworkError(f"annotation {NETWORKS}: {error}") from error


def network_status(interfaces: tuple[Interface, ...], macs: Mapping[str, str]) -> str:
    """Multus' network-status annotation; `macs` are those of the interfaces in the pod."""
    entries = [
        {
            "name": interface.network,
            "interface": interface.name,
            "ips": list(interface.ips),
            "mac": macs.get(interface.name, interface.mac),
            "default": interface.name == "eth0",
            "dns": {},
        }
        for interface in interfaces
    ]
    return json.dumps(entries, indent=4)


_NAD = "NetworkAttachmentDefinition"


def _attachment_ref(text: str, home: str) -> Ref:
    namespace, _, name = text.rpartition("/")
    return Ref(_NAD, namespace or home, name)


def _master(attachment: Object) -> str:
    name = f"{attachment['metadata'].get('namespace')}/{attachment['metadata']['name']}"
    try:
        config = json.loads(spec_of(attachment).get("config") or "{}")
        plugin = config if config.get("type") else config["plugins"][0]
        kind, master = plugin.get("type"), str(plugin.get("master") or "eth1")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise NetworkError(f"{_NAD} {name}: spec.config is not a CNI configuration") from error
    if kind != "macvlan":
        raise NetworkError(f"{_NAD} {name}: the sandbox has CNI plugin macvlan only, not {kind!r}")
    return master


def _interface(pod: Object, provider: str, name: str, network: Ref | None) -> Interface | None:
    annotations = annotations_of(pod)
    prefix = "ovn.kubernetes.io" if provider == PRIMARY_PROVIDER else f"{provider}.kubernetes.io"
    if annotations.get(f"{prefix}/allocated") != "true":
        return None
    ips = _listed(annotations, f"{prefix}/ip_address")
    cidrs = _listed(annotations, f"{prefix}/cidr")
    if not ips:
        raise NetworkError(f"annotation {prefix}/ip_address is empty")
    return Interface(
        name=name,
        network="kube-ovn" if network is None else f"{network.namespace}/{network.name}",
        addresses=tuple(_with_prefix(ip, cidrs, prefix) for ip in ips),
        gateways=_of_families(_listed(annotations, f"{prefix}/gateway"), ips),
        mac=annotations.get(f"{prefix}/mac_address", ""),
    )


def _listed(annotations: Mapping[str, str], key: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in str(annotations.get(key, "")).split(",") if part.strip())


def _with_prefix(ip: str, cidrs: tuple[str, ...], prefix: str) -> str:
    try:
        address = ipaddress.ip_address(ip)
        networks = [ipaddress.ip_network(cidr) for cidr in cidrs]
    except ValueError as error:
        raise NetworkError(f"annotations {prefix}/ip_address and cidr: {error}") from error
    length = next((n.prefixlen for n in networks if address.version == n.version and address in n), None)
    if length is None:
        raise NetworkError(f"annotation {prefix}/cidr holds no network of {ip}")
    return f"{address}/{length}"


def _of_families(gateways: tuple[str, ...], ips: tuple[str, ...]) -> tuple[str, ...]:
    """Gateways of the families that the pod has."""
    families = {":" in ip for ip in ips}
    return tuple(gateway for gateway in gateways if (":" in gateway) in families)
