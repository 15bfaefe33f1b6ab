"""Which pods of a gateway serve, and where the VPC's traffic is sent. Pure.

A pod serves from when it was Ready once until it is terminating, gone, or its node is not Ready. An agent that
crashes and restarts does not lose its pod the traffic: the kernel of the pod's namespace forwards on without it.

What a restarted api must know of the past is in the status: `pods[].serving` by uid, and `nexthops`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veg_common.objects import Object

from veg_api.core import addresses
from veg_api.core.addresses import AddressError
from veg_api.core.intents import GatewayFamilyIntent, GatewayIntent
from veg_api.core.ledger import Entry
from veg_api.core.names import OVN_PREFIX
from veg_api.core.objects import Pod
from veg_api.core.resolved import Resolved
from veg_api.core.snapshot import Snapshot


@dataclass(frozen=True)
class Replica:
    """One pod of a gateway. Addresses are () until they are given; `message` is what there is to say beyond `reason`."""

    pod: Pod
    internal: tuple[str, ...]
    external: tuple[str, ...]
    serving: bool
    reason: str
    since: str
    message: str = ""

    @property
    def told(self) -> str:
        """Name, reason and message in one, for people."""
        return f"{self.pod.name}: {self.reason}{f' ({self.message})' if self.message else ''}"

    def to_status(self) -> Object:
        """An entry of status.pods."""
        return {
            "pod": self.pod.name,
            "uid": self.pod.uid,
            "node": self.pod.node,
            "internalIPs": addresses.joined(self.internal),
            "externalIPs": addresses.joined(self.external),
            "ready": self.pod.ready,
            "serving": self.serving,
            "reason": self.reason,
            "message": self.message,
            "since": self.since,
        }


def observe(
    snapshot: Snapshot, resolved: Resolved, pods: Sequence[Pod], given: Mapping[str, Entry], status: Object
) -> tuple[Replica, ...]:
    """The gateway's pods, in the order of their internal addresses."""
    before = {str(entry.get("uid")): entry for entry in _entries(status.get("pods"))}
    found = [_replica(snapshot, resolved, pod, given.get(pod.name), before.get(pod.uid, {})) for pod in pods]
    return tuple(sorted(found, key=_order))


def nexthops(resolved: Resolved, replicas: Sequence[Replica], status: Object) -> tuple[str, ...]:
    """Canonical addresses that the VPC's traffic is sent to, sorted numerically.

    When nobody serves any more, the last ones stay: traffic then ends at a dead nexthop and nothing leaks. Nobody at
    all (a gateway that never served, or is scaled to 0): () and OVN drops it.
    """
    serving = [text for replica in replicas if replica.serving for text in replica.internal]
    if not serving and resolved.replicas > 0:
        serving = [
            text
            for text in _addresses(status.get("nexthops"))
            if any(addresses.contains(cidr, text) for cidr in resolved.internal.cidrs)
        ]
    families = {family.family for family in resolved.families}
    kept = {text for text in serving if addresses.family(text) in families}
    return tuple(sorted(kept, key=addresses.numeric_key))


def intent(namespace: str, name: str, resolved: Resolved, hops: Sequence[str]) -> GatewayIntent:
    """The gateway's share of OVN."""
    return GatewayIntent(
        namespace=namespace,
        name=name,
        vpc=resolved.vpc,
        default_vpc=resolved.default_vpc,
        families=tuple(
            GatewayFamilyIntent(
                family=family.family,
                sources=tuple(source.cidr for source in family.sources),
                nexthops=tuple(hop for hop in hops if addresses.family(hop) == family.family),
                local_cidrs=family.local_cidrs,
            )
            for family in resolved.families
        ),
    )


def _replica(
    snapshot: Snapshot, resolved: Resolved, pod: Pod, entry: Entry | None, before: Object
) -> Replica:
    holding = pod.holding(OVN_PREFIX)
    if holding is not None:
        internal, there = holding.addresses, _in_vpc(snapshot, resolved, holding.subnet)
    else:
        # What this very plan gives it counts as given.
        internal, there = (entry.internal if entry is not None else ()), True
    reason = _reason(snapshot, pod, plugged=bool(internal), there=there, served=bool(before.get("serving")))
    serving = reason in ("Ready", "WasReady")
    shown = (entry.internal, entry.external) if entry is not None else (internal, _external(pod))
    unchanged = before.get("serving") == serving and before.get("reason") == reason
    since = str(before.get("since") or snapshot.now) if unchanged else snapshot.now
    message = "" if pod.ready else pod.trouble
    return Replica(pod, *shown, serving, reason, since, message)


def _in_vpc(snapshot: Snapshot, resolved: Resolved, name: str) -> bool:
    """Whether the gateway's router reaches a subnet: after a change of internalSubnet old pods still serve."""
    subnet = snapshot.subnet(name)
    return name == resolved.internal.subnet or (subnet is not None and subnet.vpc == resolved.vpc)


def _reason(snapshot: Snapshot, pod: Pod, *, plugged: bool, there: bool, served: bool) -> str:
    """Why a pod serves (Ready, WasReady) or not: the first that applies."""
    obstacles = (
        (pod.deleting, "Terminating"),
        (not pod.node, "Unscheduled"),
        (not snapshot.node_ready(pod.node), "NodeNotReady"),
        (not plugged, "NoAddress"),
        (not there, "OtherVpc"),
        (not pod.ready and not served, "NotReadyYet"),
        (not pod.ready, "WasReady"),
    )
    return next((reason for applies, reason in obstacles if applies), "Ready")


def _external(pod: Pod) -> tuple[str, ...]:
    return next((h.addresses for h in pod.holdings if h.prefix != OVN_PREFIX), ())


def _order(replica: Replica) -> tuple[Any, ...]:
    key = addresses.numeric_key(replica.internal[0]) if replica.internal else (9, 0)
    return (*key, replica.pod.created, replica.pod.name)


def _entries(value: Any) -> list[Object]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _addresses(value: Any) -> list[str]:
    """The addresses of a list that somebody may have written by hand."""
    texts = [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
    found = []
    for text in texts:
        with contextlib.suppress(AddressError):
            found.append(str(addresses.address(text)))
    return found
