"""The outside host's routes back to the VPCs, for traffic that gateways forward unmasqueraded. Pure.

Plays the router that an operator would configure: every prefix of a policy with `snat: false` goes back over the
external addresses of the gateway's pods that are ready.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from veg_common.objects import Object, Ref

from veg_sandbox.runtime.core.network import NetworkError, plug_of
from veg_sandbox.runtime.core.pods import is_ready, is_terminating, labels_of, spec_of

GATEWAY_LABEL = "ovn.kubernetes.io/vpc-egress-gateway"


def return_routes(
    gateways: Iterable[Object],
    subnets: Mapping[str, Object],
    pods: Sequence[Object],
    attachments: Mapping[Ref, Object],
) -> dict[str, tuple[str, ...]]:
    """Canonical prefix -> canonical nexthops, both sorted; prefixes that nobody serves are left out."""
    routes: dict[str, set[str]] = defaultdict(set)
    for gateway in gateways:
        nexthops = _external_addresses(gateway, pods, attachments)
        for network in _unmasqueraded(gateway, subnets):
            for nexthop in nexthops:
                if nexthop.version == network.version:
                    routes[str(network)].add(str(nexthop))
    return {prefix: tuple(sorted(routes[prefix])) for prefix in sorted(routes)}


def _unmasqueraded(
    gateway: Object, subnets: Mapping[str, Object]
) -> set[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    texts: list[str] = []
    for policy in _list(spec_of(gateway).get("policies")):
        if not isinstance(policy, dict) or policy.get("snat"):
            continue
        texts += [str(block) for block in _list(policy.get("ipBlocks"))]
        for name in _list(policy.get("subnets")):
            if isinstance(name, str):
                texts += str(spec_of(subnets.get(name, {})).get("cidrBlock", "")).split(",")
    found = set()
    for text in texts:
        try:
            found.add(ipaddress.ip_network(text.strip()))
        except ValueError:
            continue  # the api tells the user
    return found


def _external_addresses(
    gateway: Object, pods: Sequence[Object], attachments: Mapping[Ref, Object]
) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    found: set[ipaddress.IPv4Address | ipaddress.IPv6Address] = set()
    metadata = gateway["metadata"]
    for pod in pods:
        if (
            pod["metadata"].get("namespace") != metadata.get("namespace")
            or labels_of(pod).get(GATEWAY_LABEL) != metadata["name"]
            or not is_ready(pod)
            or is_terminating(pod)
        ):
            continue
        try:
            interfaces = plug_of(pod, attachments).interfaces
        except NetworkError:
            continue
        found |= {ipaddress.ip_address(ip) for interface in interfaces[1:] for ip in interface.ips}
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
